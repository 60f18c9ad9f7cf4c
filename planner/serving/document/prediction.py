"""The part of the plan document that says what will happen. Times are milliseconds, sizes bytes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from costmodels.origins import How
from planner.contract.documents import Document
from planner.contract.fleet import ServicePrediction
from planner.contract.quantities import Interval, Latency
from planner.contract.sparse import Sparse


class SloCheck(Document):
    """One promise against its prediction."""

    metric: str
    percentile: float
    limit_ms: float
    predicted: Interval = Field(description="as simulated; where it was not, by the formulas of the search")
    formula_ms: float | None = Field(
        default=None, description="the same by the formulas, where ``predicted`` is simulated"
    )
    margin: float = Field(description="(limit − predicted) ÷ limit")
    confidence: float = Field(description="probability that it holds, given the prediction's uncertainty")


class MemoryParts(Sparse):
    """Bytes on the fullest GPU of an engine, by part."""

    SELDOM: ClassVar = ("kv_sequences",)

    weights_bytes: float
    kv_cache_bytes: float
    activation_bytes: float
    cuda_graph_bytes: float
    communication_bytes: float = Field(description="what libraries take beside activations, most of it to communicate")
    context_bytes: float = Field(description="what the driver keeps, and a process before it loads a model")
    reserve_bytes: float = Field(default=0.0, description="for fragmentation; 0 where memory is counted as engines do")
    unused_bytes: float = Field(description="what the memory fraction leaves free")
    total_bytes: float
    kv_tokens: int = Field(description="tokens of KV cache that fit, per attention replica, at the request's length")
    kv_sequences: int | None = Field(
        default=None,
        description="sequences that fit there, of a model that keeps a state of each, whatever its length; left out of "
        "others",
    )


class EngineSimulation(Document):
    """How one engine of a group was simulated: alone, with random arrivals at the load that the plan gives it."""

    requests: int
    seed: int
    standard_errors_ms: dict[str, float] = Field(
        default_factory=dict,
        description="of the engine's own percentiles that a promise names, by promise: from one draw of arrivals to "
        "another, by batch means",
    )
    formula_rps: float | None = Field(
        description="what the formulas say that one engine carries, where the simulation carries less and the plan "
        "counts on that; else null"
    )


class LargestServed(Document):
    """What an engine's memory allows at most, per attention replica."""

    context_tokens: int = Field(description="of one request alone, prompt and output; at most the model's context")
    concurrency: int = Field(description="requests of the workload's mean length at once, as far as the framework goes")


class GroupPrediction(Document):
    """What one engine of a group does under its share of the load. Of a prefill engine, ``ttft_ms`` is the time until
    the prompt is prefilled and the steps are prefill steps; a decode engine has no part in ``prefill_busy``."""

    engine: str = Field(description="id of the engine group")
    rate_rps: Interval = Field(description="requests per second that one engine can carry within the SLO")
    load_rps: float = Field(description="requests per second that the plan sends to one engine")
    concurrency: int | float = Field(
        description="decoding sequences per attention replica at that load, on average; of prefill engines, prompts"
    )
    ttft_ms: Latency | None = Field(description="null: decode engines have no first token of their own")
    tpot_ms: Latency | None = Field(description="null: prefill engines, and requests of one output token")
    e2e_ms: Latency | None = Field(description="null: an engine of one role does not serve whole requests")
    step_ms_by_part: dict[str, float] = Field(description="a step's time by cause")
    prefill_busy: float = Field(description="share of time that prefill is busy")
    memory: MemoryParts
    largest: LargestServed | None = Field(default=None, description="null in plans of schema 1.3 and older")
    power_watts: Interval = Field(description="of one GPU")
    how: How = Field(description="weakest origin of the kernels' times")
    inside_measured_range: bool
    simulation: EngineSimulation | None = Field(
        default=None, description="where the latencies are from; null: from the formulas of the search"
    )


class KvTransfer(Document):
    """The way of a request's KV cache from its prefill to its decode engine, on the slowest pair of the plan."""

    bytes_per_request: float = Field(description="all layers and KV heads once")
    link: str = Field(description="the fabric between nodes, or the scale-up link where all engines share a node")
    time_ms: Interval = Field(description="of the slower end, its queue included")
    exposed_ms: Interval = Field(description="what is left of it when the prefill is over: part of the TTFT")
    overlap: Literal["layer", "chunk", "none"] = Field(description="what the framework sends while it still computes")
    sender_busy: float = Field(description="share of time that a prefill GPU's link is busy")
    receiver_busy: float = Field(description="share of time that a decode GPU's link is busy")


class Effect(Document):
    """What a fact of the workload does at the plan's operating point, beside the same engines without it."""

    fact: Literal["prefix_hit", "speculation"]
    summary: str = Field(description="in words")
    ttft_ms_without: float | None = Field(description="mean; null: the engines would not keep up")
    tpot_ms_without: float | None = Field(description="mean; null: the engines would not keep up")


class Prediction(Sparse):
    """Of the whole plan. Latencies are those of all its requests; of a fleet, of its slowest engines."""

    SELDOM: ClassVar = ("electricity_usd_per_hour",)

    ttft_ms: Latency | None = Field(description="null: engines of measured tables")
    tpot_ms: Latency | None = Field(description="null: requests of one output token")
    e2e_ms: Latency | None = Field(description="null: engines of measured tables")
    ttft_ms_by_part: dict[str, float] = Field(default_factory=dict, description="mean TTFT by cause, by the formulas")
    kv_transfer: KvTransfer | None = Field(default=None, description="null: aggregated engines")
    effects: tuple[Effect, ...] = Field(default=(), description="of the workload's facts")
    request_rate_rps: Interval = Field(description="requests per second served within the SLO")
    output_tokens_per_s: Interval
    output_tokens_per_s_per_gpu: Interval
    output_tokens_per_s_per_user: Interval | None = Field(description="null: requests of one output token")
    utilisation: float = Field(description="load ÷ capacity")
    power_watts: Interval | None = Field(description="of all GPUs used; null: engines of measured tables")
    joules_per_input_token: Interval | None = Field(
        default=None, description="all energy ÷ tokens of prompts; null: engines of measured tables, older plans"
    )
    joules_per_output_token: Interval | None = Field(description="all energy ÷ tokens of outputs")
    electricity_usd_per_hour: Interval | None = Field(
        default=None,
        description="of all GPUs used, beside decision.usd_per_hour; of a fleet, its engines at what they carry at "
        "most, the mean over the schedule, as the objective counts it; left out: electricity is not priced",
    )
    usd_per_million_output_tokens: Interval | None = Field(
        description="of the GPUs, and of their electricity where that is priced"
    )
    slo: tuple[SloCheck, ...]
    engines: tuple[GroupPrediction, ...]
    services: tuple[ServicePrediction, ...] = Field(default=(), description="of a fleet")
