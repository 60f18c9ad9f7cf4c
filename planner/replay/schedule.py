"""A schedule replayed: every engine is there from when to when, and a gateway routes by what the plan says it knows.

Requests go to an engine group by the weights of their range in the step in which they come (a length that no range
holds goes by the nearest range), and there to one of the engines that serve. An engine that leaves serves out what it
has. One that is lost has its requests sent again, to those that are left, by the weights that the plan has for that
loss; where it has none, by those of the step, of which what is left of a group takes its part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.serving.simulator.arrivals import Requests
from costmodels.serving.simulator.events import simulate
from costmodels.serving.simulator.outcome import NOBODY, Outcome
from costmodels.serving.simulator.step_table import End
from planner.contract.fleet import Route, ScheduledStep
from planner.replay.gateway import SAMPLES, FleetOutcome, Replay
from planner.replay.planned_engines import PlannedEngine
from profiles.errors import InputError
from profiles.values import shown

MOST_MOVES = 3
"""Times that a request is sent again before it counts as lost."""


@dataclass(frozen=True)
class Failure:
    """From ``at_s`` on, for ``seconds``, ``engines`` of a group are gone (None: all of them)."""

    at_s: float
    group: str
    engines: int | None
    seconds: float


@dataclass(frozen=True, eq=False)
class ScheduledLoad:
    """Requests of all services in the order they come; ``service`` (n,): whose each is."""

    requests: Requests
    service: Ints

    def part(self, first: int, end: int) -> ScheduledLoad:
        each, rows = self.requests, slice(first, end)
        return ScheduledLoad(Requests(each.isl[rows], each.osl[rows], each.arrival_us[rows]), self.service[rows])


class Routing:
    """Where requests of each step go."""

    def __init__(self, schedule: Sequence[ScheduledStep], services: Sequence[str], groups: Sequence[str]) -> None:
        self.starts = np.array([step.start_s for step in schedule])
        self._groups = {name: i for i, name in enumerate(groups)}
        self._steps = [
            [self._table([route for route in step.routing if route.service == name]) for name in services]
            for step in schedule
        ]
        self._lost = [
            {
                tuple(each.lost.get(name, 0) for name in groups): [
                    self._table([route for route in each.routing if route.service == name]) for name in services
                ]
                for each in step.after_losses
            }
            for step in schedule
        ]
        self.counts = np.array([[step.engines.get(name, 0) for name in groups] for step in schedule], np.int64)

    def _table(self, routes: Sequence[Route]) -> tuple[Floats, Floats]:
        """(ranges (routes, 4), cumulative weights of the groups (routes, groups))."""
        ranges = np.array(
            [
                (
                    r.isl_from,
                    r.isl_to,
                    0.0 if r.osl_from is None else r.osl_from,
                    np.inf if r.osl_to is None else r.osl_to,
                )
                for r in routes
            ]
        ).reshape(-1, 4)
        weights = np.zeros((len(routes), len(self._groups)))
        for i, route in enumerate(routes):
            for name, share in route.weights.items():
                weights[i, self._groups[name]] = share
        return ranges, weights

    def step_of(self, seconds: Floats) -> Ints:
        """The step in which requests come; the last one goes on for ever."""
        return np.maximum(np.searchsorted(self.starts, seconds, side="right") - 1, 0)

    def left(self, step: int, service: int, gone: Ints, isl: Ints, osl: Ints) -> Floats:
        """(n, groups) of requests of one service in one step while engines ``gone`` (groups,) are lost."""
        planned = self._lost[step].get(tuple(gone.tolist()))
        if planned is not None:
            return self._looked_up(planned[service], isl, osl)
        had = self.counts[step]
        # What is left of a group takes its part of the group's share, and what the others lost.
        return self._looked_up(self._steps[step][service], isl, osl) * ((had - gone) / np.maximum(had, 1))[None, :]

    def _looked_up(self, table: tuple[Floats, Floats], isl: Ints, osl: Ints) -> Floats:
        ranges, weights = table
        if not len(ranges):  # none of its requests were planned for in this step
            return np.zeros((len(isl), len(self._groups)))
        away = np.zeros((len(isl), len(ranges)))
        for lengths, low, high in ((isl, ranges[:, 0], ranges[:, 1]), (osl, ranges[:, 2], ranges[:, 3])):
            each = np.maximum(lengths, 1).astype(np.float64)[:, None]
            below, above = np.maximum(low, 0.5)[None, :], high[None, :]
            with np.errstate(divide="ignore"):
                outside = np.where(
                    each < below, np.log(below / each), np.where(each >= above, np.log(each / above) + 1e-9, 0)
                )
            away += np.where(np.isfinite(outside), outside, 0.0)
        return np.asarray(weights[np.argmin(away, axis=1)])


def down(failures: Sequence[Failure], group: str, count: int, at_s: float) -> int:
    """Engines of a group that are gone at a time, of ``count``."""
    gone = 0
    for each in failures:
        if each.group == group and each.at_s <= at_s < each.at_s + each.seconds:
            gone += count if each.engines is None else each.engines
    return min(gone, count)


class ScheduleReplay:
    """One schedule, its engines, and the failures of a replay."""

    def __init__(
        self,
        engines: Sequence[PlannedEngine],
        schedule: Sequence[ScheduledStep],
        services: Sequence[str],
        failures: Sequence[Failure] = (),
    ) -> None:
        self._engines, self._schedule, self._failures = engines, schedule, failures
        self._names = [each.group.id for each in engines]
        self._routing = Routing(schedule, services, self._names)
        for failure in failures:
            if failure.group not in self._names:
                raise InputError(
                    f"fail: {shown(failure.group)} is no engine group of the plan", f"it has {', '.join(self._names)}"
                )
        self._times = np.unique([0.0, *(each.at_s for each in failures), *(e.at_s + e.seconds for e in failures)])

    def _assigned(self, load: ScheduledLoad, rows: Ints, at_us: Floats, seed: int) -> tuple[Ints, Ints]:
        """(group, engine) of requests ``rows`` (k,) that are sent at ``at_us`` (k,); -1 where none is there."""
        rng = np.random.default_rng(seed)
        draw, pick = rng.random(len(load.requests))[rows], rng.random(len(load.requests))[rows]
        seconds = at_us / 1e6
        step, spell = self._routing.step_of(seconds), np.searchsorted(self._times, seconds, side="right") - 1
        group, engine = np.full(len(rows), -1, np.int64), np.full(len(rows), -1, np.int64)
        cases = np.stack([step, spell, load.service[rows]], axis=1)
        for case in np.unique(cases, axis=0):
            mine = np.flatnonzero((cases == case).all(axis=1))
            t, when, service = (int(each) for each in case)
            had, at_s = self._routing.counts[t], float(self._times[when])
            gone = np.array([down(self._failures, name, int(had[i]), at_s) for i, name in enumerate(self._names)])
            counts = had - gone
            isl, osl = load.requests.isl[rows[mine]], load.requests.osl[rows[mine]]
            weights = self._routing.left(t, service, gone, isl, osl)
            total = weights.sum(axis=1)
            some = total > 0
            edges = np.cumsum(weights[some], axis=1) / total[some, None]
            chosen = (draw[mine[some], None] >= edges).sum(axis=1)
            chosen = np.minimum(chosen, len(counts) - 1)
            group[mine[some]] = chosen
            engine[mine[some]] = np.minimum((pick[mine[some]] * counts[chosen]).astype(np.int64), counts[chosen] - 1)
        return group, engine

    def run(self, load: ScheduledLoad, seed: int, end: End) -> FleetOutcome:
        """The load as its users see it, and what each engine did."""
        n = len(load.requests)
        arrival = load.requests.arrival_us
        first, finish = np.full(n, np.nan), np.full(n, np.nan)
        refused, preempted = np.zeros(n, np.int8), np.zeros(n, np.int64)
        at = arrival.copy()
        waiting = np.arange(n)
        group, engine = self._assigned(load, waiting, at, seed)
        replays: dict[tuple[int, int], Replay] = {}
        for move in range(MOST_MOVES + 1):
            redo: list[Ints] = []
            lost_at: list[Floats] = []
            touched = {(int(g), int(e)) for g, e in zip(group[waiting], engine[waiting], strict=True) if g >= 0}
            for g, e in sorted(touched):
                mine = np.flatnonzero((group == g) & (engine == e))
                mine = mine[np.argsort(at[mine], kind="stable")]
                outcome = self._simulated(load, mine, at[mine], g, end)
                replays[g, e] = Replay(self._engines[g].group, mine, outcome)
                first[mine], finish[mine] = outcome.first_us, outcome.finish_us
                refused[mine], preempted[mine] = outcome.refused, outcome.preemptions
                for at_s in self._losses_of(g, e):
                    hit = (at[mine] < at_s * 1e6) & (outcome.finish_us > at_s * 1e6)
                    redo.append(mine[hit])
                    lost_at.append(np.full(int(hit.sum()), at_s * 1e6))
            if not redo or not sum(len(each) for each in redo) or move == MOST_MOVES:
                break
            waiting, when = np.concatenate(redo), np.concatenate(lost_at)
            waiting, kept = np.unique(waiting, return_index=True)
            at[waiting] = np.maximum(when[kept], at[waiting])
            group[waiting], engine[waiting] = self._assigned(load, waiting, at[waiting], seed + 1 + move)
        nowhere = np.flatnonzero(group < 0)
        refused[nowhere] = NOBODY
        first[nowhere] = finish[nowhere] = np.nan
        first[refused > 0] = finish[refused > 0] = np.nan
        kept_replays = [each for each in replays.values() if len(each.rows)]
        requests = Outcome(
            isl=load.requests.isl,
            osl=load.requests.osl,
            arrival_us=arrival,
            first_us=first,
            finish_us=finish,
            preemptions=preempted,
            rank=np.zeros(n, np.int64),
            refused=refused,
            end_us=max([float(arrival[-1]), *(each.outcome.end_us for each in kept_replays)]),
            busy_us=sum(each.outcome.busy_us for each in kept_replays),
            steps=sum(each.outcome.steps for each in kept_replays),
            timeline=np.zeros((0, 5)),
        )
        return FleetOutcome(requests, kept_replays)

    def _simulated(self, load: ScheduledLoad, rows: Ints, at_us: Floats, g: int, end: End) -> Outcome:
        requests = Requests(load.requests.isl[rows], load.requests.osl[rows], at_us)
        sample_us = max(float(load.requests.arrival_us[-1]) / SAMPLES, 1e4)
        outcome = simulate(self._engines[g].engines[end], requests, sample_us=sample_us)
        return replace(outcome, arrival_us=load.requests.arrival_us[rows])

    def _losses_of(self, g: int, e: int) -> list[float]:
        """When an engine is lost: of a group of k, the last ones first."""
        name, out = self._names[g], []
        for each in self._failures:
            if each.group != name:
                continue
            t = int(self._routing.step_of(np.array([each.at_s]))[0])
            count = int(self._routing.counts[t][g])
            gone = count if each.engines is None else min(each.engines, count)
            if count - gone <= e < count:
                out.append(each.at_s)
        return out
