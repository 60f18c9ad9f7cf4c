"""A day's fleet made to hold step by step.

What a kind of engine carries of a mixture is some 0.7 to 1.3 of what the formulas of its classes add up to, and the
mixture that it gets changes from step to step. So each kind is simulated under its own mixture in every step, and the
programme counts on it there for what it carried: a factor of each kind and step. The next fleet sends other mixtures,
which are simulated in turn. Fleets in which a few engines miss the promise are mended: those are counted on for less,
in that step, and as many engines more run there as the load then takes.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from costmodels.estimates import Floats
from planner.contract.progress import Step
from planner.serving.confirmation.trial import SETTLES
from planner.serving.fleets.confirming import (
    ENDED,
    MOST_FACTOR,
    NARROWED,
    NEAR_ENOUGH,
    Confirming,
    Key,
    Loaded,
    Progress,
    Settled,
    joined,
)
from planner.serving.fleets.counted import counted_in_steps
from planner.serving.fleets.decision import Answered, Fleet, mended, solved
from planner.serving.fleets.tails import busiest, kept_for_mixtures, rates_on, used_of
from planner.solving.mix.clock import Deadline
from profiles.errors import Infeasible, LimitReached

NEAR = 0.1
"""Up to this distance (the sum of what the classes' shares of the work differ by) a mixture that was simulated tells
what another is carried of, ..."""

SAME = 1e-9
"""Up to this one it is the same."""

SLOPE = 0.3
"""... less by this share of the distance: between its best and its worst classes what an engine carries of the
formulas' sum differs by twice that."""

FREE = 2
"""Fleets chosen anew, one after the other, before the last is mended: what is learnt of one changes the next."""

MOST_CYCLES = 4

WORTH_IT = 0.003
"""Relative, by which a cycle must be cheaper than the one before it, or it is the last."""

OF_A_FLEET, OF_A_LOOK, OF_MENDING = 0.3, 0.5, 0.125
"""Of the time that is left: for choosing a fleet anew, for simulating one, and for mending one."""

OF_THE_BOUND = 0.15
"""Of the time, for the bound of what was found."""

LEAST_SECONDS = 0.5
"""For mending one."""

LOWER = 0.99
"""Of what an engine was counted on for that misses its promise, what it is counted on for next, at most."""

OF_TIME = 1 / 2
"""Of the time that is left, for steps in which the engines of the answer were not simulated yet."""

MISSED = (
    "{label} misses the promise in {missed} of {looked} steps in which it was simulated (first at {when}): "
    "raise --time-limit, give --headroom, and see with `plan simulate`"
)

USED_UP = (
    "engines miss the promise in some steps, and {full} has no more that would mend it: offer more GPUs, relax the "
    "SLO, or serve less"
)

UNTOLD = (
    "the time limit ended the search before engines were simulated in every step: whether the promise holds in those "
    "that were not is not known: raise --time-limit, and see with `plan simulate`"
)

At = tuple[int, int]
"""(variant, step)."""


@dataclass(frozen=True)
class _Simulated:
    """That was simulated: ``share`` of each class (classes,), and requests per second that an engine ``carries``."""

    share: Floats
    carries: float


@dataclass(frozen=True)
class StepsTold:
    """``missed``: kinds of engine (by variant) that miss their promise in a step; ``untold``: that were not simulated
    in all of theirs."""

    notes: tuple[str, ...] = ()
    missed: frozenset[int] = frozenset()
    untold: frozenset[int] = frozenset()


class EveryStep:
    """Simulates the kinds of engine of a day's fleets in all steps, and makes fleets hold in them. Mixtures are
    simulated once."""

    def __init__(self, confirming: Confirming, tell: Progress) -> None:
        self.confirming, self.tell = confirming, tell
        self._known: dict[Key, list[_Simulated]] = {}
        self._counted: dict[tuple[Key, int], float] = {}  # requests of each kind and step, of what the formulas say

    # -------------------------------------------------------------- what engines carry

    def carried(self, found: Answered, at: At, engines: Mapping[int, Loaded]) -> float:
        """Times its load in a step that a kind of engine carries; ``engines``: its partners, where it has any."""
        guess = self._guessed(found, at)
        if guess is not None and (guess[1] <= SAME or (guess[1] <= NEAR and guess[0] >= 1.0)):
            return guess[0]
        assert found.answer.engines is not None
        v, rates, count = found.fleet.chosen.variants[at[0]], rates_on(found, *at), found.answer.engines[at[1]][at[0]]
        most = self._simulated(found, at, engines)
        self._known.setdefault((v.service, v.engine), []).append(_Simulated(rates / rates.sum(), most))
        return most * int(count) / float(rates.sum())

    def _near(self, key: Key, share: Floats, work: Floats) -> tuple[float, float] | None:
        """(requests per second that an engine likely carries of a mixture, by the nearest that was simulated; how far
        that is); None: none was."""
        known = self._known.get(key)
        if not known:
            return None
        shares = np.array([each.share for each in known])
        mine, theirs = share * work, shares * work
        away = np.abs(theirs / theirs.sum(axis=1, keepdims=True) - mine / mine.sum()).sum(axis=1)
        i = int(np.argmin(away))
        carries = known[i].carries * float(theirs[i].sum() / mine.sum())
        return carries * (1 - SLOPE * float(away[i])), float(away[i])

    def _simulated(self, found: Answered, at: At, engines: Mapping[int, Loaded]) -> float:
        variant, t = at
        one = self.confirming.loaded(found, variant, t, float(used_of(found, variant)[t]))
        if one is None:
            return 0.0
        each = joined(found, {variant: one}, engines)[variant]
        if not each.pairs:  # its partners do not keep up with what they get: theirs to mend
            return one.group.load_rps
        trial = each.tried(settles=SETTLES)
        most = trial.highest_rps()
        if most < each.group.load_rps and trial.check() is not None:
            most = each.group.load_rps
        promise = found.fleet.services[found.fleet.chosen.variants[variant].service].asked.promise
        return self.confirming.within_classes(found, each, most) if promise == "class" and most > 0 else most

    def looked_at(self, found: Answered, until: Deadline) -> tuple[dict[At, float], bool]:
        """(of each kind and step, times its load that it carries; whether all were simulated): of all kinds in turn,
        steps that lie far apart first. Those that no time is left for are guessed at by the nearest that were."""
        engines, whole = self.partners(found), True
        out: dict[At, float] = {}
        for variant, t in _spread(found):
            if whole and until.left > 0:
                out[variant, t] = self.carried(found, (variant, t), engines)
                continue
            whole = False
            if (guess := self._guessed(found, (variant, t))) is not None:
                out[variant, t] = guess[0]
        return out, whole

    def _guessed(self, found: Answered, at: At) -> tuple[float, float] | None:
        """(times its load that a kind likely carries in a step, how far the mixture is that tells it); None: none."""
        v, rates = found.fleet.chosen.variants[at[0]], rates_on(found, *at)
        key = v.service, v.engine
        near = self._near(key, rates / rates.sum(), _work(found.fleet, key))
        assert found.answer.engines is not None
        return (
            None if near is None else (near[0] * int(found.answer.engines[at[1]][at[0]]) / float(rates.sum()), near[1])
        )

    # -------------------------------------------------------------- a fleet that holds

    def settled(self, before: Settled, deadline: Deadline, at_most: Container[Key] = ()) -> Settled:
        """The cheapest fleet that holds in every step that is found by the ``deadline``; else that which misses the
        promise least often. ``at_most``: kinds that are counted on for no more than ``before`` does."""
        search = _HoldingSearch(self, before.found, deadline.part(1 - OF_THE_BOUND), at_most)
        search.run()
        chosen = search.fewest if search.best is None else self._bounded(search.best, deadline)
        notes = tuple(note for note in before.notes if note not in {NARROWED, ENDED})
        if search.best is None and search.full and search.until.left > 0:
            notes = (*notes, USED_UP.format(full=search.full))
        elif search.until.left <= 0 or search.best is None:
            notes = (*notes, ENDED)
        return Settled(chosen, self.partners(chosen, all_kinds=True), before.factor, notes)

    def _bounded(self, found: Answered, deadline: Deadline) -> Answered:
        """``found`` with the best bound that is known of its question: what was mended has that of engines in parts."""
        answer = found.answer
        if (answer.gap or 0.0) <= NEAR_ENOUGH or deadline.left < LEAST_SECONDS:
            return found
        try:
            other = solved(found.fleet, like=found, seconds=deadline.left).answer
        except (Infeasible, LimitReached):
            return found
        if other.bound is None or answer.objective is None or other.bound <= (answer.bound or 0.0):
            return found
        bound = min(other.bound, answer.objective)
        gap = (answer.objective - bound) / answer.objective if answer.objective > 0 else 0.0
        return replace(found, answer=replace(answer, bound=bound, gap=gap))

    def partners(self, found: Answered, *, all_kinds: bool = False) -> dict[int, Loaded]:
        """The kinds that run in their busiest steps: of services that prefill apart, or ``all_kinds``."""
        out, counts = {}, found.answer.engines
        assert counts is not None
        for variant in np.flatnonzero(counts.any(axis=0)).tolist():
            if all_kinds or found.fleet.services[found.fleet.chosen.variants[variant].service].apart:
                t, used = busiest(found, variant)
                one = self.confirming.loaded(found, variant, t, used) if used > 0 else None
                if one is not None:
                    out[variant] = one
        return joined(found, out)

    def learn(self, found: Answered, carried: Mapping[At, float], at_most: Container[Key], *, lower: bool) -> None:
        """What kinds are counted on for in the steps that were looked at; ``lower``: for no more than before."""
        for (variant, t), times in carried.items():
            v = found.fleet.chosen.variants[variant]
            key, service = (v.service, v.engine), found.fleet.services[v.service]
            old = 1.0 if service.counted is None else float(service.counted[t, v.engine])
            if lower and times >= 1.0:
                self._counted.setdefault((key, t), old)
                continue
            kept = 1.0
            if found.fleet.request.headroom is None:
                assert found.answer.engines is not None
                kept = kept_for_mixtures(service.asked.slo, int(found.answer.engines[t][variant]))
            more = 1 + (found.fleet.request.headroom or 0.0)
            new = old * float(used_of(found, variant)[t]) / more * times * kept
            most = old if key in at_most else MOST_FACTOR
            if times < 1.0:
                most = min(most, LOWER * old)
            self._counted[key, t] = min(max(new, 1e-3), most)

    def table(self, fleet: Fleet) -> dict[int, Floats]:
        """Of each service, the shares (steps, kinds) of what kinds carry that they are counted on for: in steps that
        were not looked at, as in the middle of those that were."""
        out = {}
        for s, service in enumerate(fleet.services):
            table = np.ones((len(fleet.steps), len(service.engines)))
            for e in range(len(service.engines)):
                mine = {t: by for ((ss, ee), t), by in self._counted.items() if (ss, ee) == (s, e)}
                if mine:
                    table[:, e] = np.median(list(mine.values()))
                    table[list(mine), e] = list(mine.values())
            out[s] = table
        return out

    # -------------------------------------------------------------- what is told

    def told(self, found: Answered, deadline: Deadline, checked: Mapping[int, Loaded]) -> StepsTold:
        """Which kinds of engine miss their promise in a step: of those that were simulated, and as far as time goes of
        all others; ``checked``: by variant, as they are started, simulated in their busiest steps."""
        engines, until = self.partners(found), deadline.part(OF_TIME)
        looked: dict[int, dict[int, float]] = {}
        untold: set[int] = set()
        for variant, t in _spread(found):
            near = self._guessed(found, (variant, t))
            if until.left > 0 or (near is not None and near[1] <= SAME):
                looked.setdefault(variant, {})[t] = self.carried(found, (variant, t), engines)
            else:
                untold.add(variant)
        for variant, each in checked.items():  # near mixtures may have told too much of it
            if each.pairs and each.check is None and each.used > 0:
                looked.setdefault(variant, {})[each.step] = 0.0
        notes: dict[int, str] = {}
        for variant, steps in looked.items():
            missed = [t for t, times in steps.items() if times < 1.0]
            if missed:
                v, first = found.fleet.chosen.variants[variant], found.fleet.steps[min(missed)].start_s
                label = found.fleet.services[v.service].engines[v.engine].label
                when = f"{int(first // 3600):02d}:{int(first % 3600 // 60):02d}"
                notes[variant] = MISSED.format(label=label, missed=len(missed), looked=len(steps), when=when)
        return StepsTold((*notes.values(), *([UNTOLD] if untold else [])), frozenset(notes), frozenset(untold))


class _HoldingSearch:
    """For a fleet that holds in every step: mended where it misses, then chosen anew with what was learnt, and so on.
    ``best``: the cheapest that holds; ``fewest``: that which misses least often."""

    def __init__(self, every: EveryStep, found: Answered, until: Deadline, at_most: Container[Key]) -> None:
        self._every, self._found, self.until, self._at_most = every, found, until, at_most
        self.best: Answered | None = None
        self.fewest, self._least = found, (10**9, np.inf)
        self._carried: dict[At, float] = {}
        self._missed, self._whole, self._took = 0, False, 0.0
        self.full = ""
        """The supplies that had no more engines when the fleet was mended last."""

    def run(self) -> None:
        self._look()
        for _ in range(MOST_CYCLES):
            before = np.inf if self.best is None else _cost(self.best)
            while not self._held:
                if self.until.left <= 0 or (self._missed and not self._next(mend=True)):
                    return
                self._look()
            assert self.best is not None
            if (self._found.answer.gap or 0.0) <= NEAR_ENOUGH or _cost(self.best) > (1 - WORTH_IT) * before:
                return
            for _ in range(FREE):
                if self._took > OF_A_FLEET * self.until.left or not self._next(mend=False):
                    return
                self._look()

    @property
    def _held(self) -> bool:
        return self._whole and not self._missed

    def _look(self) -> None:
        """Simulates the fleet that was found last, in a part of the time that is left: what was not reached is guessed
        at, and simulated when it is looked at again."""
        found = self._found
        part = self.until.part(OF_A_LOOK) if self.until.left > LEAST_SECONDS else self.until
        self._carried, self._whole = self._every.looked_at(found, part)
        self._missed = sum(times < 1.0 for times in self._carried.values())
        if self._held and (self.best is None or _cost(found) < _cost(self.best)):
            self.best = found
        if (self._missed, _cost(found)) < self._least:
            self.fewest, self._least = found, (self._missed, _cost(found))
        self._every.tell(Step(f"simulating engines in every step ({self._missed} miss)", 99))

    def _next(self, *, mend: bool) -> bool:
        """Whether there is another fleet, with what was learnt: chosen anew, or this one mended."""
        left = self.until.left
        if left <= 0:
            return False
        self._every.learn(self._found, self._carried, self._at_most, lower=mend)
        fleet = counted_in_steps(self._found.fleet, self._every.table(self._found.fleet))
        try:
            if mend and self._mended(fleet):
                self.full = ""
            else:
                self._found = solved(fleet, like=self._found, seconds=OF_A_FLEET * left)
                self._took = left - self.until.left
        except (Infeasible, LimitReached):
            return False
        return True

    def _mended(self, fleet: Fleet) -> bool:
        """Whether supplies have what mending takes. Raises LimitReached."""
        try:
            self._found = mended(fleet, self._found, max(self.until.left * OF_MENDING, LEAST_SECONDS))
        except Infeasible as why:
            self.full = str(why.details["binding"])
            return False
        return True


def _work(fleet: Fleet, key: Key) -> Floats:
    """Engines of a kind that a request per second of each class takes by the formulas, (classes,)."""
    cells = fleet.services[key[0]].capacity[:, key[1]]
    return np.where(cells > 0, 1 / np.maximum(cells, 1e-300), 0.0)


def _spread(found: Answered) -> Iterator[At]:
    """Kinds and steps in which they serve requests."""
    assert found.answer.engines is not None
    used = {v: used_of(found, v) for v in np.flatnonzero(found.answer.engines.any(axis=0)).tolist()}
    steps = np.argsort((np.arange(found.question.steps) * GOLDEN) % 1.0, kind="stable")
    for t in steps.tolist():
        for variant, mine in used.items():
            if mine[t] > 0:
                yield variant, t


GOLDEN = (5**0.5 - 1) / 2


def _cost(found: Answered) -> float:
    return np.inf if found.answer.objective is None else found.answer.objective
