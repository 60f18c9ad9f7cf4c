"""How much load an engine carries: whether it keeps up, and the highest rate whose percentiles hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.serving.arrivals import closed_loop, open_loop
from costmodels.serving.outcome import Metric, Outcome
from costmodels.serving.simulator import Engine, simulate
from profiles.errors import InputError

SETTLED = 0.5
"""Share of the arrivals after which an engine that keeps up has reached its level."""

GROWTH = 0.02
"""Share of the requests of the second half by which the queue may grow and still count as noise, ..."""

FEW = 10
"""... and requests: queues of that length come and go below capacity."""


class Limit(NamedTuple):
    """``metric`` at ``percentile`` (0–1) is at most ``limit_us``."""

    metric: Metric
    percentile: float
    limit_us: float


def unanswered(outcome: Outcome, at_us: Floats) -> Ints:
    """Requests that had been sent but had no first token at each of the times."""
    served = outcome.served
    sent = np.sort(outcome.arrival_us[served])
    first = np.sort(outcome.first_us[served])
    return np.searchsorted(sent, at_us, side="right") - np.searchsorted(first, at_us, side="right")


def queue_growth(outcome: Outcome) -> float:
    """Requests by which the queue grew in the second half of the arrivals, as a share of their number: near 0
    where the engine keeps up, 1 − capacity ÷ rate where it does not; 0 where it is a matter of a few requests.
    Averages over tenths of the requests keep one burst from deciding."""
    arrivals = np.sort(outcome.arrival_us[outcome.served])
    n = len(arrivals)
    tenth = max(n // 10, 1)
    middle = int(n * SETTLED)
    waiting = unanswered(outcome, arrivals)
    grown = waiting[n - tenth :].mean() - waiting[middle : middle + tenth].mean() if n else 0.0
    return float(grown) / (n - middle - tenth) if grown > FEW else 0.0


def keeps_up(outcome: Outcome) -> bool:
    """Whether the engine answers as fast as requests come."""
    return queue_growth(outcome) <= GROWTH


def meets(outcome: Outcome, limits: Sequence[Limit]) -> bool:
    """Whether every percentile holds, nothing was refused, and the engine keeps up (without which any
    percentile is a matter of how long one looks)."""
    if not outcome.served.all() or not keeps_up(outcome):
        return False
    return not any(outcome.percentile_us(limit.metric, limit.percentile) > limit.limit_us for limit in limits)


def capacity_rps(
    engine: Engine,
    isl: Ints,
    osl: Ints,
    limits: Sequence[Limit],
    *,
    cv: float = 1.0,
    seed: int = 0,
    tolerance: float = 0.02,
    warm_up: float = 0.1,
) -> float:
    """The highest rate of random arrivals at which every limit holds, requests per second; 0 where not even a
    nearly idle engine meets them.

    Bisection on the simulator. All rates see the same requests at the same random gaps, scaled (common random
    numbers), so that the answer is one of the rate and not of luck.

    Args:
        isl, osl: lengths of the requests of one run, shape [n]: a few thousand for a p99.
        cv: of the gaps between arrivals; 1 is Poisson.
        tolerance: the answer is at most this share below the highest rate.
        warm_up: share of the requests at the beginning that are not counted.
    """
    if not tolerance > 0:
        raise InputError(f"tolerance: {tolerance} is not positive", "give for example 0.02")

    def holds(rate: float) -> bool:
        outcome = simulate(engine, open_loop(isl, osl, rate, cv=cv, seed=seed))
        return meets(outcome.trimmed(warm_up), limits)

    # More than with all requests there from the start it cannot do.
    flood = simulate(engine, closed_loop(isl, osl, len(isl)))
    if not flood.served.all():
        return 0.0
    high = flood.rate_rps * 1.5
    low = high
    for _ in range(12):
        low /= 2
        if holds(low):
            break
        high = low
    else:
        return 0.0
    while high / low > 1 + tolerance:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
