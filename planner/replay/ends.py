"""What requests see with steps as predicted and at the ends of their interval, where all of them were replayed so, and
where of a long load only its busiest stretch was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Ints
from costmodels.serving.simulator.outcome import Metric, Outcome
from costmodels.serving.simulator.step_table import End
from planner.contract.quantities import Interval
from planner.contract.workload.slo import Bound
from planner.replay.gateway import FleetOutcome
from planner.serving.report.prediction import confidence


@dataclass(frozen=True)
class Stretch:
    """Requests ``first`` to below ``end`` of a load, replayed alone: with steps as predicted and at either end."""

    first: int
    end: int
    fleets: Mapping[End, FleetOutcome]

    def of(self, rows: Ints) -> Ints:
        """Those of ``rows`` (of the load) that are in it, counted from its first."""
        inside: Ints = rows[(rows >= self.first) & (rows < self.end)] - self.first
        return inside

    def seen(self, whole: Outcome, rows: Ints) -> Seen:
        """Those of ``rows`` (of the load), of which ``whole`` is what all of it saw."""
        mine = self.of(rows)
        ends = {end: each.requests.take(mine) for end, each in self.fleets.items()} if len(mine) else {}
        return Seen(whole.take(rows), ends)


def most_of(stretches: Sequence[Stretch], rows: Ints) -> Stretch:
    """The stretch that has most of ``rows``; the first of equals."""
    return max(stretches, key=lambda each: len(each.of(rows)))


def stretch_notes(stretches: Sequence[Stretch], requests: int) -> list[str]:
    """Of a load of so many that is too long to be replayed at the ends of steps' intervals."""
    replayed = stretches[0].end - stretches[0].first
    if replayed == requests:
        return []
    others = "" if len(stretches) == 1 else "; of a service that has hardly any among them, of those around its own"
    return [f"80 % intervals are those of the busiest {replayed:,} requests, as far from what all of them see{others}"]


@dataclass(frozen=True)
class Seen:
    """``value``: of all requests, steps as predicted; ``ends``: of those that were replayed at the ends too."""

    value: Outcome
    ends: Mapping[End, Outcome]

    def interval(self, figure: Callable[[Outcome], float], most: float = np.inf) -> Interval:
        return interval(figure(self.value), {end: figure(each) for end, each in self.ends.items()}, most)

    def at(self, metric: Metric, p: float | None) -> Interval:
        """Mean (None) or percentile of those that were served, ms."""
        return self.interval(lambda each: (each.mean_us(metric) if p is None else each.percentile_us(metric, p)) / 1e3)

    def confidence(self, bound: Bound) -> float | None:
        """How sure it is that the promise holds of all requests: refused ones are not within, so that more of the
        others must be; 0 where too many were, whatever steps take. None: no time was seen."""
        if not len(self.value.of(bound.metric)):
            return None
        of_served = bound.percentile / 100 / float(self.value.served.mean())
        return 0.0 if of_served > 1 else confidence(self.at(bound.metric, of_served), bound.limit_ms)


def interval(whole: float, ends: Mapping[End, float], most: float = np.inf) -> Interval:
    """``whole`` with ends that are as far from it as ``ends`` are from their own value."""
    value = ends.get("value", 0.0)
    if ends and whole == value:  # all were replayed so
        return Interval(value=whole, low=min(ends.values()), high=max(ends.values()))
    if not value or not np.isfinite(value) or not all(np.isfinite(each) for each in ends.values()):
        return Interval(value=whole, low=whole, high=whole)
    at = [min(whole * (each / value), most) for each in ends.values()]
    return Interval(value=whole, low=min(at), high=max(at))
