"""Linear attention: a state per sequence in place of a cache."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from costmodels.estimates import Floats
from costmodels.models.architecture import GatedDeltaNet
from costmodels.models.precision import Precision
from costmodels.operations.family import OperationFamily
from costmodels.operations.gemm import ask_product
from costmodels.operations.layers import AttentionKind, Rule, Widths, heads_divide, output_groups, whole_blocks
from costmodels.operations.phases import over_state, scanned, updated
from costmodels.operations.questions import ACTIVATION_BYTES, LayerStep, Split
from costmodels.operations.roofline import Columns, Work, code, floats

# Gated DeltaNet is measured for Qwen's widths only: heads of 128, a convolution of 4, state in fp32.
_HEAD, _CONV, _STATE_BYTES = 128, 4, 4
_HEADS = ("key_heads", "value_heads")


def _work(q: Columns, tokens: Floats, states_moved: float) -> Work:
    """Per token and value head, decaying, correcting, updating and reading a 128×128 state take 4 products with it
    (arXiv:2412.06464, eq. 10), which every way of computing it needs."""
    batch, key_heads, value_heads = floats(q, "batch", "key_heads", "value_heads")
    channels = (2 * key_heads + value_heads) * _HEAD
    state = value_heads * _HEAD**2
    flops = tokens * (2 * _CONV * channels + 2 * 4 * state)
    moved = tokens * 2 * (channels + value_heads * _HEAD) + states_moved * batch * state * _STATE_BYTES
    return Work.local(flops, moved)


PREFILL, DECODE = over_state(
    "gdn",
    _work,
    (partial(scanned, shape=_HEADS), partial(updated, shape=_HEADS)),
    group=_HEADS,
    sizes=_HEADS,
)


class DeltaNetKind(AttentionKind[GatedDeltaNet]):
    """Heads are split, and their states with them. The state stands for all tokens before, so neither prefix nor
    context is asked for."""

    layer = GatedDeltaNet

    def ask(self, step: LayerStep, layer: GatedDeltaNet, count: int) -> None:
        precision, tp, hidden = step.split.precision, step.split.layouts.tp, step.split.hidden
        key_heads = np.maximum(layer.key_heads // tp, 1)
        value_heads = np.maximum(layer.value_heads // tp, 1)
        tokens, values = step.batch.tokens, value_heads * layer.value_dim
        width = 2 * key_heads * layer.key_dim + 2 * values  # q and k; v and the output gate
        ask_product(step, precision.attention_qkv, tokens, width, hidden, count)
        ask_product(step, "bf16", tokens, 2 * value_heads, hidden, count)  # decay and step of the delta rule
        shape = {"dtype": code("dtype", "bf16"), "key_heads": key_heads, "value_heads": value_heads}
        step.recur(PREFILL, DECODE, count, **shape)
        ask_product(step, precision.attention_output, tokens, hidden, values, count)
        # Taking the projections apart reads and writes them; the gated norm reads outputs and gate, and writes.
        step.work.touch(tokens * (2.0 * width + 3.0 * values) * ACTIVATION_BYTES, 2, count)
        step.reduce(count)

    def weights_bytes(self, split: Split, layer: GatedDeltaNet) -> Iterator[Floats | float]:
        hidden, values = split.hidden, layer.value_heads * layer.value_dim
        qkv, out = split.weight_bytes("attention_qkv"), split.weight_bytes("attention_output")
        small = hidden * 2 * layer.value_heads + layer.convolved * layer.conv_kernel
        projections = hidden * (layer.convolved + values) * qkv
        yield (projections + small * 2.0 + values * hidden * out) / split.layouts.tp

    def cache_bytes(self, split: Split, layer: GatedDeltaNet, count: int, tokens: Floats) -> Floats:
        return np.asarray(count * layer.state_bytes_per_sequence() / split.layouts.tp)

    def widths(self, layer: GatedDeltaNet) -> Widths:
        own = (layer.key_dim, layer.value_dim, layer.conv_kernel, layer.state_bytes)
        measured = ((_HEAD, _HEAD, _CONV, _STATE_BYTES),)
        return Widths("gated delta rule (key, value, convolution, bytes of state)", own, measured)

    def rules(self, layer: GatedDeltaNet, precision: Precision) -> Iterator[Rule]:
        yield heads_divide(layer.heads)
        key, value = (layer.key_heads, layer.key_dim), (layer.value_heads, layer.value_dim)
        yield from whole_blocks(precision, key=key, value=value)
        yield from output_groups(layer.value_heads * layer.value_dim, precision)


FAMILY = OperationFamily("linear", (PREFILL, DECODE), (DeltaNetKind(),))
