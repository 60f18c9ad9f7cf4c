"""The short causal convolution in front of state spaces and of some linear attention."""

from __future__ import annotations

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.operations.family import OperationFamily
from costmodels.operations.phases import over_state
from costmodels.operations.questions import LayerStep
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


FAMILY = OperationFamily("short_conv", (PREFILL, DECODE))
