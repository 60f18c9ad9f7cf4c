"""What a simulation of a mixture says of each of its classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from costmodels.estimates import Floats
from costmodels.serving.simulator.outcome import Metric, Outcome
from planner.contract.workload.classes import LengthClass
from planner.contract.workload.slo import Slo

FEW_OF_CLASS = 60
"""Simulated requests below which nothing is said of a class."""

Limited = tuple[Metric, float, float]
"""(metric, share of requests that stays below, µs)."""


def class_of(outcome: Outcome, classes: Sequence[LengthClass], rates: Floats) -> np.ndarray:
    """The class of each request, by its lengths (of prefill engines, whose outputs are of one token, the first of its
    prompt's); -1: none (rounded out of its range)."""
    where = np.full(len(outcome), -1, np.int64)
    prefilled = bool((outcome.osl == 1).all())
    for i in np.flatnonzero(rates > 0).tolist():
        each = classes[i]
        mine = (outcome.isl >= np.floor(each.isl_from)) & (outcome.isl < max(each.isl_to, each.isl_from + 1))
        if not prefilled:
            mine &= (outcome.osl >= np.floor(each.osl_from)) & (outcome.osl < max(each.osl_to, each.osl_from + 1))
        where[mine & (where < 0)] = i
    return where


def promised(slo: Slo) -> list[Limited]:
    return [(bound.metric, bound.percentile / 100, bound.limit_ms * 1e3) for bound in slo.bounds]


def class_holds(
    outcome: Outcome, classes: Sequence[LengthClass], rates: Floats, limits: Sequence[Limited]
) -> dict[int, bool | None]:
    """Whether each class keeps all of the ``limits`` by itself; None where too few of its requests were simulated."""
    where = class_of(outcome, classes, rates)
    out: dict[int, bool | None] = {}
    for i in np.flatnonzero(rates > 0).tolist():
        mine = where == i
        if int(mine.sum()) < FEW_OF_CLASS:
            out[i] = None
            continue
        out[i] = all(
            float(np.mean(~(metric_of(outcome, metric)[mine] > limit_us))) >= share
            for metric, share, limit_us in limits
        )
    return out


def metric_of(outcome: Outcome, metric: Metric) -> Floats:
    """Of each request, µs; NaN where it has none."""
    values: Floats = {"ttft": outcome.ttft_us, "tpot": outcome.tpot_us, "e2e": outcome.e2e_us}[metric]
    return values
