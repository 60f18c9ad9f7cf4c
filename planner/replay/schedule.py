"""A schedule replayed: every engine is there from when to when, and a gateway routes by what the plan says it knows.

Requests go to an engine group by the weights of their range in the step in which they come (a length that no range
holds goes by the nearest range), and there to one of the engines that serve. Where that prefills alone, the request
goes on, when its cache has come over, to an engine that decodes, by the weights of the step at that time. An engine
that leaves serves out what it has. One that is lost has its requests sent again from their beginning, to those that
are left, by the weights that the plan has for that loss; where it has none, by those of the step, of which what is left
of a group takes its part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.serving.simulator.arrivals import Requests
from costmodels.serving.simulator.events import simulate
from costmodels.serving.simulator.outcome import LOST, NOBODY, TIMELINE, Outcome
from costmodels.serving.simulator.step_table import End
from planner.contract.fleet import Route, ScheduledStep
from planner.replay.gateway import FleetOutcome, Replay, sample_us
from planner.replay.planned_engines import PlannedEngine
from planner.serving.confirmation.simulated_engine import ENDS
from profiles.errors import InputError
from profiles.values import shown

DECODES = 104_729
"""Beside the seed, of the draws by which requests go on."""

MOST_MOVES = 3
"""Times that a request is sent again before it counts as lost."""


Stage = Literal["weights", "decode_weights"]
STAGES: tuple[Stage, Stage] = ("weights", "decode_weights")
"""Of a request's way: where it comes in, and what decodes it where that is another engine."""


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
        self._steps = [self._tables(step.routing, services) for step in schedule]
        self._lost = [
            {
                tuple(each.lost.get(name, 0) for name in groups): self._tables(each.routing, services)
                for each in step.after_losses
            }
            for step in schedule
        ]
        self.counts = np.array([[step.engines.get(name, 0) for name in groups] for step in schedule], np.int64)

    def _table(self, routes: Sequence[Route], stage: Stage) -> tuple[Floats, Floats]:
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
            for name, share in getattr(route, stage).items():
                weights[i, self._groups[name]] = share
        return ranges, weights

    def step_of(self, seconds: Floats) -> Ints:
        """The step in which requests come; the last one goes on for ever."""
        return np.maximum(np.searchsorted(self.starts, seconds, side="right") - 1, 0)

    def _tables(self, routing: Sequence[Route], services: Sequence[str]) -> dict[Stage, list[tuple[Floats, Floats]]]:
        """Of each stage, each service's."""
        return {
            stage: [self._table([route for route in routing if route.service == name], stage) for name in services]
            for stage in STAGES
        }

    def left(self, stage: Stage, step: int, service: int, gone: Ints, isl: Ints, osl: Ints) -> Floats:
        """(n, groups) of requests of one service in one step while engines ``gone`` (groups,) are lost."""
        planned = self._lost[step].get(tuple(gone.tolist()))
        if planned is not None:
            return self._looked_up(planned[stage][service], isl, osl)
        had = self.counts[step]
        # What is left of a group takes its part of the group's share, and what the others lost.
        part = (had - gone) / np.maximum(had, 1)
        return np.asarray(self._looked_up(self._steps[step][stage][service], isl, osl) * part[None, :])

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


class _Way:
    """Where requests are in one stage, and what they saw there: (n,) each, -1 and NaN where they did not come."""

    def __init__(self, requests: int) -> None:
        self.group, self.engine = (np.full(requests, -1, np.int64) for _ in range(2))
        self.at, self.first, self.finish = (np.full(requests, np.nan) for _ in range(3))
        self.refused, self.preempted = np.zeros(requests, np.int8), np.zeros(requests, np.int64)

    def forget(self, rows: Ints) -> None:
        self.group[rows] = self.engine[rows] = -1
        self.at[rows] = self.first[rows] = self.finish[rows] = np.nan
        self.refused[rows] = self.preempted[rows] = 0

    def lose(self, rows: Ints) -> None:
        """Their engine is gone before they are done: they go on nowhere."""
        self.first[rows] = self.finish[rows] = np.nan

    def saw(self, rows: Ints, outcome: Outcome) -> None:
        self.first[rows], self.finish[rows] = outcome.first_us, outcome.finish_us
        self.refused[rows], self.preempted[rows] = outcome.refused, outcome.preemptions


class ScheduleReplay:
    """One schedule, its engines, and the failures of a replay. ``exposed``: of each service, what is left of a cache's
    transfer after the prefill, µs for each token of the prompt; empty where no engines prefill apart. ``fine``:
    timelines are of quarters of a second."""

    def __init__(
        self,
        engines: Sequence[PlannedEngine],
        schedule: Sequence[ScheduledStep],
        services: Sequence[str],
        failures: Sequence[Failure] = (),
        exposed: Sequence[Mapping[End, float]] = (),
        fine: bool = False,
    ) -> None:
        self._engines, self._schedule, self._failures, self._fine = engines, schedule, failures, fine
        self._names = [each.group.id for each in engines]
        self._prefills = np.array([each.group.role == "prefill" for each in engines])
        self._exposed = list(exposed) or [dict.fromkeys(ENDS, 0.0)] * len(services)
        self._routing = Routing(schedule, services, self._names)
        for failure in failures:
            if failure.group not in self._names:
                raise InputError(
                    f"fail: {shown(failure.group)} is no engine group of the plan", f"it has {', '.join(self._names)}"
                )
        self._times = np.unique([0.0, *(each.at_s for each in failures), *(e.at_s + e.seconds for e in failures)])

    def _assign(self, way: _Way, stage: Stage, load: ScheduledLoad, rows: Ints, seed: int) -> None:
        """Requests ``rows`` (k,) to engines, at the time that they come; -1 where none is there."""
        rng = np.random.default_rng(seed)
        draw, pick = rng.random(len(load.requests))[rows], rng.random(len(load.requests))[rows]
        seconds = way.at[rows] / 1e6
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
            weights = self._routing.left(stage, t, service, gone, isl, osl)
            total = weights.sum(axis=1)
            some = total > 0
            edges = np.cumsum(weights[some], axis=1) / total[some, None]
            chosen = (draw[mine[some], None] >= edges).sum(axis=1)
            chosen = np.minimum(chosen, len(counts) - 1)
            group[mine[some]] = chosen
            engine[mine[some]] = np.minimum((pick[mine[some]] * counts[chosen]).astype(np.int64), counts[chosen] - 1)
        way.group[rows], way.engine[rows] = group, engine

    def run(self, load: ScheduledLoad, seed: int, end: End) -> FleetOutcome:
        """The load as its users see it, and what each engine did."""
        n = len(load.requests)
        entry, behind = _Way(n), _Way(n)
        entry.at = load.requests.arrival_us.copy()
        waiting = np.arange(n)
        self._assign(entry, "weights", load, waiting, seed)
        replays: dict[tuple[int, int], Replay] = {}
        for move in range(MOST_MOVES + 1):
            lost = self._played(entry, load, self._touched(entry, waiting), end, replays)
            lost += self._played(behind, load, self._handed_on(entry, behind, load, end, seed), end, replays)
            if not sum(len(rows) for rows, _ in lost):
                break
            waiting, kept = np.unique(np.concatenate([rows for rows, _ in lost]), return_index=True)
            if move == MOST_MOVES:
                entry.refused[waiting] = LOST
                break
            when = np.concatenate([at for _, at in lost])[kept]
            entry.at[waiting] = np.maximum(when, entry.at[waiting])
            behind.forget(waiting)
            self._assign(entry, "weights", load, waiting, seed + 1 + move)
        return self._seen(load, entry, behind, [each for each in replays.values() if len(each.rows)])

    def _touched(self, way: _Way, rows: Ints) -> set[tuple[int, int]]:
        return {(int(g), int(e)) for g, e in zip(way.group[rows], way.engine[rows], strict=True) if g >= 0}

    def _handed_on(self, entry: _Way, behind: _Way, load: ScheduledLoad, end: End, seed: int) -> set[tuple[int, int]]:
        """Sends what was prefilled on to engines that decode; those of them to which others come than before."""
        if not self._prefills.any():
            return set()
        first = (entry.group >= 0) & self._prefills[entry.group] & (entry.refused == 0) & np.isfinite(entry.finish)
        exposed = np.array([each[end] for each in self._exposed])
        comes = np.where(first, entry.finish + exposed[load.service] * load.requests.isl, np.nan)
        moved = np.flatnonzero(~((comes == behind.at) | (np.isnan(comes) & np.isnan(behind.at))))
        touched = self._touched(behind, moved)
        behind.forget(moved)
        moved = moved[np.isfinite(comes[moved])]
        behind.at[moved] = comes[moved]
        self._assign(behind, "decode_weights", load, moved, seed + DECODES)
        return touched | self._touched(behind, moved)

    def _played(
        self, way: _Way, load: ScheduledLoad, touched: set[tuple[int, int]], end: End,
        replays: dict[tuple[int, int], Replay],
    ) -> list[tuple[Ints, Floats]]:  # fmt: skip
        """Simulates the engines that were ``touched``; the requests that each loses, and when."""
        lost = []
        for g, e in sorted(touched):
            mine = np.flatnonzero((way.group == g) & (way.engine == e))
            mine = mine[np.argsort(way.at[mine], kind="stable")]
            if not len(mine):
                replays.pop((g, e), None)
                continue
            outcome = self._simulated(load, mine, way.at[mine], g, end)
            replays[g, e] = Replay(self._engines[g].group, mine, outcome)
            way.saw(mine, outcome)
            for at_s in self._losses_of(g, e):
                hit = (way.at[mine] < at_s * 1e6) & (outcome.finish_us > at_s * 1e6)
                lost.append((mine[hit], np.full(int(hit.sum()), at_s * 1e6)))
                way.lose(mine[hit])
        return lost

    def _seen(self, load: ScheduledLoad, entry: _Way, behind: _Way, replays: list[Replay]) -> FleetOutcome:
        """What users saw of both stages."""
        n, arrival = len(load.requests), load.requests.arrival_us
        first, finish, refused = entry.first.copy(), entry.finish.copy(), entry.refused.copy()
        refused[entry.group < 0] = NOBODY
        if self._prefills.any():
            apart = (entry.group >= 0) & self._prefills[entry.group]
            first[apart], finish[apart] = behind.first[apart], behind.finish[apart]
            refused[apart] = np.maximum(refused[apart], behind.refused[apart])
            refused[apart & (behind.group < 0) & (refused == 0)] = NOBODY
        first[refused > 0] = finish[refused > 0] = np.nan
        requests = Outcome(
            isl=load.requests.isl,
            osl=load.requests.osl,
            arrival_us=arrival,
            first_us=first,
            finish_us=finish,
            preemptions=entry.preempted + behind.preempted,
            rank=np.zeros(n, np.int64),
            refused=refused,
            end_us=max([float(arrival[-1]), *(each.outcome.end_us for each in replays)]),
            busy_us=sum(each.outcome.busy_us for each in replays),
            steps=sum(each.outcome.steps for each in replays),
            timeline=np.zeros((0, len(TIMELINE))),
        )
        return FleetOutcome(requests, replays)

    def _simulated(self, load: ScheduledLoad, rows: Ints, at_us: Floats, g: int, end: End) -> Outcome:
        requests = Requests(load.requests.isl[rows], load.requests.osl[rows], at_us)
        between_us = sample_us(float(load.requests.arrival_us[-1]), fine=self._fine)
        outcome = simulate(self._engines[g].engines[end], requests, sample_us=between_us)
        came = at_us if self._engines[g].group.role == "decode" else load.requests.arrival_us[rows]
        return replace(outcome, arrival_us=came)

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
