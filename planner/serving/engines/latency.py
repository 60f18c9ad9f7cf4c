"""What requests see of a plan's engines: as simulated, or else by the formulas.

A request of aggregated engines sees one engine. One of disaggregated engines sees what the formulas say of the pair,
moved by what the simulation of each engine alone differs from its part of that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import median

import numpy as np

from costmodels.estimates import Floats
from costmodels.serving.simulator.capacity import LONG, keeps_up, over_us, queue_growth, standard_error_us
from costmodels.serving.simulator.outcome import Metric, Outcome
from costmodels.serving.simulator.step_table import End
from planner.serving.engines.groups import Group, Pair
from planner.serving.operating_points import Served

SHARES = np.concatenate([np.linspace(0.01, 0.85, 43), np.linspace(0.86, 0.98, 13), np.linspace(0.982, 0.998, 9)])
"""Percentiles by which the requests of several pairs are laid together."""

Us = Callable[[float | None, End], float]
"""What a share of requests stays below (None: the mean), with steps at an end of their interval, µs."""


@dataclass(frozen=True)
class Check:
    """One engine of a group, simulated alone at its load.

    Attributes:
        outcomes: the requests that count, with every step as predicted, and at the low and the high end of its
            interval.
        requests: all of them, those that fill the engine at first included.
        share: of all requests that come to the plan.
        formula_rps: what the formulas say that the engine carries, where the simulation carries less.
        again: the same with other arrivals, where one run says little: at an end that nearly fills the engine.
    """

    outcomes: Mapping[End, Outcome]
    requests: int
    share: float = 1.0
    formula_rps: float | None = None
    again: Mapping[End, tuple[Outcome, ...]] = field(default_factory=dict)

    def runs(self, end: End) -> tuple[Outcome, ...]:
        """All that were simulated at an end."""
        return self.outcomes[end], *self.again.get(end, ())

    def us(self, metric: Metric, p: float | None, end: End = "value") -> float:
        """What a share ``p`` of requests stays below, the mean with None: in the middle one of the runs."""
        return median(over_us(run, metric, p, LONG * self.share) for run in self.runs(end))

    def keeps_up(self, end: End) -> bool:
        """Whether the engine answers as fast as requests come, in half of the runs or more."""
        runs = self.runs(end)
        return 2 * sum(keeps_up(run) for run in runs) >= len(runs)

    def passed_on(self, end: End) -> float:
        """Share of the requests that it has answered by the time that the next ones come."""
        return 1 - median(queue_growth(run) for run in self.runs(end))

    def standard_error_us(self, metric: Metric, p: float) -> float:
        return standard_error_us(self.outcomes["value"], metric, p)


Checks = Mapping[str, Check]
"""By the group's id; empty where nothing was simulated."""


def group_us(group: Group, checks: Checks, metric: Metric, p: float | None, end: End = "value") -> float | None:
    """Of the group's engine alone (:meth:`planner.serving.engines.protocol.LoadedEngine.own_us`); where it was not
    simulated, whatever the ``end``."""
    own = group.engine.own_us(metric, p)
    return checks[group.id].us(metric, p, end) if own is not None and group.id in checks else own


def pair_us(pair: Pair, checks: Checks, metric: Metric, p: float | None, end: End = "value") -> float:
    """Of requests that the pair serves: what a share ``p`` stays below, the mean with None; where they were simulated,
    with steps at an ``end`` of their interval."""
    if pair.prefill.id in checks and pair.transfer is None:
        return checks[pair.prefill.id].us(metric, p, end)
    whole = formula_us(pair.served, metric, p)
    if pair.prefill.id in checks:
        for group in (pair.prefill, pair.decode):
            own = group.engine.own_us(metric, p)
            if own is not None and group.id in checks:
                whole += checks[group.id].us(metric, p, end) - own
        if pair.transfer is not None and metric != "tpot":
            outside = pair.transfer.joint
            for part in (outside.exposed_us, outside.front_us):
                whole += float(getattr(part, end)[0] - part.value[0])
    return whole


def weights_of(pairs: Sequence[Pair]) -> Floats:
    """Share of their requests that each serves; as many each where none has any."""
    weights = np.array([pair.weight for pair in pairs])
    return np.asarray(weights / weights.sum() if weights.any() else np.full(len(pairs), 1 / len(pairs)))


def all_us(pairs: Sequence[Pair], checks: Checks, metric: Metric) -> Us:
    """Of all requests that the pairs serve."""
    if len(pairs) == 1:
        return lambda p, end: pair_us(pairs[0], checks, metric, p, end)
    weights = weights_of(pairs)

    @cache
    def below(end: End, most: float) -> tuple[Floats, Floats]:
        """Latencies, up to those that a share ``most`` of each pair's requests stays below, and the share of all
        requests below each."""
        at = np.append(SHARES[most > SHARES], most)
        each = [np.array([pair_us(pair, checks, metric, float(p), end) for p in at]) for pair in pairs]
        us = np.unique(np.concatenate(each))
        parts = [np.interp(us, values, at, left=0.0, right=1.0) for values in each]
        return us, weights @ np.array(parts)

    def whole_us(p: float | None, end: End) -> float:
        if p is None:
            return float(weights @ np.array([pair_us(pair, checks, metric, None, end) for pair in pairs]))
        us, shares = below(end, max(p, float(SHARES[-1])))
        return float(np.interp(p, shares, us))

    return whole_us


def formula_us(served: Served, metric: Metric, p: float | None) -> float:
    """The same by the formulas."""
    found: Floats = (
        getattr(served, f"{metric}_us").value if p is None else getattr(served, f"{metric}_percentile_us")(p)
    )
    return float(found[0])
