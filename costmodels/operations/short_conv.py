"""The short causal convolution in front of state spaces and of some linear attention."""

from __future__ import annotations

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.operations.family import OperationFamily
from costmodels.operations.kernel import Kernel
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


def _prefill_work(q: Columns) -> Work:
    batch, query = floats(q, "batch", "query_tokens")
    return _work(q, batch * query, 1.0)


def _decode_work(q: Columns) -> Work:
    (batch,) = floats(q, "batch")
    return _work(q, batch, 2.0)


def _prefill_features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, query, channels = floats(q, "batch", "query_tokens", "channels")
    return {**logs(q, "batch", "query_tokens", "channels"), "elements": np.log2(batch * query * channels)}


def _decode_features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, channels = floats(q, "batch", "channels")
    return {**logs(q, "batch", "channels"), "elements": np.log2(batch * channels)}


PREFILL = Kernel(
    name="short_conv_prefill",
    part="attention",
    factor="attention_prefill",
    work=_prefill_work,
    features=_prefill_features,
    group=("channels", "batch"),
    range=("batch", "query_tokens", "channels"),
    near={"batch": 2.0, "query_tokens": 2.0, "channels": 1.0},
    figures_of="gdn_prefill",
)
DECODE = Kernel(
    name="short_conv_decode",
    part="attention",
    factor="attention_decode",
    work=_decode_work,
    features=_decode_features,
    group=("channels",),
    range=("batch", "channels"),
    near={"batch": 2.0, "channels": 1.0},
    figures_of="gdn_decode",
)


def ask_convolution(step: LayerStep, channels: Ints, count: float) -> None:
    """Asks for the convolution of ``channels`` (of each GPU, shape [n])."""
    step.recur(PREFILL, DECODE, count, dtype=code("dtype", "bf16"), channels=channels)


FAMILY = OperationFamily("short_conv", (PREFILL, DECODE))
