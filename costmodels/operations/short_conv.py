"""The short causal convolution: in front of state spaces and of some linear attention, or between two gates alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.models.mixers import ShortConvolution
from costmodels.models.precision import Precision
from costmodels.operations.family import OperationFamily
from costmodels.operations.gemm import ask_product
from costmodels.operations.layers import Rule, Widths, heads_divide
from costmodels.operations.mixers import MixerKind
from costmodels.operations.phases import over_state
from costmodels.operations.questions import ACTIVATION_BYTES, LayerStep
from costmodels.operations.roofline import Columns, Hardware, Work, code, floats
from costmodels.operations.shape_features import Features, logs

CONV = 4
"""Tokens that it spans, in all that was measured."""


def _work(q: Columns, tokens: Floats, kept: float) -> Work:
    """In and out once; ``kept``: how often the last inputs of each sequence are moved."""
    batch, channels = floats(q, "batch", "channels")
    moved = 2 * channels * (2 * tokens + kept * (CONV - 1) * batch)
    return Work.local(2 * CONV * tokens * channels, moved)


def _prefill_features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, query, channels = floats(q, "batch", "query_tokens", "channels")
    return {**logs(q, "batch", "query_tokens", "channels"), "elements": np.log2(batch * query * channels)}


def _decode_features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, channels = floats(q, "batch", "channels")
    return {**logs(q, "batch", "channels"), "elements": np.log2(batch * channels)}


PREFILL, DECODE = over_state(
    "short_conv",
    _work,
    (_prefill_features, _decode_features),
    group=("channels",),
    sizes=("channels",),
    figures_of="gdn",
)


def ask_convolution(step: LayerStep, channels: Ints, count: float) -> None:
    """Asks for the convolution of ``channels`` (of each GPU, shape [n])."""
    step.recur(PREFILL, DECODE, count, dtype=code("dtype", "bf16"), channels=channels)


class ShortConvolutionKind(MixerKind[ShortConvolution]):
    """Channels are split. A convolution over three tokens is asked as one over four, which keeps a token more."""

    layer = ShortConvolution

    def ask(self, step: LayerStep, layer: ShortConvolution, count: int) -> None:
        precision, tokens, hidden = step.split.precision, step.batch.tokens, step.split.hidden
        channels = np.maximum(layer.channels // step.split.layouts.tp, 1)
        ask_product(step, precision.attention_qkv, tokens, 3 * channels, hidden, count)
        gated = (tokens * channels).astype(np.float64) * 3 * ACTIVATION_BYTES  # two read, one written
        step.work.touch(gated, 1, count)
        ask_convolution(step, channels, count)
        step.work.touch(gated, 1, count)
        ask_product(step, precision.attention_output, tokens, hidden, channels, count)
        step.reduce(count)

    def widths(self, layer: ShortConvolution) -> Widths:
        return Widths("convolutions between gates", (layer.conv_kernel,), ((CONV - 1,), (CONV,)))

    def rules(self, layer: ShortConvolution, precision: Precision) -> Iterator[Rule]:
        yield heads_divide(layer.heads, "channels of the convolutions")


FAMILY = OperationFamily("short_conv", (PREFILL, DECODE), (ShortConvolutionKind(),))
