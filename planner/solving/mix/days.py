"""Schedules put together of what single steps would have.

Fleets that carry a step (its own best, other steps' made to fit it) are candidates; of them the cheapest path through
the day with what changes cost, where supplies have room for them. What carries is first judged by known prices, of all
candidates and steps at once; only the path's own fleets are asked of the linear programmes, and what they teach is
judged by from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from planner.solving.mix.clock import Deadline
from planner.solving.mix.losses import ALL, every_remaining, losses
from planner.solving.mix.master import affordable, fits
from planner.solving.mix.mending import Searched
from planner.solving.mix.question import MixQuestion
from planner.solving.solvers import Bools, Floats, Ints

MOST_CANDIDATES = 400
"""Between which a path is looked for."""

NEAR = (1, -1, 2, -2, 3, -3)
"""Steps whose fleets are made to fit a step."""

MOST_PATHS = 40
"""Paths that are asked of the linear programmes, at most, for one set of candidates."""

ROUNDS = 12
"""Times that new candidates are made of the path found."""

SHORT = 1e-9
"""Relative shortfall at a known price that counts as none."""


class DaySearch:
    """The search for a schedule. ``serving``: cost of an hour of (n,) engines; ``carries``: whether whole engines carry
    a step, also after every loss, by the linear programmes."""

    def __init__(
        self, search: Searched, serving: Callable[[Floats], float], carries: Callable[[int, Floats], bool]
    ) -> None:
        self._search, self._q = search, search.q
        self._serving, self._carries = serving, carries
        self.rows = np.zeros((0, len(self._q.kinds)))
        """Candidates, (k, n)."""
        self._prices = np.maximum(self._q.kinds.cost, 1e-9)
        self._best_cost = np.inf
        self._own: set[bytes] = set()
        self._rng = np.random.default_rng(0)

    # -------------------------------------------------------------- what is known

    def _worth(self, rows: Floats) -> tuple[Floats, Floats]:
        """(worth of ``rows`` (k, n) at all known prices, the least of what losses leave of it ÷ the share of the load
        that is carried then), (k, prices)."""
        prices = self._search.stacked()[0].T
        whole, least = rows @ prices, np.full((len(rows), prices.shape[1]), np.inf)
        if self._q.survive.any:
            for i, row in enumerate(rows):
                after = [loss for loss in losses(self._q, row.astype(np.int64)) if loss]
                if after:
                    least[i] = (every_remaining(row, after) @ prices).min(axis=0) / self._search.share
        return whole, np.minimum(whole, least)

    def carried(self, rows: Floats) -> Bools:
        """(k, steps): whether they carry each step, as far as known prices say."""
        known = self._search.stacked()[1] * (1 - SHORT)
        _, worth = self._worth(rows)
        return np.stack([(worth >= known[:, t]).all(axis=1) for t in range(self._q.steps)], axis=1)

    def _lacking(self, t: int, row: Floats) -> tuple[int, float, Floats] | None:
        """(price, what is lacking at it, what one more of each kind adds) of the worst loss of a row; None: nothing."""
        prices, every = self._search.stacked()
        if not len(prices):
            return None
        after = list(losses(self._q, row.astype(np.int64)))
        shares = np.array([self._search.share if loss else 1.0 for loss in after])
        need = shares[:, None] * every[:, t]
        lacking = need - every_remaining(row, after) @ prices.T
        short = lacking / np.maximum(need, 1e-300)
        worst, k = np.unravel_index(int(np.argmax(short)), short.shape)
        if short[worst, k] <= SHORT * 10:
            return None
        gain = prices[k].copy()
        for v, count in after[worst]:
            if count >= ALL:
                gain[v] = 0.0
        return int(k), float(lacking[worst, k]), gain

    # -------------------------------------------------------------- candidates

    def fitted(self, row: Floats, t: int, cost: Floats) -> Floats | None:
        """``row`` (n,) made to carry step ``t`` and no more, as far as known prices say, at ``cost`` of each kind;
        None: there is no room for what it lacks."""
        row = row.copy()
        upper = self._search.master.upper[t]
        for _ in range(200):
            lack = self._lacking(t, row)
            if lack is None:
                return self._trimmed(row, t, cost)
            _, short, gain = lack
            order = np.argsort(cost * np.ceil(short / np.maximum(gain, 1e-300) - 1e-9))
            for v in order.tolist():
                if gain[v] > 0 and row[v] < upper[v]:
                    row[v] += 1
                    if fits(self._q, row).all():
                        break
                    row[v] -= 1
            else:
                return None
        return None

    def _trimmed(self, row: Floats, t: int, cost: Floats) -> Floats:
        for v in np.argsort(-cost).tolist():
            while row[v] > 0:
                row[v] -= 1
                if self._lacking(t, row) is not None:
                    row[v] += 1
                    break
        return row

    def _more(self, rows: Sequence[Floats]) -> None:
        within = [row for row in rows if affordable(self._q, row)]
        if within:
            self.rows = np.unique(np.array([*self.rows, *within]), axis=0)

    # -------------------------------------------------------------- paths

    def begin(self, alone: Sequence[Floats], until: Deadline) -> Floats | None:
        """(steps, n) of the cheapest schedule found; ``alone``: of each step a fleet that carries it. None: none."""
        q, steps = self._q, self._q.steps
        two = [np.maximum(alone[t], alone[(t + 1) % steps]) for t in range(steps)]
        three = [np.maximum(two[t], two[(t + 1) % steps]) for t in range(steps)]
        self._more([*two, *three, np.max(alone, axis=0)])
        for away in NEAR:
            for t in range(steps):
                if until.left > 0 and (q.cyclic or 0 <= t + away < steps):
                    made = self.fitted(alone[(t + away) % steps], t, self._prices)
                    self._more([] if made is None else [made])
        return self.go_on(alone, until)

    def go_on(self, alone: Sequence[Floats], until: Deadline) -> Floats | None:
        """The same with other fleets of the steps beside those that are known."""
        q, steps = self._q, self._q.steps
        self._more(alone)
        self._own |= {row.tobytes() for row in alone}
        best: Floats | None = None
        best_cost = np.inf
        for turn in range(ROUNDS):
            found = self._confirmed(until)
            if found is None or (best is not None and found[0] >= best_cost * (1 - 1e-6)):
                break
            best_cost, best = found
            if until.left < 0 or turn == ROUNDS - 1 or best_cost >= self._best_cost * (1 - 1e-6):
                break
            self._best_cost = best_cost
            for t in range(steps):
                near = [best[(t + away) % steps] for away in (-1, 1) if q.cyclic or 0 <= t + away < steps]
                swaps = [np.where(np.arange(best.shape[1]) == v, best[t] - 1, best[t]) for v in np.flatnonzero(best[t])]
                for row in [*near, *swaps]:
                    if until.left < 0:
                        break
                    made = self.fitted(row, t, self._prices * self._rng.uniform(0.9, 1.1, best.shape[1]))
                    self._more([] if made is None else [made])
        return best

    def _confirmed(self, until: Deadline) -> tuple[float, Floats] | None:
        """The cheapest path whose fleets carry by the linear programmes too."""
        for _ in range(MOST_PATHS):
            self._fewer()
            found = self._path(self.carried(self.rows))
            if found is None or until.left < 0:
                return None
            cost, chain = found
            bad = [t for t, i in enumerate(chain) if not self._carries(t, self.rows[i])]
            if not bad:
                self._own |= {self.rows[i].tobytes() for i in chain.tolist()}
                return cost, self.rows[chain]
            made = [self.fitted(self.rows[chain[t]], t, self._prices) for t in bad]
            self._more([row for row in made if row is not None])
        return None

    def _fewer(self) -> None:
        """Leaves out candidates that are dear for all that they carry, but for steps' own."""
        if len(self.rows) <= MOST_CANDIDATES:
            return
        there, serves = self.carried(self.rows), self._costs()
        cheapest = np.where(there, serves[:, None], np.inf).min(axis=0)
        with np.errstate(invalid="ignore"):
            worst = np.where(there, serves[:, None] / cheapest[None, :], np.inf).min(axis=1)
        worst[[row.tobytes() in self._own for row in self.rows]] = 0.0
        most = max(MOST_CANDIDATES, int((worst == 0.0).sum()))
        self.rows = self.rows[np.sort(np.argsort(worst, kind="stable")[:most])]

    def _costs(self) -> Floats:
        return np.array([self._serving(row) for row in self.rows])

    def _path(self, there: Bools) -> tuple[float, Ints] | None:
        """(cost of an hour, rows (steps,)) of the cheapest path over the candidates."""
        q, rows = self._q, self.rows
        hours = float(q.seconds.sum()) / 3600
        start_cost = q.kinds.cost * q.kinds.startup_s / 3600 / hours
        here = np.where(there, self._costs()[:, None] * q.share_of_time[None, :], np.inf).T
        moves = _moves(q, rows, rows, start_cost)

        def walk(first: int | None, times: int) -> tuple[float, Ints]:
            """Through the day ``times``, from ``first`` and back to it."""
            total = here[0].copy()
            if q.before is not None:
                total += _moves(q, q.before[None, :].astype(np.float64), rows, start_cost)[0]
            if first is not None:
                total[np.arange(len(rows)) != first] = np.inf
            back = []
            for t in [*range(1, q.steps), *[t for _ in range(times - 1) for t in range(q.steps)]]:
                through = total[:, None] + moves
                came = np.argmin(through, axis=0)
                back.append(came)
                total = through[came, np.arange(len(rows))] + here[t]
            if first is not None:
                total = total + moves[:, first]
            last = int(np.argmin(total))
            chain = [last]
            for came in reversed(back):
                chain.append(int(came[chain[-1]]))
            return float(total[last]), np.array(chain[::-1])

        if not q.cyclic:
            cost, chain = walk(None, 1)
        else:
            _, twice = walk(None, 3)
            cost, chain = walk(int(twice[q.steps]), 1)
        return (cost, chain) if np.isfinite(cost) else None


def _moves(q: MixQuestion, before: Floats, after: Floats, start_cost: Floats) -> Floats:
    """(k, m): what the change from each row of ``before`` (k, n) to each of ``after`` (m, n) costs; infinite where it
    is not possible."""
    started = np.maximum(after[None, :, :] - before[:, None, :], 0)
    cost: Floats = started @ start_cost
    if q.most_changes is not None:
        left_ = np.maximum(before[:, None, :] - after[None, :, :], 0)
        cost = np.where(started.sum(axis=2) + left_.sum(axis=2) > q.most_changes, np.inf, cost)
    for block in q.blocks:
        if np.isfinite(block.most) and block.of_changes:
            both = (before[:, None, block.kinds] + started[:, :, block.kinds]) @ block.each
            cost = np.where(both > block.most // block.unit * block.unit + 1e-9, np.inf, cost)
    return cost
