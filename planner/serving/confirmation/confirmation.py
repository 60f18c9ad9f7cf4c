"""The event simulator confirms what the search chose with formulas.

Each kind of engine of the best fleet is simulated at the load that the fleet gives it, in steady state: what it can do
at most is simulated first, which says how long its queues take to forget how they began (whether prefill, the cache or
the number of sequences is what fills), and no engine is loaded so near to that edge that a run cannot outlast it. One
that misses a bound of the SLO there is known by what it carries in the simulation from then on, and the fleet is chosen
anew; a fleet is the answer when all its engines hold. Engines that were not chosen keep what the formulas promise, so
the answer is the best of all candidates as long as the formulas promise them no less than the simulation would. Where
that finds nothing, those that the formulas exclude by little are candidates, too: what they carry is what the
simulation says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from costmodels.estimates import Floats
from costmodels.models.precision import Precision
from costmodels.serving.simulator.events import Limit
from planner.contract.engine import Limits
from planner.contract.progress import Step, Tell, silent
from planner.serving.confirmation.beyond_formulas import fleet_under_load, with_lenient
from planner.serving.confirmation.tested_engine import TestedEngine
from planner.serving.confirmation.trial import STEP, Trial, with_ends
from planner.serving.engines.groups import Group, LoadedFleet, Pair
from planner.serving.engines.latency import Check
from planner.serving.engines.options import MISSES, UNTRIED, Serving, ServingOption, best_of, solved_again
from planner.serving.operating_points import MORE, OperatingPoints
from planner.serving.request import PlanRequest
from planner.serving.ways_out import relaxed_to
from profiles.errors import Infeasible

ROUNDS = 6
"""Fleets tried before only engines that have been simulated are candidates."""

STRAINED = 0.95
"""A fleet that stays below this share of every bound may have been held back by the formulas: engines that they exclude
are tried, too."""

Kind = tuple[Serving, Precision, tuple[int, ...]]
"""Way to serve, precision, role, pool, layout and batch limit: one engine under any load."""


@dataclass(frozen=True)
class Confirmed:
    """What the simulations left.

    Attributes:
        options: as they are after them.
        best: of the options, at its load; None: none has a plan.
        checks: the simulation of each of its groups by id; empty: not simulated.
        carried: requests/s of the engines that missed a bound.
        narrowed: whether only engines that had been simulated were candidates in the end.
        strain: of the best, how near the nearest bound of any engine is to being missed, 1: it is met exactly.
    """

    options: list[ServingOption]
    best: LoadedFleet | None
    checks: dict[str, Check]
    carried: dict[Kind, float]
    narrowed: bool = False
    strain: float = 1.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader should know of the search."""
        if not self.narrowed:
            return ()
        return (
            f"after {ROUNDS} fleets in which some engine missed a bound when it was simulated, only engines that had "
            "been simulated were candidates: a fleet of others may be better",
        )

    def carried_rps(self, option: ServingOption, points: OperatingPoints) -> Floats:
        """What aggregated engines at ``points`` (n,) of an ``option`` carry: by the formulas, but no more than where
        they were simulated, [n]."""
        rate = points.steady.rate_rps.value.copy()
        index = points.job.pool_index
        rows, state = points.layouts.rows, points.job.state_key
        mine = np.column_stack([rows, np.tile(np.array(state, np.int64), (len(rows), 1)), points.budget])
        for (serving, precision, (pool, *engine)), most in self.carried.items():
            if (serving, precision, pool) == ("aggregated", option.precision, index):
                if len(engine) != mine.shape[1]:
                    continue  # of GPUs in another state, of limited watts, or beyond the formulas
                same = (mine == np.array(engine)).all(axis=1)
                rate[same] = np.minimum(rate[same], most)
        return rate


def confirmed(request: PlanRequest, options: list[ServingOption], tell: Tell = silent) -> Confirmed:
    """Simulates the best option's engines and chooses again until they hold.

    Args:
        options: solved with the formulas' capacities.
        tell: of each fleet before its engines are simulated; nobody knows how many there are.
    """
    if not request.simulation:
        best = best_of(request, options)
        return Confirmed(options, None if best is None else LoadedFleet.of(request, best), {}, {})
    simulations = _Simulations(tell)
    found = simulations.settled(request, options)
    if found.best is None or _held_back(request, found):
        more = [simulations.chosen_anew(request, with_lenient(request, option)) for option in options]
        further = simulations.settled(request, more)
        now, then = best_of(request, further.options), best_of(request, found.options)
        if then is None:
            options, found = more, further
        elif now is not None and now.better_than(then, request.goal):
            found = further
    if found.best is not None:
        return found
    if request.workload.rate_rps is not None and not any(pool.as_needed for pool in request.cluster.pools):
        # What is said to work instead must work: the fleet that carries most is simulated, too.
        most = request.model_copy(update={"objective": "throughput"})
        fullest = simulations.settled(most, [simulations.chosen_anew(most, option) for option in options]).best
        known = fullest is not None
        options = [simulations.too_little(request, option, only_simulated=known) for option in options]
    return Confirmed([simulations.refused(request, option) for option in options], None, {}, simulations.carried)


def _held_back(request: PlanRequest, found: Confirmed) -> bool:
    """Whether formulas may have cost something: every bound of aggregated engines (the only ones that are tried beyond
    them) leaves room, and engines that carry more would do more, or one engine fewer of a kind would have to carry
    little more than the formulas say that it can."""
    best = best_of(request, found.options)
    if found.best is None or found.strain >= STRAINED or best is None or best.serving != "aggregated":
        return False
    if request.goal == "throughput":
        return True
    return request.goal in ("cost", "gpus") and any(
        group.engines > 1
        and group.load_rps * group.engines / (group.engines - 1) <= MORE * float(group.capacity_rps.value[0])
        for group in found.best.groups
    )


class _Simulations:
    """What the simulations so far have shown."""

    def __init__(self, tell: Tell) -> None:
        self._tell, self._fleets = tell, count()
        self._seen: set[Kind] = set()
        self._formula: dict[Kind, float] = {}
        self._idle: dict[Kind, dict[str, float]] = {}
        self._checks: dict[tuple[frozenset[Kind], float, float, tuple[Limit, ...]], Check | None] = {}
        self._engines: dict[tuple[frozenset[Kind], float, Limits], TestedEngine] = {}
        self.carried: dict[Kind, float] = {}

    def settled(self, request: PlanRequest, options: list[ServingOption]) -> Confirmed:
        """The options when every engine of the best holds, or none is left."""
        turn, narrowed = 0, False
        while (best := best_of(request, options)) is not None:
            fleet, before = fleet_under_load(request, best), next(self._fleets)
            self._tell(Step(f"simulating the engines of fleet {before + 1}", 100 * (1 - 0.5**before), passing=True))
            trials = [self._trial(request, best, group, fleet.pairs) for group in fleet.groups]
            found = [self.check(best, trial) for trial in trials]
            checks = {trial.group.id: check for trial, check in zip(trials, found, strict=True) if check is not None}
            if len(checks) == len(trials) and True not in [self.measure(best, trial) for trial in trials]:
                for trial in trials:
                    self._seen |= _kinds(best, trial.group)
                strain = max(trial.strain(checks[trial.group.id]) for trial in trials)
                return Confirmed(options, fleet, with_ends(trials, checks), self.carried, narrowed, strain)
            for trial in trials:
                self.learn(best, trial, holds=trial.group.id in checks)
            turn += 1
            narrowed = turn >= ROUNDS
            solved = [option for option in options if option.choice is not None]
            known = [self.chosen_anew(request, option, only_simulated=narrowed) for option in solved]
            if narrowed and best_of(request, known) is None:
                narrowed = False
                known = [self.chosen_anew(request, option) for option in solved]
            anew = iter(known)
            options = [option if option.choice is None else next(anew) for option in options]
        return Confirmed(options, None, {}, self.carried)

    def _trial(self, request: PlanRequest, best: ServingOption, group: Group, pairs: list[Pair]) -> Trial:
        """The group's, with what is known of its engine at other loads."""
        trial = Trial(request, group, pairs)
        key = (frozenset(_kinds(best, group)), trial.front_us, group.limits)
        trial.tested = self._engines.setdefault(key, trial.tested)
        return trial

    def check(self, best: ServingOption, trial: Trial) -> Check | None:
        """The trial at its load, simulated once however often it is asked for; None where a bound does not hold."""
        kinds = _kinds(best, trial.group)
        asked = (frozenset(kinds), trial.group.load_rps, trial.front_us, tuple(trial.limits))
        if asked not in self._checks:
            self._checks[asked] = trial.check()
        formula = [self._formula[kind] for kind in kinds if kind in self._formula]
        found = self._checks[asked]
        return None if found is None else replace(found, formula_rps=max(formula, default=None))

    def learn(self, best: ServingOption, trial: Trial, *, holds: bool) -> None:
        """What the engines of a group carry, where a bound does not hold."""
        group, kinds = trial.group, _kinds(best, trial.group)
        self._seen |= kinds
        if holds:
            return
        most = min(trial.capacity_rps(), group.load_rps * STEP)
        for kind in kinds:
            if not group.job.lenient:
                self._formula.setdefault(kind, float(group.capacity_rps.value[0]))
            self.carried[kind] = min(self.carried.get(kind, math.inf), most)
        if most == 0 and not group.job.lenient:
            self._idle |= dict.fromkeys(kinds, trial.idle_ms())

    def measure(self, best: ServingOption, trial: Trial) -> bool:
        """Learns what an engine that holds its load carries, where no formula says so: whether that is news."""
        kinds = _kinds(best, trial.group)
        if not trial.group.job.lenient or kinds <= self.carried.keys():
            return False
        self.carried |= dict.fromkeys(kinds, max(trial.highest_rps(), trial.group.load_rps))
        return True

    def chosen_anew(
        self, request: PlanRequest, option: ServingOption, *, only_simulated: bool = False
    ) -> ServingOption:
        """``option`` with what its engines carry, for ``request``; ``only_simulated``: of those that were."""
        if option.candidates is None:
            return option
        kinds = [_kind(option, v) for v in range(len(option.origin))]
        most = [self.carried.get(kind, math.inf if kind in self._seen or not only_simulated else 0.0) for kind in kinds]
        capacity = np.minimum(option.candidates.capacity_rps, most)
        if option.choice is not None and np.array_equal(capacity, option.candidates.capacity_rps):
            return option  # it would be the same choice
        left = [self.carried.get(kind, math.inf) > 0 for kind in kinds]
        roles = option.candidates.roles
        untried = only_simulated and set(roles[left].tolist()) == set(roles.tolist())
        return solved_again(request, option, capacity, UNTRIED if untried else MISSES)

    def too_little(self, request: PlanRequest, option: ServingOption, *, only_simulated: bool) -> ServingOption:
        """An ``option`` that does not carry the load, with what it does carry: of all engines, or of those that were
        simulated; and with the GPUs that would do, of whichever engines."""
        every = self.chosen_anew(request, option)
        if not only_simulated or every.error is None:
            return every
        some = self.chosen_anew(request, option, only_simulated=True)
        needed = every.error.details.get("gpus_needed")
        if not isinstance(some.error, Infeasible) or needed is None:
            return some
        error = Infeasible(some.error.message, some.error.hint, **{**some.error.details, "gpus_needed": needed})
        return replace(some, error=error)

    def refused(self, request: PlanRequest, option: ServingOption) -> ServingOption:
        """``option`` with the reason why none of its engines is left."""
        mine = [
            ms
            for (serving, precision, _), ms in self._idle.items()
            if (serving, precision) == (option.serving, option.precision)
        ]
        if option.error is not None or not mine:
            return option
        bounds = {bound.label: bound.limit_ms for bound in request.slo.bounds}
        nearest = min(mine, key=lambda ms: max(ms[label] / limit for label, limit in bounds.items() if label in ms))
        reached = ", ".join(f"{label}={ms:.4g} ms" for label, ms in nearest.items())
        exceeded = {label: ms for label, ms in nearest.items() if ms > bounds[label]}
        return replace(
            option,
            error=Infeasible(
                f"slo: {len(mine)} engines are within it by the formulas, and none when it is simulated; the nearest "
                f"reaches {reached} at hardly any load",
                (f"relax {relaxed_to(exceeded)} or more" if exceeded else "relax the SLO to more than that")
                + ", or see what the formulas say with --no-simulation",
                binding="slo",
                nearest=nearest,
                relax_ms=exceeded,
            ),
        )


def _kinds(best: ServingOption, group: Group) -> set[Kind]:
    """The engines of a group, of whichever batch limit."""
    return {_kind(best, v) for v in group.candidates}


def _kind(option: ServingOption, v: int) -> Kind:
    """Of a candidate; where watts are limited, or no formula says what it carries, with its most sequences."""
    origin = option.origin[v]
    limited = option.candidates is not None and option.candidates.watts is not None
    own = limited or origin.job.lenient
    return option.serving, option.precision, (*origin.kind, origin.batch_limits[1]) if own else origin.kind
