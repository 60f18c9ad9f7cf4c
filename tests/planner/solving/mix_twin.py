"""Every fleet of small questions, tried one by one: what :func:`solve_mix` must agree with."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
from scipy.optimize import linprog  # type: ignore[import-untyped]

from planner.solving.mix.question import Block, Kinds, MixQuestion, Survive
from planner.solving.solvers import Floats

MOST = {1: 8, 2: 7, 3: 5}
"""Engines of a kind that are tried, by the number of kinds."""


def carried(work: Floats, engines: Floats, share: float) -> bool:
    """Whether whole engines carry ``share`` of the load, by a linear programme of its own."""
    groups, n = work.shape
    cells = [(g, v) for g in range(groups) for v in range(n) if np.isfinite(work[g, v])]
    goal, equal, upper = np.zeros(len(cells) + 1), np.zeros((groups, len(cells) + 1)), np.zeros((n, len(cells) + 1))
    goal[-1], equal[:, -1] = -1, -1
    for k, (g, v) in enumerate(cells):
        equal[g, k], upper[v, k] = 1, work[g, v]
    found = linprog(goal, A_ub=upper, b_ub=engines, A_eq=equal, b_eq=np.zeros(groups), method="highs")
    return bool(-found.fun >= share - 1e-7)


def every_loss(question: MixQuestion, engines: Floats) -> set[tuple[float, ...]]:
    n, ask, kinds = len(engines), question.survive, question.kinds
    out = {(0.0,) * n}
    units = [v for v in range(n) for _ in range(int(engines[v]))]
    if ask.engines and units:
        for which in combinations(units, min(ask.engines, len(units))):
            out.add(tuple(float(which.count(v)) for v in range(n)))
    if ask.spot_pools:
        for pool in set(kinds.pool[kinds.spot > 0].tolist()):
            out.add(tuple(np.where((kinds.pool == pool) & (kinds.spot > 0), engines, 0.0).tolist()))
    zones = sorted(set(kinds.zone[(kinds.zone >= 0) & (engines > 0)].tolist()))
    for lost in combinations(zones, min(ask.zones, len(zones))) if ask.zones else ():
        out.add(tuple(np.where(np.isin(kinds.zone, lost), engines, 0.0).tolist()))
    if ask.nodes:
        whole = [tuple(map(float, each)) for each in product(*(range(int(count) + 1) for count in engines))]
        some = {each for each in whole if any(_on_one(kinds, pool, each) for pool in set(kinds.pool.tolist()))}
        lost_then = {(0.0,) * n}
        for _ in range(ask.nodes):
            lost_then = {tuple(a + b for a, b in zip(x, y, strict=True)) for x in lost_then for y in some}
        out |= {each for each in lost_then if all(x <= count for x, count in zip(each, engines, strict=True))}
    return out


def _on_one(kinds: Kinds, pool: int, engines: tuple[float, ...]) -> bool:
    """Whether one node of ``pool`` may hold ``engines``, or its part of them."""
    here = [v for v, count in enumerate(engines) if count]
    sizes = sum(engines[v] * min(kinds.gpus[v], kinds.node[v]) for v in here)
    return all(kinds.pool[v] == pool for v in here) and sizes <= max((kinds.node[v] for v in here), default=0)


def every_placement(kinds: Kinds, engines: tuple[int, ...], nodes: int) -> set[tuple[int, ...]]:
    """What is lost with any ``nodes`` nodes, of every way to place ``engines`` on nodes: engine by engine, each on the
    first nodes, or on any that are begun and have room."""
    units = [v for v, count in enumerate(engines) for _ in range(count)]
    out: set[tuple[int, ...]] = set()

    def place(rest: list[int], room: list[tuple[int, int]], where: list[tuple[int, ...]]) -> None:
        if not rest:
            for gone in combinations(range(len(room)), min(nodes, len(room))):
                lost = [v for v, at in zip(units, where, strict=True) if set(at) & set(gone)]
                out.add(tuple(lost.count(v) for v in range(len(engines))))
            return
        v, others = rest[0], rest[1:]
        need, node, pool = int(kinds.gpus[v]), int(kinds.node[v]), int(kinds.pool[v])
        if need >= node:
            more = [(pool, 0)] * (need // node)
            place(others, [*room, *more], [*where, tuple(range(len(room), len(room) + len(more)))])
            return
        for i, (its, free) in enumerate([*room, (pool, node)]):
            if its == pool and free >= need:
                left = [*room, (pool, node)] if i == len(room) else list(room)
                left[i] = (pool, free - need)
                place(others, left, [*where, (i,)])

    place(units, [], [])
    return out


def cheapest(question: MixQuestion) -> float:
    """The least cost of one or two steps; infinite where there is no fleet."""
    q, n = question, len(question.kinds)
    possible: list[list[Floats]] = []
    for work in q.work:
        here = []
        for counts in product(range(MOST[n] + 1), repeat=n):
            engines = np.array(counts, np.float64)
            if any(block.each @ engines[block.kinds] > block.most + 1e-9 for block in q.blocks):
                continue
            after = every_loss(q, engines)
            if all(carried(work, engines - loss, q.survive.share if any(loss) else 1.0) for loss in after):
                here.append(engines)
        possible.append(here)
    if q.steps == 1:
        return min((float(q.kinds.cost @ engines) for engines in possible[0]), default=np.inf)
    best, share = np.inf, q.share_of_time
    for first, second in product(*possible):
        cost = float(q.kinds.cost @ (first * share[0] + second * share[1]))
        if cost >= best:
            continue
        moves = [(first, second), *([(second, first)] if q.cyclic else [])]
        started = [started_for(q, before, after) for before, after in moves]
        if None not in started:
            best = min(best, cost + sum(each or 0.0 for each in started))
    return best


def started_for(q: MixQuestion, before: Floats, after: Floats) -> float | None:
    """What the change costs; None: the supplies have no room for it."""
    starts = np.maximum(after - before, 0)
    if any(block.each @ (before + starts)[block.kinds] > block.most + 1e-9 for block in q.blocks):
        return None
    return float(q.kinds.cost * q.kinds.startup_s / q.seconds.sum() @ starts)


def kinds_of(cost: Floats, *, spot: Floats | None = None, startup_s: float = 0.0) -> Kinds:
    n = len(cost)
    ones, each = np.ones(n, np.int64), np.arange(n)
    return Kinds(
        cost, ones, 8 * ones, each, -ones, np.zeros(n, np.int64) if spot is None else spot.astype(np.int64),
        np.full(n, startup_s), np.zeros(n),
    )  # fmt: skip


def random_question(rng: np.random.Generator) -> MixQuestion:
    """Two or three kinds, one to three groups, one or two steps; quotas, losses, spot, two services."""
    n, groups, steps = int(rng.integers(2, 4)), int(rng.integers(1, 4)), int(rng.integers(1, 3))
    cost = rng.integers(100, 1000, n) / 100
    capacity = rng.uniform(0.5, 4, (groups, n)) * cost ** rng.uniform(0.7, 1.2)
    capacity[rng.random((groups, n)) < 0.15] = 0
    if n == 3 and groups > 1 and rng.random() < 0.3:  # two services: the last kind serves the others' requests
        capacity[0, 2], capacity[1:, :2] = 0, 0
        capacity[1:, 2] = np.maximum(capacity[1:, 2], 0.5)
    capacity[capacity.max(axis=1) == 0, 0] = 1
    works = []
    for _ in range(steps):
        rate = rng.uniform(0.2, 3, groups)
        works.append(np.where(capacity > 0, rate[:, None] / np.maximum(capacity, 1e-9), np.inf))
    blocks = [
        Block(f"block {v}", np.array([v]), np.ones(1), float(rng.integers(1, 4))) for v in range(n)
        if rng.random() < 0.4
    ]  # fmt: skip
    engines = int(rng.integers(1, 3)) if rng.random() < 0.4 else 0
    survive = Survive(engines, spot_pools=int(rng.random() < 0.3), share=float(rng.choice([1, 1, 0.7])))
    kinds = kinds_of(cost, spot=rng.random(n) < 0.3, startup_s=float(rng.choice([0, 600])))
    return MixQuestion(
        kinds, works, np.full(steps, 3600.0), blocks, survive, cyclic=bool(steps > 1 and rng.random() < 0.5)
    )


def on_nodes(rng: np.random.Generator, asked: MixQuestion) -> MixQuestion:
    """``asked`` with engines of one to eight GPUs on nodes of four of two pools in two zones, of which a node, two or a
    zone may be lost, in one step."""
    n = len(asked.kinds)
    pool = rng.integers(0, 2, n)
    kinds = replace(asked.kinds, gpus=rng.choice([1, 2, 4, 8], n), node=np.full(n, 4), pool=pool, zone=pool)
    survive = [Survive(nodes=1), Survive(nodes=2), Survive(zones=1), Survive(engines=1, nodes=1, share=0.7)]
    which = survive[int(rng.integers(len(survive)))]
    return replace(asked, kinds=kinds, work=asked.work[:1], seconds=asked.seconds[:1], cyclic=False, survive=which)
