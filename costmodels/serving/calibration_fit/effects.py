"""The groups that runs share effects in, as columns of a matrix whose coefficients are independent with unit variance.

Vendor, generation and GPU type over all frameworks; generation, GPU type and campaign within one; and within a
framework on a GPU type a Gaussian process over the days of releases, exp(−|Δ| ÷ :data:`MEMORY_DAYS`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats
from costmodels.serving.calibration_fit.runs import MeasuredRuns, Texts
from costmodels.serving.frameworks.calibration import MEMORY_DAYS

# group → prior's half-width (log) of a step's and of the front end's effect
WIDTHS = {
    "vendor": (0.30, 0.20),
    "generation": (0.10, 0.02),
    "gpu": (0.10, 0.20),
    "framework generation": (0.10, 0.02),
    "framework gpu": (0.10, 0.20),
    "campaign": (0.10, 0.30),
    "release": (0.12, 0.02),
}


@dataclass(frozen=True)
class Groups:
    """Columns [n, k] of runs: of which group each is, its key, and (releases) its day."""

    matrix: Floats
    group: tuple[str, ...]
    key: tuple[str, ...]
    day: Floats

    def widths(self, front: bool) -> Floats:
        return np.array([WIDTHS[name][int(front)] for name in self.group])

    def __len__(self) -> int:
        return len(self.group)


def groups_of(runs: MeasuredRuns, known: NDArray[np.bool_]) -> Groups:
    """Groups of ``runs``, those only that some of the ``known`` ones belong to."""

    def pair(first: Texts, second: Texts) -> Texts:
        return np.array([f"{a} {b}" for a, b in zip(first, second, strict=True)], dtype=object)

    amd = np.array([name if name == "amd" else "" for name in runs.vendor], dtype=object)
    on = pair(runs.framework, runs.gpu)
    labels = {
        "vendor": amd,
        "generation": runs.generation,
        "gpu": runs.gpu,
        "framework generation": pair(runs.framework, runs.generation),
        "framework gpu": on,
        "campaign": pair(runs.framework, runs.campaign),
    }
    columns, group, keys, days = [], [], [], []
    for name, label in labels.items():
        for key in sorted(set(label[known]) - {""}):
            columns.append((label == key).astype(np.float64)[:, None])
            group.append(name)
            keys.append(key)
            days.append(np.nan)
    dated = known & np.isfinite(runs.days)
    for key in sorted(set(on[dated])):
        knots = np.unique(runs.days[dated & (on == key)])
        root = _root(knots)
        rows = (on == key) & np.isfinite(runs.days)
        block = np.zeros((len(runs), len(knots)))
        cross = np.exp(-np.abs(runs.days[rows][:, None] - knots) / MEMORY_DAYS)
        block[rows] = np.linalg.solve(root, cross.T).T
        columns.append(block)
        group += ["release"] * len(knots)
        keys += [key] * len(knots)
        days += knots.tolist()
    return Groups(np.hstack(columns), tuple(group), tuple(keys), np.array(days))


def _root(knots: Floats) -> Floats:
    covariance = np.exp(-np.abs(knots[:, None] - knots) / MEMORY_DAYS) + 1e-6 * np.eye(len(knots))
    return np.asarray(np.linalg.cholesky(covariance))


def at_knots(coefficients: Floats, knots: Floats) -> Floats:
    """The process at its ``knots`` from its coefficients."""
    return np.asarray(_root(knots) @ coefficients)
