"""Pipelines whose stages run on GPUs of several types: the search finds what trying everything finds, and stages cost
what they cost on their own type."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from exhaustive import best_across, best_of_all, selective_sets
from layout_case import case
from roofline_cost import roofline_links

from costmodels.training.frameworks import find_training_framework
from costmodels.training.iteration import iteration_times, pooled_iterations
from costmodels.training.models import trained_model
from costmodels.training.pools import pooled_times
from costmodels.training.setting import Setting
from planner.training.lines import StagePool, joinable, lines
from planner.training.request import TrainingRequest, parse_training_request
from planner.training.search import Search, search_pools
from profiles.hardware import find_gpu

INSTANCES = 300
TYPES = (("A100-SXM-80GB", 8, "ib-200g"), ("H100-SXM", 8, "ib-400g"), ("H200", 4, "ib-400g"))


def pool_of(kind: int, gpus: int, capacity: float) -> StagePool:
    name, per_node, fabric = TYPES[kind]
    return StagePool(roofline_links(name, per_node, fabric), find_gpu(name), gpus, capacity)


def instance(seed: int) -> tuple[Setting, TrainingRequest, tuple[StagePool, ...]]:
    """A random small instance; the memory of some pools binds."""
    rng = np.random.default_rng(10_000 + seed)
    shape = f"hidden=2048,layers={rng.integers(2, 6)},heads=16,kv_heads=8,ffn=8192,vocab={rng.choice([32000, 128000])}"
    if rng.random() < 0.2:
        shape += f",experts=8,top_k=2,moe_ffn=2048,dense_layers={rng.integers(0, 2)}"
    framework = rng.choice(["megatron", "torchtitan", "deepspeed"], p=[0.6, 0.3, 0.1])
    kinds = rng.permutation(3)[: 3 if rng.random() < 0.25 else 2]
    capacities = rng.choice([6e9, 8e9, 12e9, 20e9, 80e9], size=len(kinds))
    pools = tuple(
        pool_of(int(kind), int(rng.choice([1, 2, 3, 4])), float(size))
        for kind, size in zip(kinds, capacities, strict=True)
    )
    request = parse_training_request(
        {
            "model": f"llama:{shape}",
            "cluster": "8xH100-SXM",
            "global_batch": int(rng.choice([4, 6, 8])),
            "seq_len": 2048,
            "framework": str(framework),
            "micro_batch": [1, 2] if rng.random() < 0.5 else [1],
            "tp": [1, 2] if rng.random() < 0.5 else [1],
            "cp": [1],
            "pp": [1, 2, 3] if rng.random() < 0.7 else [2, 3, 4],
            "vpp": [1, 2],
            "sharding": [int(each) for each in rng.choice(4, size=2, replace=False)],
            "recompute": bool(rng.random() < 0.6),
            "uneven": bool(rng.random() < 0.8),
        }
    )
    setting = Setting(trained_model(request.model), find_training_framework(request.framework), request.seq_len)
    return setting, request, pools


def found_in(setting: Setting, request: TrainingRequest, pools: tuple[StagePool, ...]) -> Search:
    return search_pools(setting, request, pools, sum(pool.gpus for pool in pools))


def compare(seed: int) -> bool:
    """Whether a pipeline across pools is the best."""
    setting, request, pools = instance(seed)
    selective = selective_sets(setting) if request.recompute else [0]
    alone = [best_of_all(setting, request, pool.links, pool.gpus, pool.capacity, selective)[0] for pool in pools]
    across = best_across(setting, request, pools, selective)
    found = found_in(setting, request, pools)
    ours = found.best[0].total_us if found.best else np.inf
    best = min([*alone, across])
    assert ours == pytest.approx(best, rel=1e-9), f"seed {seed}: {request.model}, {pools}"
    assert found.bound_us <= ours
    return across < min(alone)


def test_the_search_finds_what_trying_everything_finds() -> None:
    assert sum(compare(seed) for seed in range(10)) >= 3  # where the others have nothing to show


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, INSTANCES))
def test_the_search_finds_what_trying_everything_finds_at_length(seed: int) -> None:
    compare(seed)


def test_lines_are_blocks_of_neighbours_that_the_pools_hold() -> None:
    assert set(lines(3, (2, 2))) == {(0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0)}
    assert set(lines(3, (1, 2))) == {(0, 1, 1), (1, 1, 0)}
    assert list(lines(1, (4, 4))) == []
    assert len(set(lines(3, (1, 1, 1)))) == 6


def across(name: str, fabrics: tuple[str, str], line: list[int], **columns: object) -> tuple[float, float]:
    """(time of one layout in a line of two pools of one GPU type, in the first alone), µs."""
    setting, layout = case(**columns)
    links = [roofline_links(name, 8, fabric) for fabric in fabrics]
    times = pooled_times(setting, links, layout, np.array([line]))
    mixed = pooled_iterations(setting, layout, times)
    assert sum(float(part[0]) for part in mixed.parts.values()) == pytest.approx(float(mixed.total.value[0]))
    return float(mixed.total.value[0]), float(iteration_times(setting, links[0], layout).total.value[0])


@pytest.mark.parametrize("vpp", [1, 2])
def test_pools_that_are_alike_are_as_one(vpp: int) -> None:
    told = {"tp": 8, "pp": 4, "dp": 1, "vpp": vpp, "num_gpus": 32}
    mixed, alone = across("H100-SXM", ("ib-400g", "ib-400g"), [0, 0, 1, 1], **told)
    assert mixed == pytest.approx(alone, rel=1e-12)


def test_transfers_between_pools_are_as_slow_as_the_slower_fabric() -> None:
    told = {"tp": 8, "pp": 4, "dp": 1, "num_gpus": 32}
    fast, _ = across("H100-SXM", ("ib-400g", "ib-400g"), [0, 0, 1, 1], **told)
    one, _ = across("H100-SXM", ("ib-400g", "ib-200g"), [0, 0, 0, 1], **told)
    two, _ = across("H100-SXM", ("ib-400g", "ib-200g"), [0, 0, 1, 1], **told)
    assert fast < one <= two


def test_stages_that_would_share_a_node_do_not_where_pools_meet() -> None:
    """Two stages of two GPUs each: neighbours in a node of one pool, on two nodes in two."""
    mixed, alone = across("H100-SXM", ("ib-400g", "ib-400g"), [0, 1], tp=2, pp=2, dp=1, num_gpus=4)
    assert mixed > alone


def test_a_second_pool_never_slows_and_may_be_refused() -> None:
    setting, request, pools = instance(3)
    request = request.model_copy(update={"framework": "megatron", "pp": None, "tp": None})
    both = found_in(setting, request, pools)
    for pool in pools:
        alone = found_in(setting, request, (pool,))
        assert not alone.best or both.best[0].total_us <= alone.best[0].total_us
    apart = found_in(setting, request.model_copy(update={"pp_across_pools": False}), pools)
    assert all(len(found.pools) == 1 for found in apart.best)


def test_gpus_of_two_makers_are_not_in_one_pipeline() -> None:
    setting, request, pools = instance(3)
    amd = StagePool(roofline_links("MI300X"), find_gpu("MI300X"), 4, 80e9)
    assert joinable((pools[0], amd, pools[1])) == [(0, 2)]
    found = found_in(setting, request, (pools[0], amd))
    assert found.best
    assert all(len(each.pools) == 1 for each in found.best)
    assert any("two makers" in reason for reason in found.refused.counts)


def test_more_memory_in_one_pool_never_slows() -> None:
    setting, request, pools = instance(5)
    times = []
    for capacity in (8e9, 16e9, 40e9, 80e9):
        found = found_in(setting, request, (replace(pools[0], capacity=capacity), *pools[1:]))
        times.append(found.best[0].total_us if found.best else np.inf)
    assert times == sorted(times, reverse=True)
