"""The cheapest fleet that carries every step's load, and what is left of it after every loss, with a bound.

Rounds of the programme over counts (:mod:`planner.solving.mix.master`) and of the programmes that share the load out
(:mod:`planner.solving.mix.carrying`). A fleet that does not carry something yields prices at which it is worth too
little; they hold in every step at that step's own rates, and cut it off. First with counts that need not be whole,
which is where most cuts are found; then whole. What the rounds find too small is mended into a fleet that carries, so
that there is an answer whenever time ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from planner.solving.mix.apart import Apart
from planner.solving.mix.clock import Deadline
from planner.solving.mix.fewer import Fewer, fewer
from planner.solving.mix.question import MixQuestion
from planner.solving.mix.rounds import ALMOST, Rounds
from planner.solving.mix.windows import Windows
from planner.solving.solvers import Floats, Ints, Status

SMALL = 200
"""Counts up to which nothing is foreseen: the rounds find all that they need."""

FEW_ENGINES = 120
"""In a step, below which whole engines are what makes a fleet dear: the steps are then solved one by one first. Above,
the programme in parts of engines is as good a bound, and sooner there."""

ALONE = 0.9
"""Of the time, for the steps one by one; of what is left then, for windows. Chosen on the benchmark's two questions, by
which it is told (docs/fleets.md)."""


@dataclass(frozen=True, eq=False)
class MixAnswer:
    """``engines`` (steps, n) int64, ``shares``: of each step (groups, n), each group's sum to 1; ``slack``: of each
    step the θ of the whole fleet. None of them where nothing was found: ``status`` infeasible (proved) or time_limit.
    ``prices``: of the cuts, each (n,)."""

    status: Status
    engines: Ints | None
    shares: list[Floats]
    slack: Floats
    objective: float | None
    bound: float | None
    gap: float | None
    seconds: float
    rounds: int
    cuts: int
    least: float = 0.0
    """No fleet costs less, also where none was found."""
    prices: tuple[Floats, ...] = ()


def solve_mix(
    question: MixQuestion,
    *,
    seconds: float = 60.0,
    gap: float = 1e-9,
    progress: Callable[[str], None] | None = None,
    prices: Sequence[Floats] = (),
    near: Ints | None = None,
    every_kind: bool = False,
) -> MixAnswer:
    """The cheapest fleet. ``gap``: relative, at which it is good enough; ``prices``: known from questions like it, and
    ``near`` (steps, n): what was found for one. ``every_kind``: also of kinds that others make needless."""
    if question.shunned is not None:
        asked = partial(solve_mix, seconds=seconds, gap=gap, prices=prices, near=near, every_kind=every_kind)
        return _unshunned(question, asked)
    some = None if every_kind else fewer(question)
    if some is not None:
        return _of_fewer(some, seconds, gap, prices, near)
    begun = time.perf_counter()
    search = Rounds(question, Deadline(seconds), gap)
    search.begin(prices)
    search.relax(seconds)
    relaxed, large = search.relaxed, question.steps * len(question.kinds) > SMALL
    if near is not None and not search.infeasible:
        search.try_mended(near.astype(np.float64))
    several = question.steps > 1 and question.most_changes != 0
    if relaxed is not None and not search.infeasible and (question.steps > 1 or large):
        search.try_mended(np.ceil(relaxed - ALMOST))  # something, whatever the time
        if several and relaxed.sum(axis=1).mean() < FEW_ENGINES:
            apart = Apart(search)
            apart.search(search.deadline.part(ALONE))
            if not search.infeasible and not (question.kinds.min_up_s > 0).any():
                Windows(search, apart.cuts).search(search.deadline.part(ALONE))
    if not search.enough and not search.infeasible:
        if relaxed is not None and large:
            search.foresee(relaxed)
            search.try_mended(np.ceil(relaxed - ALMOST))
        search.whole(seconds)
    return _answer(search, begun)


def mended_mix(question: MixQuestion, engines: Ints, prices: Sequence[Floats], *, seconds: float) -> MixAnswer:
    """``engines`` (steps, n) with as many more as carry everything, and without those that are not needed for it;
    ``prices``: known from questions like it. The bound is that of engines in parts."""
    if question.shunned is not None:
        return _unshunned(question, partial(mended_mix, engines=engines, prices=prices, seconds=seconds))
    begun = time.perf_counter()
    search = Rounds(question, Deadline(seconds), 1e-9)
    search.begin(prices)
    search.relax(seconds)
    if not search.infeasible:
        search.try_mended(engines.astype(np.float64))
    return _answer(search, begun)


def _unshunned(question: MixQuestion, asked: Callable[[MixQuestion], MixAnswer]) -> MixAnswer:
    """Chosen with what is shunned counted as cost, and answered without: the bound is that of fleets which have no more
    of it."""
    shunned = question.shunned
    assert shunned is not None
    dearer = replace(question.kinds, cost=question.kinds.cost + shunned)
    counted = replace(question, kinds=dearer, paid=question.of_budget, shunned=None)
    found = asked(counted)
    if found.engines is None or found.objective is None or found.bound is None:
        return found
    beside = mean_cost(question, shunned, found.engines)
    cost, bound = found.objective - beside, min(found.bound, found.objective) - beside
    bound = cost if found.status == "optimal" else max(bound, 0.0)
    relative = 0.0 if found.status == "optimal" or cost <= 0 else (cost - bound) / cost
    return replace(found, objective=cost, bound=bound, gap=relative, least=min(found.least, bound))


def _of_fewer(some: Fewer, seconds: float, gap: float, prices: Sequence[Floats], near: Ints | None) -> MixAnswer:
    """Of all kinds, of which some are needless."""
    like = None if near is None else some.replaced(near)
    found = solve_mix(some.question, seconds=seconds, gap=gap, prices=[each[some.kept] for each in prices], near=like)
    return replace(
        found,
        engines=None if found.engines is None else some.all_of(found.engines.astype(np.float64)).astype(np.int64),
        shares=[some.all_of(each) for each in found.shares],
        prices=tuple(some.prices(each) for each in found.prices),
    )


def mean_cost(question: MixQuestion, cost: Floats, engines: Ints) -> float:
    """Of an hour of ``engines`` (steps, n) at ``cost`` (n,) of each kind, while they serve and while they start."""
    before: Ints | None = engines[-1] if question.cyclic else question.before
    hours, total = float(question.seconds.sum()) / 3600, 0.0
    for share, now in zip(question.share_of_time.tolist(), engines, strict=True):
        total += share * float(cost @ now)
        if before is not None:
            total += float((cost * question.kinds.startup_s / 3600 / hours) @ np.maximum(now - before, 0))
        before = now
    return total


def _answer(search: Rounds, begun: float) -> MixAnswer:
    q, best, bound, rounds = search.q, search.best, search.bound, search.rounds
    seconds = time.perf_counter() - begun
    if best is None:
        status: Status = "infeasible" if search.infeasible else "time_limit"
        least = np.inf if search.infeasible else bound
        known = search.told()
        return MixAnswer(
            status, None, [], np.zeros(0), None, None, None, seconds, rounds, len(search.cuts), least, known
        )
    shares, slack = [], []
    for t in range(q.steps):
        theta, share, _ = search.lps[search.first[t]].solve(best[t])
        shares.append(share)
        slack.append(theta)
    cost = search.best_cost
    bound = min(bound, cost)
    gap = (cost - bound) / cost if cost > 0 else 0.0
    optimal = gap <= 1e-8
    fixed = q.fixed_cost
    return MixAnswer(
        "optimal" if optimal else "feasible",
        best.astype(np.int64),
        shares,
        np.array(slack),
        cost + fixed,
        cost + fixed if optimal else bound + fixed,
        0.0 if optimal else (cost - bound) / (cost + fixed),
        seconds,
        rounds,
        len(search.cuts),
        (cost if optimal else bound) + fixed,
        search.told(),
    )
