"""The report of ``plan simulate``: what a plan does under a load, as a document. Times are milliseconds unless said
otherwise."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from planner.contract.documents import Document
from planner.contract.provenance import Provenance
from planner.contract.published import Published, Upgrade, as_it_is, parse_published
from planner.contract.quantities import Interval
from planner.contract.workload.slo import Metric

SCHEMA_VERSION: Literal["1.3"] = "1.3"


class PlannedLatency(Document):
    """What the plan said of a latency metric, ms, at its own load."""

    mean: float
    p50: float
    p90: float
    p95: float | None = Field(description="null: a plan of schema 1.0")
    p99: float


class Percentiles(Document):
    """One latency metric over all served requests, ms. Low and high: the same requests with every step at the lower
    and at the upper end of its 80 % interval."""

    mean: Interval
    p50: Interval
    p90: Interval
    p95: Interval
    p99: Interval
    planned: PlannedLatency | None = Field(default=None, description="null in reports before schema 1.2")


class Attained(Document):
    """One promise of the plan's SLO."""

    service: str | None = Field(default=None, description="of a fleet: whose promise; null: there is one service")
    metric: Metric
    percentile: float
    limit_ms: float
    simulated: Interval | None = Field(
        description="the metric of served requests at the promised percentile; null: outputs of one token have no TPOT"
    )
    planned_ms: float | None = Field(
        default=None, description="what the plan said, at its own load; null where it did not, and before schema 1.2"
    )
    share: Interval = Field(description="share of all requests within the limit")
    holds: bool = Field(
        description="whether the promised share of all requests is within, steps as predicted; refused ones are not"
    )
    confidence: float | None = Field(
        default=None,
        description="probability that the promised share of all requests is within (refused ones are not), given the "
        "uncertainty of the steps, as of the plan's own promises; null: no time was seen",
    )


class Load(Document):
    """What was sent."""

    source: str = Field(description="the trace, or how arrivals were drawn")
    requests: int
    seconds: float = Field(description="from the first arrival to the last")
    rate_rps: float
    isl_mean: float
    osl_mean: float
    isl_longest: int
    osl_longest: int


class Refused(Document):
    """Requests that no engine would admit."""

    reason: str
    requests: int
    example: str


class GroupLoad(Document):
    """What the engines of one group did."""

    engine: str = Field(description="id of the engine group")
    role: Literal["aggregated", "prefill", "decode"]
    replicas: int
    requests: int
    utilisation: float = Field(description="share of the time in which a step ran, mean over the replicas")
    busiest: float = Field(description="of the busiest replica")
    running_mean: float = Field(description="sequences in one engine")
    waiting_most: int = Field(description="longest queue of one engine")
    kv_peak: float = Field(description="largest share of the cache in use")
    preemptions: int
    falls_behind: int = Field(description="replicas whose queue grows all the time")


class Moment(Document):
    """One stretch of the timeline, all replicas together."""

    time_s: float = Field(description="its end")
    arrivals_rps: float
    running: float
    waiting: float
    busy: float = Field(description="share of engine time in which a step ran")
    kv_share: float = Field(description="of the fullest engine's cache, at the end")
    ttft_p90_ms: float | None = Field(description="of the requests that arrived in it; null without any")
    power_watts: float | None = Field(
        default=None, description="of all GPUs of the plan; null in reports before schema 1.3"
    )


class SimulationReport(Published):
    """The whole report."""

    kind: Literal["simulation"] = "simulation"
    schema_version: Literal["1.3"] = SCHEMA_VERSION
    model: str
    engines: tuple[str, ...] = Field(description="the plan's engine groups in words")
    edited: bool = Field(default=False, description="whether the plan was edited since it was made")
    planned_rps: float | None = Field(
        default=None, description="requests per second that the plan counts on; null in reports before schema 1.2"
    )
    load: Load
    warm_up_requests: int = Field(
        default=0,
        description="the first ones of a drawn load, while the engines fill: promises, percentiles, attainment and "
        "goodput are of the others",
    )
    served: int
    refused: tuple[Refused, ...]
    slo: tuple[Attained, ...]
    attainment: Interval = Field(description="share of all requests that met every promise")
    goodput_rps: Interval = Field(description="requests per second that met every promise")
    ttft_ms: Percentiles | None
    tpot_ms: Percentiles | None = Field(description="null where every output is one token")
    e2e_ms: Percentiles | None
    output_tokens_per_s: float
    preemptions: int
    falls_behind: bool = Field(description="whether the queue of some engine grows all the time")
    capacity_rps: float | None = Field(description="about what the plan carries; only where it falls behind")
    groups: tuple[GroupLoad, ...]
    power_watts: float | None = Field(
        default=None, description="of all GPUs, mean over the timeline; null in reports before schema 1.3"
    )
    joules_per_input_token: float | None = Field(
        default=None, description="the same ÷ prompt tokens; null in reports before schema 1.3"
    )
    joules_per_output_token: float | None = Field(
        default=None, description="all energy over the timeline ÷ output tokens; null in reports before schema 1.3"
    )
    timeline: tuple[Moment, ...]
    warnings: tuple[str, ...]
    cost_model_version: str
    pack_hash: str
    seed: int
    provenance: Provenance


def parse_report(text: str, where: str = "report") -> SimulationReport:
    """A report from its JSON.

    Raises:
        InputError: not JSON, not a simulation report, of another schema version, or refused by the schema.
    """
    return parse_published(text, SimulationReport, where, OLDER)


OLDER: dict[str, Upgrade] = {"1.1": as_it_is, "1.2": as_it_is}
"""Versions that still open. Reports of version 1.0 had no kind, and nothing read them."""
