"""Several steps from each of them alone: a bound that no schedule beats, and schedules of what each step would have.

The cheapest fleet of every step alone costs no more than that step of any schedule, so their mean is a bound. And a
schedule may be put together of them: of fleets that carry a step (its own, another step's, two neighbours' together),
the cheapest path through the day with what changes cost, where supplies have room for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from planner.solving.mix.mending import change_is_possible
from planner.solving.mix.question import MixQuestion
from planner.solving.solvers import Bools, Floats

MOST_CANDIDATES = 160

Carries = Callable[[int, Floats], bool]
"""Whether whole engines (n,) carry a step, also after every loss."""


def candidates(alone: Sequence[Floats | None]) -> Floats:
    """(k, n) fleets to put schedules together of: each step's own, two neighbours' together, and all of the day's."""
    found = [each for each in alone if each is not None]
    both = [np.maximum(first, second) for first, second in zip(found, [*found[1:], found[0]], strict=True)]
    three = [np.maximum(first, second) for first, second in zip(both, [*both[1:], both[0]], strict=True)]
    rows = np.array([*found, *both, *three, np.max(found, axis=0)])
    return np.unique(rows, axis=0)[:MOST_CANDIDATES]


def best_path(question: MixQuestion, rows: Floats, serves: Floats, carries: Carries) -> Floats | None:
    """(steps, n): the cheapest path over ``rows`` (k, n), each carrying its step; None: there is none.

    Args:
        serves: cost of an hour of each of the rows, (k,).
    """
    steps, k = question.steps, len(rows)
    share, hours = question.share_of_time, float(question.seconds.sum()) / 3600
    start_cost = question.kinds.cost * question.kinds.startup_s / 3600 / hours
    inf = np.inf
    moves = np.full((k, k), inf)
    for i in range(k):
        starts = np.maximum(rows - rows[i], 0)
        possible = np.array([change_is_possible(question, rows[i], rows[j]) for j in range(k)], np.bool_)
        moves[i, possible] = (starts @ start_cost)[possible]
    there: Bools = np.array([[carries(t, row) for row in rows] for t in range(steps)], np.bool_)
    here = np.where(there, serves[None, :] * share[:, None], inf)

    def path(first: int | None) -> tuple[float, list[int]]:
        total = here[0].copy()
        if question.before is not None:
            before = question.before.astype(np.float64)
            ok = np.array([change_is_possible(question, before, row) for row in rows], np.bool_)
            total += np.where(ok, np.maximum(rows - before, 0) @ start_cost, inf)
        if first is not None:
            total[np.arange(k) != first] = inf
        back = []
        for t in range(1, steps):
            through = total[:, None] + moves
            back.append(np.argmin(through, axis=0))
            total = through.min(axis=0) + here[t]
        if first is not None:
            total = total + moves[:, first]
        last = int(np.argmin(total))
        chain = [last]
        for came in reversed(back):
            chain.append(int(came[chain[-1]]))
        return float(total[last]), chain[::-1]

    if not question.cyclic:
        cost, chain = path(None)
    else:
        some = np.flatnonzero(np.isfinite(here[0]))
        tried = [path(int(i)) for i in some[np.argsort(here[0][some])][:40]]
        cost, chain = min(tried, default=(inf, []))
    return rows[chain] if np.isfinite(cost) else None
