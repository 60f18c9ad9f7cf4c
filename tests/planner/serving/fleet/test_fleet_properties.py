"""The fleet choice by its properties."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from fleet_twin import (
    CLOSE,
    MODES,
    candidates,
    pool,
    require_sound,
    take,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.serving.fleet.fleet import Candidates, NodePool, Objective, choose_fleet
from planner.solving.packing import with_gpus
from profiles.errors import Infeasible

property_test = settings(derandomize=True, database=None, deadline=None, max_examples=20)


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[NodePool], Candidates, float]:
    """Pools, candidates and a rate between 5 % and 130 % of a rough total capacity."""
    pools = [
        pool(name, draw(st.integers(1, 20)), draw(st.sampled_from([3, 4, 6, 8])), draw(st.floats(0.1, 9.0)))
        for name in "AB"[: draw(st.integers(1, 2))]
    ]
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        block = draw(st.integers(1, 6))
        gpus = block * draw(st.integers(1, 3))
        row = (
            draw(st.integers(0, len(pools) - 1)),
            gpus,
            block,
            gpus * draw(st.floats(0.2, 3)),
            draw(st.floats(1, 500)),
        )
        rows.append(row)
    return pools, candidates(*rows), draw(st.floats(0.05, 1.3)) * sum(p.gpus for p in pools)


def optimum(pools: list[NodePool], c: Candidates, objective: Objective, rate: float | None) -> float:
    """The objective as a minimum; infinite where no fleet does it."""
    try:
        choice = choose_fleet(pools, c, objective, rate)
    except Infeasible:
        return math.inf
    require_sound(pools, c, choice, rate)
    assert choice.solution.objective is not None
    return -choice.solution.objective if objective == "throughput" else choice.solution.objective


def no_worse(new: float, old: float) -> bool:
    return new <= old + CLOSE * abs(old) if math.isfinite(old) else True


@property_test
@given(questions(), st.integers(1, 9))
def test_more_gpus_never_carry_less(question: tuple[list[NodePool], Candidates, float], more: int) -> None:
    pools, c, _ = question
    larger = [with_gpus(pools[0], pools[0].gpus + more), *pools[1:]]
    assert no_worse(optimum(larger, c, "throughput", None), optimum(pools, c, "throughput", None))


@property_test
@given(questions())
def test_twice_the_nodes_carry_at_least_twice_as_much(question: tuple[list[NodePool], Candidates, float]) -> None:
    pools, c, _ = question
    half = [with_gpus(p, p.nodes * p.gpus_per_node) for p in pools]
    double = [with_gpus(p, 2 * p.gpus) for p in half]
    once = optimum(half, c, "throughput", None)
    assert no_worse(optimum(double, c, "throughput", None), 2 * once if math.isfinite(once) else once)


@property_test
@given(questions(), st.sampled_from(MODES))
def test_a_further_candidate_never_makes_the_optimum_worse(
    question: tuple[list[NodePool], Candidates, float], mode: tuple[Objective, bool]
) -> None:
    pools, c, rate = question
    fewer = take(c, list(range(len(c.pool) - 1)))
    asked = rate if mode[1] else None
    assert no_worse(optimum(pools, c, mode[0], asked), optimum(pools, fewer, mode[0], asked))


@property_test
@given(questions(), st.floats(0.05, 1.0), st.sampled_from(["cost", "gpus", "latency"]))
def test_a_lower_rate_never_costs_more(
    question: tuple[list[NodePool], Candidates, float], part: float, objective: Objective
) -> None:
    pools, c, rate = question
    assert no_worse(optimum(pools, c, objective, rate * part), optimum(pools, c, objective, rate))


@property_test
@given(questions(), st.sampled_from(MODES), st.randoms(use_true_random=False))
def test_the_order_of_candidates_and_pools_does_not_matter(
    question: tuple[list[NodePool], Candidates, float], mode: tuple[Objective, bool], random: object
) -> None:
    pools, c, rate = question
    order = list(range(len(c.pool)))
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = take(c, order)
    turned = replace(moved, pool=len(pools) - 1 - moved.pool)
    asked = rate if mode[1] else None
    before, after = optimum(pools, c, mode[0], asked), optimum(pools[::-1], turned, mode[0], asked)
    assert after == pytest.approx(before, rel=CLOSE)


@property_test
@given(questions(), st.sampled_from(MODES), st.sampled_from([1e-5, 1e5]))
def test_the_unit_of_the_rate_does_not_matter(
    question: tuple[list[NodePool], Candidates, float], mode: tuple[Objective, bool], unit: float
) -> None:
    pools, c, rate = question
    scaled = replace(c, capacity_rps=c.capacity_rps * unit, standing=c.stands * unit)
    asked = rate if mode[1] else None
    before = optimum(pools, c, mode[0], asked)
    after = optimum(pools, scaled, mode[0], asked * unit if asked else None)
    assert after == pytest.approx(before * (unit if mode[0] == "throughput" else 1.0), rel=CLOSE)


def test_an_engine_that_costs_more_joules_is_not_taken_because_it_is_there() -> None:
    pools = [pool(name, 1, 3, 1.0) for name in "AB"]
    thrifty, other = (1, 1, 1, 1.0, 1.0), (0, 1, 1, 1.0, 2.0)
    assert optimum(pools, candidates(thrifty, other), "energy", None) == pytest.approx(1.0)
