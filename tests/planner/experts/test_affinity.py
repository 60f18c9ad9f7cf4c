"""Fewest crossings: every search against trying everything, and what must not change a thing."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.experts import exact
from planner.experts.affinity import LoadLimit, Sweeper, near, relabelled
from planner.experts.balance import balance
from planner.experts.crossings import Distance, crossings, crossings_bound, stay_bound
from planner.experts.placement import Loads, Placement, Topology
from planner.experts.traffic import fewest
from planner.solving.solvers import CpSat, Problem, Row
from tests.benchmarks.planted import planted_loads, planted_routes

FLAT = Distance(1.0)


def table(seed: int, layers: int, experts: int) -> np.ndarray:
    """Transitions of a few tokens, many of them zero."""
    random = np.random.default_rng(seed)
    return random.poisson(random.gamma(0.5, 4.0, (layers - 1, experts, experts))).astype(float)


def rows_of(topology: Topology, experts: int) -> list[tuple[int, ...]]:
    """Every way to place one copy of each expert in one layer, up to the order of slots within a GPU."""
    edges = np.cumsum(topology.slots)[:-1]
    every = itertools.permutations(range(experts))
    return sorted({tuple(itertools.chain(*map(sorted, np.split(np.array(row), edges)))) for row in every})


def placements(topology: Topology, experts: int, layers: int) -> list[Placement]:
    """Every placement with one copy of each expert."""
    chosen = itertools.product(rows_of(topology, experts), repeat=layers)
    return [Placement(topology, np.array(rows), experts, np.arange(layers)) for rows in chosen]


def costs(topology: Topology, transitions: np.ndarray, distance: Distance) -> np.ndarray:
    """Cost of every placement, one axis a layer: the sum over its pairs of layers, each evaluated by itself."""
    rows = rows_of(topology, transitions.shape[1])
    layers = len(transitions) + 1
    total = np.zeros((len(rows),) * layers)
    for pair in range(layers - 1):
        place = [Placement(topology, np.array(two), transitions.shape[1]) for two in itertools.product(rows, repeat=2)]
        each = [cost(p, transitions[pair : pair + 1], distance) for p in place]
        shape = [len(rows) if axis in (pair, pair + 1) else 1 for axis in range(layers)]
        total = total + np.reshape(each, shape)
    return total


def cost(placement: Placement, transitions: np.ndarray, distance: Distance) -> float:
    return float(crossings(placement, transitions, distance).cost.sum())


def some_placement(topology: Topology, experts: int, layers: int, seed: int) -> Placement:
    """A random placement that fills every slot, with copies where there is room and no expert twice on a GPU."""
    random = np.random.default_rng(seed)
    while True:
        row = np.concatenate([np.arange(experts), random.integers(0, experts, topology.total_slots - experts)])
        rows = np.array([random.permutation(row) for _ in range(layers)])
        key = np.sort(topology.gpu_of_slot * experts + rows, axis=1)
        if (np.diff(key, axis=1) > 0).all():
            return Placement(topology, rows, experts, np.arange(layers))


# ------------------------------------------------------------------ what crossings are


def test_crossings_are_those_of_tokens_sent_to_any_copy() -> None:
    """By hand: expert 0 has copies on both GPUs, so half of its tokens stay with expert 1's, wherever that is."""
    topology = Topology.uniform(2, 2)
    placement = Placement(topology, np.array([[0, 1, 0, 2], [0, 1, 2, 0]]), 3, np.arange(2))
    transitions = np.zeros((1, 3, 3))
    transitions[0, 1, 1], transitions[0, 0, 2], transitions[0, 0, 0] = 8, 4, 2
    crossed = crossings(placement, transitions, FLAT)
    assert crossed.between_gpus.tolist() == [0 + 4 / 2 + 2 / 2]
    assert crossed.transitions.tolist() == [14]
    assert crossed.between_domains.tolist() == [0]


def test_distance_counts_domains_more_than_gpus() -> None:
    topology = Topology.uniform(4, 1, gpus_per_node=2)
    placement = Placement(topology, np.array([[0, 1, 2, 3], [0, 1, 2, 3]]), 4, np.arange(2))
    transitions = np.zeros((1, 4, 4))
    transitions[0, 0] = [5, 7, 11, 13]
    crossed = crossings(placement, transitions, Distance.of(topology, 0.1))
    assert crossed.between_gpus[0] == 31
    assert crossed.between_domains[0] == 24
    assert crossed.cost[0] == pytest.approx(0.7 + 24)


def test_on_one_domain_distance_is_whether_the_gpu_changes() -> None:
    assert Distance.of(Topology.uniform(8, 1), 0.1) == FLAT


# ------------------------------------------------------------------ exhaustive twins

SHAPES = [  # experts, slots of each GPU, GPUs per node, layers
    (3, (1, 1, 1), 3, 3),
    (4, (2, 2), 2, 3),
    (4, (3, 1), 2, 3),
    (4, (2, 1, 1), 3, 3),
    (4, (1, 1, 1, 1), 2, 2),
    (4, (2, 1, 1), 2, 2),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_dynamic_programme_finds_what_trying_everything_finds(
    shape: tuple[int, tuple[int, ...], int, int],
) -> None:
    """60 random tables a shape: 360 cases, half of them under a load limit."""
    experts, slots, per_node, layers = shape
    node = np.arange(len(slots)) // per_node
    topology = Topology(np.array(slots), node, node, np.ones(len(slots)))
    distance = Distance.of(topology, 0.25)
    rows = np.array(rows_of(topology, experts))
    for seed in range(60):
        transitions = table(seed, layers, experts)
        counts = np.random.default_rng(seed + 1000).integers(1, 9, (1, layers, experts)).astype(float)
        limit, every = None, costs(topology, transitions, distance)
        if seed % 2:
            fullest = np.array(
                [
                    [Placement(topology, row[None], experts).gpu_loads(counts[0, None, k]).max() for row in rows]
                    for k in range(layers)
                ]
            )
            limit = LoadLimit(counts, np.median(fullest, axis=1)[None])
            for layer in range(layers):
                shape = [len(rows) if axis == layer else 1 for axis in range(layers)]
                every = np.where((fullest[layer] <= limit.most[0, layer]).reshape(shape), every, np.inf)
        found = exact.nearest(topology, transitions, distance, limit, np.arange(layers))
        assert found is not None
        assert cost(found, transitions, distance) == pytest.approx(every.min(), abs=1e-9)
        if limit is not None:
            assert (found.gpu_loads(counts).max(axis=-1) <= limit.most + 1e-6).all()


@pytest.mark.parametrize("seed", range(30))
def test_renaming_gpus_is_exact_for_one_expert_per_gpu(seed: int) -> None:
    topology = Topology.uniform(3, 1)
    transitions = table(seed, 4, 3)
    start = some_placement(topology, 3, 4, seed)
    best = costs(topology, transitions, FLAT).min()
    assert cost(relabelled(start, transitions, FLAT), transitions, FLAT) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_renaming_gpus_is_the_best_of_all_renamings_of_any_placement(seed: int) -> None:
    """With copies and several slots: every permutation of the GPUs of every layer tried."""
    topology = Topology.uniform(3, 2)
    transitions = table(seed, 3, 5)
    start = some_placement(topology, 5, 3, seed)
    blocks = start.physical_to_logical.reshape(3, 3, 2)
    best = min(
        cost(
            replace(
                start, physical_to_logical=np.stack([b[list(o)].ravel() for b, o in zip(blocks, orders, strict=True)])
            ),
            transitions,
            FLAT,
        )
        for orders in itertools.product(itertools.permutations(range(3)), repeat=3)
    )
    assert cost(relabelled(start, transitions, FLAT), transitions, FLAT) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_dynamic_programme_agrees_with_an_integer_programme(seed: int) -> None:
    """Six experts, two on each of three GPUs, two layers: CP-SAT on products of assignments."""
    gpus, experts = 3, 6
    topology, transitions = Topology.uniform(gpus, 2), table(seed, 2, experts)
    place = lambda layer, e, g: (layer * experts + e) * gpus + g  # noqa: E731
    both = lambda i, j, g: 2 * experts * gpus + (i * experts + j) * gpus + g  # noqa: E731
    n = 2 * experts * gpus + experts * experts * gpus
    objective = np.zeros(n)
    rows = []
    for layer in (0, 1):
        for e in range(experts):
            columns = np.array([place(layer, e, g) for g in range(gpus)])
            rows.append(Row(f"one {layer} {e}", columns, np.ones(gpus), "==", 1.0))
        for g in range(gpus):
            columns = np.array([place(layer, e, g) for e in range(experts)])
            rows.append(Row(f"slots {layer} {g}", columns, np.ones(experts), "==", 2.0))
    for i, j, g in itertools.product(range(experts), range(experts), range(gpus)):
        objective[both(i, j, g)] = transitions[0, i, j]
        for layer, e in ((0, i), (1, j)):
            columns = np.array([both(i, j, g), place(layer, e, g)])
            rows.append(Row(f"both {layer} {i} {j} {g}", columns, np.array([1.0, -1.0]), "<=", 0.0))
    problem = Problem(objective, np.ones(n, bool), np.zeros(n), np.ones(n), tuple(rows), maximise=True)
    solved = CpSat().solve(problem)
    assert solved.status == "optimal"
    found = exact.nearest(topology, transitions, FLAT, None, np.arange(2))
    assert found is not None
    assert cost(found, transitions, FLAT) == pytest.approx(transitions.sum() - float(solved.objective or 0))


# ------------------------------------------------------------------ the bound


@pytest.mark.parametrize("shape", SHAPES[:5], ids=str)
def test_no_placement_beats_the_bound(shape: tuple[int, tuple[int, ...], int, int]) -> None:
    experts, slots, per_node, layers = shape
    node = np.arange(len(slots)) // per_node
    topology = Topology(np.array(slots), node, node, np.ones(len(slots)))
    distance = Distance.of(topology, 0.25)
    layers = 2  # the bound is of pairs
    every = placements(topology, experts, layers)
    for seed in range(5):
        transitions = table(seed, layers, experts)
        some = every[seed % len(every)]
        free = crossings_bound(some, transitions, distance, as_balanced=False)
        assert all((free <= crossings(p, transitions, distance).cost + 1e-9).all() for p in every)
        held = crossings_bound(some, transitions, distance, as_balanced=True)
        most = flows(some, transitions)
        within = [
            p for p in every if all((a <= b + 1e-9).all() for a, b in zip(flows(p, transitions), most, strict=True))
        ]
        assert all((held <= crossings(p, transitions, distance).cost + 1e-9).all() for p in within)


def flows(placement: Placement, transitions: np.ndarray) -> list[np.ndarray]:
    """Most transitions that leave, and reach, one GPU and one domain, per pair of layers."""
    out, into = transitions.sum(axis=2), transitions.sum(axis=1)
    parts = []
    for place in (
        placement,
        replace(placement, topology=replace(placement.topology, speed=np.ones(placement.topology.gpus))),
    ):
        for counts, layers in ((out, slice(0, -1)), (into, slice(1, None))):
            rows = replace(place, physical_to_logical=place.physical_to_logical[layers])
            loads = rows.gpu_loads(counts)
            domain = place.topology.domain
            parts += [loads.max(axis=1), np.max([loads[:, domain == d].sum(axis=1) for d in np.unique(domain)], axis=0)]
    return parts


def test_the_bound_of_a_table_of_blocks_is_its_blocks() -> None:
    blocks = np.kron(np.eye(4), np.full((3, 3), 2.0))
    assert stay_bound(blocks, 3) == pytest.approx(blocks.sum())
    assert stay_bound(blocks + 0.1, 3, full=(float((blocks + 0.1)[:3].sum()),) * 2) == pytest.approx(
        blocks.sum() + 0.1 * 36
    )


# ------------------------------------------------------------------ the search at scale


@pytest.mark.parametrize("nodes", [1, 4])
def test_planted_affinity_is_found_with_balance_as_it_was(nodes: int) -> None:
    counts, group = planted_loads(8, 16, 4, 0.7, seed=1)
    transitions = planted_routes(counts, group, 0.5, top_k=8, tokens=5000, seed=2).transitions
    topology = Topology.uniform(16, 4, 16 // nodes)
    distance = Distance.of(topology, 0.1)
    balanced = balance(Loads(counts[None], np.arange(8), ("made up",), np.ones(1)), topology).placement
    found = near(balanced, transitions, distance, LoadLimit.near(balanced, counts[None], 0.01))
    planted = Placement(topology, np.argsort(group, axis=1, kind="stable"), 64, np.arange(8))
    gpus = lambda p: float(crossings(p, transitions, distance).between_gpus.sum())  # noqa: E731
    assert gpus(found) == pytest.approx(gpus(planted), rel=1e-6)
    assert gpus(found) == pytest.approx(
        float(crossings_bound(found, transitions, FLAT, as_balanced=True).sum()), rel=1e-6
    )
    assert (found.balancedness(counts) >= 0.99 * balanced.balancedness(counts)).all()


@given(seed=st.integers(0, 10_000), spare=st.integers(0, 3), windows=st.integers(1, 2), nodes=st.sampled_from([1, 2]))
@settings(max_examples=40, deadline=None)
def test_a_search_keeps_copies_loads_and_slots_and_never_worsens(
    seed: int, spare: int, windows: int, nodes: int
) -> None:
    random = np.random.default_rng(seed)
    topology = Topology.uniform(4, 3, 4 // nodes)
    experts, layers = 12 - spare, 4
    start = some_placement(topology, experts, layers, seed)
    transitions, counts = table(seed, layers, experts), random.gamma(1.0, 5.0, (windows, layers, experts)) + 0.1
    distance = Distance.of(topology, 0.3)
    fence = topology.node if seed % 2 and nodes == 2 else None
    limit = LoadLimit.near(start, counts, 0.1)
    for found in (
        near(start, transitions, distance, limit, fence),
        fewest(start, transitions, distance, limit, fence).placement,
        relabelled(start, transitions, distance, fence),
    ):
        assert np.array_equal(found.copies(), start.copies())
        key = np.sort(topology.gpu_of_slot * experts + found.physical_to_logical, axis=1)
        assert (np.diff(key, axis=1) > 0).all(), "an expert twice on a GPU"
        assert (found.gpu_loads(counts).max(axis=-1) <= limit.most * (1 + 1e-6)).all()
        assert cost(found, transitions, distance) <= cost(start, transitions, distance) + 1e-6
        if fence is not None:
            for node in (0, 1):
                inside = topology.gpu_of_slot // 2 == node
                assert np.array_equal(
                    np.sort(found.physical_to_logical[:, inside]), np.sort(start.physical_to_logical[:, inside])
                )


@given(seed=st.integers(0, 10_000), uneven=st.booleans())
@settings(max_examples=30, deadline=None)
def test_renaming_gpus_leaves_every_load_as_it_was(seed: int, uneven: bool) -> None:
    slots = np.array([3, 2, 2, 3]) if uneven else np.array([3, 3, 3, 3])
    speed = np.array([1.0, 1.0, 2.0, 1.0]) if uneven else np.ones(4)
    topology = Topology(slots, np.zeros(4, np.int64), np.zeros(4, np.int64), speed)
    start = some_placement(topology, 8, 3, seed)
    counts = np.random.default_rng(seed).gamma(1.0, 5.0, (2, 3, 8))
    found = relabelled(start, table(seed, 3, 8), FLAT)
    kinds = (np.arange(4),) if not uneven else (np.array([0, 3]), np.array([1]), np.array([2]))
    for same in kinds:
        loads = [np.sort(p.gpu_loads(counts)[..., same], axis=-1) for p in (start, found)]
        assert loads[0] == pytest.approx(loads[1])


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_how_gpus_are_numbered_does_not_change_the_optimum(seed: int) -> None:
    topology = Topology.uniform(3, 2)
    transitions = table(seed, 3, 6)
    order = np.random.default_rng(seed).permutation(6)
    found = [
        exact.nearest(topology, t, FLAT, None, np.arange(3)) for t in (transitions, transitions[:, order][:, :, order])
    ]
    a, b = found
    assert a is not None
    assert b is not None
    assert cost(a, transitions, FLAT) == pytest.approx(cost(b, transitions[:, order][:, :, order], FLAT))


@pytest.mark.parametrize("seed", range(15))
def test_joining_two_gpus_never_adds_crossings(seed: int) -> None:
    transitions, least = table(seed, 3, 4), []
    for slots in ((1, 1, 1, 1), (2, 1, 1), (3, 1), (4,)):
        node = np.zeros(len(slots), np.int64)
        found = exact.nearest(
            Topology(np.array(slots), node, node, np.ones(len(slots))), transitions, FLAT, None, np.arange(3)
        )
        assert found is not None
        least.append(cost(found, transitions, FLAT))
    assert least == sorted(least, reverse=True)
    assert least[-1] == 0


def test_traffic_says_proven_only_where_it_is() -> None:
    small, copies = Topology.uniform(4, 2), Topology.uniform(4, 3)
    transitions = table(1, 3, 8)
    assert fewest(some_placement(small, 8, 3, 1), transitions, FLAT, None, None).proven
    assert not fewest(some_placement(small, 8, 3, 1), transitions, FLAT, None, small.node).proven
    assert not fewest(some_placement(copies, 8, 3, 1), transitions, FLAT, None, None).proven


def test_exchange_reports_a_limit_that_it_cannot_keep() -> None:
    topology = Topology.uniform(2, 2)
    start = Placement(topology, np.array([[0, 1, 2, 3]] * 2), 4, np.arange(2))
    counts = np.array([[[8.0, 1, 1, 1]] * 2])
    sweeper = Sweeper(start, table(0, 2, 4), FLAT, LoadLimit(counts, np.full((1, 2), 5.0)))
    assert not sweeper.exchange(0, repair=True)
