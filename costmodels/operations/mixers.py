"""Mixers whose kernels nobody has timed: their weights and their cache are known, and steps of them are refused.

A mixer that gets kernels gets a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from costmodels.estimates import Floats
from costmodels.models.architecture import BlockSparseAttention, ParallelMixers
from costmodels.models.mixers import CompressedAttention, KimiDeltaAttention, Mamba, Mamba2, Mixer
from costmodels.models.precision import Precision
from costmodels.operations.attention import GROUPED_QUERY
from costmodels.operations.family import OperationFamily
from costmodels.operations.layers import AttentionKind, Rule, heads_divide, replicate_evenly, whole_blocks
from costmodels.operations.questions import LayerStep, Split
from costmodels.operations.roofline import WEIGHT_BYTES

M = TypeVar("M", bound=Mixer)


class UntimedKind(AttentionKind[M]):
    """What a mixer says of itself."""

    def ask(self, step: LayerStep, layer: M, count: int) -> None:
        raise NotImplementedError(f"{layer.kind} has no times")  # untimed() has it refused before

    def untimed(self, layer: M) -> tuple[str, ...]:
        return (layer.kind,)

    def weights_bytes(self, split: Split, layer: M) -> Iterator[Floats | float]:
        for weights in layer.weights(split.hidden):
            element = 2.0 if weights.part == "16-bit" else split.weight_bytes(weights.part)
            yield weights.elements * element / np.minimum(split.layouts.tp, weights.pieces)

    def cache_bytes(self, split: Split, layer: M, count: int, tokens: Floats) -> Floats:
        return count * layer.cache_bytes(tokens, split.layouts.tp, WEIGHT_BYTES[split.precision.kv])

    def widths(self, layer: M) -> None:
        return None


class MambaKind(UntimedKind[Mamba]):
    """Channels are split, and their states with them."""

    layer = Mamba

    def rules(self, layer: Mamba, precision: Precision) -> Iterator[Rule]:
        yield heads_divide(layer.heads, "Mamba channels")


class Mamba2Kind(UntimedKind[Mamba2]):
    """Heads are split, and their states with them; groups are copied where the tensor-parallel degree exceeds them."""

    layer = Mamba2

    def rules(self, layer: Mamba2, precision: Precision) -> Iterator[Rule]:
        yield heads_divide(layer.heads, "Mamba-2 heads")
        yield replicate_evenly(layer.groups, "Mamba-2 groups")


class KimiDeltaKind(UntimedKind[KimiDeltaAttention]):
    """Heads are split, and their states with them."""

    layer = KimiDeltaAttention

    def rules(self, layer: KimiDeltaAttention, precision: Precision) -> Iterator[Rule]:
        yield heads_divide(layer.heads)
        yield from whole_blocks(precision, key=(layer.heads, layer.head_dim))


class CompressedKind(UntimedKind[CompressedAttention]):
    """Heads are split, the latents and their cache are whole on every GPU."""

    layer = CompressedAttention

    def rules(self, layer: CompressedAttention, precision: Precision) -> Iterator[Rule]:
        yield heads_divide(layer.heads)
        yield heads_divide(layer.output_groups, "groups of the output projection")


class BlockSparseKind(UntimedKind[BlockSparseAttention]):
    """Split as the attention that it is made of."""

    layer = BlockSparseAttention

    def rules(self, layer: BlockSparseAttention, precision: Precision) -> Iterator[Rule]:
        yield from GROUPED_QUERY.rules(layer.attention, precision)


class ParallelKind(UntimedKind[ParallelMixers]):
    """Split as both mixers that it is made of."""

    layer = ParallelMixers

    def rules(self, layer: ParallelMixers, precision: Precision) -> Iterator[Rule]:
        yield from GROUPED_QUERY.rules(layer.attention, precision)
        yield from MAMBA2.rules(layer.state_space, precision)


MAMBA2 = Mamba2Kind()
FAMILY = OperationFamily(
    "mixers", (), (MambaKind(), MAMBA2, KimiDeltaKind(), CompressedKind(), BlockSparseKind(), ParallelKind())
)
