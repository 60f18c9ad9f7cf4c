"""Engines as they run or are to run: layout, limits, replicas and how to start them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from costmodels.serving.frameworks.names import framework_names
from planner.contract.documents import Document
from planner.contract.expert_placement import ExpertPlacement
from planner.contract.sparse import Sparse

_RELEASE = (
    r"[0-9]+(\.[0-9]+)*((a|b|rc)[0-9]+)?(\.post[0-9]+)?(\.dev[0-9]+)?(\+[a-z0-9]+(\.[a-z0-9]+)*)?"
    r"|20[0-9]{2}-(0[1-9]|1[0-2])"
)


def _framework(name: str) -> str:
    from costmodels.serving.frameworks.framework import find_framework  # deferred: a command's help needs names alone

    framework = find_framework(name)
    return framework.spec if "@" in name else framework.name


class _KnownFrameworks:
    """Puts the names there are into the JSON Schema."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        names = list(framework_names())
        at_release = {"pattern": f"^({'|'.join(names)})@({_RELEASE})$"}
        return {**handler(core), "anyOf": [{"enum": names}, at_release]}


FrameworkName = Annotated[str, AfterValidator(_framework), _KnownFrameworks()]
"""A framework by its name, whatever its case and hyphens, and after an @ its release or the month of it."""

PrecisionName = Literal["auto", "bf16", "fp8", "fp8_block", "fp4", "nvfp4", "mxfp4", "int4", "int8", "int8_wo"]
"""``auto``: as published; ``fp4``: the 4-bit floating-point format that it is published in, else nvfp4."""

KvPrecisionName = Literal["bf16", "fp8"]
Role = Literal["aggregated", "prefill", "decode"]


NOTHING = "none"


class Layout(Sparse):
    """Parallel degrees of one engine: pp stages of dp attention replicas of tp GPUs; in MoE layers the tp·dp GPUs
    of a stage
    share out the experts ep ways and split each moe_tp ways. What is said of the experts beside is left out where it is
    nothing special."""

    SELDOM: ClassVar = ("exchange", "redundant", "overlap", "eplb", "dispatch_tokens")

    tp: int
    pp: int
    dp: int
    ep: int
    moe_tp: int
    exchange: str = Field(default=NOTHING, description="how tokens reach their experts; none: all ranks gather all")
    redundant: int = Field(default=0, ge=0, description="copies of hot experts, over all GPUs of a stage")
    overlap: Literal["none", "two_batch", "single_batch"] = Field(default="none", description="what hides the exchange")
    eplb: Literal["off", "static", "dynamic", "perfect"] = Field(default="off", description="how experts are balanced")
    dispatch_tokens: int = Field(
        default=0, ge=0, description="most tokens of a GPU that a low-latency exchange has buffers for; 0: it has none"
    )

    @property
    def gpus(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def label(self) -> str:
        parts = [f"TP{self.tp}"]
        parts += [
            f"{name}{degree}" for name, degree in (("PP", self.pp), ("DP", self.dp), ("EP", self.ep)) if degree > 1
        ]
        if self.redundant:
            parts[-1] += f"+{self.redundant}"
        parts += [word.replace("_", "-") for word in (self.exchange, self.overlap) if word != "none"]
        return " ".join(parts)


LIMITS = {
    "max_num_seqs": "max_sequences",
    "max_num_batched_tokens": "max_tokens_per_step",
    "gpu_memory_utilization": "memory_fraction",
    "max_model_len": "max_model_len",
}
"""Fields of requests that say how engines are started → what :class:`Limits` call them."""


class Limits(Document):
    """Batch limits to start the engine with."""

    max_sequences: int = Field(description="most sequences in one step, per attention replica")
    max_tokens_per_step: int = Field(description="token budget of one step (chunked prefill)")
    max_model_len: int = Field(description="longest sequence that is admitted, tokens")
    memory_fraction: float = Field(description="share of GPU memory the engine may use")

    @property
    def asked(self) -> dict[str, float]:
        """As fields of a request."""
        return {field: getattr(self, name) for field, name in LIMITS.items()}


class Rank(Document):
    """Where one rank of an engine runs."""

    rank: int
    node: int = Field(description="node index within the pool")
    gpu: int = Field(description="GPU index within the node")


class Replica(Document):
    """One running engine."""

    id: str
    weight: float = Field(
        description="share of the requests that the gateway sends here; those of all engines of a role sum to 1"
    )
    ranks: tuple[Rank, ...]


class Launch(Document):
    """How to start one engine of the group."""

    framework: FrameworkName
    command: tuple[str, ...] = Field(
        description="argument vector of the serving process (on each node where more than one)"
    )
    notes: tuple[str, ...] = Field(description="what the command line cannot say")


class EngineGroup(Sparse):
    """Engines that are alike."""

    SELDOM: ClassVar = ("clock_mhz", "power_cap_watts")

    id: str
    role: Role
    pool: str
    gpu: str
    layout: Layout
    gpus_per_engine: int
    weights_precision: str
    kv_precision: str
    limits: Limits
    replicas: tuple[Replica, ...] = Field(
        description="of a fleet with a schedule: as many as run at most, their ranks where the platform puts them"
    )
    launch: Launch
    expert_placement: ExpertPlacement | None = Field(
        default=None, description="null: no expert parallelism, or no statistics of expert loads were given"
    )
    service: str | None = Field(default=None, description="whose requests it serves; null: there is one service")
    supply: Literal["on_demand", "spot", "reserved", "owned"] = Field(default="on_demand", description="of its pool")
    usd_per_hour: float | None = Field(default=None, description="of one engine; null: its GPUs' price in the cluster")
    table: str | None = Field(
        default=None,
        description="the measured table that stands for it: layout and limits are then not known, and are 1 and 0; "
        "null: it was predicted",
    )
    clock_mhz: int | None = Field(
        default=None, description="SM clock that its GPUs are locked to at most; left out: as the driver chooses"
    )
    power_cap_watts: float | None = Field(
        default=None, description="board power limit of each GPU; left out: as the driver has it"
    )


def carried(weights: Sequence[float], rates_rps: Sequence[float]) -> tuple[float, float] | None:
    """What engines of a role carry, requests per second, by their ``weights`` and where all get the same share, as a
    router gives that takes no weights; None where they are alike. ``rates_rps``: of each engine, as much as it can."""
    if len(weights) < 2 or max(weights) - min(weights) < 1e-9:
        return None
    return (
        min(rate / weight for weight, rate in zip(weights, rates_rps, strict=True) if weight > 0),
        min(rates_rps) * len(rates_rps),
    )
