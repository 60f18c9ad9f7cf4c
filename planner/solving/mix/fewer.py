"""Kinds of engine that others make needless, left out before anything is chosen.

A kind is needless where some engines of one other kind, in its place, carry every group of every step that it carries,
cost no more, take no more of any supply, and lose no more to what is to be survived: of any fleet that has it there is
one as good without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from planner.solving.mix.question import Block, Kinds, MixQuestion, Places
from planner.solving.solvers import Bools, Floats, Ints

MOST_FOR_ONE = 64
"""Engines of the other kind in the place of one."""

ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Fewer:
    """``question`` of the kinds ``kept`` (m,); ``by`` (n,) and ``times`` (n,): of each kind the one of ``kept`` (its
    index there) in its place and how many of them for one."""

    question: MixQuestion
    kept: Ints
    by: Ints
    times: Ints

    def replaced(self, engines: Ints | Floats) -> Ints:
        """``engines`` (steps, n) of all kinds as fleets of those that were kept."""
        out = np.zeros((len(engines), len(self.kept)), np.int64)
        for v, (w, times) in enumerate(zip(self.by.tolist(), self.times.tolist(), strict=True)):
            out[:, w] += times * np.asarray(engines[:, v], np.int64)
        return out

    def all_of(self, rows: Floats) -> Floats:
        """``rows`` (k, m) of those that were kept, of all kinds: 0 of the others."""
        out = np.zeros((len(rows), len(self.by)))
        out[:, self.kept] = rows
        return out

    def prices(self, prices: Floats) -> Floats:
        """(n,) prices of all kinds at which loads are worth as much as at ``prices`` (m,)."""
        return np.asarray(prices[self.by] * self.times, np.float64)


def fewer(question: MixQuestion) -> Fewer | None:
    """The question without needless kinds; None: there are none."""
    n = len(question.kinds)
    times = _in_place_of(question)
    gone: dict[int, int] = {}
    for v in range(n):
        others = [w for w in np.flatnonzero(times[v]).tolist() if w not in gone]
        if others:
            gone[v] = min(others, key=lambda w: float(question.kinds.cost[w]) * int(times[v, w]))
    if not gone:
        return None
    kept = np.array([v for v in range(n) if v not in gone], np.int64)
    place = {int(v): i for i, v in enumerate(kept)}
    by, total = np.zeros(n, np.int64), np.ones(n, np.int64)
    for v in range(n):
        now = v
        while now in gone:
            total[v] *= times[now, gone[now]]
            now = gone[now]
        by[v] = place[now]
    return Fewer(_of(question, kept, place), kept, by, total)


def _of(question: MixQuestion, kept: Ints, place: dict[int, int]) -> MixQuestion:
    def some(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[kept]

    where = question.places
    return replace(
        question,
        kinds=Kinds(*(getattr(question.kinds, field.name)[kept] for field in fields(Kinds))),
        work=[work[:, kept] for work in question.work],
        blocks=[_block(block, place) for block in question.blocks],
        before=some(question.before),
        paid=some(question.paid),
        shunned=some(question.shunned),
        places=None if where is None else Places(where.supply[kept], where.gpus[kept], where.bought[kept]),
    )


def _block(block: Block, place: dict[int, int]) -> Block:
    mine = [i for i, v in enumerate(block.kinds.tolist()) if v in place]
    return replace(
        block,
        kinds=np.array([place[int(block.kinds[i])] for i in mine], np.int64),
        each=block.each[np.array(mine, int)],
    )


def _in_place_of(question: MixQuestion) -> Ints:
    """(n, n): how many of each kind make one of another needless, [needless, other]; 0: none do."""
    n, kinds = len(question.kinds), question.kinds
    used = _used(question.blocks, n)
    work = np.concatenate([np.zeros((0, n)), *question.work])
    out = np.zeros((n, n), np.int64)
    for v in range(n):
        if question.before is not None and question.before[v]:
            continue  # it is there
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(np.isfinite(work[:, v])[:, None], work / work[:, v][:, None], 0.0)
        ratio = np.where(np.isnan(ratio), 0.0, ratio)
        many = np.ceil(ratio.max(axis=0, initial=0.0) - ROUNDING)
        many = np.maximum(many, 1.0)
        good = (many <= MOST_FOR_ONE) & (np.arange(n) != v)
        many = np.where(good, many, 1.0)
        good &= (kinds.startup_s <= kinds.startup_s[v]) & (kinds.min_up_s <= kinds.min_up_s[v])
        for price in (kinds.cost, question.of_budget):
            good &= many * price <= price[v] * (1 + ROUNDING)
        good &= (many * used <= used[:, v][:, None] * (1 + ROUNDING)).all(axis=0)
        good &= _no_more_lost(question, v, many)
        out[v] = np.where(good, many, 0)
    return out


def _used(blocks: Sequence[Block], n: int) -> Floats:
    """(blocks, n) what one engine takes of each supply."""
    used = np.zeros((len(blocks), n))
    for row, block in zip(used, blocks, strict=True):
        row[block.kinds] = block.each
    return used


def _no_more_lost(question: MixQuestion, v: int, many: Floats) -> Bools:
    """(n,): whether ``many`` of each in the place of one of ``v`` lose no more to what is to be survived, and need no
    more changes."""
    ask, kinds = question.survive, question.kinds
    good = np.ones(len(kinds), np.bool_)
    if question.most_changes is not None:
        good &= many == 1
    if ask.nodes:  # it stands where the other stood
        good &= (many == 1) & (kinds.gpus == kinds.gpus[v]) & (kinds.node == kinds.node[v])
        if question.places is not None:
            good &= question.places.supply == question.places.supply[v]
    if ask.spot_pools:
        good &= (kinds.spot == 0) | ((kinds.spot[v] > 0) & (kinds.pool == kinds.pool[v]))
    if ask.zones:
        good &= (kinds.zone < 0) | (kinds.zone == kinds.zone[v])
    return good
