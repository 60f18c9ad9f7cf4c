"""The plan document: what was asked, what was decided, what is predicted, and why to believe it.

One versioned JSON document, validated on the way out and on the way in. Times are milliseconds, sizes bytes. It
holds no
clock readings: same request, same versions, same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from costmodels.origins import How
from planner.documents import shown, strict_json
from planner.requests import (
    Bound,
    Cluster,
    Document,
    FrameworkName,
    Objective,
    PlanRequest,
    Slo,
    Workload,
    validation_error,
)
from profiles.errors import DataError, InputError

SCHEMA_VERSION: Literal["1.0"] = "1.0"


class Interval(Document):
    """A predicted quantity: 80 % of true values are expected between ``low`` and ``high``."""

    value: float
    low: float
    high: float


class Latency(Document):
    """One latency metric over requests, ms."""

    mean: Interval
    p50: Interval
    p90: Interval
    p99: Interval


# ------------------------------------------------------------------ request


class RequestUnderstood(Document):
    """The request as it was understood, all defaults filled in."""

    model: str
    parameters: int = Field(description="weights of the language model")
    active_parameters: int = Field(description="weights that touch one token")
    not_modelled: tuple[str, ...] = Field(description="parts of the checkpoint that are not modelled")
    cluster: Cluster
    slo: Slo
    workload: Workload
    objective: Objective
    framework: FrameworkName
    weights_precision: str
    kv_precision: str
    confidence: float = Field(description="probability with which each bound of the SLO had to hold")
    precision_converted: bool = Field(description="whether weights are not in the precision they are published in")
    max_tp: int | None
    max_pp: int | None
    max_engine_gpus: int | None
    tp_across_nodes: bool
    time_limit_s: float


# ------------------------------------------------------------------ decision


class Layout(Document):
    """Parallel degrees of one engine: pp stages of dp attention replicas of tp GPUs; in MoE layers the tp·dp GPUs
    of a stage
    share out the experts ep ways and split each moe_tp ways."""

    tp: int
    pp: int
    dp: int
    ep: int
    moe_tp: int

    @property
    def gpus(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def label(self) -> str:
        parts = [f"TP{self.tp}"]
        parts += [
            f"{name}{degree}" for name, degree in (("PP", self.pp), ("DP", self.dp), ("EP", self.ep)) if degree > 1
        ]
        return " ".join(parts)


class Limits(Document):
    """Batch limits to start the engine with."""

    max_sequences: int = Field(description="most sequences in one step, per attention replica")
    max_tokens_per_step: int = Field(description="token budget of one step (chunked prefill)")
    max_model_len: int = Field(description="longest sequence that is admitted, tokens")
    memory_fraction: float = Field(description="share of GPU memory the engine may use")


class Rank(Document):
    """Where one rank of an engine runs."""

    rank: int
    node: int = Field(description="node index within the pool")
    gpu: int = Field(description="GPU index within the node")


class Replica(Document):
    """One running engine."""

    id: str
    weight: float = Field(description="share of the requests that the gateway sends here; all weights sum to 1")
    ranks: tuple[Rank, ...]


class Launch(Document):
    """How to start one engine of the group."""

    framework: FrameworkName
    command: tuple[str, ...] = Field(
        description="argument vector of the serving process (on each node where more than one)"
    )
    notes: tuple[str, ...] = Field(description="what the command line cannot say")


class EngineGroup(Document):
    """Engines that are alike."""

    id: str
    role: Literal["aggregated", "prefill", "decode"]
    pool: str
    gpu: str
    layout: Layout
    gpus_per_engine: int
    weights_precision: str
    kv_precision: str
    limits: Limits
    replicas: tuple[Replica, ...]
    launch: Launch


class Decision(Document):
    engines: tuple[EngineGroup, ...]
    gpus_used: int
    gpus_idle: int
    usd_per_hour: float | None = Field(description="of the GPUs used; null where a price is not known")


# ------------------------------------------------------------------ prediction


class SloCheck(Document):
    """One promise against its prediction."""

    metric: str
    percentile: float
    limit_ms: float
    predicted: Interval
    margin: float = Field(description="(limit − predicted) ÷ limit")
    confidence: float = Field(description="probability that it holds, given the prediction's uncertainty")


class MemoryParts(Document):
    """Bytes on the fullest GPU of an engine, by part."""

    weights_bytes: float
    kv_cache_bytes: float
    activation_bytes: float
    cuda_graph_bytes: float
    communication_bytes: float
    context_bytes: float
    reserve_bytes: float
    unused_bytes: float = Field(description="outside the memory fraction that the engine may use")
    total_bytes: float
    kv_tokens: int = Field(description="tokens of KV cache that fit, per attention replica, at the request's length")


class GroupPrediction(Document):
    """What one engine of a group does under its share of the load."""

    engine: str = Field(description="id of the engine group")
    rate_rps: Interval = Field(description="requests per second that one engine can carry within the SLO")
    load_rps: float = Field(description="requests per second that the plan sends to one engine")
    concurrency: int = Field(description="decoding sequences per attention replica at that load")
    ttft_ms: Latency
    tpot_ms: Latency
    e2e_ms: Latency
    step_ms_by_part: dict[str, float] = Field(description="a decode step's time by cause")
    prefill_busy: float = Field(description="share of time that prefill is busy")
    memory: MemoryParts
    power_watts: Interval = Field(description="of one GPU")
    how: How = Field(description="weakest origin of the kernels' times")
    inside_measured_range: bool


class Prediction(Document):
    """Of the whole plan. Latencies are those of the slowest engine group."""

    ttft_ms: Latency
    tpot_ms: Latency
    e2e_ms: Latency
    request_rate_rps: Interval = Field(description="requests per second served within the SLO")
    output_tokens_per_s: Interval
    output_tokens_per_s_per_gpu: Interval
    output_tokens_per_s_per_user: Interval
    utilisation: float = Field(description="load ÷ capacity")
    power_watts: Interval = Field(description="of all GPUs used")
    joules_per_output_token: Interval
    usd_per_million_output_tokens: Interval | None
    slo: tuple[SloCheck, ...]
    engines: tuple[GroupPrediction, ...]


# ------------------------------------------------------------------ proof


class Rejection(Document):
    """Candidates that were not taken further, and why."""

    reason: str
    count: int
    example: str


class Proof(Document):
    """Why there is no better plan among those considered."""

    engine: str = Field(description="solver and version")
    status: Literal["optimal", "feasible", "time_limit"]
    objective: Objective
    objective_value: float
    objective_unit: str
    bound: float = Field(description="no choice among the candidates can be better than this")
    gap: float = Field(description="|bound − objective| ÷ the larger of the two")
    layouts_considered: int
    layouts_legal: int
    operating_points: int = Field(description="layouts × batch limits × concurrencies predicted")
    operating_points_within_slo: int
    candidates: int = Field(description="what the solver chose from")
    rejected: tuple[Rejection, ...]
    binding_constraint: str


class OperatingPoint(Document):
    """One layout under one load."""

    pool: str
    layout: Layout
    gpus_per_engine: int
    max_tokens_per_step: int
    concurrency: int = Field(description="decoding sequences per attention replica")
    engine_rate_rps: float = Field(description="requests per second of one engine")
    output_tokens_per_s_per_gpu: float
    output_tokens_per_s_per_user: float
    ttft_ms: float = Field(description="at the SLO's percentile, else p90")
    tpot_ms: float = Field(description="at the SLO's percentile, else p90")
    meets_slo: bool


class Alternative(OperatingPoint):
    """Another layout, at its best operating point, alone on its pool."""

    engines: int = Field(description="engines that fill the pool, or that carry the rate")
    gpus: int
    usd_per_hour: float | None
    score: float = Field(description="objective of this alternative, in the unit of the proof")
    loses_by: float = Field(description="how much worse that is than the plan's, relative")


class Alternatives(Document):
    ranked: tuple[Alternative, ...] = Field(description="best other layouts that meet the SLO, best first")
    pareto: tuple[OperatingPoint, ...] = Field(
        description="no other point is better in both speed per user and throughput per GPU, whether or not "
        "it meets the SLO; fastest per user first"
    )


class Provenance(Document):
    package: str
    package_version: str
    cost_model_version: str
    pack: str
    pack_version: str
    pack_hash: str
    attribution: str
    notes: tuple[str, ...] = Field(description="what the reader should know of the measurements and assumptions")


class Plan(Document):
    """The whole document."""

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    request: RequestUnderstood
    decision: Decision
    prediction: Prediction
    proof: Proof
    alternatives: Alternatives
    provenance: Provenance

    def to_json(self) -> str:
        """The document as text: indented, keys in schema order, a newline at the end."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse_plan(text: str, where: str = "plan") -> Plan:
    """A plan from its JSON.

    Raises:
        InputError: not JSON, not a plan, of another schema version, or refused by the schema.
    """
    written = "give a plan that `plan --output` wrote"
    try:
        document = strict_json(text)
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({error})", written) from error
    if not isinstance(document, Mapping) or "schema_version" not in document:
        raise InputError(f"{where}: schema_version is missing", written)
    version = document["schema_version"]
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{where}: schema_version {shown(version)} is not one that this program reads",
            f"it reads {SCHEMA_VERSION}; use the shardwright that wrote the plan, or a newer one",
        )
    try:
        # Strictly: "8" is not 8, and true is not 1. (From Python objects, strict would refuse lists for tuples.)
        return Plan.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise validation_error(error, where) from error


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        InputError: what :func:`parse_plan` raises, and where the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"plan {path}: cannot be read ({reason})", "check the path") from error
    return parse_plan(text, f"plan {path}")


def validated(plan: Plan) -> Plan:
    """``plan`` after a round trip through its own schema: what leaves the planner is what others can read.

    Raises:
        DataError: the planner made something that its schema refuses (a defect).
    """
    try:
        return parse_plan(plan.to_json())
    except (InputError, ValueError) as error:
        raise DataError(f"plan: failed its own schema ({error})", "report this as a defect") from error


def schema(what: Literal["plan", "request"] = "plan") -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the plan or of the request."""
    kind = Plan if what == "plan" else PlanRequest
    document = kind.model_json_schema(mode="serialization" if what == "plan" else "validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:shardwright:{what}:{SCHEMA_VERSION}",
        **document,
    }


__all__ = ["SCHEMA_VERSION", "Bound", "Plan", "parse_plan", "read_plan", "schema", "validated"]
