"""What an engine carries at the edge of its promise, between the concurrencies that were tried.

Concurrencies are tried in steps: between 1, 2 and 3 sequences nothing is. The highest of them within the promise would
leap from length to length, so the edge is looked for on the line between it and the next, in logarithms of concurrency,
rate and latency ÷ limit; beyond the last that was tried a cache still has room for a part of a step, along the same
line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Floats, Ints
from planner.serving.operating_points import (
    FEW_PLACES,
    LayoutSearch,
    OperatingPoints,
    concatenate_points,
    percentile_ms,
    rate_at_confidence,
)


@dataclass(frozen=True)
class AtEdge:
    """Of every layout and token budget that keeps the promise, [k]: the row of ``points`` that is the highest load
    tried within it, and ``rate_rps`` at the edge."""

    points: OperatingPoints
    rows: Ints
    rate_rps: Floats


def at_edge(one: LayoutSearch) -> AtEdge | None:
    """The most that each engine of ``one`` carries; None: nothing keeps the promise."""
    if one.fine is None:
        return None
    points = one.fine if one.coarse is None else concatenate_points([one.coarse, one.fine])
    kind = np.column_stack([points.layouts.rows, points.budget])
    _, engine = np.unique(kind, axis=0, return_inverse=True)
    engine = engine.ravel()
    order = np.lexsort((points.concurrency, engine))
    repeated = (np.diff(engine[order]) == 0) & (np.diff(points.concurrency[order]) == 0)
    points = points.take(order[~np.append(False, repeated)])
    engine = engine[order][~np.append(False, repeated)]
    inside = np.flatnonzero(points.within)
    last = inside[np.append(np.diff(engine[inside]) > 0, True)]
    rate = rate_at_confidence(points.steady.rate_rps, points.job.confidence)
    return AtEdge(points, last, np.maximum(_up_to_edge(points, engine, last, rate), rate[last]))


def _up_to_edge(points: OperatingPoints, engine: Ints, last: Ints, rate: Floats) -> Floats:
    """Rates at the edge behind the rows ``last``, [k]."""
    n = len(engine)
    after, before = np.minimum(last + 1, n - 1), np.maximum(last - 1, 0)
    has_after = (engine[after] == engine[last]) & (after > last)
    has_before = (engine[before] == engine[last]) & (before < last)
    other = np.where(has_after, after, np.where(has_before, before, last))
    x, y, over = np.log(points.concurrency), np.log(np.maximum(rate, 1e-300)), _over(points)
    run = np.where(other == last, 1.0, x[other] - x[last])
    rises, slows = (y[other] - y[last]) / run, (over[other] - over[last]) / run
    with np.errstate(divide="ignore", invalid="ignore"):
        to_edge = np.where(slows > 0, -over[last] / slows, np.inf)
    there = np.where(has_after & ~points.steady.stable[after] & (over[after] <= 0), 0.0, to_edge)
    there = np.where(has_after, np.minimum(there, run), there)
    there = np.minimum(there, np.maximum(np.log(_most(points)[last]) - x[last], 0.0))
    there = np.where(other == last, 0.0, np.where(np.isfinite(there), there, 0.0))
    return np.asarray(np.exp(y[last] + np.maximum(rises, 0.0) * there))


def _over(points: OperatingPoints) -> Floats:
    """Logarithm of latency ÷ limit, the worst of all bounds, [n]; minus infinity without bounds."""
    job = points.job
    each = [
        np.log(np.maximum(percentile_ms(points.steady, b, job.confidence), 1e-9) / b.limit_ms) for b in job.slo.bounds
    ]
    return np.max(each, axis=0) if each else np.full(len(points), -1e9)


def _most(points: OperatingPoints) -> Floats:
    """Concurrency for which cache and token budget have room, as
    :func:`~planner.serving.operating_points.has_room` says, [n]."""
    most = points.most.astype(np.float64)
    cache = np.where(most < FEW_PLACES, 0.0, (np.sqrt(most) - 1) ** 2)  # few places: as it was tried
    decodes = (points.budget - 1) // points.job.shape.queries * points.layouts.pp
    return np.asarray(np.maximum(np.minimum(cache, decodes), 1e-9))
