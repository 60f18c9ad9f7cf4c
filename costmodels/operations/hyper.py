"""Hyper-connections: several residual streams, mixed before and after each half of a layer (arXiv:2512.24880)."""

from __future__ import annotations

import numpy as np

from costmodels.estimates import Ints
from costmodels.models.mixers import HyperConnections
from costmodels.operations.family import OperationFamily
from costmodels.operations.kernel import Kernel
from costmodels.operations.questions import LayerStep
from costmodels.operations.roofline import Columns, Hardware, Work, code, floats
from costmodels.operations.shape_features import Features, logs, waves

_HALVES = 2  # of a layer, which a row holds both


def _work(q: Columns) -> Work:
    """Before a half: the streams are read, multiplied by a narrow fp32 matrix and summed into its input. Behind it:
    streams and output are read, and the streams written."""
    tokens, hidden, streams = floats(q, "tokens", "hidden", "streams")
    before = q["kind"] == code("kind", "pre")
    mixes = (2 + streams) * streams
    wide = tokens * streams * hidden
    moved = np.where(before, 2 * wide + 4 * mixes * streams * hidden, 4 * wide) + 2 * tokens * hidden
    return Work.local(_HALVES * np.where(before, 2 * wide * mixes, 2 * wide * streams), _HALVES * moved)


def _features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    (tokens,) = floats(q, "tokens")
    count, used = waves(np.ceil(tokens / 64), hw, gpu)
    return {
        **logs(q, "tokens", "hidden", "streams"),
        "kind": q["kind"].astype(np.float64),
        "waves": count,
        "used": used,
    }


MIXING = Kernel(
    name="hyper_connection",
    part="attention",
    factor="elementwise",
    work=_work,
    features=_features,
    group=("hidden", "tokens"),
    range=("tokens",),
    near={"tokens": 2.0},
    alike=("hidden", "streams"),
    figures_of="mla_bmm",
)


def ask_mixing(step: LayerStep, residual: HyperConnections, count: float) -> None:
    """Asks for the mixing around both halves of ``count`` layers, which is whole on every GPU."""
    tokens = step.batch.tokens
    shape = {"dtype": code("dtype", "bf16"), "tokens": tokens, "hidden": step.split.hidden, "streams": residual.streams}
    for kind in ("pre", "post"):
        step.work.ask(MIXING, count, tokens > 0, kind=code("kind", kind), **shape)


FAMILY = OperationFamily("hyper", (MIXING,))
