"""The plan document: what was asked, what was decided, what is predicted, and why to believe it.

One versioned JSON document, validated on the way out and on the way in. Times are milliseconds, sizes bytes. It holds
no clock readings: same request, same versions, same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from planner.contract.clusters import SuppliedCluster
from planner.contract.deployment import Deployment
from planner.contract.documents import Document
from planner.contract.engine import FrameworkName, Layout
from planner.contract.files import read_text
from planner.contract.fleet import FleetProof, PowerRow, RouteBy, ServiceUnderstood, SurviveAsked
from planner.contract.proof import Proof
from planner.contract.provenance import Provenance
from planner.contract.published import Published, as_it_is, parse_published
from planner.contract.sparse import Sparse
from planner.contract.workload.slo import Slo
from planner.contract.workload.workload import Workload
from planner.serving.document.prediction import Prediction
from planner.serving.request import Disaggregation, Objective

SCHEMA_VERSION: Literal["1.6"] = "1.6"

OLDER = dict.fromkeys(("1.0", "1.1", "1.2", "1.3", "1.4", "1.5"), as_it_is)
"""Versions that still open, for ever: whatever a later one added has a default that says what was so."""


# ------------------------------------------------------------------ request


class RequestUnderstood(Sparse):
    """The request as it was understood, all defaults filled in."""

    SELDOM: ClassVar = ("clock", "power_cap", "budget_watts", "usd_per_kwh", "rows")

    model: str
    parameters: int = Field(description="weights of the language model")
    active_parameters: int = Field(description="weights that touch one token")
    not_modelled: tuple[str, ...] = Field(description="parts of the checkpoint that are not modelled")
    cluster: SuppliedCluster
    slo: Slo
    workload: Workload
    objective: Objective
    framework: FrameworkName
    weights_precision: str
    kv_precision: str
    confidence: float = Field(description="probability with which each bound of the SLO had to hold")
    precision_converted: bool = Field(description="whether weights are not in the precision they are published in")
    concurrency: int | None = Field(
        default=None,
        description="users at once that were asked for: the workload's rate is that at which as many are in flight",
    )
    headroom: float = Field(default=0.0, description="share of the rate asked for that the workload's rate has more")
    chunked_prefill: bool | None = Field(
        default=None, description="whether prompts are cut to what a step has room for; null: as the framework does"
    )
    polling_interval: int | None = Field(
        default=None, description="decode steps between two looks at the queue; null: as the framework does"
    )
    sampling: Literal["greedy", "random"] | None = Field(default=None, description="how tokens are chosen")
    max_tp: int | None
    max_pp: int | None
    max_engine_gpus: int | None
    tp_across_nodes: bool
    time_limit_s: float
    simulation: bool = Field(default=False, description="older plans than of schema 1.2 were not simulated")
    disaggregation: Disaggregation = Field(default="never", description="plans of schema 1.0 are aggregated")
    weights_precisions: tuple[str, ...] = Field(default=(), description="allowed; empty in plans of schema 1.0")
    kv_precisions: tuple[str, ...] = Field(default=(), description="allowed; empty in plans of schema 1.0")
    config: dict[str, Any] | None = Field(
        default=None, description="the model's config.json, where it is not a bundled one; null before schema 1.3"
    )
    services: tuple[ServiceUnderstood, ...] = Field(
        default=(),
        description="of a fleet: model, slo and workload above are then those of all together (its mean request at the "
        "busiest step); empty: one service, as said above",
    )
    route_by: RouteBy = Field(default="isl", description="what the gateway tells requests apart by")
    survive: SurviveAsked = Field(default=SurviveAsked(), description="what may be lost")
    budget_usd_per_hour: float | None = None
    max_changes: int | None = Field(default=None, description="engines that start or leave between two steps, at most")
    clock: tuple[str, ...] | None = Field(
        default=None, description="SM clocks to choose from, or any; left out: the driver's own"
    )
    power_cap: tuple[str, ...] | None = Field(
        default=None, description="board power limits to choose from, or any; left out: the driver's own"
    )
    budget_watts: float | None = Field(
        default=None,
        description="of all GPUs together, mean, each engine at the load that it can carry; left out: not limited",
    )
    usd_per_kwh: float | None = Field(default=None, description="of electricity; left out: it is not priced")
    rows: tuple[PowerRow, ...] = Field(default=(), description="of a fleet: budgets of power; left out: none are given")


# ------------------------------------------------------------------ proof


class Rejection(Document):
    """Candidates that were not taken further, and why."""

    reason: str
    count: int
    example: str


class Compared(Document):
    """One way to serve, at its best: aggregated or disaggregated engines, in one precision. All ways are
    judged by the same SLO, load, pools and objective."""

    serving: Literal["aggregated", "disaggregated"]
    weights_precision: str
    kv_precision: str
    chosen: bool
    objective_value: float | None = Field(description="in the unit of the proof; null: no plan this way")
    loses_by: float | None = Field(description="how much worse than the chosen one, relative; 0 for that one")
    gpus: int | None = Field(description="GPUs used")
    reason: str | None = Field(description="why there is no plan this way, or why a better one was not taken")
    weights_bytes: float = Field(description="of the whole model")
    kv_bytes_per_token: float = Field(description="of the whole model, for a sequence of the workload's length")
    accuracy: str = Field(description="what is published of the precision's cost in accuracy, with its source")


class ServingProof(Proof):
    """Why there is no better plan among those considered."""

    objective: Objective
    bound: float = Field(description="no choice among the candidates can be better than this")
    gap: float = Field(description="|bound − objective| ÷ the larger of the two")
    simplest_within: float | None = Field(
        default=None,
        description="the plan is the simplest of those that are better by no more than this share, which predictions "
        "cannot tell apart (fewer kinds of engine, fewer GPUs an engine, aggregated engines); null: it is the best",
    )
    layouts_considered: int
    layouts_legal: int
    operating_points: int = Field(
        description="layouts × batch limits × concurrencies predicted in the plan's precision, of aggregated engines"
    )
    operating_points_within_slo: int
    candidates: int = Field(description="what the solver chose from, in all ways to serve")
    rejected: tuple[Rejection, ...]
    binding_constraint: str
    compared: tuple[Compared, ...] = Field(
        default=(), description="every way to serve that was tried, best first; empty in plans of schema 1.0"
    )
    fleet: FleetProof | None = Field(default=None, description="null: one service, class and step")


class OperatingPoint(Sparse):
    """One layout under one load."""

    SELDOM: ClassVar = ("joules_per_output_token", "clock_mhz", "power_cap_watts")

    pool: str
    layout: Layout
    gpus_per_engine: int
    max_tokens_per_step: int
    concurrency: int | float = Field(description="decoding sequences per attention replica, on average")
    engine_rate_rps: float = Field(description="requests per second of one engine")
    output_tokens_per_s_per_gpu: float
    output_tokens_per_s_per_user: float | None = Field(description="null: requests of one output token")
    ttft_ms: float = Field(description="at the SLO's percentile, else p90")
    tpot_ms: float | None = Field(description="at the SLO's percentile, else p90; null: requests of one output token")
    meets_slo: bool
    joules_per_output_token: float | None = Field(
        default=None, description="left out where neither clocks, limits nor energy were asked about"
    )
    clock_mhz: int | None = Field(default=None, description="of its GPUs; left out: as the driver chooses")
    power_cap_watts: float | None = Field(default=None, description="of each GPU; left out: as the driver has it")


class Alternative(OperatingPoint):
    """Another layout, at its best operating point, alone on its pool."""

    engines: int = Field(description="engines that fill the pool, or that carry the rate")
    gpus: int
    usd_per_hour: float | None
    simulated: bool = Field(
        default=False,
        description="whether its rate is that of a simulation; if not, of the formulas, for the times too",
    )
    score: float = Field(description="objective of this alternative, in the unit of the proof")
    loses_by: float = Field(description="how much worse that is than the plan's, relative")


class ClusterTried(Document):
    """One of the clusters to choose from: a pool alone, or several together."""

    name: str
    chosen: bool
    gpus: int | None = Field(default=None, description="used; null: no plan")
    usd_per_hour: float | None = Field(default=None, description="of the GPUs used; null where a price is not known")
    objective_value: float | None = Field(default=None, description="in the unit of the proof; null: no plan")
    loses_by: float | None = Field(default=None, description="how much worse than the chosen one, relative")
    reason: str | None = Field(default=None, description="why there is no plan")


class TokenBudget(Document):
    """A chosen layout with one token budget of a step, at the highest rate within the SLO, by the formulas; where no
    rate is within it, at the one nearest to it."""

    engine: str = Field(description="id of the engine group")
    max_tokens_per_step: int
    chosen: bool
    engine_rate_rps: float | None = Field(default=None, description="null: at no load within the SLO")
    ttft_p90_ms: float | None = None
    tpot_p90_ms: float | None = None
    missed: str | None = Field(default=None, description="what is not met; null: all is")


class Alternatives(Sparse):
    SELDOM: ClassVar = ("energy",)

    token_budgets: tuple[TokenBudget, ...] = Field(
        default=(), description="the chosen layouts of engines that prefill with each token budget of the framework's"
    )
    clusters: tuple[ClusterTried, ...] = Field(
        default=(), description="what came of each of the pools to choose from; empty where nobody chose"
    )
    ranked: tuple[Alternative, ...] = Field(description="best other layouts that meet the SLO, best first")
    pareto: tuple[OperatingPoint, ...] = Field(
        description="no other point is better in both speed per user and throughput per GPU, whether or not "
        "it meets the SLO; fastest per user first"
    )
    energy: tuple[OperatingPoint, ...] = Field(
        default=(),
        description="no other point takes both less time and fewer joules for an output token, whether or not it meets "
        "the SLO; fastest per user first; left out where neither clocks, limits nor energy were asked about",
    )


class Plan(Published):
    """The whole document."""

    kind: Literal["serving"] = "serving"
    schema_version: Literal["1.6"] = SCHEMA_VERSION
    request: RequestUnderstood
    decision: Deployment
    prediction: Prediction
    proof: ServingProof
    alternatives: Alternatives
    provenance: Provenance


def parse_plan(text: str, where: str = "plan") -> Plan:
    """A plan from its JSON. One of an older schema becomes one of today's, and one without a kind is a serving plan.

    Raises:
        InputError: not JSON, not a plan, of another schema version, or refused by the schema.
    """
    return parse_published(text, Plan, where, OLDER, called=(None,))


def plan_or_none(where: str) -> BeforeValidator:
    """Opens the plan in a request's field, which ``where`` names, as :func:`parse_plan` does."""

    def opened(value: Any) -> Any:
        return parse_plan(json.dumps(value), where) if isinstance(value, Mapping) else value

    return BeforeValidator(opened, json_schema_input_type=Plan | None)


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        InputError: what :func:`parse_plan` raises, and where the file cannot be read.
    """
    return parse_plan(read_text(path, "plan"), f"plan {path}")
