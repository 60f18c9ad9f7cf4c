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

import numpy as np

from planner.solving.mix.carrying import ENOUGH, Carrying, cut_of
from planner.solving.mix.days import DaySearch
from planner.solving.mix.master import Master, left
from planner.solving.mix.mending import mend
from planner.solving.mix.question import MOST_ENGINES, Loss, MixQuestion, losses, remaining, required
from planner.solving.solvers import Floats, Ints, Status

RELAXED_ROUNDS = 60
ROUNDS = 400

SMALL = 200
"""Counts up to which nothing is foreseen: the rounds find all that they need."""

ALMOST = 0.02
"""Of an engine, that need not be there."""

FEW_ENGINES = 120
"""In a step, below which whole engines are what makes a fleet dear: the steps are then solved one by one first. Above,
the programme in parts of engines is as good a bound, and sooner there."""

ALONE = 0.5
"""Of the time, for the steps one by one."""

PUT_TOGETHER = 0.6
"""Of what is then left of it, at most, for schedules that are put together of them."""

MOST_KNOWN = 400
"""Prices that are handed from one step to the next."""

BINDING = 2
"""Prices at which losses are foreseen, of each step."""

FIRST_GAP = 0.02
"""Relative gap of the first programme in whole counts, halved from round to round: early ones lack cuts anyway."""

ROUND_SHARE = 0.2
"""Of the time, for a round that is not the last."""

SCREENED = 1e-9
"""Relative shortfall at known prices that counts as one."""


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


class _Rounds:
    def __init__(self, question: MixQuestion, deadline: float, gap: float) -> None:
        self.q, self.deadline, self.gap = question, deadline, gap
        self.share = question.survive.share
        same: dict[bytes, int] = {}
        self.first = [same.setdefault(work.tobytes(), t) for t, work in enumerate(question.work)]
        self.lps = {t: Carrying(question.work[t]) for t in sorted(set(self.first))}
        self.master = Master(question, _upper(question))
        self.pool: list[Floats] = []
        self.known: list[Floats] = []  # of each price, what each step's load is worth at it, (steps,)
        self.cuts: set[tuple[int, int, Loss]] = set()
        self.certified: dict[tuple[int, bytes], float] = {}
        self.best: Floats | None = None
        self.best_cost = np.inf

    # -------------------------------------------------------------- cuts

    def learn(self, prices: Floats) -> int | None:
        """The index of new prices; None: there are none."""
        cut = cut_of(prices)
        if not cut.any():
            return None
        self.pool.append(cut)
        self.known.append(np.array([required(work, cut) for work in self.q.work]))
        return len(self.pool) - 1

    def add(self, t: int, price: int, loss: Loss) -> bool:
        """Whether the cut is a new one."""
        key = (t, price, loss)
        if key in self.cuts:
            return False
        self.cuts.add(key)
        share = self.share if loss else 1.0
        self.master.cut(t, self.pool[price], share * float(self.known[price][t]), loss)
        return True

    def wanting(self, t: int, engines: Floats, loss: Loss, worst: int = 3) -> list[int]:
        """Known prices at which what is left is worth too little, the worst first."""
        if not self.pool:
            return []
        after = remaining(engines, loss)
        need = np.array([known[t] for known in self.known]) * (self.share if loss else 1.0)
        worth = np.array(self.pool) @ after
        short = (need - worth) / np.maximum(need, 1e-300)
        order = np.argsort(-short)[:worst]
        return [int(i) for i in order if short[i] > SCREENED * 10]

    def theta(self, t: int, engines: Floats, loss: Loss) -> tuple[float, int | None]:
        """(θ of what is left, index of its prices where that is too little)."""
        after = remaining(engines, loss)
        key = (self.first[t], after.tobytes())
        share = self.share if loss else 1.0
        if key not in self.certified:
            theta, _, prices = self.lps[self.first[t]].solve(after)
            if theta < share - ENOUGH:
                return theta, self.learn(prices)
            self.certified[key] = theta
        theta = self.certified[key]
        return theta, None

    def separate(self, engines: Floats, whole: bool) -> int:
        """Adds cuts that ``engines`` (steps, n) violate; how many. 0: all of them hold (whole) or none was found."""
        added = 0
        rounded = np.rint(engines).astype(np.int64) if whole else np.floor(engines + 1e-6).astype(np.int64)
        for t in range(self.q.steps):
            if left(self.deadline) < 0:
                return max(added, 1)
            here = 0
            for loss in losses(self.q, rounded[t]) if whole else [()]:
                found = self.wanting(t, engines[t], loss)
                if not found:
                    _, price = self.theta(t, engines[t], loss)
                    if price is None:
                        continue
                    found = [price]
                here += sum(self.add(t, price, loss) for price in found)
            added += here
        return added

    # -------------------------------------------------------------- answers

    def keep(self, engines: Floats) -> None:
        cost = self.master.cost(engines)
        if cost < self.best_cost - 1e-12:
            self.best, self.best_cost = engines.copy(), cost

    def within(self, bound: float) -> bool:
        """Whether the best so far is good enough."""
        return self.best is not None and self.best_cost - bound <= self.gap * self.best_cost

    def try_mended(self, engines: Floats) -> None:
        """Keeps ``engines`` with more of them until all is carried, where the supplies have them."""
        found = mend(self, engines)
        if found is not None:
            self.keep(found)

    def each_step(self, seconds: float) -> float:
        """Every step alone, at what engines cost there once steps are told apart: a bound on all of them together; what
        can be put together of it is kept. After a programme in parts of engines."""
        q, total, alone, known = self.q, 0.0, [], list(self.pool)
        costs, beside = self.master.apart()
        if q.budget is not None or (costs <= 0).any():
            costs, beside = np.tile(q.kinds.cost, (q.steps, 1)), 0.0
        done: dict[tuple[int, bytes], MixAnswer] = {}
        until = time.perf_counter() + seconds
        for t in range(q.steps):
            same = (self.first[t], costs[t].tobytes())
            if same not in done:
                one = replace(
                    q, kinds=replace(q.kinds, cost=costs[t]), work=[q.work[t]], seconds=q.seconds[t : t + 1],
                    cyclic=False, before=None, most_changes=None, fixed_cost=0.0,
                    budget=None if q.budget is None else q.budget - q.fixed_cost,
                )  # fmt: skip
                each = max((until - time.perf_counter()) / (q.steps - t), 0.1)
                done[same] = solve_mix(one, seconds=each, gap=self.gap / 4, prices=known)
                known = [*known, *done[same].prices[len(known) :]][-MOST_KNOWN:]
            answer = done[same]
            total += answer.least * float(q.share_of_time[t])
            alone.append(None if answer.engines is None else answer.engines[0].astype(np.float64))
        for price in known:
            self.learn(price)
        found_ones = [each for each in alone if each is not None]
        if found_ones and not (q.kinds.min_up_s > 0).any():
            most = np.max(found_ones, axis=0)  # for steps whose time ended before they had one
            there = [most if each is None else each for each in alone]
            found = DaySearch(self, self.master.serving, self.carries_step).schedule(
                there, time.perf_counter() + PUT_TOGETHER * max(left(self.deadline), 0.0)
            )
            if found is not None:
                self.keep(found)
        return total + beside

    def carries_step(self, t: int, engines: Floats) -> bool:
        """Whether whole ``engines`` (n,) carry step ``t``, also after every loss."""
        return not any(
            self.wanting(t, engines, loss, worst=1) or self.theta(t, engines, loss)[1] is not None
            for loss in losses(self.q, engines.astype(np.int64))
        )

    def foresee(self, relaxed: Floats) -> None:
        """Cuts of the losses that whole counts near ``relaxed`` (steps, n) will have to survive, at the prices that
        bind most: what would otherwise be found one round after another."""
        if not self.q.survive.any:
            return
        for t in range(self.q.steps):
            need = np.array([known[t] for known in self.known])
            slack = (np.array(self.pool) @ relaxed[t] - need) / np.maximum(need, 1e-300)
            binding = [int(i) for i in np.argsort(slack)[:BINDING]]
            present = np.where(relaxed[t] > ALMOST, np.maximum(np.ceil(relaxed[t]), 1), 0).astype(np.int64)
            for loss in losses(self.q, present):
                for price in binding if loss else ():
                    self.add(t, price, loss)


def _upper(question: MixQuestion) -> Ints:
    """(steps, n): what carries all that a kind can, and what may be lost of it; no more than its supplies have."""
    kinds, out = question.kinds, []
    spare = question.survive.engines + (
        question.survive.nodes * np.maximum(kinds.node // np.minimum(kinds.gpus, kinds.node), 1)
    )
    most = np.full(len(kinds), np.inf)
    for block in question.blocks:
        most[block.kinds] = np.minimum(most[block.kinds], np.floor(block.most / block.each + 1e-9))
    ever = np.zeros(len(kinds))
    for work in question.work:
        ever = np.maximum(ever, np.ceil(np.where(np.isfinite(work), work, 0.0).sum(axis=0) - 1e-9) + spare)
    for work in question.work:
        useful = np.ceil(np.where(np.isfinite(work), work, 0.0).sum(axis=0) - 1e-9) + spare
        longer = question.steps > 1 or question.before is not None
        upper = np.minimum(ever if longer else useful, most)
        out.append(np.minimum(upper, MOST_ENGINES))
    return np.array(out).astype(np.int64)


def solve_mix(
    question: MixQuestion,
    *,
    seconds: float = 60.0,
    gap: float = 1e-9,
    progress: Callable[[str], None] | None = None,
    prices: Sequence[Floats] = (),
) -> MixAnswer:
    """The cheapest fleet. ``gap``: relative, at which it is good enough; ``prices``: known from questions like it."""
    begun = time.perf_counter()
    search = _Rounds(question, begun + seconds, gap)
    bound, rounds, rounds_whole = 0.0, 0, 0
    for price in prices:
        search.learn(price)
    infeasible = False
    first = search.learn(question.kinds.cost if question.kinds.cost.any() else question.kinds.gpus.astype(np.float64))
    if first is not None:
        for t in range(question.steps):
            search.add(t, first, ())
    relaxed: Floats | None = None
    for _ in range(RELAXED_ROUNDS):  # counts that need not be whole
        found = search.master.solve(whole=False, seconds=left(search.deadline), gap=gap)
        if found.engines is None:
            infeasible = found.proved and search.best is None
            break
        bound, relaxed = max(bound, found.bound), found.engines
        if left(search.deadline) < 0.6 * seconds or not search.separate(found.engines, whole=False):
            break
        rounds += 1
    if relaxed is not None and not infeasible and question.steps > 1 and relaxed.sum(axis=1).mean() < FEW_ENGINES:
        bound = max(bound, search.each_step(ALONE * max(left(search.deadline), 0.0)))
        if search.within(bound):
            return _answer(search, bound, False, True, rounds, begun)
    if relaxed is not None and not infeasible and question.steps * len(question.kinds) > SMALL:
        search.foresee(relaxed)
        search.try_mended(np.ceil(relaxed - ALMOST))
    proved = False
    while not infeasible and rounds < ROUNDS and left(search.deadline) > 0:
        rough = max(gap / 2, FIRST_GAP * 0.5**rounds_whole) if question.steps > 1 else gap / 2
        share = 1.0 if search.best is None or rough <= gap / 2 else ROUND_SHARE
        found = search.master.solve(
            whole=True,
            seconds=min(left(search.deadline), max(share * seconds, 0.2)) * (1.0 if search.best is not None else 0.6),
            gap=rough,
            start=search.best,
        )
        if found.engines is None:
            infeasible = found.proved and search.best is None
            break
        rounds, rounds_whole = rounds + 1, rounds_whole + 1
        bound = max(bound, found.bound)
        if not search.separate(found.engines, whole=True):
            search.keep(found.engines)
            if rough <= gap / 2 or search.within(bound):
                proved = True
                break
            continue
        search.try_mended(found.engines)
        if search.within(bound):
            proved = True
            break
    return _answer(search, bound, infeasible, proved, rounds, begun)


def _answer(search: _Rounds, bound: float, infeasible: bool, proved: bool, rounds: int, begun: float) -> MixAnswer:
    q, best = search.q, search.best
    seconds = time.perf_counter() - begun
    if best is None:
        status: Status = "infeasible" if infeasible else "time_limit"
        least = np.inf if infeasible else bound
        known = tuple(search.pool)
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
        tuple(search.pool),
    )
