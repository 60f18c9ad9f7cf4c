"""The answer of ``plan compare``: plans and deployments side by side."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from planner.contract.documents import Document
from planner.contract.provenance import Provenance
from planner.contract.published import Published, Upgrade, parse_published
from planner.contract.quantities import Interval
from planner.contract.sparse import Sparse
from planner.contract.workload.slo import Metric, Slo
from planner.contract.workload.workload import Workload

SCHEMA_VERSION: Literal["1.0"] = "1.0"


class PromiseSeen(Sparse):
    """One promise at the load, as simulated."""

    SELDOM: ClassVar = ("service",)

    service: str | None = Field(default=None, description="of several whose it is; left out where there is one")
    metric: Metric
    percentile: float
    limit_ms: float
    seen_ms: Interval | None = Field(description="null: no request has the metric")
    holds: bool | None = Field(description="null: none of the service's requests came among those that count")
    confidence: float | None = Field(description="probability that it holds, given the uncertainty of the steps")


class EngineStarts(Document):
    """Whether the engines of a group start, and with how much cache."""

    engine: str = Field(description="id of the engine group")
    starts: bool
    reasons: tuple[str, ...] = Field(description="why not; empty where they do")
    ways_out: tuple[str, ...] = Field(description="what would make them start, and what is assumed")
    kv_cache_bytes: int = Field(description="of each GPU; below 0: so much is lacking")
    kv_cache_tokens: int = Field(description="of each attention replica")
    longest_at_once: float = Field(description="requests of the longest length that fit at once")


class Side(Document):
    """One plan or deployment under the load. What the load asks of it is simulated; what it carries at most within the
    promises is the highest rate at which the simulation keeps them."""

    name: str
    kind: Literal["serving", "deployment"]
    engines: tuple[str, ...] = Field(description="its groups of engines in words")
    framework: str
    gpus: int
    usd_per_hour: float | None
    starts: bool
    memory: tuple[EngineStarts, ...]
    problem: str | None = Field(description="why nothing is predicted; null: it is")
    rate_rps: float | None = Field(description="requests per second that it is sent; null: nothing is predicted")
    carries_rps: Interval | None = Field(description="requests per second within the promises; null: not predicted")
    keeps_up: bool = Field(description="whether its engines answer as fast as requests come")
    keeps_promises: bool = Field(
        description="whether it starts, keeps up and every promise that is seen holds at the load"
    )
    promises: tuple[PromiseSeen, ...]
    ttft_ms: Interval | None = Field(description="mean; null: not predicted")
    tpot_ms: Interval | None = Field(description="mean; null: not predicted, or outputs of one token")
    e2e_ms: Interval | None = Field(description="mean; null: not predicted")
    output_tokens_per_s: Interval | None = Field(description="at what it carries; null: not predicted")
    output_tokens_per_s_per_gpu: Interval | None
    usd_per_million_output_tokens: Interval | None = Field(
        description="at what it carries, with electricity as drawn at the load where a plan prices it; null: not known"
    )
    joules_per_output_token: Interval | None = Field(description="at the load; null: not known, or it falls behind")


class Ordered(Document):
    """Which of two carries more within the promises, by GPU and hour of it."""

    better: str
    worse: str
    by: float | None = Field(
        description="how much more, relative: 0.25 is a quarter more; 0: a tie; null: the other carries nothing"
    )
    quantity: Literal["requests per second", "requests per second per GPU"]
    confidence: float = Field(
        description="probability that the order is right, both lognormal and their errors correlated as far as they "
        "share GPU, framework and precision; 0.5: a tie"
    )


class Comparison(Published):
    """Plans and deployments under one load."""

    kind: Literal["comparison"] = "comparison"
    schema_version: Literal["1.0"] = SCHEMA_VERSION
    model: str
    workload: Workload
    slo: Slo
    load: str = Field(description="how the rate of the comparison came to be")
    sides: tuple[Side, ...]
    order: tuple[Ordered, ...] = Field(description="each beside the next, the best first; empty: nothing to order")
    seed: int
    provenance: Provenance


OLDER: dict[str, Upgrade] = {}
"""Versions that still open: none."""


def parse_comparison(text: str, where: str = "comparison") -> Comparison:
    """A comparison from its JSON. Raises as :func:`planner.contract.published.parse_published`."""
    return parse_published(text, Comparison, where, OLDER)
