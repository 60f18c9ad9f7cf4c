"""Runs at an end of the steps' interval: one says little where it nearly fills an engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from costmodels.serving.simulator.capacity import standard_error_us
from costmodels.serving.simulator.outcome import Metric, Outcome

SURE = 0.03
"""Standard error of a p90 at an end of the steps' interval, as a share of it, from which it counts as known, ..."""

MOST_RUNS = 32
"""... or so many runs were made."""


def runs_until_sure(run: Callable[[int], Outcome], metrics: Sequence[Metric]) -> list[Outcome]:
    """Runs with the seeds 0, 1, … until the p90 of each of the ``metrics`` is :data:`SURE` in their middle."""
    runs = [run(0)]
    while len(runs) < MOST_RUNS:
        spread = [_relative_error(runs, metric) for metric in metrics]
        if max(spread, default=0.0) <= SURE * math.sqrt(len(runs)):
            break
        runs.append(run(len(runs)))
    return runs


def _relative_error(runs: Sequence[Outcome], metric: Metric) -> float:
    """Standard deviation of a run's p90, as a share of it: by parts of one run, or from run to run."""
    if len(runs) == 1:
        value = runs[0].percentile_us(metric, 0.9)
        return float(np.nan_to_num(standard_error_us(runs[0], metric, 0.9) / value)) if value else 0.0
    values = np.array([each.percentile_us(metric, 0.9) for each in runs])
    return float(np.nan_to_num(values.std(ddof=1) / values.mean()))
