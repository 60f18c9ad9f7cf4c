"""Intervals from residuals of groups held out: every group counts alike, however many rows it has."""

from __future__ import annotations

import numpy as np

from costmodels.estimates import COVERAGE, Floats
from costmodels.serving.frameworks.calibration import Spread


def quantile(errors: Floats, groups: np.ndarray, q: float) -> float:
    """The quantile of ``errors`` [n] with the weight of each of ``groups`` [n] shared by its rows."""
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(errors)
    weights = (1 / counts[index])[order]
    places = (np.cumsum(weights) - weights / 2) / weights.sum()
    return float(np.interp(q, places, errors[order]))


def spread(errors: Floats, groups: np.ndarray) -> Spread:
    """The interval of the claimed coverage."""
    low, high = (quantile(errors, groups, q) for q in ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2))
    return Spread(low=round(low, 4), high=round(high, 4))


def coverage(errors: Floats, groups: np.ndarray) -> tuple[float, float]:
    """Share of rows, and mean share of groups' rows, within the interval that the *other* groups give."""
    inside = np.zeros(len(errors), bool)
    names = np.unique(groups)
    for group in names:
        out = groups == group
        if out.all():
            continue
        around = spread(errors[~out], groups[~out])
        inside[out] = (errors[out] >= around.low) & (errors[out] <= around.high)
    return float(inside.mean()), float(np.mean([inside[groups == group].mean() for group in names]))
