"""What the harness measures: one module a family of operations. This one imports no torch until asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiles.collect.points import Benchmark

GROUPS: dict[str, tuple[str, ...]] = {
    "gemm": ("gemm",),
    "attention": ("attention_prefill", "attention_decode"),
    "mla": ("mla_prefill", "mla_decode", "mla_bmm"),
    "moe": ("moe",),
    "collective": ("collective",),
    "memcpy": ("memcpy",),
    "launch": ("launch",),
    "sustained": ("sustained",),
    "training": ("training_linear", "training_attention", "training_experts"),
}
"""Names for ``--ops`` and the operations that they stand for."""


def benchmarks(sustained_s: float | None = None) -> dict[str, Benchmark]:
    """A new benchmark for each operation that the harness measures, by name. Imports torch.

    ``sustained_s``: how long a load is kept up before it counts; None: the default.

    Each is to be closed at the end (:meth:`~profiles.collect.points.Benchmark.close`).
    """
    from profiles.collect.operations.attention import Attention
    from profiles.collect.operations.collective import Collective
    from profiles.collect.operations.gemm import Gemm
    from profiles.collect.operations.mla import Mla, MlaBmm
    from profiles.collect.operations.moe import Moe
    from profiles.collect.operations.sustained import DEFAULT_S, Sustained
    from profiles.collect.operations.training_attention import TrainingAttention
    from profiles.collect.operations.training_linear import TrainingExperts, TrainingLinear
    from profiles.collect.operations.transfer import Launch, Memcpy

    made: list[Benchmark] = [
        Gemm(),
        Attention(decode=False),
        Attention(decode=True),
        Mla(decode=False),
        Mla(decode=True),
        MlaBmm(),
        Moe(),
        Collective(),
        Memcpy(),
        Launch(),
        Sustained(DEFAULT_S if sustained_s is None else sustained_s),
        TrainingLinear(),
        TrainingAttention(),
        TrainingExperts(),
    ]
    return {benchmark.operation: benchmark for benchmark in made}
