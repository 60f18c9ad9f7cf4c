"""A fleet that is a little too small, made large enough: so that there is an answer whenever time ends."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from planner.solving.mix.clock import Deadline
from planner.solving.mix.losses import ALL, Loss, losses, remaining
from planner.solving.mix.master import Master, affordable, fits
from planner.solving.mix.question import MixQuestion
from planner.solving.solvers import Floats

MOST_TRIES = 300


class Searched(Protocol):
    """What a search knows: its prices (``pool``), what each step's load is worth at them (``known``), and how to find
    what is wanting."""

    q: MixQuestion
    deadline: Deadline
    share: float
    master: Master
    pool: list[Floats]
    known: list[Floats]

    def stacked(self) -> tuple[Floats, Floats]: ...
    def wanting(self, t: int, engines: Floats, loss: Loss, worst: int | None = None) -> list[int]: ...
    def theta(self, t: int, engines: Floats, loss: Loss) -> tuple[float, int | None]: ...
    def stands(self, engines: Floats) -> bool: ...


def mend(search: Searched, engines: Floats) -> Floats | None:
    """``engines`` (steps, n) with engines added, step by step, until every step carries its load after every loss. Each
    that is added gains most, at the prices of what is lacking, for what it costs; None: no supply has one left, or time
    is up."""
    q, out = search.q, np.clip(engines, 0.0, search.master.upper)
    cost = _costs(q)
    for t in range(q.steps):
        _fit(q, out[t])
        if not _carry(search, out, t, cost):
            return None
    if timely(q, out):
        return out
    # More engines never carry less: what time asks for beside is for the programme over counts.
    more = search.master.at_least(out, max(min(0.15 * search.deadline.left, 10.0), 0.2), 1e-4)
    return more if more is not None and search.stands(more) else None


def mend_constant(search: Searched, engines: Floats) -> Floats | None:
    """One fleet for all steps, made of the most of each kind in any step of ``engines`` (steps, n); None: as of
    :func:`mend`."""
    q, row = search.q, np.clip(engines, 0.0, search.master.upper).max(axis=0)
    _fit(q, row)
    out, cost = np.tile(row, (q.steps, 1)), _costs(q)
    if not all(_carry(search, out, t, cost, always=True) for t in range(q.steps)):
        return None
    # What never changes keeps to any least time up, and needs no room for replacements.
    return out if all(affordable(q, each) for each in out) and _changes(q, out, 0) else None


def _carry(search: Searched, out: Floats, t: int, cost: Floats, *, always: bool = False) -> bool:
    """Adds engines to step ``t`` of ``out`` (steps, n), or to all steps, until it carries its load after every loss."""
    q = search.q
    for _ in range(MOST_TRIES):
        if search.deadline.left < 0:
            return False
        lack = _lack(search, t, out[t])
        if lack is None:
            return True
        price, short, loss = lack
        gain = search.pool[price].copy()
        for v, count in loss:
            if count >= ALL:
                gain[v] = 0.0
        gain[out[t] >= search.master.upper[t]] = 0.0
        found = _next(q, out, t, gain, cost, short, always=always)
        if found is None:
            return False
        mine = slice(None) if always else t
        out[mine, found] += 1
        more = int(min(short / gain[found] - 1, search.master.upper[t][found] - out[t][found]))
        if more >= 1 and not q.blocks:
            out[mine, found] += more
    return False


def _fit(q: MixQuestion, engines: Floats) -> None:
    """Leaves out of ``engines`` (n,), which were rounded up, what supplies have not."""
    for block in q.blocks:
        while float(block.each @ engines[block.kinds]) > block.most + 1e-9:
            over = float(block.each @ engines[block.kinds]) - block.most
            there = engines[block.kinds] > 0
            enough = there & (block.each >= over - 1e-9)
            of_use = np.where(enough, block.each, np.inf) if enough.any() else np.where(there, -block.each, np.inf)
            engines[block.kinds[int(np.argmin(of_use))]] -= 1


def _costs(q: MixQuestion) -> Floats:
    cost = np.maximum(q.kinds.cost, 1e-9)
    for block in q.blocks:
        if block.unit > 1:
            each = np.zeros(len(cost))
            each[block.kinds] = block.each / block.unit * block.unit_cost
            cost = np.maximum(cost, each)
    return cost


def _next(q: MixQuestion, out: Floats, t: int, gain: Floats, cost: Floats, short: float, *, always: bool) -> int | None:
    """The kind to add one of: the cheapest of those that close what is lacking, unless one that gains more for its cost
    is not much dearer; first those that there is room for."""
    order: list[int] = np.argsort(cost / np.maximum(gain, 1e-300)).tolist()
    room = [v for v in order if gain[v] > 0 and _has_room(q, out, t, v, always=always)]
    if not room:
        return None
    closing = [v for v in room if gain[v] >= short - 1e-12]
    cheapest = min(closing, key=lambda v: float(cost[v])) if closing else room[0]
    best = room[0]
    rest = np.ceil(short / gain[best] - 1e-9) * cost[best]
    return cheapest if cost[cheapest] <= rest else best


def _has_room(q: MixQuestion, out: Floats, t: int, v: int, *, always: bool) -> bool:
    """Whether one more of ``v`` fits in step ``t``, also as engines change before and after it; ``always``: in all."""
    more = out.copy()
    more[t][v] += 1
    if q.blocks and not fits(q, more[t]).all():
        return False
    if always:
        return True
    steps = [s for s in (t, t + 1) if s < q.steps or q.cyclic]
    return all(_changes(q, more, s % q.steps) for s in steps)


def _changes(q: MixQuestion, engines: Floats, t: int) -> bool:
    """Whether step ``t`` can follow the one before it: supplies while replacements start, and the most changes."""
    if q.steps == 1 and q.before is None:
        return True
    before = engines[t - 1] if t or q.cyclic else q.before
    if before is None or (q.cyclic and q.steps == 1):
        return True
    return change_is_possible(q, before.astype(np.float64), engines[t])


def change_is_possible(q: MixQuestion, before: Floats, after: Floats) -> bool:
    """Whether engines ``before`` (n,) can become those ``after``: supplies while replacements start, most changes."""
    starts = np.maximum(after - before, 0)
    if q.most_changes is not None and starts.sum() + np.maximum(before - after, 0).sum() > q.most_changes:
        return False
    both = before + starts
    return all(
        float(block.each @ both[block.kinds]) <= block.most // block.unit * block.unit + 1e-9
        for block in q.blocks
        if np.isfinite(block.most) and block.of_changes
    )


def _lack(search: Searched, t: int, engines: Floats) -> tuple[int, float, Loss] | None:
    """(prices, what is lacking at them, after which loss); None: nothing is."""
    for loss in losses(search.q, engines.astype(np.int64)):
        found = search.wanting(t, engines, loss, worst=1)
        price = found[0] if found else search.theta(t, engines, loss)[1]
        if price is not None:
            need = float(search.known[price][t]) * (search.share if loss else 1.0)
            return price, need - float(search.pool[price] @ remaining(engines, loss)), loss
    return None


def timely(q: MixQuestion, engines: Floats) -> bool:
    """Whether what a mended fleet changes from step to step is allowed."""
    budget = all(affordable(q, each) for each in engines)
    settled = q.steps == 1 and q.before is None
    return budget and (
        settled or (not (q.kinds.min_up_s > 0).any() and all(_changes(q, engines, t) for t in range(q.steps)))
    )
