"""Rounds of the programme over counts (:mod:`planner.solving.mix.master`) and of the programmes that share the load out
(:mod:`planner.solving.mix.carrying`).

A fleet that does not carry something yields prices at which it is worth too little; they hold in every step at that
step's own rates, and cut it off. First with counts that need not be whole, which is where most cuts are found; then
whole. What the rounds find too small is mended into a fleet that carries, so that there is an answer whenever time
ends. Cuts do not depend on what engines cost: a search can be asked again at other costs, and goes on from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from planner.solving.mix.carrying import ENOUGH, Carrying, cut_of
from planner.solving.mix.clock import Deadline
from planner.solving.mix.losses import Loss, OnNodes, losses, lowered, per_node, remaining, spread
from planner.solving.mix.master import Master, affordable, fits
from planner.solving.mix.mending import mend, mend_constant, timely
from planner.solving.mix.question import MOST_ENGINES, MixQuestion, required
from planner.solving.solvers import Floats, Ints

RELAXED_ROUNDS = 60
ROUNDS = 400

ALMOST = 0.02
"""Of an engine, that need not be there."""

BINDING = 2
"""Prices at which losses are foreseen, of each step."""

FIRST_GAP = 0.02
"""Relative gap of the first programme in whole counts, halved from round to round: early ones lack cuts anyway."""

WORST = 8
"""Known prices of which cuts are made at a time: the programmes over counts take longer than looking for them."""

ROUND_SHARE = 0.2
"""Of the time, for a round that is not the last."""

MOST_TOLD = 200
"""Prices that are handed on."""

EVERY: Loss = ((-1, 0),)
"""Stands for all losses of engines at once, of a cut of lowered prices."""

SCREENED = 1e-9
"""Relative shortfall at known prices that counts as one."""


class Rounds:
    """The search for one question: its programme over counts, its prices, and the best that was found."""

    def __init__(self, question: MixQuestion, deadline: Deadline, gap: float, *, worst: int = WORST) -> None:
        self.q, self.deadline, self.gap, self._worst = question, deadline, gap, worst
        self.share = question.survive.share
        self.taken = _taken(question)
        same: dict[bytes, int] = {}
        self.first = [same.setdefault(work.tobytes(), t) for t, work in enumerate(question.work)]
        self.lps = {t: Carrying(question.work[t]) for t in sorted(set(self.first))}
        self.master = Master(question, _upper(question))
        self.pool: list[Floats] = []
        self.known: list[Floats] = []  # of each price, what each step's load is worth at it, (steps,)
        self.cuts: set[tuple[int, int, Loss]] = set()
        self.certified: dict[tuple[int, bytes], float] = {}
        self._stacked = np.zeros((0, len(question.kinds))), np.zeros((0, question.steps))
        self._sharpened: set[bytes] = set()
        self.carrying: dict[bytes, Floats] = {}  # fleets that carry everything
        self.best: Floats | None = None
        self.best_cost = np.inf
        self.bound = 0.0
        self.relaxed: Floats | None = None
        self.infeasible = False
        self.rounds, self._told, self._warm = 0, 0, False
        self.uncut = False
        """Whether engines of the last separation lack something that no cut says: only where they stand does."""

    # -------------------------------------------------------------- cuts

    def learn(self, prices: Floats) -> int | None:
        """The index of new prices; None: there are none."""
        cut = cut_of(prices)
        if not cut.any():
            return None
        self.pool.append(cut)
        self.known.append(np.array([required(work, cut) for work in self.q.work]))
        return len(self.pool) - 1

    def stacked(self) -> tuple[Floats, Floats]:
        """(all known prices (k, n), what each step's load is worth at them (k, steps))."""
        if len(self._stacked[0]) < len(self.pool):
            self._stacked = np.array(self.pool), np.array(self.known)
        return self._stacked

    def add(self, t: int, price: int, loss: Loss) -> bool:
        """Whether the cut is a new one."""
        if isinstance(loss, OnNodes):
            return self.add_for_nodes(t, price, loss)
        if not self._is_new((t, price, loss)):
            return False
        share = self.share if loss else 1.0
        self.master.cut(t, self.pool[price], share * float(self.known[price][t]), loss)
        self.add_for_every_loss(t, price)
        return True

    def _is_new(self, key: tuple[int, int, Loss]) -> bool:
        known = key in self.cuts
        self.cuts.add(key)
        return not known

    def add_for_nodes(self, t: int, price: int, loss: OnNodes) -> bool:
        """Cuts that hold wherever engines stand, where these are lost with their nodes; whether one is new: as many
        engines as nodes are lost; the nodes that hold most of a kind; those that hold most of a supply."""
        prices, least, ask = self.pool[price], self.share * float(self.known[price][t]), self.q.survive
        taken = sorted((v for v, count in loss for _ in range(count)), key=lambda v: -prices[v])
        new = self.add(t, price, tuple(sorted(Counter(taken[: ask.nodes]).items())))
        for v in {v for v, _ in loss if prices[v] > 0 and self.q.places is not None}:
            assert self.q.places is not None
            supply = int(self.q.places.supply[v])
            if self.q.places.bought[v]:
                others = [w for w in taken if self.q.places.supply[w] != supply][: ask.nodes - 1]
                for many in range(len(others) + 1):
                    beside = tuple(sorted(Counter(others[:many]).items()))
                    if self._is_new((t, price, ((-2, v), *beside))):
                        self.master.bought_cut(t, prices, least, v, beside)
                        new = True
            elif np.isfinite(self.q.places.gpus[v]):
                if self._is_new((t, price, ((-3, v),))):
                    self.master.spread_cut(t, prices, least, v)
                    new = True
                if self._is_new((t, price, ((-4, supply),))):
                    self.master.cut(t, spread(self.q, prices, supply), least, ())
                    new = True
        return new

    def add_for_every_loss(self, t: int, price: int) -> bool:
        """The cut of :func:`lowered` prices; whether it is a new one."""
        least = self.share * float(self.known[price][t])
        if not self.taken.any() or least <= 0 or not self._is_new((t, price, EVERY)):
            return False
        self.master.cut(t, lowered(self.pool[price], least, self.taken), least, ())
        return True

    def wanting_after_losses(self, t: int, engines: Floats) -> int:
        """Adds cuts of lowered prices that ``engines`` (n,) violate, in parts or whole; how many."""
        if not self.taken.any() or not self.pool:
            return 0
        prices, known = self.stacked()
        need = (known[:, t] * self.share)[:, None]
        low = lowered(prices, np.maximum(need, 1e-300), self.taken)
        short = 1 - (low @ engines) / np.maximum(need[:, 0], 1e-300)
        order = [int(i) for i in np.argsort(-short)[: self._worst] if short[i] > SCREENED * 10]
        if not order:
            tight = int(np.argmax(short))
            with np.errstate(invalid="ignore", divide="ignore"):
                left = engines * np.where(prices[tight] > 0, low[tight] / prices[tight], 1.0)
            # What carries nothing beside the others yields no price of its own.
            theta, _, found = self.lps[self.first[t]].solve(left)
            new = self.learn(found) if theta < self.share - ENOUGH else None
            if new is not None and self.share * float(self.known[new][t]) > 0:
                least = self.share * float(self.known[new][t])
                if lowered(self.pool[new], least, self.taken) @ engines < least * (1 - SCREENED * 10):
                    order = [new]
        return sum(self.add_for_every_loss(t, price) for price in order)

    def wanting(self, t: int, engines: Floats, loss: Loss, worst: int | None = None) -> list[int]:
        """Known prices at which what is left is worth too little, the worst first, ``worst`` of them."""
        if not self.pool:
            return []
        after = remaining(engines, loss)
        prices, known = self.stacked()
        need = known[:, t] * (self.share if loss else 1.0)
        worth = prices @ after
        short = (need - worth) / np.maximum(need, 1e-300)
        order = np.argsort(-short)[: worst or self._worst]
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
        added, self.uncut = 0, False
        one = self.q.steps == 1
        rounded = np.rint(engines if whole else np.ceil(engines - ALMOST)).astype(np.int64)
        for t in range(self.q.steps):
            if self.deadline.left < 0:
                return max(added, 1)
            added += self.cut_off(t, engines[t], losses(self.q, rounded[t]) if whole or one else [()])
            if not whole:
                added += self.wanting_after_losses(t, engines[t])
        return added

    def cut_off(self, t: int, engines: Floats, after: Iterable[Loss]) -> int:
        """Adds cuts that ``engines`` (n,) violate in step ``t`` after losses; how many."""
        added = 0
        for loss in after:
            found = self.wanting(t, engines, loss)
            if not found:
                _, price = self.theta(t, engines, loss)
                found = [] if price is None else [price]
            new = sum(self.add(t, price, loss) for price in found)
            self.uncut |= bool(found) and not new
            added += new
        return added

    # -------------------------------------------------------------- answers

    def keep(self, engines: Floats) -> None:
        if not all(fits(self.q, each).all() and affordable(self.q, each) for each in engines):
            return
        cost = self.master.cost(engines)
        self.carrying[engines.tobytes()] = engines.copy()
        if cost < self.best_cost - 1e-12:
            self.best, self.best_cost = engines.copy(), cost

    @property
    def enough(self) -> bool:
        """Whether the best so far is good enough."""
        return self.best is not None and self.best_cost - self.bound <= self.gap * self.best_cost

    def try_mended(self, engines: Floats) -> None:
        """Keeps ``engines`` with more of them until all is carried, where the supplies have them."""
        found = mend(self, engines)
        if found is None and self.best is None and self.q.steps > 1:
            found = mend_constant(self, engines)
        if found is None:
            return
        self.keep(found)
        if found.tobytes() in self._sharpened:
            return
        if self.q.steps == 1:
            self._sharpen(found)
        else:
            self._leave_out(found)

    def _leave_out(self, engines: Floats) -> None:
        """Keeps what is left of ``engines`` (steps, n) when each step has no engine that it carries its load without,
        the dearest first: what is mended at few known prices has many."""
        self._sharpened.add(engines.tobytes())
        now = engines.copy()
        for t in range(self.q.steps):
            for v in np.argsort(-self.q.kinds.cost, kind="stable").tolist():
                while now[t, v] > 0 and self.deadline.left > 0:
                    now[t, v] -= 1
                    if not self.carries_step(t, now[t]):
                        now[t, v] += 1
                        break
        if not timely(self.q, now):  # the least that keeps engines up as long as they must be
            least = self.master.at_least(now, max(min(0.15 * self.deadline.left, 10.0), 0.2), 1e-4)
            if least is None or not self.stands(least):
                return
            now = least
        self.keep(now)

    def _try_alone(self) -> None:
        """Keeps fleets of one kind alone, as many as there may be: where mixing kinds on nodes is what no cut says."""
        for alone in np.eye(len(self.q.kinds)):
            self.try_mended(self.master.upper * alone)

    def _sharpen(self, engines: Floats) -> None:
        """Keeps what is left of ``engines`` (1, n) when engines are left out, and replaced by cheaper ones, as long as
        all is carried. What is not carried, by so little, yields the cuts that tell most."""
        now, cost, better = engines.copy(), self.q.kinds.cost, True
        while better and self.deadline.left > 0:
            better = False
            self._sharpened.add(now.tobytes())
            for row in _cheaper(now[0], cost, self.master.upper[0]):
                if fits(self.q, row).all() and self._carried(row):
                    now, better = row[None, :], True
                    self.keep(now)
                    break

    def _carried(self, engines: Floats) -> bool:
        """Whether whole ``engines`` (n,) carry the only step, also after every loss; cuts where they do not."""
        every = list(losses(self.q, engines.astype(np.int64)))
        for loss in every:
            known = self.wanting(0, engines, loss)
            for price in known:
                self.add(0, price, loss)
            if known:
                return False
        for loss in every:
            lacking = self.theta(0, engines, loss)[1]
            if lacking is not None:
                self.add(0, lacking, loss)
                return False
        return True

    def carries_step(self, t: int, engines: Floats) -> bool:
        """Whether whole ``engines`` (n,) carry step ``t``, also after every loss."""
        return not any(
            self.wanting(t, engines, loss, worst=1) or self.theta(t, engines, loss)[1] is not None
            for loss in losses(self.q, engines.astype(np.int64))
        )

    def stands(self, engines: Floats) -> bool:
        """Whether ``engines`` (steps, n), more than some that carry everything, do so where they stand, too."""
        return not self.q.survive.nodes or all(self.carries_step(t, each) for t, each in enumerate(engines))

    def foresee(self, relaxed: Floats) -> None:
        """Cuts of the losses that whole counts near ``relaxed`` (steps, n) will have to survive, at the prices that
        bind most: what would otherwise be found one round after another."""
        if not self.q.survive.any:
            return
        for t in range(self.q.steps):
            prices, known = self.stacked()
            need = known[:, t]
            slack = (prices @ relaxed[t] - need) / np.maximum(need, 1e-300)
            binding = [int(i) for i in np.argsort(slack)[:BINDING]]
            present = np.where(relaxed[t] > ALMOST, np.maximum(np.ceil(relaxed[t]), 1), 0).astype(np.int64)
            for loss in losses(self.q, present):
                for price in binding if loss else ():
                    self.add(t, price, loss)

    # -------------------------------------------------------------- the search

    def begin(self, prices: Sequence[Floats]) -> None:
        """``prices``: known from questions like this one."""
        for price in prices:
            self.learn(price)
        self._told = len(self.pool)
        kinds = self.q.kinds
        first = self.learn(kinds.cost if kinds.cost.any() else kinds.gpus.astype(np.float64))
        if first is not None:
            for t in range(self.q.steps):
                self.add(t, first, ())

    def told(self) -> tuple[Floats, ...]:
        """Prices to begin questions like this one with: those that were found last."""
        return tuple(self.pool[-MOST_TOLD:])

    def untold(self) -> list[Floats]:
        """Prices that were learnt since this was asked last."""
        new, self._told = self.pool[self._told :], len(self.pool)
        return new

    def relax(self, seconds: float) -> None:
        """Counts that need not be whole, until they carry everything or 0.4 of ``seconds`` have passed."""
        for _ in range(RELAXED_ROUNDS):
            found = self.master.solve(whole=False, seconds=self.deadline.wall(self.deadline.left), gap=self.gap)
            if found.engines is None:
                self.infeasible = found.proved and self.best is None
                return
            self.bound, self.relaxed = max(self.bound, found.bound), found.engines
            if self.deadline.left < 0.6 * seconds or not self.separate(found.engines, whole=False):
                return
            self.rounds += 1

    def whole(self, seconds: float) -> None:
        """Whole counts, until the best is good enough or time is up."""
        first = self.rounds
        while not self.infeasible and self.rounds < ROUNDS and self.deadline.left > 0:
            last = self.gap / 2
            rough = last if self._warm else max(last, FIRST_GAP * 0.5 ** (self.rounds - first))
            share = 1.0 if self.best is None or rough <= last else ROUND_SHARE
            longest = min(self.deadline.left, max(share * seconds, 0.2)) * (1.0 if self.best is not None else 0.6)
            found = self.master.solve(
                whole=True,
                seconds=self.deadline.wall(longest),
                gap=rough,
                start=self.best,
            )
            if found.engines is None:
                self.infeasible = found.proved and self.best is None
                return
            self.rounds += 1
            self.bound = max(self.bound, found.bound)
            added = self.separate(found.engines, whole=True)
            if not added and not self.uncut:
                self.keep(found.engines)
                if rough <= last:
                    return
            else:
                self.try_mended(found.engines)
                if self.best is None and not added:
                    self._try_alone()
                if not added and rough <= last:
                    return  # what holds wherever engines stand says no more of it
            if self.enough:
                return

    def again(self, cost: Floats, deadline: Deadline) -> None:
        """The same question at another ``cost`` (n,) of each kind: the best of the fleets that were found, and no bound
        yet."""
        self.deadline, self._warm = deadline, True
        if (cost == self.q.kinds.cost).all():
            return
        self.q = replace(self.q, kinds=replace(self.q.kinds, cost=cost))
        self.anew(cost, deadline)

    def anew(self, cost: Floats, deadline: Deadline) -> None:
        """The same at another ``cost`` of the columns of the programme over counts."""
        self.deadline, self._warm = deadline, bool(self.pool)
        self.master.costs(cost)
        self.bound, self.best_cost = 0.0, np.inf
        self._sharpened = set()
        for engines in list(self.carrying.values()):
            self.keep(engines)


def _cheaper(engines: Floats, cost: Floats, upper: Ints) -> Iterator[Floats]:
    """``engines`` (n,) without one of them, and with a cheaper one in its place, what saves most first."""
    room = np.flatnonzero(engines < upper).tolist()
    moves = [(float(cost[v]), v, -1) for v in np.flatnonzero(engines > 0).tolist()]
    moves += [(float(cost[v] - cost[w]), v, w) for _, v, _ in moves for w in room if cost[w] < cost[v] - 1e-9]
    for _, v, w in sorted(moves, key=lambda move: -move[0]):
        row = engines.copy()
        row[v] -= 1
        if w >= 0:
            row[w] += 1
        yield row


def _taken(question: MixQuestion) -> Floats:
    """(n,) how many engines of each kind any loss may take, of any of these kinds together."""
    return np.full(len(question.kinds), float(max(question.survive.engines, question.survive.nodes)))


def _upper(question: MixQuestion) -> Ints:
    """(steps, n): what carries all that a kind can, and what may be lost of it; no more than its supplies have."""
    kinds, out = question.kinds, []
    spare = question.survive.engines + question.survive.nodes * per_node(kinds)
    most = np.full(len(kinds), np.inf)
    for block in question.blocks:
        most[block.kinds] = np.minimum(most[block.kinds], np.floor(block.most / block.each + 1e-9))
    idle = ~np.any([np.isfinite(work).any(axis=0) for work in question.work], axis=0)  # carry nothing
    ever = np.zeros(len(kinds))
    for work in question.work:
        ever = np.maximum(ever, np.ceil(np.where(np.isfinite(work), work, 0.0).sum(axis=0) - 1e-9) + spare)
    for work in question.work:
        useful = np.ceil(np.where(np.isfinite(work), work, 0.0).sum(axis=0) - 1e-9) + spare
        longer = question.steps > 1 or question.before is not None
        upper = np.minimum(ever if longer else useful, most)
        upper[idle] = 0 if question.before is None else question.before[idle]
        out.append(np.minimum(upper, MOST_ENGINES))
    return np.array(out).astype(np.int64)
