"""The fleet choice with other engines, when time ends, and in what it says when there is no fleet."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fleet_twin import (
    CLOSE,
    MODES,
    candidates,
    instance,
    pool,
    require_sound,
    take,
)

from planner.serving.fleet.fleet import Candidates, NodePool, Objective, choose_fleet
from planner.solving.packing import with_gpus
from planner.solving.solvers import Answer, CpSat, Highs, Problem
from profiles.errors import Infeasible, InputError, LimitReached


@pytest.mark.parametrize(
    ("objective", "with_rate"),
    [mode for mode in MODES if mode not in (("latency", True), ("energy", True), ("energy", False))],
)
def test_cp_sat_agrees_with_highs(objective: Objective, with_rate: bool) -> None:
    for seed in range(20):
        pools, c = instance(seed)
        rate = 0.4 * float(c.capacity_rps.sum()) if with_rate else None
        try:
            expected = choose_fleet(pools, c, objective, rate)
        except Infeasible as failure:
            with pytest.raises(Infeasible, match=f"^{failure.message[:20]}"):
                choose_fleet(pools, c, objective, rate, solver=CpSat())
            continue
        found = choose_fleet(pools, c, objective, rate, solver=CpSat())
        require_sound(pools, c, found, rate)
        assert found.solution.objective == pytest.approx(expected.solution.objective, rel=CLOSE)


class Hurried(Highs):
    """A solver whose time ends in the given solve (counted from 0), with what it has found or with
    nothing."""

    def __init__(self, ends_in: int, found: bool) -> None:
        self.ends_in, self.found, self.solves = ends_in, found, 0

    def _answer(self, problem: Problem, time_limit_s: float) -> Answer:
        answer = super()._answer(problem, time_limit_s)
        self.solves += 1
        if self.solves <= self.ends_in:
            return answer
        return Answer("feasible", answer.values, 20.0) if self.found else Answer("time_limit")


def test_a_fleet_found_when_time_ends_carries_its_bound_and_is_not_called_optimal() -> None:
    c = candidates((0, 3, 3, 4.0, 50), (0, 5, 5, 6.0, 40))
    solution = choose_fleet([pool()], c, "throughput", solver=Hurried(0, found=True)).solution
    assert (solution.status, solution.objective, solution.bound, solution.gap) == (
        "feasible",
        10.0,
        20.0,
        0.5,
    )


@pytest.mark.parametrize("found", [True, False])
def test_time_that_ends_while_ties_are_broken_costs_no_proof(found: bool) -> None:
    c = candidates((0, 3, 3, 4.0, 50), (0, 5, 5, 6.0, 40))
    choice = choose_fleet([pool()], c, "throughput", solver=Hurried(1, found))
    require_sound([pool()], c, choice, None)
    assert choice.engines.tolist() == [1, 1]


def test_no_fleet_in_time_is_a_limit_reached_and_not_infeasible() -> None:
    with pytest.raises(LimitReached, match="found no fleet in 3 s") as failure:
        choose_fleet([pool()], candidates((0, 3, 3, 4.0, 50)), "gpus", 1.0, 3.0, Hurried(0, found=False))
    assert "time_limit_s" in failure.value.hint


# --- errors ---


def test_a_rate_above_all_capacity_names_the_highest_that_works_and_the_gpus_that_would_carry_it() -> None:
    pools = [pool("H100", 8), pool("L40S", 4, 4)]
    c = candidates((0, 5, 5, 7.0, 20), (0, 3, 3, 4.0, 20), (1, 2, 2, 1.0, 80))
    with pytest.raises(Infeasible) as failure:
        choose_fleet(pools, c, "cost", 20.0)
    error = failure.value
    assert error.message == "rate_rps: 20 requests/s is more than the GPUs of pool H100 and pool L40S carry, at most 13"
    assert error.hint == "offer at most 13 requests/s, or have 16 GPUs of pool H100 or 40 GPUs of pool L40S"
    assert error.details == {
        "binding": "GPUs of pool H100 and pool L40S",
        "highest_rate_rps": 13.0,
        "gpus_needed": {"H100": 16, "L40S": 40},
    }
    assert choose_fleet(pools, c, "cost", 13.0).solution.status == "optimal"
    assert choose_fleet([with_gpus(pools[0], 16)], take(c, [0, 1]), "cost", 20.0).solution.status == "optimal"


def test_the_highest_rate_named_can_be_served() -> None:
    for seed in range(20):
        pools, c = instance(seed)
        with pytest.raises(Infeasible) as failure:
            choose_fleet(pools, c, "latency", 1e4)
        highest = failure.value.details["highest_rate_rps"]
        assert isinstance(highest, float)
        if highest:
            assert choose_fleet(pools, c, "latency", highest).solution.status == "optimal"


def test_a_rate_beyond_all_measure_is_answered_all_the_same() -> None:
    with pytest.raises(Infeasible) as failure:
        choose_fleet([pool()], candidates((0, 5, 5, 0.5, 20), (0, 3, 3, 0.3, 20)), "gpus", 1e6)
    assert failure.value.details["gpus_needed"] == {"H100": 10_000_000}


def test_engines_that_fit_nowhere_name_the_gpus_that_would_host_one() -> None:
    c = candidates((0, 16, 8, 9.0, 20), (0, 12, 3, 9.0, 20))
    with pytest.raises(Infeasible) as failure:
        choose_fleet([pool()], c, "throughput")
    assert failure.value.message == (
        "no candidate fits the GPUs of pool H100, which has 8 in nodes of 8: every engine is larger"
    )
    assert failure.value.hint == "have 14 GPUs of pool H100, or offer smaller engines"


def test_blocks_larger_than_a_node_are_not_helped_by_more_nodes() -> None:
    with pytest.raises(Infeasible) as failure:
        choose_fleet([pool()], candidates((0, 16, 16, 9.0, 20)), "throughput")
    assert failure.value.message.endswith("larger than that or has blocks larger than a node")
    assert failure.value.hint == "offer smaller engines"
    assert failure.value.details["gpus_needed"] == {"H100": None}


def test_no_candidates_at_all_is_infeasible() -> None:
    with pytest.raises(Infeasible, match="none was given"):
        choose_fleet([pool()], candidates(), "throughput")


def test_cost_without_a_price_names_the_pool_and_the_way_out() -> None:
    pools = [pool("H100"), pool("B300", price=None)]
    with pytest.raises(InputError, match="pool B300: its price is not known") as failure:
        choose_fleet(pools, candidates((0, 1, 1, 1.0, 1), (1, 1, 1, 1.0, 1)), "cost", 1.0)
    assert "usd_per_gpu_hour" in failure.value.hint
    assert "objective gpus" in failure.value.hint
    assert choose_fleet(pools, candidates((0, 1, 1, 1.0, 1)), "cost", 1.0).solution.objective == 2.0


@pytest.mark.parametrize(
    ("objective", "rate", "words"),
    [
        ("cost", None, "rate_rps: the objective cost needs the rate"),
        ("gpus", None, "rate_rps: the objective gpus needs the rate"),
        ("throughput", 3.0, "rate_rps: 3 with the objective throughput"),
        ("latency", 0.0, "rate_rps: 0.0 is not a rate"),
        ("gpus", math.nan, "rate_rps: nan is not a rate"),
        ("goodput", None, "objective: 'goodput' is not known"),
    ],
)
def test_a_question_that_contradicts_itself_is_refused(objective: Objective, rate: float | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose_fleet([pool()], candidates((0, 1, 1, 1.0, 1)), objective, rate)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((0, 0, 1, 1.0, 1.0), r"candidates\[1\].gpus: 0"),
        ((0, 4, 0, 1.0, 1.0), r"candidates\[1\].block: 0"),
        ((0, 4, 3, 1.0, 1.0), r"candidates\[1\].block: 3"),
        ((-1, 4, 4, 1.0, 1.0), r"candidates\[1\].pool: -1"),
        ((3, 4, 4, 1.0, 1.0), r"candidates\[1\].pool: 3"),
        ((0, 4, 4, 0.0, 1.0), r"candidates\[1\].capacity_rps: 0.0"),
        ((0, 4, 4, math.nan, 1.0), r"candidates\[1\].capacity_rps: nan"),
        ((0, 4, 4, 1.0, math.inf), r"candidates\[1\].latency_ms: inf"),
    ],
)
def test_a_candidate_out_of_range_is_named(row: tuple[float, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose_fleet([pool()], candidates((0, 1, 1, 1.0, 1), row), "throughput")


def test_columns_of_different_lengths_are_refused() -> None:
    c = candidates((0, 1, 1, 1.0, 1))
    with pytest.raises(InputError, match=r"latency_ms \(2,\)"):
        Candidates(c.pool, c.gpus, c.block, c.capacity_rps, np.ones(2))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("A", 0, 8, 1.0, 0), "pool A: 0 nodes of 8"),
        (("A", 2, 8, 1.0, 8), "pool A: 8 GPUs do not make 2 nodes of 8"),
        (("A", 2, 8, 1.0, 17), "pool A: 17 GPUs do not make 2 nodes of 8"),
        (("A", 2, 8, -1.0, 16), "pool A: usd_per_gpu_hour -1.0"),
    ],
)
def test_a_pool_that_does_not_add_up_is_refused(arguments: tuple[str, int, int, float, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        NodePool(*arguments)


def test_two_pools_of_one_name_and_a_time_limit_of_zero_are_refused() -> None:
    c = candidates((0, 1, 1, 1.0, 1))
    with pytest.raises(InputError, match="a name occurs twice"):
        choose_fleet([pool(), pool()], c, "throughput")
    with pytest.raises(InputError, match="time_limit_s: 0"):
        choose_fleet([pool()], c, "throughput", time_limit_s=0)
