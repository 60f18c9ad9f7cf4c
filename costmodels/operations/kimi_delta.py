"""Kimi Delta Attention (arXiv:2510.26692): a state per head that each key channel forgets at its own rate."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from costmodels.estimates import Floats
from costmodels.models.mixers import KimiDeltaAttention
from costmodels.models.precision import Precision
from costmodels.operations.family import OperationFamily
from costmodels.operations.gemm import ask_product
from costmodels.operations.layers import Rule, Widths, heads_divide, whole_blocks
from costmodels.operations.mixers import MixerKind
from costmodels.operations.phases import over_state, scanned, updated
from costmodels.operations.questions import ACTIVATION_BYTES, LayerStep
from costmodels.operations.roofline import Columns, Work, code, floats
from costmodels.operations.short_conv import CONV, ask_convolution

# Measured for Kimi-K3's widths: heads of 128, state in fp32.
_HEAD, _STATE_BYTES = 128, 4


def _work(q: Columns, tokens: Floats, states_moved: float) -> Work:
    """As the gated delta rule (4 products with the state: arXiv:2412.06464, eq. 10), with a decay as wide as a key."""
    batch, heads = floats(q, "batch", "heads")
    state = heads * _HEAD**2
    moved = tokens * 2 * 5 * heads * _HEAD + states_moved * batch * state * _STATE_BYTES
    return Work.local(tokens * 2 * 4 * state, moved)


PREFILL, DECODE = over_state(
    "kda",
    _work,
    (partial(scanned, shape=("heads",)), partial(updated, shape=("heads",))),
    group=("heads",),
    sizes=("heads",),
    figures_of="gdn",
)


class KimiDeltaKind(MixerKind[KimiDeltaAttention]):
    """Heads are split, and their states with them."""

    layer = KimiDeltaAttention

    def ask(self, step: LayerStep, layer: KimiDeltaAttention, count: int) -> None:
        precision, tokens, hidden = step.split.precision, step.batch.tokens, step.split.hidden
        heads = np.maximum(layer.heads // step.split.layouts.tp, 1)
        inner, dtype = heads * layer.head_dim, precision.attention_qkv
        width = 3 * inner + (inner if layer.full_rank_gate else 0)  # queries, keys, values; the output gate
        ask_product(step, dtype, tokens, width, hidden, count)
        if not layer.full_rank_gate:
            ask_product(step, dtype, tokens, layer.head_dim, hidden, count)
            ask_product(step, dtype, tokens, inner, layer.head_dim, count)
        ask_product(step, "bf16", tokens, layer.head_dim + heads, hidden, count)  # into the decay; the rule's step
        ask_product(step, "bf16", tokens, inner, layer.head_dim, count)
        ask_convolution(step, 3 * inner, count)
        step.recur(PREFILL, DECODE, count, dtype=code("dtype", "bf16"), heads=heads)
        ask_product(step, precision.attention_output, tokens, hidden, inner, count)
        # As for the gated delta rule: projections are taken apart, and the gated norm reads outputs and gate.
        step.work.touch(tokens * (2.0 * width + 3.0 * inner) * ACTIVATION_BYTES, 2, count)
        step.reduce(count)

    def widths(self, layer: KimiDeltaAttention) -> Widths:
        own = (layer.head_dim, layer.conv_kernel, layer.state_bytes)
        return Widths("Kimi Delta Attention (head, convolution, bytes of state)", own, ((_HEAD, CONV, _STATE_BYTES),))

    def rules(self, layer: KimiDeltaAttention, precision: Precision) -> Iterator[Rule]:
        yield heads_divide(layer.heads)
        yield from whole_blocks(precision, key=(layer.heads, layer.head_dim))


FAMILY = OperationFamily("kimi_delta", (PREFILL, DECODE), (KimiDeltaKind(),))
