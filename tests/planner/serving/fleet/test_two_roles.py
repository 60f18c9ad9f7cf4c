"""Fleets of prefill and decode engines: against an exhaustive twin, and by their properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fleet_twin import CLOSE, fleets, instance

from planner.serving.fleet.fleet import Candidates, FleetChoice, NodePool, Objective, choose_fleet
from planner.solving.packing import AGGREGATED, DECODE, PREFILL
from profiles.errors import Infeasible, InputError


def two_roles(seed: int) -> tuple[list[NodePool], Candidates]:
    """A small instance of :mod:`test_fleet`, of which each candidate has a role."""
    pools, c = instance(seed)
    rng = np.random.default_rng(seed + 10_000)
    role = rng.choice([PREFILL, DECODE], len(c.pool)).astype(np.int64)
    role[0], role[-1] = PREFILL, DECODE
    return pools, Candidates(c.pool, c.gpus, c.block, c.capacity_rps, c.latency_ms, role, c.stands)


def of(c: Candidates, role: int) -> np.ndarray:
    return c.roles == role


def carried(c: Candidates, y: np.ndarray) -> float:
    return min(float((c.capacity_rps * y)[of(c, role)].sum()) for role in (PREFILL, DECODE))


def latency(c: Candidates, y: np.ndarray, rate: float) -> float:
    """Least mean: in each role the fastest engines first."""
    total = 0.0
    for role in (PREFILL, DECODE):
        left = rate
        for v in sorted(np.flatnonzero(of(c, role)), key=lambda v: float(c.latency_ms[v])):
            served = min(left, float(c.capacity_rps[v] * y[v]))
            total += served * float(c.latency_ms[v])
            left -= served
    return total / rate


def twin(pools: list[NodePool], c: Candidates, objective: str, rate: float | None) -> float | None:
    """The best objective of any fleet that packs, as a minimum; None where none does it."""
    prices = np.array([pools[p].usd_per_gpu_hour or 0.0 for p in c.pool])
    best: float | None = None
    for fleet in fleets(pools, c):
        y = np.array(fleet)
        most = carried(c, y)
        if most <= 0 or (rate is not None and most < rate * (1 - 1e-9)):
            continue
        value = {
            "throughput": -most,
            "cost": float((prices * c.gpus) @ y),
            "gpus": float(c.gpus @ y),
            "latency": latency(c, y, rate) if rate else 0.0,
            "energy": latency(c, y, rate or most) + float(c.stands @ y) / (rate or most),
        }[objective]
        best = value if best is None else min(best, value)
    return best


@pytest.mark.parametrize("objective", ["throughput", "cost", "gpus", "latency", "energy"])
@pytest.mark.parametrize("part", range(3))
def test_the_choice_is_what_trying_every_fleet_finds(objective: Objective, part: int) -> None:
    solved = 0
    for seed in range(part * 70, part * 70 + 70):
        pools, c = two_roles(seed)
        if set(c.roles.tolist()) != {PREFILL, DECODE}:
            continue
        most = twin(pools, c, "throughput", None)
        rate = None if objective == "throughput" else (seed % 8 + 1) / 7 * (-most if most else 1.0)
        expected = twin(pools, c, objective, rate)
        if expected is None:
            with pytest.raises(Infeasible):
                choose_fleet(pools, c, objective, rate)
            continue
        solved += 1
        choice = choose_fleet(pools, c, objective, rate)
        assert choice.solution.objective is not None
        assert abs(choice.solution.objective) == pytest.approx(abs(expected), rel=CLOSE), seed
        require_both_roles(pools, c, choice, rate)
    assert solved >= 10


def require_both_roles(pools: list[NodePool], c: Candidates, choice: FleetChoice, rate: float | None) -> None:
    """Each role carries all the traffic; otherwise as for any fleet."""
    load = carried(c, choice.engines) if rate is None else rate
    for role in (PREFILL, DECODE):
        mine = of(c, role)
        assert choice.shares[mine].sum() == pytest.approx(1.0)
        assert (choice.shares[mine] * load <= (c.capacity_rps * choice.engines)[mine] * (1 + 1e-8)).all()
        half = FleetChoice(
            np.where(mine, choice.engines, 0),
            np.where(mine, choice.shares, 0.0),
            tuple(engine for engine in choice.placement if mine[engine.candidate]),
            choice.solution,
            choice.binding,
        )
        alone = c.take(np.flatnonzero(mine))
        assert alone.needed == (PREFILL, DECODE)
        used = {(e.pool, node, gpu) for e in half.placement for node, gpus in e.pieces for gpu in gpus}
        assert len(used) == int((c.gpus * half.engines).sum())
    everywhere = [(e.pool, node, gpu) for e in choice.placement for node, gpus in e.pieces for gpu in gpus]
    assert len(set(everywhere)) == len(everywhere)


def test_more_gpus_never_cost_throughput() -> None:
    c = Candidates(
        *(np.array(column) for column in ([0, 0, 0], [1, 2, 4], [1, 2, 4])),
        np.array([1.0, 2.5, 3.0]),
        np.array([1.0, 1.0, 1.0]),
        np.array([PREFILL, DECODE, DECODE]),
    )
    carried_by = [
        choose_fleet([NodePool("A", -(-n // 8), 8, 1.0, n)], c, "throughput").solution.objective for n in range(3, 25)
    ]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(carried_by))  # type: ignore[operator]


def test_a_role_without_engines_is_no_fleet() -> None:
    c = Candidates(*(np.array([v]) for v in (0, 1, 1)), np.array([1.0]), np.array([1.0]), np.array([PREFILL]))
    with pytest.raises(Infeasible):
        choose_fleet([NodePool("A", 1, 8, 1.0, 8)], c, "throughput")


def test_aggregated_engines_are_not_mixed_with_the_others() -> None:
    two = (np.array([v, v]) for v in (0, 1, 1))
    with pytest.raises(InputError, match="some are aggregated"):
        Candidates(*two, np.array([1.0, 1.0]), np.array([1.0, 1.0]), np.array([AGGREGATED, DECODE]))


def test_the_fewest_gpus_named_hold_both_roles() -> None:
    c = Candidates(
        *(np.array(column) for column in ([0, 0], [2, 4], [2, 4])),
        np.array([3.0, 2.0]),
        np.array([1.0, 1.0]),
        np.array([PREFILL, DECODE]),
    )
    with pytest.raises(Infeasible) as failure:
        choose_fleet([NodePool("A", 1, 4, 1.0, 4)], c, "throughput")
    assert failure.value.details["gpus_needed"] == {"A": 6}
