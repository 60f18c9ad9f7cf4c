"""Which part of a prediction is likely off, given what was measured: the one that explains most of the difference when
it alone takes longer or shorter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from costmodels.estimates import Floats
from planner.serving.measured.columns import ENDS, Measured
from planner.serving.measured.scores import written

PARTS: dict[str, str] = {"tpot_ms_mean": "tpot_ms_by_part", "ttft_ms_mean": "ttft_ms_by_part"}
"""Quantity → the column that says what its prediction consists of; a median is held against the same parts."""

_MEDIANS = {"tpot_ms_mean": "tpot_ms_p50", "ttft_ms_mean": "ttft_ms_p50"}
ALIKE = 0.02
"""Median |log(measured ÷ predicted)| within which parts explain alike."""

_FACTORS = np.geomspace(0.1, 10.0, 121)


@dataclass(frozen=True)
class Suspect:
    """Of one quantity.

    Attributes:
        rows, outside: measured and predicted; those outside of their 80 % interval.
        part, factor: that explains most, and how many times what is predicted it would take.
        error, left: median of |log(measured ÷ predicted)| before and with that.
    """

    quantity: str
    rows: int
    outside: int
    part: str
    factor: float
    error: float
    left: float


def suspects(answer: pd.DataFrame, measured: Measured) -> list[Suspect]:
    """By quantity, from predictions beside what was measured; none where most rows are within their intervals.

    Each part in turn is given the one factor for all rows that brings the predictions nearest to what was measured.
    """
    columns, out = written(answer), []
    for quantity, of_parts in PARTS.items():
        told = next((name for name in (quantity, _MEDIANS[quantity]) if name in measured.values), None)
        if told is None or of_parts not in answer.columns:
            continue
        ends = ENDS.get(told, told)
        predicted, low, high = (
            pd.to_numeric(answer[columns[name]], errors="coerce").to_numpy(np.float64)
            for name in (told, f"{ends}_low", f"{ends}_high")
        )
        truth = measured.values[told]
        both = np.isfinite(truth) & np.isfinite(predicted) & (answer[of_parts].astype(str) != "").to_numpy()
        outside = both & ~((low <= truth) & (truth <= high))
        if both.sum() == 0 or outside.sum() * 2 <= both.sum():
            continue
        rows = np.flatnonzero(both)
        parts = [_read(str(text)) for text in answer[of_parts].iloc[rows]]
        logs = np.log(truth[rows] / predicted[rows])
        each = [_explained(name, parts, logs) for name in sorted(set().union(*parts))]
        # Of parts that explain alike (of one configuration, all large ones do), the one that has to be least off.
        least = min(left for _, _, left in each)
        found = min((one for one in each if one[2] <= least + ALIKE), key=lambda one: abs(np.log(one[1])))
        before = float(np.median(np.abs(logs)))
        out.append(Suspect(told, len(rows), int(outside.sum()), found[0], found[1], before, found[2]))
    return out


def _read(text: str) -> Mapping[str, float]:
    """``gemm 4.1; host 2`` → ms by part."""
    pairs = (part.rpartition(" ") for part in text.split("; "))
    return {name: float(ms) for name, _, ms in pairs}


def _explained(name: str, parts: list[Mapping[str, float]], logs: Floats) -> tuple[str, float, float]:
    """(Part, the factor on it that explains most, what is left)."""
    share = np.array([each.get(name, 0.0) / max(sum(each.values()), 1e-12) for each in parts])
    left = np.median(np.abs(logs[None] - np.log1p((_FACTORS[:, None] - 1) * share)), axis=1)
    # Of factors that explain alike, the one nearest to none.
    best = min(range(len(_FACTORS)), key=lambda i: (round(float(left[i]), 3), abs(np.log(_FACTORS[i]))))
    return name, float(_FACTORS[best]), float(left[best])
