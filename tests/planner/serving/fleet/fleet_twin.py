"""An exhaustive twin of the fleet choice, small cases for it, and what every choice must keep."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from planner.serving.fleet.fleet import Candidates, FleetChoice, NodePool, Objective

CLOSE = 1e-7


def pool(name: str = "H100", gpus: int = 8, per_node: int = 8, price: float | None = 2.0) -> NodePool:
    return NodePool(name, -(-gpus // per_node), per_node, price, gpus)


def candidates(*rows: tuple[float, ...]) -> Candidates:
    """Rows of (pool, gpus, block, capacity_rps, latency_ms)."""
    columns = list(zip(*rows, strict=True)) or [()] * 5
    whole = [np.array(column, np.int64) for column in columns[:3]]
    return Candidates(*whole, *(np.array(column, np.float64) for column in columns[3:]))


def take(c: Candidates, order: list[int]) -> Candidates:
    return c.take(np.array(order, np.int64))


# --- the exhaustive twin: shares no code with the planner ---


@functools.cache
def packs(parts: tuple[int, ...], room: tuple[int, ...]) -> bool:
    """Whether parts (falling) fit into nodes with these free GPUs, by trying every node for every part."""
    if not parts:
        return True
    for free in sorted(set(room)):
        if free >= parts[0]:
            left = list(room)
            left.remove(free)
            if packs(parts[1:], tuple(sorted((*left, free - parts[0])))):
                return True
    return False


def parts_of(gpus: int, block: int, per_node: int) -> list[int] | None:
    """One engine's parts: inside a node where it can be, else node after node as many whole blocks as fit."""
    if block > per_node:
        return None
    most = per_node if gpus <= per_node else per_node - per_node % block
    parts = []
    while gpus:
        parts.append(min(gpus, most))
        gpus -= parts[-1]
    return parts


def fleets(pools: list[NodePool], c: Candidates) -> Iterator[tuple[int, ...]]:
    """Every vector of engine counts that packs."""
    rooms = [tuple(sorted([p.gpus_per_node] * (p.gpus // p.gpus_per_node) + [p.gpus % p.gpus_per_node])) for p in pools]
    cuts = [parts_of(int(g), int(b), pools[p].gpus_per_node) for p, g, b in zip(c.pool, c.gpus, c.block, strict=True)]

    def grow(counts: tuple[int, ...], load: tuple[tuple[int, ...], ...]) -> Iterator[tuple[int, ...]]:
        v = len(counts)
        if v == len(cuts):
            yield counts
            return
        p = int(c.pool[v])
        for count in itertools.count():
            cut = cuts[v]
            if count and cut is None:
                return
            parts = tuple(sorted((*load[p], *(cut or []) * count), reverse=True))
            if not packs(parts, rooms[p]):
                return
            yield from grow((*counts, count), (*load[:p], parts, *load[p + 1 :]))

    yield from grow((), ((),) * len(pools))


def mean_latency(c: Candidates, counts: np.ndarray, rate: float) -> float:
    left, total = rate, 0.0
    for v in sorted(range(len(counts)), key=lambda v: float(c.latency_ms[v])):
        served = min(left, float(c.capacity_rps[v]) * int(counts[v]))
        total += served * float(c.latency_ms[v])
        left -= served
    return total / rate


def twin(pools: list[NodePool], c: Candidates, objective: str, rate: float | None) -> tuple[float, float] | None:
    """(objective, the first tie-break) of the best fleet, both as minima; None where no fleet does it."""
    prices = np.array([pools[p].usd_per_gpu_hour or 0.0 for p in c.pool])
    best: tuple[float, float] | None = None
    fits = [v for v in range(len(c.pool)) if any(count for (count,) in fleets(pools, take(c, [v])))]
    least = min((float(c.latency_ms[v]) for v in fits), default=math.inf)
    for fleet in fleets(pools, c):
        y = np.array(fleet)
        capacity, gpus = float(c.capacity_rps @ y), float(c.gpus @ y)
        if not y.any() or (rate is not None and capacity < rate * (1 - 1e-9)):
            continue
        if objective == "latency" and rate is None and (c.latency_ms[y > 0] > least).any():
            continue
        key = {
            "throughput": (-capacity, gpus),
            "cost": (float((prices * c.gpus) @ y), gpus),
            "gpus": (gpus, -capacity),
            "latency": (mean_latency(c, y, rate), gpus) if rate is not None else (least, -capacity),
            "energy": (
                float(c.stands @ y) / (rate or capacity) + mean_latency(c, y, rate or capacity),
                gpus if rate is not None else -capacity,
            ),
        }[objective]
        if best is None or key[0] < best[0] - 1e-9 or (key[0] <= best[0] + 1e-9 and key[1] < best[1]):
            best = key
    return best


def instance(seed: int) -> tuple[list[NodePool], Candidates]:
    """One or two small pools, odd node sizes and partial last nodes among them; candidates of odd sizes and
    blocks."""
    rng = np.random.default_rng(seed)
    pools = []
    for name in ("A", "B")[: rng.integers(1, 3)]:
        per_node = int(rng.choice([2, 4, 5, 6, 8, 8]))
        gpus = int(rng.integers(1, min(3 * per_node, 14) + 1))
        pools.append(pool(name, gpus, per_node, float(rng.integers(1, 9)) / 2))
    rows = []
    for _ in range(rng.integers(1, 5)):
        block = int(rng.choice([1, 2, 3, 4, 5, 6]))
        gpus = block * int(rng.choice([1, 1, 1, 2, 3]))
        rows.append(
            (
                rng.integers(len(pools)),
                gpus,
                block,
                rng.integers(1, 7 * gpus + 1) / 4,
                rng.integers(1, 9) * 10,
            )
        )
    c = candidates(*rows)
    return pools, replace(c, standing=rng.integers(0, 60, len(rows)).astype(np.float64))


def require_sound(pools: list[NodePool], c: Candidates, choice: FleetChoice, rate: float | None) -> None:
    """What holds of every fleet: GPUs used once, pieces as the blocks demand, shares within capacity, a bound
    beside optimal."""
    used: set[tuple[int, int, int]] = set()
    for engine in choice.placement:
        assert engine.pool == c.pool[engine.candidate]
        p = pools[engine.pool]
        assert [len(gpus) for _, gpus in engine.pieces] == parts_of(
            int(c.gpus[engine.candidate]), int(c.block[engine.candidate]), p.gpus_per_node
        )
        assert len({node for node, _ in engine.pieces}) == len(engine.pieces)
        for node, gpus in engine.pieces:
            has = p.gpus_per_node if node < p.nodes - 1 else p.last_node_gpus
            assert 0 <= node < p.nodes
            assert 0 <= min(gpus) <= max(gpus) < has
            for gpu in gpus:
                assert (engine.pool, node, gpu) not in used
                used.add((engine.pool, node, gpu))
    placed = np.bincount([engine.candidate for engine in choice.placement], minlength=len(c.pool))
    assert placed.tolist() == choice.engines.tolist()
    assert choice.shares.sum() == pytest.approx(1.0)
    assert (choice.shares >= 0).all()
    assert (choice.shares[choice.engines == 0] == 0).all()
    if rate is not None:
        assert (choice.shares * rate <= c.capacity_rps * choice.engines * (1 + 1e-8)).all()
    assert choice.solution.status == "optimal"
    assert choice.solution.gap == 0.0
    assert choice.solution.values is not None
    assert choice.solution.values.tolist() == choice.engines.tolist()
    assert choice.binding


MODES: list[tuple[Objective, bool]] = [
    ("throughput", False),
    ("cost", True),
    ("gpus", True),
    ("latency", True),
    ("latency", False),
    ("energy", True),
    ("energy", False),
]
