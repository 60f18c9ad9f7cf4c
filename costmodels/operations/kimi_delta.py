"""Kimi Delta Attention (arXiv:2510.26692): a state per head that each key channel forgets at its own rate."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.models.mixers import KimiDeltaAttention
from costmodels.models.precision import Precision
from costmodels.operations.family import OperationFamily
from costmodels.operations.gemm import ask_product
from costmodels.operations.kernel import Kernel
from costmodels.operations.layers import Rule, Widths, heads_divide, whole_blocks
from costmodels.operations.mixers import MixerKind
from costmodels.operations.questions import ACTIVATION_BYTES, LayerStep
from costmodels.operations.roofline import Columns, Hardware, Work, code, floats
from costmodels.operations.shape_features import Features, logs, waves
from costmodels.operations.short_conv import CONV, ask_convolution

# Measured for Kimi-K3's widths: heads of 128, state in fp32.
_HEAD, _STATE_BYTES = 128, 4


def _work(q: Columns, tokens: Floats, states_moved: float) -> Work:
    """As the gated delta rule (4 products with the state: arXiv:2412.06464, eq. 10), with a decay as wide as a key."""
    batch, heads = floats(q, "batch", "heads")
    state = heads * _HEAD**2
    moved = tokens * 2 * 5 * heads * _HEAD + states_moved * batch * state * _STATE_BYTES
    return Work.local(tokens * 2 * 4 * state, moved)


def _prefill_work(q: Columns) -> Work:
    batch, query = floats(q, "batch", "query_tokens")
    return _work(q, batch * query, 1.0)


def _decode_work(q: Columns) -> Work:
    (batch,) = floats(q, "batch")
    return _work(q, batch, 2.0)


def _prefill_features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, query, heads = floats(q, "batch", "query_tokens", "heads")
    count, used = waves(batch * heads, hw, gpu)
    return {
        **logs(q, "batch", "query_tokens", "heads"),
        "tokens": np.log2(batch * query),
        "chunks": np.log2(batch * np.ceil(query / 64) * heads),  # chunks of 64 tokens run one after the other
        "waves": count,
        "used": used,
    }


def _decode_features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, heads = floats(q, "batch", "heads")
    count, used = waves(batch * heads, hw, gpu)
    return {**logs(q, "batch", "heads"), "states": np.log2(batch * heads), "waves": count, "used": used}


PREFILL = Kernel(
    name="kda_prefill",
    part="attention",
    factor="attention_prefill",
    work=_prefill_work,
    features=_prefill_features,
    group=("heads", "batch"),
    range=("batch", "query_tokens", "heads"),
    near={"batch": 2.0, "query_tokens": 2.0, "heads": 1.0},
    figures_of="gdn_prefill",
)
DECODE = Kernel(
    name="kda_decode",
    part="attention",
    factor="attention_decode",
    work=_decode_work,
    features=_decode_features,
    group=("heads",),
    range=("batch", "heads"),
    near={"batch": 2.0, "heads": 1.0},
    figures_of="gdn_decode",
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
