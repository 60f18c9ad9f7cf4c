"""Every fleet of small questions, tried one by one: what :func:`solve_mix` must agree with."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
from scipy.optimize import linprog  # type: ignore[import-untyped]

from planner.solving.mix.master import per_hour
from planner.solving.mix.question import Block, Kinds, MixQuestion, Places, Survive
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
    return out


def packs(q: MixQuestion, supply: int) -> list[tuple[Floats, int]]:
    """(engines, nodes) of everything that a node of a supply may hold, and of every engine of several nodes."""
    assert q.places is not None
    kinds, n = q.kinds, len(q.kinds)
    mine = [v for v in range(n) if q.places.supply[v] == supply]
    node = int(kinds.node[mine[0]])
    out = [(np.eye(n)[v], int(kinds.gpus[v]) // node) for v in mine if kinds.gpus[v] > node]
    for counts in product(*(range(node // int(kinds.gpus[v]) + 1) for v in mine)):
        held = np.zeros(n)
        held[mine] = counts
        if 0 < held @ kinds.gpus <= node:
            out.append((held, 1))
    return out


def stands(q: MixQuestion, engines: Floats, work: Floats) -> bool:
    """Whether engines can stand so that they carry the load after the loss of any ``survive.nodes`` nodes, by some
    placement: nodes are filled one by one, as long as any so many of those filled may be lost."""
    assert q.places is not None
    places, known = q.places, dict[bytes, bool]()
    supplies = sorted(set(places.supply.tolist()))

    def survived(held: Floats) -> bool:
        left = np.maximum(engines - held, 0)
        if left.tobytes() not in known:
            known[left.tobytes()] = carried(work, left, q.survive.share)
        return known[left.tobytes()]

    def may_stand(new: Floats, beside: list[Floats]) -> bool:
        others = range(min(q.survive.nodes - 1, len(beside)) + 1)
        return all(survived(new + sum(some, np.zeros(len(new)))) for n in others for some in combinations(beside, n))

    def fill(supply: int, first: int, free: float, left: Floats, stood: list[Floats]) -> bool:
        """Whether ``left`` finds places on ``free`` nodes of a supply, by packs from ``first`` on, and what is of later
        supplies, too."""
        here = places.supply == supplies[supply]
        if not left[here].any():
            return supply + 1 == len(supplies) or fill(supply + 1, 0, nodes[supply + 1], left, stood)
        if left[here] @ q.kinds.gpus[here] > free * int(q.kinds.node[here][0]):
            return False
        return any(
            may_stand(held, stood) and fill(supply, place, free - taken, left - held, [*stood, held])
            for place, (held, taken) in enumerate(every[supply][first:], first)
            if (held <= left).all() and taken <= free
        )

    every, nodes = [packs(q, supply) for supply in supplies], []
    for supply in supplies:
        mine = np.flatnonzero(places.supply == supply)
        most = places.gpus[mine[0]] / q.kinds.node[mine[0]]
        if places.bought[mine[0]]:
            most = np.ceil(float(engines[mine] @ q.kinds.gpus[mine]) / int(q.kinds.node[mine[0]]))
        nodes.append(float(most))
    return fill(0, 0, nodes[0], engines, [])


def cheapest(question: MixQuestion) -> float:
    """The least cost of one or two steps; infinite where there is no fleet."""
    q, n = question, len(question.kinds)
    every = [np.array(counts, np.float64) for counts in product(range(MOST[n] + 1), repeat=n)]
    if q.steps == 1:
        every.sort(key=lambda engines: per_hour(q, engines))
    possible: list[list[Floats]] = []
    for work in q.work:
        here: list[Floats] = []
        for engines in every:
            if q.steps == 1 and here:
                break
            if any(block.each @ engines[block.kinds] > block.most + 1e-9 for block in q.blocks):
                continue
            after = every_loss(q, engines)
            holds = all(carried(work, engines - loss, q.survive.share if any(loss) else 1.0) for loss in after)
            if holds and (not q.survive.nodes or stands(q, engines, work)):
                here.append(engines)
        possible.append(here)
    if q.steps == 1:
        return per_hour(q, possible[0][0]) if possible[0] else np.inf
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


def in_zones(rng: np.random.Generator, asked: MixQuestion) -> MixQuestion:
    """``asked`` with pools in two zones, of which one may be lost, in one step."""
    pool = rng.integers(0, 2, len(asked.kinds))
    kinds = replace(asked.kinds, pool=pool, zone=pool)
    return replace(
        asked, kinds=kinds, work=asked.work[:1], seconds=asked.seconds[:1], cyclic=False, survive=Survive(zones=1)
    )


def on_nodes(rng: np.random.Generator, asked: MixQuestion, lost: int = 1) -> MixQuestion:
    """``asked`` with engines of one to eight GPUs on nodes of four of two supplies, of which ``lost`` may be, in one
    step: as many GPUs as are wanted, some nodes of four, or nodes that are bought."""
    n = len(asked.kinds)
    supply, sizes = rng.integers(0, 2, n), rng.choice([1, 2, 4, 8], n, p=[0.5, 0.25, 0.15, 0.1])
    have, whole, blocks = np.full(n, np.inf), np.zeros(n, np.bool_), []
    cost = asked.kinds.cost * sizes**0.7
    for each in set(supply.tolist()):
        mine, which, most = np.flatnonzero(supply == each), rng.integers(3), 4.0 * rng.integers(2, 7)
        if which:
            have[mine] = most
            unit = (4, 4 * float(np.mean(cost[mine] / sizes[mine]))) if which == 2 else (1, 0.0)
            blocks.append(Block(f"supply {each}", mine, sizes[mine].astype(float), most, *unit))
            whole[mine], cost[mine] = which == 2, 0.0 if which == 2 else cost[mine]
    kinds = replace(asked.kinds, cost=cost, gpus=sizes, node=np.full(n, 4), pool=supply, zone=np.full(n, -1))
    share = float(rng.choice([1, 1, 0.7]))
    return replace(
        asked, kinds=kinds, work=[1.5 * asked.work[0] / sizes**0.7], seconds=asked.seconds[:1], cyclic=False,
        survive=Survive(nodes=lost, share=share), blocks=blocks, places=Places(supply, have, whole),
    )  # fmt: skip
