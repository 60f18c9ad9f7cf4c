"""What is known of a serving framework, part by part; its YAML file has the values and sources."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from profiles.hardware import Gpu


class Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(Facts):
    """Batch limits and memory with which the planner starts engines."""

    token_budgets: tuple[int, ...] = Field(min_length=1)  # most tokens in one step: values the planner tries
    max_sequences: int = Field(gt=0)
    memory_fraction: float = Field(gt=0, le=1)


class Parallelism(Facts):
    """Which layouts the framework has words for, and where it puts their ranks.

    Attributes:
        expert_splits: whether experts are shared out over all GPUs of a stage or none, or any divisor of them.
        tensor_and_data_parallel_attention: whether attention replicas may have several GPUs each.
        scatters_attention_replicas: whether the attention replicas of a stage lie pipeline stages apart, so that they
            are on more nodes than they fill.
    """

    expert_splits: Literal["all_or_nothing", "any"]
    tensor_and_data_parallel_attention: bool
    scatters_attention_replicas: bool


class Capabilities(Facts):
    """What the framework runs, and on which GPUs.

    Attributes:
        vendors: whose GPUs (``other``: CPUs that a user describes).
        least_cuda_capability: CUDA compute capability from which it runs.
        precisions: of checkpoints that it loads, or makes while loading.
        weight_only: of these, weights that a GPU without tensor cores for them multiplies in 16 bits, and the CUDA
            compute capability from which the framework has kernels for that.
    """

    vendors: frozenset[Literal["nvidia", "amd", "intel", "other"]]
    least_cuda_capability: float
    precisions: frozenset[str]
    weight_only: dict[str, float] = {}

    def weight_only_on(self, gpu: Gpu) -> frozenset[str]:
        """Precisions whose weights the framework can multiply in 16 bits on ``gpu``."""
        capability = gpu.compute_capability or 0.0
        return frozenset(name for name, least in self.weight_only.items() if capability >= least)


class BatchDefault(Facts):
    """Batch limits that an engine takes when nothing is said, on GPUs of a size; None: it works them out itself."""

    from_memory_gib: float = 0.0
    but_not: tuple[str, ...] = ()  # words of GPU names to which it does not apply
    max_num_batched_tokens: int | None
    max_num_batched_tokens_offline: int | None = None  # where it differs: generating without a server
    max_num_seqs: int | None


class Defaults(Facts):
    """What an engine takes when nothing is said, in vLLM's words.

    Attributes:
        gpu_memory_utilization: share of the GPU (of what weights leave free: TensorRT-LLM); None: worked out.
        chunked_prefill: whether prompts are cut.
        batch: the first that applies to the GPU.
    """

    gpu_memory_utilization: float | None = Field(gt=0, le=1)
    chunked_prefill: bool
    batch: tuple[BatchDefault, ...] = Field(min_length=1)

    def on(self, gpu: Gpu) -> BatchDefault:
        """The batch limits of engines on ``gpu``."""
        gib = gpu.memory_bytes / 2**30
        for batch in self.batch:
            if gib >= batch.from_memory_gib and not any(word in gpu.name for word in batch.but_not):
                return batch
        raise ValueError(f"defaults.batch: nothing applies to {gpu.name}")


class MemoryBudget(Facts):
    """What the share of memory that an engine may use is a budget for."""

    graphs_within_budget: bool


class Drift(Facts):
    """How far runs of a release lie from those of others: half-widths of log(measured ÷ predicted) that 80 % stay
    within, added to the intervals of a release from which the constants have no runs."""

    ttft: float = Field(ge=0)
    tpot: float = Field(ge=0)
    e2e: float = Field(ge=0)


class CommandLine(Facts):
    """How the framework spells what a plan decides; a launcher knows the meaning.

    Attributes:
        checked_on: the day on which the names were compared with the sources.
        program: argument vector up to the model.
        port: what the server listens on unless told otherwise.
        flags: one per decision; None: the framework has no such flag (a model that is positional).
        kv: our KV precision → the framework's word.
        quantize: weight precision that the framework makes while loading a 16-bit checkpoint → its word. Any other
            conversion needs a checkpoint that was quantised beforehand.
    """

    checked_on: dt.date
    program: tuple[str, ...] = Field(min_length=1)
    port: int
    flags: dict[str, str | None]
    kv: dict[str, str]
    quantize: dict[str, str]


class StandIn(Facts):
    """Which measured rows speak for an operation in a precision, where a framework runs it by default otherwise than
    the pack timed it under its name."""

    operation: Literal["gemm", "moe"]
    precision: str  # of dense layers, or of experts
    from_capability: float = 0.0  # CUDA compute capability from which it holds
    below_capability: float | None = None  # … and below which
    measured_as: str
    measured_under: str
    why: str
    source: str

    def holds_on(self, gpu: Gpu) -> bool:
        capability = gpu.compute_capability or 0.0
        if self.below_capability is not None and not 0 < capability < self.below_capability:
            return False
        return capability >= self.from_capability
