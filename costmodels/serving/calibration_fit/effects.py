"""The groups that runs share effects in, as columns of a matrix whose coefficients are independent with unit variance.

Vendor and model over all frameworks; generation, GPU type, attention, model in a precision and campaign within one; and
within a framework on a GPU type a Gaussian process over the days of releases, exp(−|Δ| ÷ :data:`MEMORY_DAYS`).
Where they span as much, a trend of all releases, and AMD's beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats
from costmodels.serving.calibration_fit.runs import MeasuredRuns, Texts, day_number
from costmodels.serving.frameworks.calibration import MEMORY_DAYS, TREND_GOES_ON_DAYS, TREND_ORIGIN

# group → prior's half-width (log) of the effect on a step, on one with prompts, and on the front end, and (ms) on each
# layer. AMD's releases are far apart: one image to the next, steps of DeepSeek-R1 under
# SGLang took 8 ms less (or 5 more), whatever the batch, so that their offset is mostly time a layer.
WIDTHS = {
    "vendor": (0.30, 0.30, 0.20, 0.20),
    "framework generation": (0.10, 0.10, 0.02, 0.0),
    "framework gpu": (0.10, 0.10, 0.20, 0.0),
    "framework attention": (0.0, 0.10, 0.0, 0.0),
    "model": (0.05, 0.02, 0.01, 0.0),
    "framework model": (0.05, 0.05, 0.03, 0.0),
    "campaign": (0.10, 0.10, 0.30, 0.0),
    "release": (0.08, 0.08, 0.02, 0.0),
    "amd release": (0.60, 0.60, 0.02, 2.00),
    "amd engine": (0.0, 0.0, 0.0, 0.30),
    "trend": (0.40, 0.40, 0.02, 0.0),
    "vendor trend": (0.20, 0.20, 0.02, 0.0),
}


RELEASES = ("release", "amd release")
BY_ATTENTION = ("trtllm",)
"""Frameworks whose models share what steps with prompts take where their attention is not plain (latent caches are
projected up and joined for them, outside of graphs; not timed apart). Steps without prompts share nothing: engines that
only decode, which no fit sees, do not show it (docs/accuracy.md). That SGLang's and vLLM's have none, and the width of
0.10, were chosen on the hold-outs."""

KINDS = 4
IN_EFFECT = np.array([1.0, 1.0, 1.0, 1e3])
"""Coefficients of a step, of one with prompts, of the front end and (ms) of a layer; times this they are an
:class:`~costmodels.serving.frameworks.calibration.Effect`'s."""


def release_keys(runs: MeasuredRuns) -> Texts:
    """In what releases share their offsets, [n]: a GPU type; of AMD's, whose kernels come by generation, that."""
    return np.where(runs.vendor == "amd", runs.generation, runs.gpu)


def attention_keys(runs: MeasuredRuns) -> Texts:
    """In what models share offsets, [n]: a framework's attention family. Plain ones share its constants only."""
    last = [kind.rpartition(" ")[2] for kind in runs.kind]
    told = zip(runs.framework, last, strict=True)
    own = [f"{name} {kind}" if name in BY_ATTENTION and kind != "plain" else "" for name, kind in told]
    return np.array(own, dtype=object)


@dataclass(frozen=True)
class Groups:
    """Columns [n, k] of runs: of which group each is, its key, and (releases) its day."""

    matrix: Floats
    group: tuple[str, ...]
    key: tuple[str, ...]
    day: Floats

    def widths(self, kind: int) -> Floats:
        """Of steps (0), steps with prompts (1), the front end (2) or each layer (3)."""
        return np.array([WIDTHS[name][kind] for name in self.group])

    def __len__(self) -> int:
        return len(self.group)


def groups_of(runs: MeasuredRuns, known: NDArray[np.bool_]) -> Groups:
    """Groups of ``runs``, those only that some of the ``known`` ones belong to."""

    def pair(first: Texts, second: Texts) -> Texts:
        return np.array([f"{a} {b}" for a, b in zip(first, second, strict=True)], dtype=object)

    amd = np.array([name if name == "amd" else "" for name in runs.vendor], dtype=object)
    on = pair(runs.framework, runs.gpu)
    released = pair(runs.framework, release_keys(runs))
    labels = {
        "vendor": amd,
        "framework generation": pair(runs.framework, runs.generation),
        "framework gpu": on,
        "model": np.array([kind.partition(" ")[0] for kind in runs.kind], dtype=object),
        "framework attention": attention_keys(runs),
        "framework model": pair(runs.framework, runs.kind),
        "amd engine": np.where(amd == "amd", released, ""),
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
    for key in sorted(set(released[dated])):
        knots = np.unique(runs.days[dated & (released == key)])
        root = _root(knots)
        rows = (released == key) & np.isfinite(runs.days)
        block = np.zeros((len(runs), len(knots)))
        cross = np.exp(-np.abs(runs.days[rows][:, None] - knots) / MEMORY_DAYS)
        block[rows] = np.linalg.solve(root, cross.T).T
        columns.append(block)
        group += ["amd release" if (amd[rows] == "amd").any() else "release"] * len(knots)
        keys += [key] * len(knots)
        days += knots.tolist()
    if dated.any() and np.ptp(runs.days[dated]) > MEMORY_DAYS:
        come = _trend(runs, dated)
        for name, key, of in (("trend", "", np.ones(len(runs), np.bool_)), ("vendor trend", "amd", amd == "amd")):
            if (known & of).any():
                columns.append((come * of)[:, None])
                group.append(name)
                keys.append(key)
                days.append(np.nan)
    return Groups(np.hstack(columns), tuple(group), tuple(keys), np.array(days))


def _trend(runs: MeasuredRuns, dated: NDArray[np.bool_]) -> Floats:
    """How far the trend has come at each run's release, in :data:`MEMORY_DAYS`; it goes on for a while after the last
    release of its framework with ``dated`` runs."""
    days = runs.days.copy()
    for name in set(runs.framework):
        mine = runs.framework == name
        last = runs.days[mine & dated].max(initial=-np.inf) + TREND_GOES_ON_DAYS
        days[mine] = np.where(np.isfinite(days[mine]), np.minimum(days[mine], last), last)
    come = (days - day_number(TREND_ORIGIN)) / MEMORY_DAYS
    return np.where(np.isfinite(come), come, 0.0)


def _root(knots: Floats) -> Floats:
    covariance = np.exp(-np.abs(knots[:, None] - knots) / MEMORY_DAYS) + 1e-6 * np.eye(len(knots))
    return np.asarray(np.linalg.cholesky(covariance))


def at_knots(coefficients: Floats, knots: Floats) -> Floats:
    """The process at its ``knots`` from its coefficients."""
    return np.asarray(_root(knots) @ coefficients)
