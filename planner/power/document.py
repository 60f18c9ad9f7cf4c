"""The power plan: how many servers a row holds, under which caps, what that costs whom, and how often it brakes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from planner.contract.documents import Document
from planner.contract.proof import Proof
from planner.contract.provenance import Provenance
from planner.contract.published import Published, Upgrade, parse_published
from planner.contract.quantities import Interval
from planner.contract.sparse import Sparse
from planner.power.request import (
    ControlPaths,
    ImpactLimit,
    PriorityClass,
    SetCap,
    SupplyNode,
    Telemetry,
    TrainingJobs,
)

SCHEMA_VERSION: Literal["1.0"] = "1.0"

PolicyName = Literal["nameplate", "none", "static", "threshold", "polca", "ours", "oracle"]


class ServersUnderstood(Document):
    """Servers of one kind, and what they are taken to do."""

    kind: str
    gpu: str
    gpus: int
    nameplate_watts: float
    other_watts: float
    today: int
    idle_watts: float = Field(description="with models loaded and no work")
    decode_watts: float = Field(description="while every engine decodes")
    prefill_watts: float = Field(description="while every engine prefills")
    source: str = Field(description="where that is from")


class TrafficUnderstood(Document):
    """The load that the row is judged under."""

    source: str
    requests_per_s: float = Field(description="of today's servers, mean")
    peak: float | None = Field(description="of today's row, share of its budget: reference traffic; null: a trace")
    rise: float | None = Field(description="the largest within 40 s, share of the budget; null: a trace")
    assumes: tuple[str, ...] = Field(description="what is assumed of spans longer than the trace")


class RowUnderstood(Document):
    """The request as it was understood, all defaults filled in."""

    supply: SupplyNode
    servers: tuple[ServersUnderstood, ...]
    priorities: tuple[PriorityClass, ...]
    telemetry: Telemetry
    control: ControlPaths
    caps: tuple[SetCap, ...]
    training: TrainingJobs | None
    traffic: TrafficUnderstood
    slo_impact: tuple[ImpactLimit, ...]
    max_brakes_per_year: float
    probability: float
    usd_per_kwh: float | None
    days: int
    seed: int


class KindCount(Document):
    kind: str
    servers: int


class KindClock(Document):
    """Of one kind of server, in a row of several types of GPUs."""

    kind: str
    clock_mhz: int
    gpu_watts: float


class ClassClock(Sparse):
    SELDOM: ClassVar = ("role", "by_kind")

    priority: str
    role: Literal["decode", "prefill"] | None = Field(
        default=None, description="of the GPUs that are capped; left out: all of the priority's"
    )
    clock_mhz: int | None = Field(description="highest SM clock of its GPUs; null: not capped")
    gpu_watts: float | None = Field(
        description="board power limit that holds a prefill (of decode's GPUs: decode) to about the same watts; null: "
        "not capped"
    )
    by_kind: tuple[KindClock, ...] = Field(
        default=(),
        description="the same of each kind of server whose clocks can be set: about as large a share of its highest; "
        "left out: one type of GPU, or not capped",
    )


class CapLevel(Document):
    """One level of caps, deeper than the one before. Readings are shares of the budget of the node nearest to its
    own."""

    level: int
    above: float | None = Field(description="a reading above it calls for the level at once; null: none does")
    step_above: float | None = Field(
        description="a reading above it calls for it once the level before is in effect; null: none does"
    )
    below: float = Field(description="a reading below it leaves the level")
    back_to: int = Field(description="for this level; 0: no caps")
    clocks: tuple[ClassClock, ...]
    time_share: float = Field(description="of the time, at this level")


def is_always(level: CapLevel) -> bool:
    """Whether every reading calls for it: caps that are always set."""
    return level.above == 0 and level.below == 0


class SettableClocks(Sparse):
    """What the plan's caps lie within, and what to set back."""

    SELDOM: ClassVar = ("kinds",)

    gpu: str
    least_mhz: int
    most_mhz: int
    step_mhz: int
    least_watts: float = Field(description="of the board's power limit")
    most_watts: float
    restore: Literal["reset"] | int = Field(
        default="reset",
        description="without caps clocks are unlocked, as the driver chooses them; or locked again at the MHz of the "
        "plan that runs on the servers",
    )
    kinds: tuple[str, ...] = Field(default=(), description="of servers with these GPUs; left out: all of the row's")


class BindingBudget(Document):
    """What keeps the row from one server more."""

    node: str = Field(description="the node of the supply tree that is nearest to its budget")
    peak: float = Field(description="its highest reading, share of its budget")
    promise: str = Field(
        description="brakes, breaker, a class and its percentile, load, places, or tried: no more were tried"
    )


class BreakerWear(Document):
    """A breaker whose curve is known."""

    node: str
    wear: float = Field(description="how far it was on its way to trip, at most; 1: it tripped")
    holds: float | None = Field(
        description="load, share of its budget, that it holds until the brake has acted; null: not even its lowest"
    )
    brake_acts_s: float = Field(description="until then: a reading, the brake's delay and a second")
    lost_feed_load: float = Field(description="when a quarter of its feed is lost at its highest reading")
    lost_feed_s: float | None = Field(description="that it holds that load; null: for ever")


class PowerDecision(Document):
    servers: int
    today: int
    extra: float = Field(description="servers ÷ today's − 1")
    by_kind: tuple[KindCount, ...]
    policy: PolicyName
    levels: tuple[CapLevel, ...]
    brake_above: float = Field(
        description="reading at which the hardware brake is pulled, share of the budget; with "
        "`brake_on: breaker` of nodes whose breaker is no curve"
    )
    brake_release: float
    control: Literal["in_band", "out_of_band"] = Field(description="the way of the commands")
    delay_s: float = Field(description="until a command acts, at most")
    foresight_s: float = Field(
        default=0.0,
        description="seconds ahead that prompts which wait in the engines' queues are added to a reading for, by the "
        "watts of their prefill; 0: not",
    )
    rise: float = Field(
        description="of the row within that time and a reading's, at the stated probability, beyond what is foreseen"
    )
    settable: tuple[SettableClocks, ...]
    breakers: tuple[BreakerWear, ...] = Field(default=(), description="those whose curves are given")
    binding: BindingBudget


class BrakeRate(Document):
    """Brakes a year; ``high`` is the upper 95 % bound."""

    value: float
    low: float
    high: float


class ClassImpact(Document):
    """Growth of a class's latency through caps, relative."""

    p50: float
    p99: float
    other: dict[str, float] = Field(default_factory=dict, description="further percentiles that are limited")


class PolicyResult(Sparse):
    """A policy with the most servers that it holds within every promise."""

    SELDOM: ClassVar = ("levels",)

    name: PolicyName
    servers: int
    servers_low: int = Field(description="with bursts of a heavy tail")
    servers_high: int = Field(description="with bursts of a bounded tail")
    extra: float = Field(description="servers ÷ today's − 1")
    brakes_per_year: BrakeRate
    impact: dict[str, ClassImpact] = Field(description="by priority")
    limited_by: str = Field(description="the promise that one server more would break")
    mean_watts: float = Field(description="of the row")
    most_watts: float = Field(description="within a second, prefills that coincide included")
    usd_per_year: float | None = Field(description="of electricity; null: it is not priced")
    levels: tuple[CapLevel, ...] = Field(default=(), description="of caps; left out: it has none")


class FrontierPoint(Document):
    """One policy with one number of servers."""

    policy: PolicyName
    servers: int
    brakes_per_year: BrakeRate
    impact: dict[str, ClassImpact]
    holds: bool


class StressResult(Document):
    """What the decision does when something is otherwise than assumed."""

    case: str
    brakes_per_year: BrakeRate
    impact: dict[str, ClassImpact]
    breaker_wear: float | None = Field(
        default=None, description="of the breaker nearest to tripping; 1: it tripped; null: no curve is given"
    )
    breaks: str | None = Field(description="the promise that breaks, brakes before others; null: all hold")
    advice: str


class PowerPrediction(Document):
    row_watts_mean: Interval = Field(description="of the decision")
    row_peak: float = Field(description="highest reading, share of the budget")
    way_to_oracle: float | None = Field(
        description="servers beyond no control ÷ those of control without delay; null: that adds none"
    )


class PowerProvenance(Provenance):
    evidence_hash: str = Field(description="SHA-256 of what the decision was judged on: row, traffic, seed and days")


class PowerPlan(Published):
    """The whole document."""

    kind: Literal["power"] = "power"
    schema_version: Literal["1.0"] = SCHEMA_VERSION
    request: RowUnderstood
    decision: PowerDecision
    policies: tuple[PolicyResult, ...]
    prediction: PowerPrediction
    proof: Proof
    frontier: tuple[FrontierPoint, ...]
    stress: tuple[StressResult, ...]
    provenance: PowerProvenance


OLDER: dict[str, Upgrade] = {}
"""Versions that still open: there was no other."""


def parse_power_plan(text: str, where: str = "power plan") -> PowerPlan:
    """A power plan from its JSON.

    Raises:
        InputError: not JSON, not a power plan, of another schema version, or refused by the schema.
    """
    return parse_published(text, PowerPlan, where, OLDER)
