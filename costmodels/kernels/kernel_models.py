"""Latency of any operation on any GPU: exact measurement, else forest, else roofline. One interface for
all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from costmodels.arrays import Rowwise
from costmodels.estimates import Estimates, Floats, Ints
from costmodels.kernels import forest as forests
from costmodels.kernels.cells import Cells
from costmodels.kernels.features import base_us, matrix
from costmodels.kernels.row_sources import sources_of, tunes_at_start
from costmodels.kernels.sound_rows import Curves, as_tuned, undisturbed
from costmodels.operations.kernel import Kernel
from costmodels.operations.registry import families
from costmodels.operations.roofline import CODES, Columns, Hardware
from costmodels.origins import FOREST, MEASURED, ROOFLINE
from profiles.boxes import Box, measured_in
from profiles.columns import Columns as Measured
from profiles.columns import Texts, texts
from profiles.errors import DataError
from profiles.exclusions import exclusions, listed_in
from profiles.hardware import SHIPPED, Catalogue, Gpu
from profiles.store import ProfileStore

if TYPE_CHECKING:
    import pandas as pd

MEASURED_NOISE = 0.05
"""Half-width (log) of the interval around an exact measurement (percentiles of its own are not read: the
pack has none). In the pack, bf16 GEMMs of vLLM and TensorRT-LLM on H200 are the same cuBLAS kernels measured
twice: 80 % agree within −3.9 % … +6.8 %."""

ROOFLINE_SPREAD = float(np.log(4.0))
"""Half-width (log) of the interval where there is nothing but the roofline, at which its low side ends."""

ROOFLINE_TOLD = "the roofline answers, and up to 4 times as long is likely"
"""The same for people."""

STAND_IN_SPREAD = 0.3
"""Half-width (log) added where another framework's kernels stand in. On H200, 80 % of fp8 GEMMs of TensorRT-LLM take
0.62–2.03 × vLLM's time, of fp8_block GEMMs 0.90–1.51 × SGLang's, of decode attention 0.41–1.35 × vLLM's; bf16 GEMMs,
the same library in all, 0.97–1.07 ×."""

SATURATED = 1.4
"""Time ÷ roofline of what a GPU computes beyond a relative of it with more tensor cores: as large products (1.2 to 1.4)
and FlashMLA (1.4) take on H100. Judged; engines on H20 with large batches are 6 to 17 % too fast by it."""

POORER = 0.75
"""Of the ratio of arithmetic to bandwidth that a measured GPU of the same generation has: below, ratios to its roofline
do not carry over, since what is launch or memory there is arithmetic here (H20: a seventh of H100's)."""

TWIN = 1.15
"""By what factor arithmetic in 16 bits and bandwidth of memory of two GPUs of one generation differ at most, for the
times of one, times what their rooflines differ by, to answer for the other: B200's and GB200's rows from each other
are off by 2.3 to 3.5 % in the median and 6 to 14 % in nine of ten (TensorRT-LLM's experts, products, attention),
those of H100 and H200, whose bandwidths are 1.43 apart, by 6 to 20 and 18 to 40 %."""

EXTRAPOLATION = 0.35
"""Interval widening (log, per doubling) beyond the measured range of a column."""


@dataclass(frozen=True)
class Rows(Rowwise):
    """Measured rows in the form the model wants: coded columns, GPU index, latency."""

    columns: dict[str, NDArray[np.generic]]
    gpu: Ints
    latency_us: Floats
    origin: NDArray[np.int8]  # index into the framework's order of row_sources


def coded(operation: str, table: pd.DataFrame | Measured) -> dict[str, NDArray[np.generic]]:
    """Shape columns of ``table`` with text turned into codes; −1 for a text that has none."""
    out: dict[str, NDArray[np.generic]] = {}
    for name in families().kernel(operation).columns:
        if name in CODES:
            column = table[name]
            out[name] = (column if isinstance(column, Texts) else Texts.of(column)).positions(CODES[name])
        else:
            out[name] = np.asarray(table[name], dtype=np.int64)
    return out


def load_rows(
    store: ProfileStore,
    operation: str,
    framework: str,
    hardware: Hardware,
    gpu: str | None = None,
    left_out: tuple[Box, ...] = (),
) -> Rows:
    """The rows that speak for ``framework``: its own, and where a (GPU, precision, kind) has none, a
    stand-in's; none that were measured in the boxes ``left_out``, or that are listed as wrong. Of one ``gpu``, whose
    rows answer as they are, products :func:`undisturbed` (of thousands, a forest makes little of that), and experts of
    engines that tune their kernels when they start :func:`as_tuned`."""
    order = sources_of(framework)
    kernel = families().kernel(operation)
    excluded = exclusions(store.manifest.name, operation)
    names = ["gpu", "num_gpus", "dtype", *kernel.shape_names, "latency_us"]
    parts: list[Rows] = []
    seen = np.zeros(0, np.uint64)
    # One framework at a time: the others' rows are mostly not needed.
    for position, row_source in enumerate(order):
        table = store.columns(operation, names, gpu=gpu, framework=row_source)
        kept = texts(table, "gpu").isin(hardware.names) & ~measured_in(left_out, table)
        if (same := kernel.one_precision) is not None:
            kept &= texts(table, "dtype").isin(same.dtypes)
            table["dtype"] = Texts(np.zeros(len(kept), np.int64), (same.dtype,))
        kept &= ~listed_in(excluded, table, row_source, gpu)
        table = {name: column[kept] for name, column in table.items()}
        if operation == "gemm" and gpu is not None:
            table["latency_us"] = undisturbed(table)
        columns = _known(store, operation, table)
        gpu_index = texts(table, "gpu").positions(hardware.names)
        blocks = _hash([gpu_index, columns["dtype"], *([columns["kind"]] if "kind" in columns else [])])
        new = np.flatnonzero(~np.isin(blocks, seen))
        shapes = {name: values[new] for name, values in columns.items()}
        latency = np.asarray(table["latency_us"], dtype=np.float64)[new]
        if operation == "moe" and gpu is not None and tunes_at_start(row_source):
            latency = as_tuned(shapes, latency)
        parts.append(
            Rows(
                shapes,
                gpu_index[new],
                latency,
                np.full(len(new), position, np.int8),
            )
        )
        seen = np.union1d(seen, blocks)
    return Rows(
        {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
        np.concatenate([part.gpu for part in parts]),
        np.concatenate([part.latency_us for part in parts]),
        np.concatenate([part.origin for part in parts]),
    )


def _known(store: ProfileStore, operation: str, table: Measured) -> dict[str, NDArray[np.generic]]:
    """Coded columns; a text value that the cost model has no code for is refused."""
    columns = coded(operation, table)
    for name in columns:
        if name in CODES and (np.asarray(columns[name], dtype=np.int64) < 0).any():
            stranger = texts(table, name).strangers(CODES[name])[0]
            raise DataError(
                f"store {store.path}: {operation} rows have {name} {stranger!r}, which the cost model does not know",
                f"known: {', '.join(CODES[name])}",
            )
    return columns


def shape_groups(kernel: Kernel, columns: Columns) -> Ints:
    """One number per shape, shape [n]."""
    return np.unique(_hash([columns[name] for name in kernel.group]), return_inverse=True)[1].astype(np.int64)


def places(kernel: Kernel, columns: Columns) -> NDArray[np.float32]:
    """Coordinates in which near rows behave alike, shape [n, d]."""
    parts = [
        np.log2(np.maximum(np.asarray(columns[name], dtype=np.float64), 0.5)) * scale
        for name, scale in kernel.near.items()
    ]
    return np.column_stack(parts).astype(np.float32)


def partitions(kernel: Kernel, columns: Columns) -> Ints:
    """Rows of one partition (and one GPU) may correct each other: same value of every coded column, and of
    ``alike``."""
    coded_columns = [columns[name] for name in CODES if name in columns and name != "routing"]
    return _hash([*coded_columns, *(columns[name] for name in kernel.alike)]).astype(np.int64)


def error_partitions(columns: Columns) -> Ints:
    """Questions of one partition err alike: same precision and kind, whatever the model (see
    :mod:`costmodels.kernels.error_process`)."""
    return _hash([columns[name] for name in CODES if name in columns and name != "routing"]).astype(np.int64)


def deduplicated(operation: str, q: Columns) -> tuple[dict[str, NDArray[np.generic]], Ints]:
    """(the distinct questions, for each question the index of its distinct one)."""
    keys = question_keys(operation, q)
    _, first, back = np.unique(keys, return_index=True, return_inverse=True)
    return {name: values[first] for name, values in q.items()}, back.astype(np.int64)


def question_keys(operation: str, columns: Columns) -> NDArray[np.uint64]:
    """Equal where the question is, shape [n]."""
    return _hash([np.asarray(columns[name]) for name in families().kernel(operation).columns])


def _hash(columns: Sequence[NDArray[np.generic]]) -> NDArray[np.uint64]:
    """One 64-bit hash per row (splitmix64 over the columns)."""
    state = np.zeros(len(columns[0]), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in columns:
            state = (state ^ column.astype(np.int64).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


@dataclass(frozen=True)
class Fitted:
    """What is learnt from all GPUs: the trees, and what the rows of each GPU add to them.

    Attributes:
        neighbours: by GPU name.
    """

    forest: forests.Forest
    neighbours: dict[str, forests.Neighbours]


def fit(operation: str, rows: Rows, hardware: Hardware, seed: int = 0) -> Fitted:
    """Fits the forest of one operation to ``rows`` of all GPUs together."""
    kernel = families().kernel(operation)
    base = base_us(kernel, rows.columns, rows.gpu, hardware)
    forest, memory = forests.fit(
        matrix(kernel, rows.columns, rows.gpu, hardware),
        np.log(rows.latency_us / base),
        shape_groups(kernel, rows.columns),
        places(kernel, rows.columns),
        partitions(kernel, rows.columns),
        rows.gpu,
        kernel.leaf_rows,
        seed,
    )
    return Fitted(
        forest,
        {name: memory.take(np.flatnonzero(rows.gpu == index)) for index, name in enumerate(hardware.names)},
    )


@dataclass(frozen=True)
class Answer:
    """What a kernel model knows of ``n`` questions; times in µs, shape [n] each.

    Attributes:
        value: of the forest, or of the roofline with a launch.
        down, up: how far (log) the interval of the trees reaches; zero for the roofline.
        known: whether this GPU has rows of the question's partition.
        doublings: see :func:`doublings_outside`.
        exact, found: the measured latency, where there is one.
        base, bound: the forest's yardstick, and the roofline.
    """

    value: Floats
    down: Floats
    up: Floats
    known: NDArray[np.bool_]
    doublings: Floats
    exact: Floats
    found: NDArray[np.bool_]
    base: Floats
    bound: Floats


@dataclass(frozen=True)
class Relative:
    """What a measured GPU of the same generation says of one without rows.

    Attributes:
        twin: whether both are as fast (:data:`TWIN`); else the other has far more arithmetic (:data:`POORER`).
    """

    model: KernelModel
    twin: bool

    def us(self, q: Columns, base: Floats, bound: Floats) -> Floats:
        """Times of the questions ``q``; ``base``, ``bound``: of the GPU without rows, as in :class:`Answer`."""
        near = self.model.answer(q)
        value = np.where(near.found, near.exact, near.value)
        return value * base / near.base if self.twin else value + SATURATED * np.maximum(bound - near.bound, 0.0)


class KernelModel:
    """Predicts one operation on one GPU type.

    Args:
        operation: its name in :data:`profiles.measurements.OPERATIONS`.
        fitted: the forest, or None to answer with the roofline (and a launch) alone.
        rows: measured rows of this GPU (exact answers and ranges); may be empty.
        gpu: the GPU type.
        unseen_spread: half-width (log) of the interval where this GPU has no rows at all, from the
            leave-one-GPU-out benchmark.
        relative: a measured GPU of its generation that answers where this one has no rows.
    """

    def __init__(
        self,
        operation: str,
        fitted: Fitted | None,
        rows: Rows,
        gpu: Gpu,
        unseen_spread: float,
        relative: Relative | None = None,
    ) -> None:
        self.operation = operation
        self.kernel = families().kernel(operation)
        self.hardware = Hardware.of([gpu])
        self._fitted = fitted
        self._unseen_spread = unseen_spread
        self._relative = relative
        self._exact_keys, self._exact_us = self._index(rows)
        self._curves = self._curves_of(rows)
        self._ranges = ranges(self.kernel, rows.columns)
        self._cells = Cells(self.kernel.cells, rows.columns)

    def _index(self, rows: Rows) -> tuple[NDArray[np.uint64], Floats]:
        keys = question_keys(self.operation, rows.columns)
        order = np.argsort(keys, kind="stable")
        return keys[order], rows.latency_us[order]

    def _curves_of(self, rows: Rows) -> Curves | None:
        if not (along := self.kernel.along):
            return None
        return Curves(self._curve_keys(rows.columns), rows.columns[along], rows.latency_us, self.kernel.apart)

    def _curve_keys(self, columns: Columns) -> NDArray[np.uint64]:
        return _hash([np.asarray(columns[name]) for name in self.kernel.columns if name != self.kernel.along])

    @property
    def has_forest(self) -> bool:
        return self._fitted is not None

    def answer(self, q: Columns) -> Answer:
        """The questions ``q`` (coded shape columns, shape [n] each), before what an unseen GPU adds to the spread."""
        n = len(q["dtype"])
        gpu = np.zeros(n, dtype=np.int64)
        bound = self.kernel.roofline_us(q, gpu, self.hardware)
        base = base_us(self.kernel, q, gpu, self.hardware)
        if self._fitted is None:
            none = np.zeros(n)
            value, down, up, known, doublings = base, none, none, np.zeros(n, bool), none
        else:
            value, down, up, known = self._forest(q, gpu, base)
            if self._curves is not None:
                value = self._curves.between(self._curve_keys(q), q[self.kernel.along], value)
            value = self._cells.no_longer(q, value, self._lookup)
            if self._relative is not None:
                value = self._relative.us(q, base, bound)
            doublings = doublings_outside(self._ranges, q)
        exact, found = self._lookup(q)
        return Answer(value, down, up, known, doublings, exact, found, base, bound)

    def estimate(self, q: Columns) -> Estimates:
        """Latencies in µs of the questions ``q`` (coded shape columns, shape [n] each)."""
        if len(q["dtype"]) == 0:
            return Estimates.exact(np.zeros(0))
        a = self.answer(q)
        if self.has_forest:
            # Without rows of this GPU the spread of the trees says too little; the benchmark's spread says the rest.
            down, up = (np.where(a.known, side, np.hypot(side, self._unseen_spread)) for side in (a.down, a.up))
        else:
            down, up = a.down + ROOFLINE_SPREAD, a.up + ROOFLINE_SPREAD
        widen = EXTRAPOLATION * a.doublings
        low = np.maximum(a.value * np.exp(-down - widen), np.minimum(a.bound, a.value))
        high = a.value * np.exp(up + widen)
        value = np.where(a.found, a.exact, a.value)
        low = np.where(a.found, a.exact * np.exp(-MEASURED_NOISE), low)
        high = np.where(a.found, a.exact * np.exp(MEASURED_NOISE), high)
        how = np.where(a.found, MEASURED, FOREST if self.has_forest else ROOFLINE).astype(np.int8)
        inside = a.found | (a.known & (a.doublings <= 0))
        return Estimates(value, np.minimum(low, value), np.maximum(high, value), how, inside)

    def _forest(self, q: Columns, gpu: Ints, base: Floats) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
        assert self._fitted is not None
        model = self._fitted.forest
        memory = self._fitted.neighbours.get(self.hardware.names[0], forests.Neighbours.empty(len(self.kernel.near)))
        ratio, spread = model.raw(matrix(self.kernel, q, gpu, self.hardware))
        parts = partitions(self.kernel, q)
        known = np.isin(parts, memory.partitions)
        ratio = ratio + model.correction_share * forests.correction(memory, places(self.kernel, q), parts)
        down, up = model.interval(spread)
        return base * np.exp(ratio), down, up, known

    def _lookup(self, q: Columns) -> tuple[Floats, NDArray[np.bool_]]:
        if not len(self._exact_keys):
            return np.zeros(len(q["dtype"])), np.zeros(len(q["dtype"]), bool)
        keys = question_keys(self.operation, q)
        place = np.minimum(np.searchsorted(self._exact_keys, keys), len(self._exact_keys) - 1)
        return self._exact_us[place], self._exact_keys[place] == keys


Ranges = dict[int, dict[str, tuple[float, float]]]


def ranges(kernel: Kernel, columns: Columns) -> Ranges:
    """By precision, the (least, most) of the kernel's continuous columns."""
    return {
        int(dtype): {
            name: (values.min(), values.max())
            for name in kernel.range
            for values in [columns[name][columns["dtype"] == dtype]]
        }
        for dtype in np.unique(columns["dtype"])
    }


def doublings_outside(measured: Ranges, q: Columns) -> Floats:
    """By how many factors of two the questions leave the measured range, summed over the columns. A
    column that was never varied (the pack has no prefill behind a cached prefix) counts as half of one,
    however far: its effect on FLOPs and bytes is known, and the distance says nothing."""
    out = np.zeros(len(q["dtype"]))
    for dtype, columns in measured.items():
        of_dtype = q["dtype"] == dtype
        for name, (least, most) in columns.items():
            x = np.maximum(np.asarray(q[name], dtype=np.float64), 1.0)
            beyond = np.maximum(np.log2(x / max(most, 1.0)), 0) + np.maximum(np.log2(max(least, 1.0) / x), 0)
            if least == most:
                beyond = np.where(beyond > 0, 0.5, 0.0)
            out += np.where(of_dtype, beyond, 0.0)
    return out


def hardware_of(store: ProfileStore, operation: str, catalogue: Catalogue = SHIPPED) -> Hardware:
    """The GPUs that have rows of ``operation``, as arrays; names that ``catalogue`` lacks are refused."""
    return Hardware.of([catalogue.find_gpu(name) for name in store.values(operation, "gpu")])
