"""What training's kernels take: laws over the pack's forward kernels, and what a user's own rows of the kernels
themselves (``plan profile collect --ops training``) say of these laws.

A law is exact of none: cuBLAS has other kernels for a gradient's layout than for the forward product of the permuted
shape, an attention's backward pass is another program than its forward pass. Where rows were measured, what they took ÷
what the law says is known; near them (in log size) it is much the same, and far from them their common share remains:
the process of :mod:`costmodels.kernels.error_process`, over the law in place of the forest. An answer there is the law
times that ratio.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from costmodels.estimates import SIGMAS, Floats, Ints
from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.error_process import ErrorProcess, Points, Prior, Priors
from costmodels.operations.roofline import code
from costmodels.training.calibration import TrainingConstants, kernel_ratios
from costmodels.training.layouts import ATTENTION
from costmodels.training.questions import Corrected
from profiles.operation_tables import LINEAR_KINDS

LINEAR, FUSED, GROUPED = "training_linear", "training_attention", "training_experts"
FORWARD_PRODUCT, DATA_GRADIENT, WEIGHT_GRADIENT, ADDED_UP = LINEAR_KINDS

ACCUMULATION_BYTES = 6.0
"""Of an element of a weight gradient that is added up in 32 bits: read and written, in place of the 16-bit result."""

_KERNELS = {"flash_attn_2": "flash2", "sdpa_flash": "flash2", "flash_attn_3": "flash3", "sdpa_cudnn": "cudnn"}
"""Kernels of rows, as layouts name them; others say nothing of what frameworks run."""

SIZES = {
    LINEAR: ("tokens", "in_features", "out_features"),
    FUSED: ("batch", "query_tokens", "heads", "kv_heads", "head_dim", "value_dim"),
    GROUPED: ("experts", "rows", "in_features", "out_features"),
}
_WHAT = {LINEAR: "products and their gradients", FUSED: "attention, forward and backward", GROUPED: "experts' products"}
IN_16_BITS = ("bf16", "fp16")


def permuted(kind: str, rows: Floats, wide_out: Floats, wide_in: Floats) -> tuple[Floats, Floats, Floats]:
    """(m, n, k) of the forward product that takes as long as ``kind`` of a linear layer."""
    if kind == FORWARD_PRODUCT:
        return rows, wide_out, wide_in
    return (rows, wide_in, wide_out) if kind == DATA_GRADIENT else (wide_out, wide_in, rows)


def weights_beyond_products(
    rows: Floats, weights: Floats, element_bytes: float, flops_rate: float, memory_rate: float
) -> Floats:
    """Bytes of all experts' ``weights`` (elements) that do not come behind the products of each one's ``rows``. One
    grouped call works at all experts' rows at once: it is bound by the memory where the experts have few rows, else as
    fast as one product of them all (an H100's rows of 128 to 16,384 rows an expert: 7 % MAPE after one factor, where a
    product an expert gives 28 %)."""
    return np.asarray(weights * np.maximum(element_bytes - 2.0 * rows * memory_rate / flops_rate, 0.0))


def flash2_slowdown(cost: CostModel, attention: Ints) -> Floats:
    """Of FlashAttention 2 against the pack's fused kernels, by index into ``ATTENTION``."""
    hopper = (cost.gpu.compute_capability or 0.0) >= 9.0
    return np.where((attention == ATTENTION.index("flash2")) & hopper, kernel_ratios().flash2_on_hopper, 1.0)


@dataclass(frozen=True)
class _Taught:
    """``shift``: median of measured ÷ law, less 1."""

    process: ErrorProcess
    rows: int
    shift: float


@dataclass(frozen=True)
class OwnKernels:
    """Ratios of measured to law, of one GPU type.

    Attributes:
        cost: answers the laws' questions; its measured stores hold the rows.
        constants: of the laws.
    """

    cost: CostModel
    constants: TrainingConstants

    @property
    def memory_rate(self) -> float:
        """Bytes/s that norms, activations, masks and the optimizer reach."""
        return self.cost.gpu.memory_bandwidth_bytes_per_s * self.constants.elementwise_bandwidth

    def flops_rate(self, dtype: str) -> float:
        """FLOP/s of products in ``dtype``, of those in 16 bits where the GPU has none in it."""
        peaks = self.cost.gpu.peak_flops
        return peaks.get(dtype) or peaks.get("bf16") or peaks["fp16"]

    def linear(self, kind: str, rows: Floats, wide_out: Floats, wide_in: Floats) -> Corrected:
        """Shape [n]; 1 where nothing was measured, as the others."""
        return self._ratio(LINEAR, LINEAR_KINDS.index(kind), rows, wide_in, wide_out)

    def grouped(self, kind: str, experts: Floats | float, rows: Floats, wide_out: Floats, wide_in: Floats) -> Corrected:
        return self._ratio(GROUPED, LINEAR_KINDS.index(kind), experts, rows, wide_in, wide_out)

    def attention(self, backward: bool, attention: Ints, *sizes: object) -> Corrected:
        """``sizes`` as the rows have them; ``attention`` by index, as layouts have it."""
        return self._ratio(FUSED, 2 * attention + backward, *sizes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of rows that were measured."""
        return tuple(
            f"{operation}: {taught.rows:,} measured rows, in the median {abs(taught.shift):.0%} "
            f"{'slower' if taught.shift > 0 else 'faster'} than taken without them, correct what is taken of {what}"
            for operation, what in _WHAT.items()
            if (taught := self._taught.get(operation)) is not None
        )

    def _ratio(self, operation: str, partition: Ints | int, *sizes: object) -> Corrected:
        taught = self._taught.get(operation)
        if taught is None:
            return Corrected()
        mean, width = taught.process.at(points(partition, *sizes))
        return Corrected(np.exp(mean), width)

    @cached_property
    def _taught(self) -> Mapping[str, _Taught]:
        found = {}
        for operation in SIZES:
            where, residual = self.residuals(operation)
            if len(residual):
                shift = float(np.expm1(np.median(residual)))
                found[operation] = _Taught(error_process(where, residual), len(residual), shift)
        return found

    def residuals(self, operation: str) -> tuple[Points, Floats]:
        """(where the rows of ``operation`` are, log measured ÷ law of each)."""
        rows = self.rows(operation)
        if not len(rows["latency_us"]):
            return points(0, *(np.zeros(0) for _ in SIZES[operation])), np.zeros(0)
        partition, law = self.law(operation, rows)
        where = points(partition, *(rows[name] for name in SIZES[operation]))
        return where, np.log(rows["latency_us"] / law)

    def rows(self, operation: str) -> dict[str, np.ndarray]:
        """Of this GPU type alone, in 16 bits; of a question that two stores answer, the last one's."""
        names = ["dtype", "kind", "kernel", *SIZES[operation], "latency_us"]
        with_rows = [store for store in self.cost.measured if operation in store.operations()]
        if not with_rows:
            return {"latency_us": np.zeros(0)}
        import pandas as pd  # deferred: most plans have no rows of their own

        table = pd.concat([store.query(operation, gpu=self.cost.gpu.name, columns=names) for store in with_rows])
        table = table[table["dtype"].isin(IN_16_BITS)]
        if operation == FUSED:
            table = table[table["kernel"].isin(_KERNELS)]
        asked = table[[name for name in names if name not in ("kernel", "latency_us")]]
        if operation == FUSED:  # another kernel is another question
            asked = asked.assign(kernel=table["kernel"].map(_KERNELS))
        table = table[~asked.duplicated(keep="last").to_numpy()]
        return {name: table[name].to_numpy() for name in names}

    def law(self, operation: str, rows: Mapping[str, np.ndarray]) -> tuple[Ints, Floats]:
        """(partition, µs) of the rows."""
        n = len(rows["latency_us"])
        shared = {
            "dtype": np.array([code("dtype", dtype) for dtype in rows["dtype"]]),
            "num_gpus": np.ones(n, np.int64),
        }
        if operation == FUSED:
            return self._attention_law(rows, shared)
        kinds = np.array([LINEAR_KINDS.index(kind) for kind in rows["kind"]])
        own = rows["rows"] * rows["experts"] if operation == GROUPED else rows["tokens"]
        shapes = np.zeros((3, n), np.int64)
        for index, kind in enumerate(LINEAR_KINDS):
            at = kinds == index
            shapes[:, at] = permuted(kind, own[at], rows["out_features"][at], rows["in_features"][at])
        law = self.cost.estimate("gemm", {**shared, **dict(zip("mnk", shapes, strict=True))}).value
        added = kinds == LINEAR_KINDS.index(ADDED_UP)
        weights = rows["in_features"] * rows["out_features"] * 1.0
        moved = np.where(added, ACCUMULATION_BYTES, 0.0) * weights
        if operation == GROUPED:
            weights = weights * rows["experts"]
            beyond = weights_beyond_products(rows["rows"], weights, 2.0, self.flops_rate("bf16"), self.memory_rate)
            moved, law = moved * rows["experts"] + beyond, law * kernel_ratios().grouped
        return kinds, law + moved / self.memory_rate * 1e6

    def _attention_law(self, rows: Mapping[str, np.ndarray], shared: Mapping[str, np.ndarray]) -> tuple[Ints, Floats]:
        n = len(rows["latency_us"])
        kernel = np.array([ATTENTION.index(_KERNELS[name]) for name in rows["kernel"]])
        backward = rows["kind"] == "backward"
        latent = rows["value_dim"] != rows["head_dim"]
        shape = {name: rows[name] for name in ("batch", "query_tokens", "heads")}
        shape = {**shared, **shape, "prefix_tokens": np.zeros(n, np.int64), "kv_dtype": shared["dtype"]}
        grouped = {"kv_heads": rows["kv_heads"], "head_dim": rows["head_dim"], "window_tokens": np.zeros(n, np.int64)}
        law = np.zeros(n)
        for operation, more, at in (("mla_prefill", {}, latent), ("attention_prefill", grouped, ~latent)):
            if at.any():
                columns = {name: values[at] for name, values in {**shape, **more}.items()}
                law[at] = self.cost.estimate(operation, columns).value
        law = law * flash2_slowdown(self.cost, kernel) * np.where(backward, self.constants.attention_backward, 1.0)
        return 2 * kernel + backward, law


def points(partition: Ints | int, *sizes: object) -> Points:
    columns = np.broadcast_arrays(*(np.asarray(each, dtype=np.float64) for each in sizes), partition)
    place = np.log2(np.maximum(np.column_stack([each.ravel() for each in columns[:-1]]), 0.5))
    n = len(place)
    return Points(place, columns[-1].ravel().astype(np.int64), np.zeros(n, np.bool_), np.zeros(n))


def error_process(rows: Points, residual: Floats) -> ErrorProcess:
    """``residual``: log measured ÷ law of ``rows``.

    Laws err by some 10 % in common and of one kind, by a few of a shape: chosen on the rows of
    ``tests/benchmarks/training_kernels.csv`` (A100), which are in-sample for that.
    """
    prior = _prior(rows)
    return ErrorProcess(Priors(prior, prior), rows, residual)


def untaught(rows: Points) -> Floats:
    """Half-width (log) of the 80 % interval of laws alone, shape [n]."""
    prior = _prior(rows)
    return np.sqrt(prior.variance(rows) + prior.scatter(rows)) * SIGMAS


def _prior(rows: Points) -> Prior:
    return Prior(
        offset=0.1, partition=0.1, shared=0.03, local=0.06, noise=0.02, growth=0.0, claim=0.0,
        lengths=np.full(rows.place.shape[1], 2.0), degrees=5.0,
    )  # fmt: skip


def held_out(rows: Points, residual: Floats, folds: int) -> tuple[Floats, Floats] | None:
    """(mean, half-width) of each row's error, from rows of the other folds; all kinds of a shape are in one fold. None
    where all rows are of one shape."""
    shape = np.unique(rows.place, axis=0, return_inverse=True)[1].reshape(-1)
    count = int(shape.max(initial=0)) + 1
    if count < 2:
        return None
    fold = (np.random.default_rng(0).permutation(count) % min(folds, count))[shape]
    mean, width = np.zeros(len(residual)), np.zeros(len(residual))
    for each in range(int(fold.max()) + 1):
        out, kept = np.flatnonzero(fold == each), np.flatnonzero(fold != each)
        mean[out], width[out] = error_process(rows.take(kept), residual[kept]).at(rows.take(out))
    return mean, width
