"""A day whose steps are told apart: a bound on all schedules, and schedules put together of what single steps have.

What joins steps (starts, room while engines change, the least time up, most changes) has prices; at them every step
is a question of its own, and the cheapest fleets of all steps together cost no more than any schedule does (Lagrange's
bound). The first prices are those of the programme in parts of engines. The next are those of a programme over the
fleets that were found so far, each step's in shares that sum to 1 (G. Dantzig and P. Wolfe, Operations Research 8,
1960): they know that engines are whole and what losses take. What a step costs at least at some prices holds at any:
the programme in parts of engines is told it of every pass, and so is a bound no worse than the best pass. Prices are
moved part of the way from its own towards those of the programme over fleets (P. Wentges, International Transactions in
Operational Research 4, 1997), as long as no engine becomes free. Each step keeps what it has learnt from one pass to
the next.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack

from planner.solving.mix.clock import Deadline
from planner.solving.mix.days import DaySearch
from planner.solving.mix.rounds import Rounds
from planner.solving.solvers import Floats

MOST_PASSES = 30

MOST_KNOWN = 400
"""Prices that are handed from one step to the next."""

PART_OF_THE_WAY, LONGER, SHORTER, LEAST_PART = 0.3, 1.5, 0.5, 0.05
"""From the bound's prices towards those of the programme over fleets: at first, and changed by whether a pass rose
above the bound. The fleets that are known tell what near prices are worth, and little of far ones."""

MOST_IDLE = 3
"""Passes one after the other that neither raise the bound nor find a better schedule."""

UNTOLD = 0.25
"""Of what a schedule is dearer than the bound, that may be because steps are not solved to the end: above, they are
solved further before their prices are moved."""

STUCK = 0.9
"""Of what steps were not solved to the end, that a pass more leaves: other prices are then tried all the same."""

FREE = 1e-6
"""Share of its cost below which an engine counts as free."""

OF_A_PASS, OF_THE_FIRST = 0.5, 0.8
"""Of the time that is left, for the steps of one pass: the first learns most of what there is to know."""

WORST_OF_A_STEP = 1
"""Known prices of which a step is given cuts at a time and loss: other steps' prices are many and near each other, and
with eight of them its programme over counts was solved half as far in the same time."""

MOST_JOINED = 120
"""Fleets of a step in the programme over them."""


class Apart:
    """The steps of ``day``, whose programme in parts of engines was solved last."""

    def __init__(self, day: Rounds) -> None:
        self._day, self._q = day, day.q
        self._steps: dict[int, Rounds] = {}
        self._took: dict[int, float] = {}  # seconds of the last pass
        self._known = list(day.pool)
        self._search = DaySearch(day, day.master.serving, day.carries_step)
        self.cuts: list[tuple[int, Floats, float]] = []
        """What single steps cost at least: (step, cost (n,) of each kind, least)."""
        self._told = 0.0  # the bound of the last pass alone
        self._open = np.inf
        """By how much the steps' own fleets are dearer than their bounds, at the prices of the last pass."""

    def search(self, deadline: Deadline) -> None:
        """Raises the day's bound and keeps the schedules that are found, until they meet or the time is up."""
        day, duals = self._day, self._day.master.duals()
        if not self._positive(duals):
            duals = np.zeros(len(duals))
        alone = self._pass(duals, deadline)
        if alone is None:
            return
        self._put_together(alone, deadline, first=True)
        while self._open > UNTOLD * (day.best_cost - day.bound) and not day.enough and deadline.left > 0:
            before = self._open
            alone = self._pass(duals, deadline)  # prices say nothing before the steps are nearly solved
            if alone is None:
                return
            self._put_together(alone, deadline, first=False)
            if self._open > STUCK * before:
                break
        part, idle = PART_OF_THE_WAY, 0
        for _ in range(MOST_PASSES):
            duals = self._nearer(duals)
            found = None if day.enough or deadline.left < 0 or idle > MOST_IDLE else self._over_fleets(duals)
            if found is None:
                return
            cost, target = found
            if cost - day.bound <= day.gap / 4 * cost:
                return  # no prices of what joins steps say more
            while not self._positive(moved := duals + part * (target - duals)):
                part /= 2
            least, best = day.bound, day.best_cost
            alone = self._pass(moved, deadline)
            if alone is None:
                return
            self._put_together(alone, deadline, first=False)
            part = min(part * LONGER, 1.0) if self._told > least else max(part * SHORTER, LEAST_PART)
            idle = 0 if day.bound - least + best - day.best_cost > day.gap / 20 * cost else idle + 1

    def _nearer(self, duals: Floats) -> Floats:
        """The duals of the programme in parts of engines with all that steps are known to cost at least: it is a bound,
        as good as the best pass or better. ``duals`` where its own are not fit to be passed."""
        day = self._day
        found = day.master.solve(whole=False, seconds=day.deadline.wall(max(day.deadline.left, 0.1)), gap=day.gap)
        if found.engines is None:
            return duals
        day.bound = max(day.bound, found.bound)
        mine = day.master.duals()
        return mine if self._positive(mine) else duals

    def _positive(self, duals: Floats) -> bool:
        """Whether no engine is free at ``duals`` that is not without them."""
        costs, _ = self._day.master.apart(duals)
        return bool((costs >= FREE * self._q.kinds.cost - 1e-12).all())

    # -------------------------------------------------------------- steps

    def _pass(self, duals: Floats, deadline: Deadline) -> list[Floats] | None:
        """Every step alone, at ``duals`` of what joins them: a fleet of each. None: a step has none."""
        q, day = self._q, self._day
        costs, total = day.master.apart(duals)
        done: dict[tuple[int, bytes], Rounds] = {}
        until = deadline.part(OF_A_PASS if self._steps else OF_THE_FIRST)
        found: list[Floats | None] = [None] * q.steps
        self._open = 0.0
        quick_first = sorted(range(q.steps), key=lambda t: self._took.get(day.first[t], 0.0))
        for left, t in zip(range(q.steps, 0, -1), quick_first, strict=True):
            same = (day.first[t], costs[t].tobytes())
            if same not in done:
                before = until.left
                done[same] = self._step(t, costs[t], max(before / left, 0.1))
                self._took[day.first[t]] = before - until.left
            one = done[same]
            if one.infeasible:
                day.infeasible = True
                return None
            least = min(one.bound, one.best_cost)
            day.master.step_cut(t, costs[t], least)
            self.cuts.append((t, costs[t], least))
            total += least * float(q.share_of_time[t])
            self._open += (one.best_cost - min(one.bound, one.best_cost)) * float(q.share_of_time[t])
            found[t] = None if one.best is None else one.best[0]
        self._told = total
        day.bound = max(day.bound, total)
        there = [each for each in found if each is not None]
        if not there:
            return None
        most = np.max(there, axis=0)  # for steps whose time ended before they had one
        return [most if each is None else each for each in found]

    def _step(self, t: int, cost: Floats, seconds: float) -> Rounds:
        q, first = self._q, self._day.first[t]
        deadline = Deadline(seconds)
        one = self._steps.get(first)
        if one is not None:
            one.gap = self._day.gap / 4
            one.again(cost, deadline)
            if not one.enough:
                one.whole(seconds)
        else:
            alone = replace(
                q, kinds=replace(q.kinds, cost=cost), paid=q.of_budget, work=[q.work[t]], seconds=q.seconds[t : t + 1],
                cyclic=False, before=None, most_changes=None, fixed_cost=0.0,
                budget=None if q.budget is None else q.budget - q.fixed_cost,
            )  # fmt: skip
            one = self._steps[first] = Rounds(alone, deadline, self._day.gap / 2, worst=WORST_OF_A_STEP)
            one.begin(self._known)
            given = len(one.pool)
            one.relax(seconds)
            one.whole(seconds)
            self._known = [*self._known, *one.pool[given:]][-MOST_KNOWN:]
        for price in one.untold():
            self._day.learn(price)
        return one

    # -------------------------------------------------------------- schedules

    def _put_together(self, alone: list[Floats], deadline: Deadline, *, first: bool) -> None:
        if (self._q.kinds.min_up_s > 0).any():
            return
        found = self._search.begin(alone, deadline) if first else self._search.go_on(alone, deadline)
        if found is not None:
            self._day.keep(found)

    def _over_fleets(self, duals: Floats) -> tuple[float, Floats] | None:
        """(cost, duals of what joins steps) of the best day in shares of fleets, each step's of those that carry it,
        the cheapest at ``duals``: candidates of schedules, and what the steps' own searches came by."""
        q, master, n = self._q, self._day.master, len(self._q.kinds)
        costs, _ = master.apart(duals)
        own = [row[0] for one in self._steps.values() for row in one.carrying.values()]
        every = np.unique(np.array([*self._search.rows, *own]), axis=0)
        carried, serving = self._search.carried(every), np.array([master.serving(row) for row in every])
        rows = []
        for t in range(q.steps):
            mine = np.flatnonzero(carried[:, t])
            if not len(mine):
                return None
            rows.append(mine[np.argsort(every[mine] @ costs[t], kind="stable")[:MOST_JOINED]])
        starting, most = master.starts
        width, joining = master.width, master.joining
        entries = [(r, c, v) for r, (_, columns, values, _, _) in enumerate(joining)
                   for c, v in zip(columns.tolist(), values.tolist(), strict=True)]  # fmt: skip
        r, c, v = (np.array(each) for each in zip(*entries, strict=True)) if entries else (np.zeros(0, int),) * 3
        full = csr_array((v, (r, c)), shape=(len(joining), q.steps * width))
        engines = [full[:, t * width : t * width + n] @ csr_array(every[rows[t]].T) for t in range(q.steps)]
        starts = [full[:, t * width + n : t * width + 2 * n] for t in range(q.steps)]
        matrix = hstack([*starts, *engines], format="csr")
        low, high = (np.array([each[i] for each in joining]) for i in (3, 4))
        upper = np.isfinite(high)
        sign = np.where(upper, 1.0, -1.0)
        counts = np.array([len(each) for each in rows])
        of_step = np.repeat(np.arange(q.steps), counts)
        one_each = csr_array(
            (np.ones(len(of_step)), (of_step, starting.size + np.arange(len(of_step)))),
            shape=(q.steps, starting.size + len(of_step)),
        )
        share = q.share_of_time
        goal = np.concatenate([starting.ravel(), *[serving[rows[t]] * share[t] for t in range(q.steps)]])
        bounds = np.stack([np.zeros(len(goal)), np.concatenate([most.ravel(), np.full(len(of_step), np.inf)])], axis=1)
        solve: Any = linprog  # whose types know no sparse matrices
        found = solve(
            goal, A_ub=matrix * sign[:, None], b_ub=np.where(upper, high, -low), A_eq=one_each,
            b_eq=np.ones(q.steps), bounds=bounds, method="highs",
        )  # fmt: skip
        if found.status != 0 or found.fun is None:
            return None
        return float(found.fun), np.asarray(found.ineqlin.marginals * sign, dtype=np.float64)
