"""A day in windows of hours solved whole: a bound that single steps (:mod:`planner.solving.mix.apart`) do not reach.

What joins steps of two windows has prices, those of the programme in parts of engines; inside of a window starts and
changes are as they are. What single steps cost at least at any prices is told to the windows: without it they took
four times as long. What a window costs at least is told to the day's programme, whose next prices are better for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from planner.solving.mix.clock import Deadline
from planner.solving.mix.rounds import Rounds
from planner.solving.solvers import Floats, Ints

STEPS = 8
"""Of a window, at least: with four the bound of a day of 24 hours rose by a tenth of what it did with eight. Chosen on
the two benchmark questions (docs/fleets.md) that it is told by."""

MOST_KNOWN = 400
"""Prices that are handed to a window."""

FINER = 8
"""Than the day's gap, of a window."""

StepCut = tuple[int, Floats, float]
"""Step, cost (n,) of each kind there, and what no fleet that carries it costs less than."""


class Windows:
    """The windows of ``day``, whose programme in parts of engines was solved last."""

    def __init__(self, day: Rounds, cuts: Sequence[StepCut]) -> None:
        self._day, self._cuts = day, cuts
        steps = day.q.steps
        self._windows: list[Ints] = np.array_split(np.arange(steps), max(steps // STEPS, 1))
        self._of = np.repeat(np.arange(len(self._windows)), [len(each) for each in self._windows])
        self._rounds: dict[int, Rounds] = {}

    def search(self, deadline: Deadline) -> None:
        """Raises the day's bound until it is good enough or time is up."""
        day = self._day
        while len(self._windows) > 1 and not day.enough and deadline.left > 0:
            found = day.master.solve(whole=False, seconds=day.deadline.wall(max(deadline.left, 0.1)), gap=day.gap)
            if found.engines is None:
                return
            before = day.bound = max(day.bound, found.bound)
            if not self._pass(day.master.duals(), deadline) or day.bound - before < day.gap / 20 * day.bound:
                return

    def _pass(self, duals: Floats, deadline: Deadline) -> bool:
        """Every window, at ``duals`` of what joins steps; whether all were looked at."""
        day, width = self._day, self._day.master.width
        kept = duals.copy()
        for i, (_, columns, _, _, _) in enumerate(day.master.joining):
            steps = np.unique(columns // width)
            if len(steps) > 1 and len(set(self._of[steps].tolist())) == 1:
                kept[i] = 0.0
        cost, total = day.master.priced(kept, [int(window[0]) for window in self._windows])
        for left, (number, window) in zip(range(len(self._windows), 0, -1), enumerate(self._windows), strict=True):
            if deadline.left <= 0:
                return False
            columns = np.arange(window[0] * width, (window[-1] + 1) * width)
            one = self._one(number, window, cost[columns], deadline.left / left)
            if one.infeasible:
                day.infeasible = True
                return False
            least = min(one.bound, one.best_cost)
            day.master.window_cut(window, cost, least)
            total += least
        day.bound = max(day.bound, total)
        return True

    def _one(self, number: int, window: Ints, cost: Floats, seconds: float) -> Rounds:
        """A window at ``cost`` of all of its columns; what it knows stays from pass to pass."""
        day, deadline, one = self._day, Deadline(seconds), self._rounds.get(number)
        steps = window.tolist()
        if one is not None:
            one.anew(cost, deadline)
        else:
            q = replace(
                day.q, work=[day.q.work[t] for t in steps], seconds=day.q.seconds[window], cyclic=False, before=None,
                fixed_cost=0.0, budget=None if day.q.budget is None else day.q.budget - day.q.fixed_cost,
            )  # fmt: skip
            one = self._rounds[number] = Rounds(q, deadline, day.gap / FINER, worst=1)
            one.anew(cost, deadline)
            one.begin(day.pool[-MOST_KNOWN:])
            for t, of_kinds, least in self._cuts:
                if t in steps:
                    one.master.step_cut(t - steps[0], of_kinds, least)
            one.relax(seconds)
        if day.best is not None:
            one.try_mended(day.best[window])
        if not one.infeasible:
            one.whole(seconds)
        return one
