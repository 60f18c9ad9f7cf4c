"""Whether measured rows can be: nothing is faster than its GPU.

A kernel cannot multiply faster than the peak rate; it may read faster than the memory, where its operands lie in the
cache. In the shipped pack, the fastest rows take 0.68 of the first bound's time (clocks above the published boost) and
0.21 of the second's. What is faster by the factors below was mistyped, or measured on something else.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from costmodels.kernels.kernel_models import coded
from costmodels.operations.registry import families
from costmodels.operations.roofline import CODES, Hardware
from profiles.errors import DataError
from profiles.hardware import Gpu
from profiles.measurements import OPERATIONS

FASTER_THAN_PEAK = 2.0
"""A row that multiplies so many times as fast as its GPU can is refused."""

FASTER_THAN_MEMORY = 8.0
"""A row that moves its bytes so many times as fast as its GPU's memory, or link, can is refused."""


def check_rows(operation: str, rows: pd.DataFrame, gpu: Gpu, where: str) -> None:
    """Refuses ``rows`` of ``operation`` on ``gpu`` that no such GPU can have given. ``rows``: the shape columns,
    ``num_gpus``, ``dtype`` and ``latency_us``; those whose dtype, kind or routing the cost model does not know pass.

    Raises:
        DataError: naming ``where``, the row and how fast its GPU can be.
    """
    known = np.ones(len(rows), dtype=bool)
    for column in (name for name in CODES if name in rows):
        known &= rows[column].isin(CODES[column]).to_numpy()
    judged = rows[known].reset_index(drop=True)
    if not len(judged):
        return
    first = np.zeros(len(judged), np.int64)
    compute, transfer = families().kernel(operation).times_us(coded(operation, judged), first, Hardware.of([gpu]))
    least = np.maximum(compute / FASTER_THAN_PEAK, transfer / FASTER_THAN_MEMORY)
    wrong = np.flatnonzero(judged["latency_us"].to_numpy() < least)
    if len(wrong):
        row = judged.iloc[wrong[0]]
        named = ", ".join(f"{name}={row[name]}" for name in ("dtype", "num_gpus", *OPERATIONS[operation].shape_names))
        raise DataError(
            f"{where}: {operation}.parquet: row {named}: latency_us {row['latency_us']:.4g} is less than the "
            f"{least[wrong[0]]:.4g} that {gpu.name} needs at the very least"
            + (f" ({len(wrong):,} such rows)" if len(wrong) > 1 else ""),
            "remove the row, or measure it again: a time in another unit, or of another GPU type?",
        )
