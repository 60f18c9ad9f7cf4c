"""The fleet choice against an exhaustive twin, and by hand."""

from __future__ import annotations

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
    twin,
)

from planner.serving.fleet.fleet import Candidates, FleetChoice, NodePool, Objective, choose_fleet
from planner.solving.packing import with_gpus
from profiles.errors import Infeasible


@pytest.mark.parametrize(("objective", "with_rate"), MODES)
@pytest.mark.parametrize("part", [0, 1, *(pytest.param(part, marks=pytest.mark.slow) for part in (2, 3, 4))])
def test_the_choice_is_what_trying_every_fleet_finds(objective: Objective, with_rate: bool, part: int) -> None:
    for seed in range(part * 60, part * 60 + 60):
        pools, c = instance(seed)
        most = twin(pools, c, "throughput", None)
        rate = None
        if with_rate:
            # Up to the very highest that can be carried (7/7), where rounding would show, and one that cannot
            # (8/7).
            rate = (seed % 8 + 1) / 7 * (-most[0] if most else 1.0)
        expected = twin(pools, c, objective, rate)
        if expected is None:
            with pytest.raises(Infeasible) as failure:
                choose_fleet(pools, c, objective, rate)
            assert failure.value.details["highest_rate_rps"] == pytest.approx(-most[0] if most else 0.0, rel=CLOSE)
            continue
        choice = choose_fleet(pools, c, objective, rate)
        require_sound(pools, c, choice, rate)
        y = choice.engines
        sign = -1.0 if objective == "throughput" else 1.0
        assert choice.solution.objective == pytest.approx(sign * expected[0], rel=CLOSE), seed
        second = -float(c.capacity_rps @ y) if expected[1] < 0 else float(c.gpus @ y)
        assert second == pytest.approx(expected[1], rel=CLOSE), seed
        reached = {
            "throughput": float(c.capacity_rps @ y),
            "cost": sum(
                float(pools[p].usd_per_gpu_hour or 0) * g * k for p, g, k in zip(c.pool, c.gpus, y, strict=True)
            ),
            "gpus": float(c.gpus @ y),
            "latency": float(choice.shares @ c.latency_ms),
            "energy": float(choice.shares @ c.latency_ms) + float(c.stands @ y) / (rate or float(c.capacity_rps @ y)),
        }[objective]
        assert reached == pytest.approx(choice.solution.objective, rel=CLOSE), seed


def carried(pools: list[NodePool], c: Candidates, p: int, gpus: int) -> float:
    """The highest rate by the twin when pool ``p`` has ``gpus`` GPUs."""
    found = twin([with_gpus(q, gpus) if i == p else q for i, q in enumerate(pools)], c, "throughput", None)
    return -found[0] if found else 0.0


def test_the_fewest_gpus_named_for_a_rate_too_high_are_the_fewest() -> None:
    named = 0
    for seed in range(60):
        pools, c = instance(seed)
        most = twin(pools, c, "throughput", None)
        rate = 1.3 * -most[0] if most else 3.0
        with pytest.raises(Infeasible) as failure:
            choose_fleet(pools, c, "gpus", rate)
        needed = failure.value.details["gpus_needed"]
        assert isinstance(needed, dict)
        for p, one in enumerate(pools):
            alone = take(c, np.flatnonzero(c.pool == p).tolist())
            if one.name not in needed or needed[one.name] is None:
                # No candidate is of this pool, or none can ever be placed in its nodes.
                assert all(block > one.gpus_per_node for block in alone.block)
                continue

            if needed[one.name] <= 12:  # beyond, the twin takes too long
                named += 1
                assert carried(pools, alone, p, needed[one.name]) >= rate * (1 - 1e-9)
                assert needed[one.name] == 1 or carried(pools, alone, p, needed[one.name] - 1) < rate
    assert named >= 20


# --- by hand ---


def places(choice: FleetChoice) -> list[tuple[int, tuple[tuple[int, tuple[int, ...]], ...]]]:
    return [(engine.candidate, engine.pieces) for engine in choice.placement]


def test_a_three_and_a_five_fill_a_node_of_eight() -> None:
    choice = choose_fleet([pool()], candidates((0, 3, 3, 4.0, 50), (0, 5, 5, 6.0, 40)), "throughput")
    assert choice.solution.objective == 10.0
    assert choice.solution.bound == 10.0
    assert choice.shares.tolist() == [0.4, 0.6]
    assert places(choice) == [(0, ((0, (5, 6, 7)),)), (1, ((0, (0, 1, 2, 3, 4)),))]
    assert choice.binding == "GPUs of pool H100"


def test_an_engine_never_straddles_two_nodes_it_could_sit_in() -> None:
    choice = choose_fleet([pool(gpus=16)], candidates((0, 5, 1, 6.0, 40)), "throughput")
    assert choice.engines.tolist() == [2]  # 16 GPUs would hold three fives
    assert choice.binding == "GPUs of pool H100 (6 of 16 idle)"


def test_a_partial_last_node_takes_only_what_fits_into_it() -> None:
    c = candidates((0, 5, 5, 6.0, 40), (0, 4, 4, 4.0, 40))
    choice = choose_fleet([pool(gpus=12)], c, "throughput")
    assert choice.engines.tolist() == [0, 3]
    assert places(choice)[-1] == (1, ((1, (0, 1, 2, 3)),))


def test_an_engine_larger_than_a_node_takes_whole_nodes_and_a_remainder() -> None:
    choice = choose_fleet([pool(gpus=16)], candidates((0, 12, 4, 10.0, 40), (0, 4, 4, 2.0, 40)), "throughput")
    assert choice.engines.tolist() == [1, 1]
    assert places(choice) == [(0, ((0, tuple(range(8))), (1, (0, 1, 2, 3)))), (1, ((1, (4, 5, 6, 7)),))]


def test_blocks_of_three_leave_two_gpus_of_every_node_of_eight_to_others() -> None:
    choice = choose_fleet([pool(gpus=16)], candidates((0, 12, 3, 10.0, 40), (0, 2, 2, 1.0, 40)), "throughput")
    assert choice.engines.tolist() == [1, 2]
    assert places(choice)[0] == (0, ((0, tuple(range(6))), (1, tuple(range(6)))))


def test_equal_throughput_is_had_with_fewer_gpus_then_less_latency() -> None:
    c = candidates((0, 8, 8, 12.0, 9), (0, 4, 4, 12.0, 30), (1, 4, 4, 12.0, 20))
    only_one = [pool("A", 8), pool("B", 4, 4)]
    assert choose_fleet(only_one, take(c, [0, 1]), "throughput").engines.tolist() == [0, 2]
    tied = candidates((0, 4, 4, 6.0, 30), (0, 8, 8, 12.0, 20))
    assert choose_fleet([pool()], tied, "throughput").engines.tolist() == [0, 1]


def test_the_cheapest_fleet_mixes_pools_when_that_is_cheaper() -> None:
    pools = [pool("big", 8, price=4.0), pool("small", 4, 4, price=1.0)]
    c = candidates((0, 4, 4, 10.0, 40), (1, 1, 1, 1.5, 90))
    choice = choose_fleet(pools, c, "cost", 13.0)
    assert choice.engines.tolist() == [1, 2]
    assert choice.solution.objective == 18.0
    assert choice.shares.tolist() == [10 / 13, 3 / 13]
    assert choice.binding == "offered rate; GPUs of pool small (2 of 4 idle)" or choice.binding == "offered rate"


def test_a_cheap_pool_that_is_full_is_named_beside_the_rate() -> None:
    pools = [pool("big", 8, price=4.0), pool("small", 4, 4, price=1.0)]
    c = candidates((0, 4, 4, 10.0, 40), (1, 1, 1, 1.5, 90))
    assert choose_fleet(pools, c, "cost", 15.0).binding == "offered rate; GPUs of pool small"
    assert choose_fleet(pools, c, "cost", 6.0).binding == "offered rate"


def test_the_fewest_gpus_carry_the_rate_with_the_most_to_spare() -> None:
    c = candidates((0, 4, 4, 10.0, 40), (0, 4, 2, 9.0, 10), (0, 2, 2, 4.5, 90))
    choice = choose_fleet([pool()], c, "gpus", 9.0)
    assert choice.engines.tolist() == [1, 0, 0]
    assert choice.solution.objective == 4.0


def test_the_least_mean_latency_fills_the_fast_engines_first() -> None:
    pools = [pool("fast", 4, 4), pool("slow", 8)]
    c = candidates((0, 4, 4, 6.0, 20), (1, 4, 4, 10.0, 100))
    choice = choose_fleet(pools, c, "latency", 10.0)
    assert choice.solution.objective == pytest.approx(0.6 * 20 + 0.4 * 100)
    assert choice.shares == pytest.approx([0.6, 0.4])
    assert choice.engines.tolist() == [1, 1]
    assert choice.binding == "GPUs of pool fast"
    assert choose_fleet(pools, c, "latency", 6.0).binding == "latency of the fastest candidate"


def test_without_a_rate_the_fastest_candidate_that_fits_is_replicated() -> None:
    c = candidates((0, 16, 8, 90.0, 5), (0, 2, 2, 1.0, 20), (0, 2, 2, 1.5, 20), (0, 1, 1, 3.0, 21))
    choice = choose_fleet([pool()], c, "latency")
    assert choice.engines.tolist() == [0, 0, 4, 0]
    assert choice.solution.objective == choice.solution.bound == 20.0
    assert choice.binding == "GPUs of pool H100"  # with 16 of them the first would serve


def test_a_candidate_slower_but_smaller_in_capacity_is_not_dropped_for_latency() -> None:
    # Same GPUs: one is faster, the other carries more. Both belong into the best mix.
    c = candidates((0, 4, 4, 10.0, 100), (0, 4, 4, 6.0, 20))
    assert choose_fleet([pool()], c, "latency", 16.0).engines.tolist() == [1, 1]
    assert choose_fleet([pool()], c, "throughput").engines.tolist() == [2, 0]


def test_a_rate_far_below_one_engine_still_gets_one() -> None:
    for objective in ("cost", "gpus", "latency"):
        choice = choose_fleet([pool()], candidates((0, 2, 2, 50.0, 20)), objective, 1e-11)
        assert choice.engines.tolist() == [1]


def test_pools_of_many_nodes_and_nodes_of_72_gpus_are_solved_in_a_moment() -> None:
    rng = np.random.default_rng(0)
    sizes = [1, 2, 3, 4, 6, 8, 12, 18, 24, 36, 72, 144]
    rows = [(0, g, 1, g * rng.uniform(0.5, 2), rng.uniform(20, 200)) for g in sizes for _ in range(10)]
    racks = [pool("GB200", 720, 72)]
    for objective in ("throughput", "gpus", "latency"):
        choice = choose_fleet(racks, candidates(*rows), objective, None if objective == "throughput" else 700.0)
        assert choice.solution.status == "optimal"
        assert choice.solution.seconds < 5


def test_the_same_question_has_the_same_answer_to_the_last_gpu() -> None:
    pools, c = instance(7)
    first, second = (choose_fleet(pools, c, "throughput") for _ in range(2))
    assert first.engines.tolist() == second.engines.tolist()
    assert first.placement == second.placement
    assert first.shares.tolist() == second.shares.tolist()
