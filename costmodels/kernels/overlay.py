"""Measured stores laid over the shipped pack: which of their rows speak for a framework on a GPU type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from costmodels.arrays import Rowwise
from costmodels.estimates import Floats
from costmodels.kernels.kernel_models import Rows, coded, error_partitions, question_keys
from costmodels.kernels.row_sources import same_kernels, sources_of
from costmodels.operations.registry import families
from costmodels.operations.roofline import CODES
from profiles.hardware import Gpu
from profiles.measurements import DTYPES, OPERATIONS
from profiles.store import ProfileStore

if TYPE_CHECKING:
    import pandas as pd  # deferred: most plans have no stores laid over the pack

NOISE_FLOOR = 0.02
"""Least half-width (log) of the interval around a measured row. Percentiles of one run do not see what the next run
changes (clocks, placement in memory); a judgement, not a measurement."""


@dataclass(frozen=True)
class Unused:
    """Measured rows that are not used, and why."""

    row_source: str
    dtype: str
    rows: int
    why: str


@dataclass(frozen=True)
class Overlay(Rowwise):
    """The measured rows of one operation on one GPU type that speak for a framework.

    Attributes:
        rows: one per question; where several stores have it, that of the last.
        down, up: shape [n], how far (log) the 80 % of a row's own repeats reach below and above its median; NaN
            where the row has no percentiles.
        unused: the other rows.
    """

    rows: Rows
    down: Floats
    up: Floats
    unused: tuple[Unused, ...]

    def __len__(self) -> int:
        return len(self.rows.gpu)


def lay_over(stores: Sequence[ProfileStore], operation: str, framework: str, gpu: Gpu, shipped: Rows) -> Overlay:
    """The rows of ``stores`` for ``operation`` on ``gpu`` that are laid over ``shipped`` (the pack's, same GPU).

    Per precision and kind, the best row_source's rows are used (:func:`costmodels.kernels.row_sources.sources_of`),
    unless they only stand in and the pack has rows of the framework's own kernels.
    """
    if not stores:
        none = np.zeros(0)
        return Overlay(shipped.take(np.zeros(0, np.int64)), none, none, ())
    import pandas as pd

    from costmodels.kernels.plausibility import check_rows

    order = sources_of(framework)
    names = ["num_gpus", "dtype", *OPERATIONS[operation].shape_names, "latency_us", "latency_p10_us", "latency_p90_us"]
    parts = [store.query(operation, gpu=gpu.name, columns=[*names, "framework"]) for store in stores]
    for store, part in zip(stores, parts, strict=True):
        check_rows(operation, part, gpu, f"store {store.path}")
    parts = [part for part in parts if len(part)]
    if not parts:
        return _overlay(operation, pd.DataFrame(columns=[*names, "framework"]), np.zeros(0, np.int8), ())
    table = pd.concat(parts, ignore_index=True)
    why = pd.Series("", index=table.index)
    why[~table["framework"].isin(order)] = f"no rows of this framework stand in for {framework}"
    for column in (name for name in CODES if name in table):
        why[~table[column].isin(CODES[column])] = f"the cost model does not know its {column}"
    original = table["dtype"]
    if (one := families().kernel(operation).one_precision) is not None:
        why[~table["dtype"].isin(one.dtypes)] = one.why
        table = table.assign(dtype=one.dtype)
    origin = pd.Index(order).get_indexer(pd.Index(table["framework"])).astype(np.int8)
    same = np.array([
        same_kernels(framework, row_source, operation, dtype)
        for row_source, dtype in zip(table["framework"], original, strict=True)
    ])  # fmt: skip
    rank = np.where(same, 0, origin + 1)
    shipped_own = set(error_partitions(shipped.columns)[own_rows(shipped, operation, framework)].tolist())
    block = error_partitions(coded(operation, table))
    for part in np.unique(block):
        mine = (block == part) & (why == "").to_numpy()
        if not mine.any():
            continue
        best = int(rank[mine].min())
        if best > 0 and int(part) in shipped_own:
            why[mine] = f"other kernels than {framework}'s, whose own rows are in the pack"
            continue
        row_sources = " and ".join(sorted(set(table["framework"][mine & (rank == best)])))
        why[mine & (rank > best)] = f"other kernels than {framework}'s; {row_sources} speaks for it"
    unused = tuple(
        Unused(str(row_source), str(dtype), len(group), str(reason))
        for (row_source, dtype, reason), group in table.assign(dtype=original, why=why)[why != ""].groupby(
            ["framework", "dtype", "why"], sort=True
        )
    )
    kept = np.flatnonzero((why == "").to_numpy())
    return _overlay(operation, table.iloc[kept], origin[kept], unused)


def _overlay(operation: str, table: pd.DataFrame, origin: np.ndarray, unused: tuple[Unused, ...]) -> Overlay:
    latency = table["latency_us"].to_numpy(dtype=np.float64)
    with np.errstate(invalid="ignore"):
        down = np.log(latency / table["latency_p10_us"].to_numpy(dtype=np.float64))
        up = np.log(table["latency_p90_us"].to_numpy(dtype=np.float64) / latency)
    rows = Rows(coded(operation, table), np.zeros(len(table), np.int64), latency, origin)
    # Of equal questions the last: np.unique keeps the first, hence backwards.
    keys = question_keys(operation, rows.columns)
    last = np.sort(len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1])
    return Overlay(rows, down, up, unused).take(last)


def own_rows(rows: Rows, operation: str, framework: str) -> np.ndarray:
    """Which of ``rows`` time the framework's own kernels, shape [n]."""
    order = sources_of(framework)
    own = np.zeros(len(rows.gpu), dtype=bool)
    for origin in np.unique(rows.origin):
        for dtype in np.unique(rows.columns["dtype"]):
            if same_kernels(framework, order[origin], operation, DTYPES[int(dtype)]):
                own |= (rows.origin == origin) & (rows.columns["dtype"] == dtype)
    return own
