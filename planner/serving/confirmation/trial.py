"""One kind of engine, simulated alone at the load that a fleet gives it: whether it keeps its share of the promise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import get_args

import numpy as np

from costmodels.estimates import Ints
from costmodels.serving.simulator.arrivals import open_loop
from costmodels.serving.simulator.capacity import (
    HARDLY_MEET,
    LONG,
    MANY,
    WARM_UP,
    between_modes,
    capacity_rps,
    most_share,
    once_settled,
    requests_needed,
    requests_to_settle,
    settled,
)
from costmodels.serving.simulator.events import Limit, simulate
from costmodels.serving.simulator.outcome import Metric, Outcome
from costmodels.serving.simulator.step_table import End
from planner.contract.workload.slo import Bound
from planner.serving.confirmation.ends import runs_until_sure
from planner.serving.confirmation.simulated_engine import ENDS
from planner.serving.confirmation.tested_engine import TestedEngine
from planner.serving.engines.groups import Group, Pair
from planner.serving.engines.latency import Check
from planner.serving.operating_points import percentile_ms
from planner.serving.request import PlanRequest

SEED = 0

BEYOND = 200
"""Simulated requests beyond the highest percentile that was promised, ..."""

FEWEST, MOST = 2000, 10_000
"""... with no fewer and no more requests than these, ..."""

MOST_OF_SLOW = 20_000
"""... or no more than these where an engine holds so many sequences that fewer are but some lifetimes."""

SETTLES = 10
"""A run is so many times as long as the engine takes to forget its state, or the engine is given less load: its
percentiles would be a matter of when one looks."""

SURELY_SETTLES = 40
"""The same of an engine that prefills alone, where its run is to tell of other draws: of a queue's few cycles the parts
differ less than draws do, and a calm run looks calm all over. One at 0.91 of its edge was within its bound in 97 % of
4,000 requests (an error of 7), and in 81 to 97 % of them in eight other draws. Engines that decode hold what their
shorter runs say (12 of 12 replays; by longer ones they were 17 % dearer)."""

LIFETIMES = 3
"""Times that an engine takes to forget its state that a run warms up for."""

MOST_ELASTIC = 0.9
"""Share of a decode step that grows with its sequences, at most."""

MOST_WARM_UP = 0.5
"""Share of a run that warms up, at most."""

FEW_AT_EDGE = 1200
"""Requests of the run that tells what an engine can do at most, ..."""

FILLS = 40
"""... and no fewer than these times what it holds, where :data:`MOST_OF_SLOW` are as many: prompts that began together
delay each other's tokens but once; when they have come apart, which takes some ten lifetimes, an engine did down to
0.6 of what it could at first."""

TOLERANCE = 0.0125
"""An engine that misses a bound is planned with at most this share less than it carries."""

ERRORS = 1.0
"""Standard errors of a percentile by which it must stay below its bound: next to its edge an engine holds by luck."""

SURELY = 1.65
"""Standard deviations of a draw by which a bound must hold in others: in 95 % of them."""

STEP = 0.995
"""An engine that misses a bound carries no more than this share of the load at which it did."""

METRICS: tuple[Metric, ...] = get_args(Metric)


def with_ends(trials: Sequence[Trial], checks: Mapping[str, Check]) -> dict[str, Check]:
    """``checks`` by group with the ends: to decode engines comes what prefill engines hand on, less where their queue
    grows."""
    found: dict[str, Check] = {}
    arriving: dict[End, float] = dict.fromkeys(ENDS, 1.0)
    for trial in sorted(trials, key=lambda trial: trial.group.role == "decode"):
        check = trial.with_ends(checks[trial.group.id], arriving if trial.group.role == "decode" else None)
        found[trial.group.id] = check
        if trial.group.role == "prefill":
            for end in ENDS:
                arriving[end] -= trial.group.share * (1 - check.passed_on(end))
    return {id: found[id] for id in checks}


def errors_for(requests: int, another: float) -> float:
    """Standard errors of what a run of so many ``requests`` shows by which a bound must hold, to hold in ``another``
    draw of as many as that says: the run's own mean is no surer than its error, and the other's scatters about it."""
    return SURELY * math.sqrt(1 + requests / another)


class Trial:
    """One engine of a group, to be simulated alone: promises at steps as slow as the confidence asks for.

    Args:
        another: requests of another draw, by which each bound must surely hold too (:func:`errors_for`); None: of no
            other than the run's.
        settles: how often the engine must forget its state within :data:`MOST` requests.
    """

    def __init__(
        self,
        request: PlanRequest,
        group: Group,
        pairs: list[Pair],
        *,
        another: float | None = None,
        settles: float = SETTLES,
    ) -> None:
        self.group, self._another, self._settles = group, another, settles
        self._pairs = [pair for pair in pairs if group.id in (pair.prefill.id, pair.decode.id)]
        self.front_us = float(self._pairs[0].served.ttft_parts_us["front end"][0])
        self.limits = self._leftover()
        self._in_flight = group.load_rps * group.engine.stay_us / 1e6
        highest = max([90.0, *(bound.percentile for bound in request.slo.bounds)]) / 100
        self._fewest = max(requests_needed(highest, self._in_flight, BEYOND), FEWEST)
        self._strain = math.inf
        self.tested = TestedEngine(group, self.front_us)

    @cached_property
    def _edge_rps(self) -> float:
        """What the engine can do at most; infinite where it is far from that."""
        held = self.group.limits.max_sequences * int(self.group.layouts.dp[0])
        isl, osl = self._lengths(min(max(FEW_AT_EDGE, FILLS * held), MOST_OF_SLOW))
        return self.tested.edge_rps(isl, osl, max(self.group.load_rps, float(self.group.capacity_rps.value[0])))

    @property
    def _ceiling_rps(self) -> float:
        """The highest load under which the engine settles within a run."""
        return self._edge_rps * most_share(MOST / self._settles / self._slower)

    @cached_property
    def _slower(self) -> float:
        """By what factor more sequences keep each other longer: with e = dlog(step)/dlog(sequences), here the share of
        attention in a decode step, deviations of their number fade in 1/(1 − e) lifetimes
        (:mod:`costmodels.serving.steady.chunked_prefill`)."""
        if self.group.role == "prefill":
            return 1.0
        step = self.group.engine.steps[0][0]
        return 1 / (1 - min(float(step.parts["attention"][0] / step.latency.value[0]), MOST_ELASTIC))

    def _run(self, load_rps: float) -> tuple[int, float]:
        """(requests of a run at a load, share of them that warm up)."""
        settles = max(requests_to_settle(load_rps / self._edge_rps), self._in_flight) * self._slower
        warm_up = LIFETIMES * settles
        surely = self._another is not None and self.group.role == "prefill"
        often = SURELY_SETTLES if surely else SETTLES
        n = int(np.clip(max(self._fewest, often * settles), FEWEST, MOST_OF_SLOW))
        return n, min(max(WARM_UP, warm_up / n), MOST_WARM_UP)

    def _lengths(self, n: int) -> tuple[Ints, Ints]:
        """Of a run of ``n`` requests: all of it has the means of those recorded, parts of it differ as draws do."""
        return self.group.job.workload.drawn(n, SEED)

    def check(self) -> Check | None:
        """At the group's load; None where a bound does not hold, or not for long."""
        load_rps = self.group.load_rps
        if load_rps > self._ceiling_rps * (1 + 1e-9):
            return None
        n, warm_up = self._run(load_rps)
        load = open_loop(*self._lengths(n), load_rps, seed=SEED)
        outcome, self._strain = settled(self.tested.sure, load, self.limits, warm_up)
        if outcome is not None and self._unsure(outcome):
            n, warm_up = MANY, WARM_UP
            load = open_loop(*self._lengths(n), load_rps, seed=SEED)
            outcome, self._strain = settled(self.tested.sure, load, self.limits, warm_up)
        if outcome is None or self._strain > 1:
            return None
        if self.tested.sure is not self.tested.at("value"):
            outcome = simulate(self.tested.at("value"), load).trimmed(warm_up)
        return Check({"value": outcome}, n, self.group.share / self.group.engines)

    def _unsure(self, outcome: Outcome) -> bool:
        """Whether a percentile lies between two modes, and on which side of its bound only more requests tell."""
        return self._in_flight <= HARDLY_MEET and any(
            between_modes(outcome, limit.metric, limit.percentile, limit.limit_us) for limit in self.limits
        )

    def strain(self, check: Check) -> float:
        """How near the nearest bound is to being missed; 1: it is met exactly."""
        return max((check.us(limit.metric, limit.percentile) / limit.limit_us for limit in self.limits), default=0.0)

    def with_ends(self, check: Check, arriving: Mapping[End, float] | None = None) -> Check:
        """The ends of the steps' interval, seen by as many requests as are told of where an engine falls behind
        (:data:`~costmodels.serving.simulator.capacity.LONG`): by fewer one that nearly does looks as if it kept up.
        And by so many of them, each with its own arrivals, until their middle is known. ``arriving``: share of the load
        that comes at an end; None: all of it."""
        n, warm_up = self._run(self.group.load_rps)
        long = max(n, min(round(LONG * check.share), MOST_OF_SLOW))

        def run(end: End, seed: int) -> Outcome:
            load = open_loop(*self._lengths(long), self.group.load_rps * (arriving or {}).get(end, 1.0), seed=seed)
            return once_settled(simulate(self.tested.at(end), load), warm_up * n / long)

        outcomes, again = dict(check.outcomes), {}
        for end in ENDS:
            if end not in outcomes:
                outcomes[end], *rest = runs_until_sure(partial(run, end), self._metrics)
                again[end] = tuple(rest)
        return replace(check, outcomes=outcomes, again=again)

    @property
    def _metrics(self) -> list[Metric]:
        """What requests see of the engine."""
        return [metric for metric in METRICS if self.group.engine.own_us(metric, 0.9) is not None]

    def capacity_rps(self) -> float:
        """The highest rate at which every bound holds, where the group's load is too much; 0 where none does."""
        near = self.group.load_rps
        if near > self._ceiling_rps:
            near = self._ceiling_rps
            n, warm_up = self._run(near)
            load = open_loop(*self._lengths(n), near, seed=SEED)
            self._strain = settled(self.tested.sure, load, self.limits, warm_up).strain
            if self._strain <= 1:
                return near
        return self._search(near, self._strain)

    def _search(self, near_rps: float, near_strain: float | None) -> float:
        n, _ = self._run(near_rps)
        errors = ERRORS if self._another is None else errors_for(n, self._another)
        return capacity_rps(
            self.tested.sure,
            *self._lengths(n),
            [limit._replace(errors=errors) for limit in self.limits],
            seed=SEED,
            tolerance=TOLERANCE,
            near_rps=near_rps,
            near_strain=near_strain,
        )

    def highest_rps(self) -> float:
        """The highest rate at which every bound holds, whether that is above the group's load or below; 0: none."""
        return min(self._search(min(self.group.load_rps, self._ceiling_rps), None), self._ceiling_rps)

    def idle_ms(self) -> dict[str, float]:
        """Every bounded percentile of its requests at hardly any load, by the bound's label."""
        isl, osl = self._lengths(FEWEST)
        outcome = simulate(self.tested.sure, open_loop(isl, osl, self.group.load_rps / 100, seed=SEED))
        check, confidence = Check({"value": outcome}, FEWEST), self.group.job.confidence
        found = {}
        for bound in self.group.job.slo.bounds:
            p = bound.percentile / 100
            if self.group.engine.own_us(bound.metric, p) is not None:
                rest = max(self._rest_us(bound, pair, confidence) for pair in self._pairs)
                found[bound.label] = (rest + check.us(bound.metric, p)) / 1e3
        return found

    def _rest_us(self, bound: Bound, pair: Pair, confidence: float) -> float:
        """What the formulas say of the rest of a request's way, with that confidence."""
        own = self.group.engine.own_us(bound.metric, bound.percentile / 100)
        assert own is not None
        even, asked = (float(percentile_ms(pair.served, bound, c)[0]) for c in (0.5, confidence))
        return (even * 1e3 - own) * asked / even

    def _leftover(self) -> list[Limit]:
        """What the SLO leaves to the engine."""
        job = self.group.job
        return [
            Limit(bound.metric, p, bound.limit_ms * 1e3 - self._rest_us(bound, pair, job.confidence), ERRORS)
            for bound in job.slo.bounds
            for p in [bound.percentile / 100]
            if self.group.engine.own_us(bound.metric, p) is not None
            for pair in self._pairs
        ]
