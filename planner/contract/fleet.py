"""Fleets as documents say them: services with their loads, what may be lost, and a schedule with its routing."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from planner.contract.documents import PLAIN_NUMBER, Document
from planner.contract.quantities import Latency, as_watts
from planner.contract.sparse import Sparse
from planner.contract.workload.classes import SteppedLoad
from planner.contract.workload.slo import Slo
from planner.contract.workload.workload import Speculation

RouteBy = Literal["isl", "isl,osl"]

Supply = Literal["on_demand", "spot", "reserved", "owned"]

MOST_LOST = 16

_Lost = Annotated[int, Field(ge=0, le=MOST_LOST), PLAIN_NUMBER]


class SurviveAsked(Document):
    """What may be lost at once, each by itself, after which the load is still carried."""

    engines: _Lost = Field(default=0, description="any so many engines")
    nodes: _Lost = Field(
        default=0, description="any so many nodes; engines of a pool are spread evenly over its nodes, as the notes say"
    )
    spot_pools: _Lost = Field(default=0, description="the spot GPUs of any so many pools")
    zones: _Lost = Field(default=0, description="any so many zones")
    share: Annotated[float, Field(gt=0, le=1), PLAIN_NUMBER] = Field(
        default=1.0, description="of the load that is carried then"
    )


class PowerRow(Document):
    """Pools that hang under one breaker."""

    name: str = Field(min_length=1, max_length=200)
    pools: tuple[str, ...] = Field(min_length=1, description="names of pools of the cluster")
    budget_watts: Annotated[
        Annotated[float, Field(gt=0, le=1e10), PLAIN_NUMBER],
        BeforeValidator(partial(as_watts, "budget_watts"), json_schema_input_type=float | str),
        Field(description="what may be drawn on average, every engine at what it carries: 40kW"),
    ]
    other_watts_per_gpu: Annotated[float, Field(ge=0, le=1e6), PLAIN_NUMBER] = Field(
        default=0.0, description="of everything else in the servers, for each GPU that is used"
    )


class ServiceUnderstood(Document):
    """A service as it was understood."""

    name: str
    model: str | None = Field(description="null: measured tables stand for it")
    slo: Slo
    load: SteppedLoad
    tables: tuple[str, ...] = Field(default=(), description="GPU types of the tables that stand for its model")
    framework: str | None = Field(default=None, description="null: measured tables stand for it")
    weights_precision: str | None = None
    kv_precision: str | None = None
    prefix_hit: float = 0.0
    speculation: Speculation | None = None
    promise: Literal["all", "class"] = "all"
    headroom: float = Field(default=0.0, description="share of its load that is carried beside; without the tails' own")
    config: dict[str, Any] | None = Field(
        default=None, description="the model's config.json, where it is not a bundled one"
    )


class Route(Sparse):
    """Where a gateway sends requests of a range of lengths."""

    SELDOM: ClassVar = ("decode_weights",)

    service: str
    isl_from: float
    isl_to: float = Field(description="below which prompts are")
    osl_from: float | None = Field(description="null: routed by the prompt alone")
    osl_to: float | None
    weights: dict[str, float] = Field(
        description="engine group → share of these requests; they sum to 1; where engines prefill apart from engines "
        "that decode, those that prefill"
    )
    decode_weights: dict[str, float] = Field(
        default={},
        description="engine group that decodes → share of these requests that it is handed; they sum to 1; left out: "
        "the same engines decode",
    )


class LossRouting(Document):
    """Where a gateway sends requests while engines are lost."""

    lost: dict[str, int] = Field(description="engine group → engines of it that are gone")
    routing: tuple[Route, ...]


class ScheduledStep(Sparse):
    """What runs from when to when."""

    SELDOM: ClassVar[tuple[str, ...]] = ("after_losses",)

    start_s: float
    end_s: float
    engines: dict[str, int] = Field(description="engine group → engines that serve")
    routing: tuple[Route, ...]
    instances: dict[str, int] = Field(default_factory=dict, description="pool → whole instances that are paid")
    starting: dict[str, int] = Field(
        default_factory=dict, description="engine group → engines of it that were started for this step"
    )
    rate_rps: float = Field(description="requests per second of all services")
    usd_per_hour: float | None = Field(
        default=None, description="what the GPUs cost that serve, without electricity; null where a price is not known"
    )
    carries: float = Field(description="how many times its load the whole fleet carries")
    after_losses: tuple[LossRouting, ...] = Field(
        default=(),
        description="routing while something is lost that is to be survived, where `routing` would send what is left "
        "more than it carries; of other losses what is left takes its part of each range's weights",
    )


class AttainedAfterLoss(Document):
    """What a class sees after the worst loss that is to be survived."""

    ttft_ms: Latency | None = None
    tpot_ms: Latency | None = None
    e2e_ms: Latency | None = None
    holds: bool | None = Field(default=None, description="whether it keeps each promise then; null: not simulated")


class ClassAttained(Document):
    """One class of a service at its busiest step."""

    isl: float
    osl: float
    rate_rps: float
    ttft_ms: Latency | None = None
    tpot_ms: Latency | None = None
    e2e_ms: Latency | None = None
    holds: bool | None = Field(default=None, description="whether it keeps each promise by itself; null: not simulated")
    after_loss: AttainedAfterLoss | None = Field(default=None, description="null: nothing is to be survived")


class ServicePrediction(Document):
    """What a service sees."""

    name: str
    rate_rps: float = Field(description="at its busiest step")
    usd_per_million_input_tokens: float | None = None
    usd_per_million_output_tokens: float | None = None
    holds: bool | None = Field(
        default=None,
        description="whether its promise holds in every step; null: not simulated, or not in all of them",
    )
    worst_loss: str | None = Field(
        default=None, description="of those to be survived, at the busiest step; null: nothing is to be survived"
    )
    holds_after_loss: bool | None = Field(default=None, description="whether its promise holds then")
    classes: tuple[ClassAttained, ...] = ()


class NotServed(Document):
    """A class that nothing serves."""

    service: str
    isl: float
    osl: float
    rate_rps: float
    reason: str
    remedy: str


class FleetCompared(Document):
    """Another way to serve the same load."""

    name: str = Field(description="best single GPU type, one layout for all, constant fleet, each hour alone …")
    usd_per_hour: float | None = Field(description="what its GPUs cost; null: there is none, or no price is known")
    loses_by: float | None = Field(
        description="how much dearer than the plan by the objective, priced electricity included, relative"
    )
    engines: dict[str, int] = Field(default_factory=dict, description="engines at the busiest step")
    reason: str | None = Field(default=None, description="why there is none, what it leaves out, or how it is known")


class DemandPriced(Document):
    """What one demand costs: the same fleet planned without it."""

    demand: str
    usd_per_hour: float | None = Field(description="what the GPUs of the fleet without it cost")
    costs_usd_per_hour: float | None = Field(
        description="how much more the plan costs for it, priced electricity included; null: the objective is gpus"
    )


class SupplyBound(Document):
    """A supply that the fleet uses up."""

    pool: str
    used_gpus: float
    limit_gpus: float
    usd_per_hour_of_one_more: float | None = Field(
        description="what one more GPU of it would save, its price paid; null: the objective is gpus, or no time was "
        "left to tell"
    )


class RowPower(Document):
    """A budget of power and what the fleet draws of it, at most of any step, every engine at what it carries."""

    row: str
    watts: float
    budget_watts: float
    usd_per_hour_of_one_kw_more: float | None = Field(description="what it would save; null: the budget does not bind")


class CostAtRate(Document):
    """The same requests at another rate."""

    rate_rps: float
    usd_per_hour: float | None = Field(description="what the GPUs of the best fleet cost; null: none carries it")
    alone: dict[str, float] = Field(description="GPU type → cost of the best fleet of it alone, where it carries it")


class FleetProof(Sparse):
    """What the search for the fleet did, and what the fleet is compared with."""

    SELDOM: ClassVar = ("rows",)

    rounds: int
    cuts: int
    variants: int = Field(description="kinds of engine that were chosen from")
    classes: int
    groups: int = Field(description="of requests that the gateway can tell apart, in a step")
    coarsening: float | None = Field(
        default=None,
        description="of traces: share by which splitting every class in four changes what engines carry of the load; "
        "null: no classes were laid together",
    )
    compared: tuple[FleetCompared, ...] = ()
    demands: tuple[DemandPriced, ...] = ()
    supplies: tuple[SupplyBound, ...] = ()
    rows: tuple[RowPower, ...] = Field(default=(), description="left out where no budgets of power are given")
    cost_by_rate: tuple[CostAtRate, ...] = Field(
        default=(), description="of one step and several GPU types: what other rates of the same requests cost"
    )
    not_served: tuple[NotServed, ...] = ()
