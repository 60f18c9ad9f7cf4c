"""The fleet choice: against an exhaustive twin, by its properties, by hand, and in what it says when there is
no fleet."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.serving.fleet.fleet import Candidates, FleetChoice, NodePool, Objective, choose_fleet
from planner.solving.packing import with_gpus
from planner.solving.solvers import Answer, CpSat, Highs, Problem
from profiles.errors import Infeasible, InputError, LimitReached

CLOSE = 1e-7


def pool(name: str = "H100", gpus: int = 8, per_node: int = 8, price: float | None = 2.0) -> NodePool:
    return NodePool(name, -(-gpus // per_node), per_node, price, gpus)


def candidates(*rows: tuple[float, ...]) -> Candidates:
    """Rows of (pool, gpus, block, capacity_rps, latency_ms)."""
    columns = list(zip(*rows, strict=True)) or [()] * 5
    whole = [np.array(column, np.int64) for column in columns[:3]]
    return Candidates(*whole, *(np.array(column, np.float64) for column in columns[3:]))


def take(c: Candidates, order: list[int]) -> Candidates:
    return Candidates(c.pool[order], c.gpus[order], c.block[order], c.capacity_rps[order], c.latency_ms[order])


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
    return pools, candidates(*rows)


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
]


@pytest.mark.parametrize(("objective", "with_rate"), MODES)
@pytest.mark.parametrize("part", range(5))
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


# --- properties ---

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
    turned = Candidates(len(pools) - 1 - moved.pool, moved.gpus, moved.block, moved.capacity_rps, moved.latency_ms)
    asked = rate if mode[1] else None
    before, after = optimum(pools, c, mode[0], asked), optimum(pools[::-1], turned, mode[0], asked)
    assert after == pytest.approx(before, rel=CLOSE)


@property_test
@given(questions(), st.sampled_from(MODES), st.sampled_from([1e-5, 1e5]))
def test_the_unit_of_the_rate_does_not_matter(
    question: tuple[list[NodePool], Candidates, float], mode: tuple[Objective, bool], unit: float
) -> None:
    pools, c, rate = question
    scaled = Candidates(c.pool, c.gpus, c.block, c.capacity_rps * unit, c.latency_ms)
    asked = rate if mode[1] else None
    before = optimum(pools, c, mode[0], asked)
    after = optimum(pools, scaled, mode[0], asked * unit if asked else None)
    assert after == pytest.approx(before * (unit if mode[0] == "throughput" else 1.0), rel=CLOSE)


# --- other engines, and time ---


@pytest.mark.parametrize(("objective", "with_rate"), [mode for mode in MODES if mode != ("latency", True)])
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
