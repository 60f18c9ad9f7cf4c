"""Dense products, and the feed-forward layers that are made of nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.models.architecture import DenseFeedForward
from costmodels.models.precision import Precision
from costmodels.operations.family import OperationFamily
from costmodels.operations.kernel import Kernel
from costmodels.operations.layers import Activations, FeedForwardKind, Rule, whole_groups
from costmodels.operations.questions import ACTIVATION_BYTES, LayerStep, Split
from costmodels.operations.roofline import (
    Columns,
    Hardware,
    Work,
    activation_bytes,
    code,
    element_bytes,
    floats,
    of_dtype,
)
from costmodels.operations.shape_features import Features, logs, power_of_two, waves


def _work(q: Columns) -> Work:
    m, n, k = floats(q, "m", "n", "k")
    moved = m * k * of_dtype(activation_bytes, q) + n * k * element_bytes(q) + m * n * 2
    return Work.local(2 * m * n * k, moved)


def _features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    m, n, k = floats(q, "m", "n", "k")
    features = {
        **logs(q, "m", "n", "k"),
        "mn": np.log2(m * n),
        "nk": np.log2(n * k),
        "mk": np.log2(m * k),
        "m_aligned": power_of_two(q["m"], 64),
        "n_aligned": power_of_two(q["n"], 1024),
        "k_aligned": power_of_two(q["k"], 1024),
        "m_filled": m / (np.ceil(m / 64) * 64),
        "n_filled": n / (np.ceil(n / 128) * 128),
        "weights_in_l2": np.log2(n * k / 1e6) - np.log2(hw.traits[gpu, hw.trait_names.index("l2")]),
    }
    for rows, columns in ((64, 64), (64, 128), (128, 128), (128, 256), (256, 128)):
        count, used = waves(np.ceil(m / rows) * np.ceil(n / columns), hw, gpu)
        features[f"used_{rows}x{columns}"] = used
        if (rows, columns) in ((64, 64), (128, 128), (128, 256)):
            features[f"waves_{rows}x{columns}"] = count
    return features


GEMM = Kernel(
    name="gemm",
    part="gemm",
    factor="gemm",
    work=_work,
    features=_features,
    group=("n", "k"),
    range=("m", "n", "k"),
    near={"m": 3.0, "n": 1.0, "k": 1.0},
)


def ask_product(
    step: LayerStep,
    dtype: str,
    m: Ints,
    n: Ints | int,
    k: Ints | int,
    count: Floats | float,
    *,
    beside: bool = False,
) -> None:
    """Asks for [m, k] × [k, n] in steps that have rows."""
    step.work.ask(GEMM, count, m > 0, beside=beside, dtype=code("dtype", dtype), m=m, n=n, k=k)


def ask_feed_forward(
    step: LayerStep, layer: DenseFeedForward, dtype: str, count: float, *, beside: bool = False
) -> None:
    """Asks for both products and the activation between them, before their sum over the tensor-parallel group.

    Args:
        beside: they are a shared expert's, which another stream may run beside routed ones.
    """
    tokens, hidden = step.batch.tokens, step.split.hidden
    width = -(-layer.intermediate // step.split.layouts.tp)
    matrices = 2 if layer.gated else 1
    ask_product(step, dtype, tokens, matrices * width, hidden, count, beside=beside)
    ask_product(step, dtype, tokens, hidden, width, count, beside=beside)
    elements = (tokens * width * (matrices + 1)).astype(np.float64)
    step.work.touch(elements * ACTIVATION_BYTES, 1, count)


def width_rules(what: str, width: int, precision: Precision, part: str) -> Iterator[Rule]:
    """A ``width`` of one ``part`` of a model that is split over the tensor-parallel group."""
    yield Rule(f"{what} width {width} does not divide by tp", lambda x: width % x.tp != 0)
    yield from whole_groups(f"{what} width", width, precision, part)


def feed_forward_width(layer: DenseFeedForward) -> int:
    """Elements of a token that live at once: gate, up and their product, or one and its activation."""
    return (3 if layer.gated else 2) * layer.intermediate


class DenseKind(FeedForwardKind[DenseFeedForward]):
    """Up (and gate) then down."""

    layer = DenseFeedForward

    def ask(self, step: LayerStep, layer: DenseFeedForward, count: int) -> None:
        ask_feed_forward(step, layer, step.split.precision.dense, count)
        step.reduce(count)

    def weights_bytes(self, split: Split, layer: DenseFeedForward) -> Iterator[Floats | float]:
        yield layer.parameters(split.hidden) * split.weight_bytes("dense") / split.layouts.tp

    def activations(self, split: Split, layer: DenseFeedForward) -> Activations:
        return Activations(feed_forward_width(layer), 0.0)

    def rules(self, layer: DenseFeedForward, precision: Precision) -> Iterator[Rule]:
        yield from width_rules("feed-forward", layer.intermediate, precision, "dense")


FAMILY = OperationFamily("gemm", (GEMM,), (DenseKind(),))
