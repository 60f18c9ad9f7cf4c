"""The search finds what trying everything finds, and keeps its promises."""

from __future__ import annotations

import numpy as np
import pytest
from exhaustive import best_of_all, selective_sets
from roofline_cost import roofline_links
from scipy.optimize import Bounds, LinearConstraint, milp
from stage_case import stage_case

from costmodels.training.frameworks import find_training_framework
from costmodels.training.layouts import TrainingLayouts
from costmodels.training.memory import training_memory
from costmodels.training.models import trained_model
from costmodels.training.pools import pooled_times
from costmodels.training.setting import Setting
from planner.training.lines import StagePool
from planner.training.request import TrainingRequest, parse_training_request
from planner.training.search import Search, _Searching, mesh_of, search
from planner.training.space import candidates
from planner.training.stages import best_split
from profiles.hardware import find_gpu

INSTANCES = 300


def instance(seed: int) -> tuple[Setting, TrainingRequest, float]:
    """A random small instance and the bytes of a GPU, some of which bind."""
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(2, 6))
    experts = rng.random() < 0.25
    shape = f"hidden=2048,layers={layers},heads=16,kv_heads=8,ffn=8192,vocab={rng.choice([32000, 128000])}"
    if experts:
        shape += f",experts=8,top_k=2,moe_ffn=2048,dense_layers={rng.integers(0, 2)}"
    framework = rng.choice(["megatron", "torchtitan", "deepspeed"], p=[0.6, 0.3, 0.1])
    gpus = int(rng.choice([2, 4, 8]))
    request = parse_training_request(
        {
            "model": f"llama:{shape}",
            "cluster": f"{gpus}xH100-SXM",
            "global_batch": int(rng.choice([4, 6, 8])),
            "seq_len": 2048,
            "framework": str(framework),
            "micro_batch": [1, 2] if rng.random() < 0.5 else [1],
            "tp": [1, 2] if rng.random() < 0.5 else [1],
            "cp": [1],
            "pp": [1, 2, 3] if rng.random() < 0.7 else [1, 2, 3, 4],
            "vpp": [1, 2],
            "sharding": [int(each) for each in rng.choice(4, size=2, replace=False)],
            "recompute": bool(rng.random() < 0.7),
            "uneven": bool(rng.random() < 0.7),
        }
    )
    setting = Setting(trained_model(request.model), find_training_framework(request.framework), request.seq_len)
    return setting, request, float(rng.choice([6e9, 8e9, 12e9, 20e9, 80e9]))


def compare(seed: int) -> None:
    setting, request, capacity = instance(seed)
    links = roofline_links()
    gpus = request.cluster.pools[0].gpus
    selective = selective_sets(setting) if request.recompute else [0]
    best, _ = best_of_all(setting, request, links, gpus, capacity, selective)
    found = search(setting, request, links, find_gpu("H100-SXM"), gpus, capacity=capacity)
    ours = found.best[0].total_us if found.best else np.inf
    assert ours == pytest.approx(best, rel=1e-9), f"seed {seed}: {request.model}, {capacity:.0e} bytes"
    assert found.bound_us <= ours


@pytest.mark.parametrize("seed", range(30))
def test_the_search_finds_what_trying_everything_finds(seed: int) -> None:
    compare(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30, INSTANCES))
def test_the_search_finds_what_trying_everything_finds_at_length(seed: int) -> None:
    compare(seed)


@pytest.mark.parametrize("seed", [50, 134])
def test_no_layout_is_faster_than_its_bound(seed: int) -> None:
    """Of stages that recompute, too: more of what is exchanged hides behind them."""
    setting, request, capacity = instance(seed)
    links, gpus = roofline_links(), request.cluster.pools[0].gpus
    pool, row = StagePool(links, find_gpu("H100-SXM"), gpus, capacity), np.zeros(1, np.int64)
    searching = _Searching(setting, request, (pool,), gpus, Search(), (0,))
    for place in range(len(searching.found)):
        layouts, _ = searching._expanded(searching._plain(searching.found.take(np.array([place]))))
        times = pooled_times(setting, [links], layouts)
        bounds = searching.bounds.of_stages(layouts, times)
        for i, bound in enumerate(bounds.tolist()):
            one = row + i
            found = searching._solved(layouts.take(one), times.take(one), np.inf)
            assert found is None or bound <= found.total_us * (1 + 1e-9)


def question(gpus: int = 8, **changes: object) -> tuple[Setting, TrainingRequest]:
    request = parse_training_request(
        {
            "model": "llama:hidden=4096,layers=16,heads=32,kv_heads=8,ffn=14336,vocab=128256",
            "cluster": f"{gpus}xH100-SXM",
            "global_batch": 32,
            "seq_len": 4096,
            **changes,
        }
    )
    setting = Setting(
        trained_model(request.model), find_training_framework(request.framework), request.seq_len, request.precision
    )
    return setting, request


def best_us(gpus: int = 8, capacity: float | None = None, **changes: object) -> float:
    setting, request = question(gpus, **changes)
    found = search(setting, request, roofline_links(), find_gpu("H100-SXM"), gpus, capacity=capacity)
    return found.best[0].total_us if found.best else np.inf


def test_more_memory_never_slows_the_best_layout() -> None:
    times = [best_us(capacity=capacity) for capacity in (24e9, 32e9, 48e9, 80e9, 192e9)]
    assert times == sorted(times, reverse=True)


def test_a_larger_space_never_worsens_the_best_layout() -> None:
    assert best_us(tp=[2]) >= best_us(tp=[1, 2]) >= best_us()
    assert best_us(uneven=False, capacity=30e9) >= best_us(capacity=30e9)
    assert best_us(recompute=False, capacity=30e9) >= best_us(capacity=30e9)


def test_more_gpus_for_the_same_batch_never_make_the_best_layout_slower() -> None:
    times = [best_us(gpus) for gpus in (8, 12, 16, 24, 33)]
    assert times == sorted(times, reverse=True)


def test_the_stages_hold_all_layers_and_fit() -> None:
    setting, request = question(16, pp=[3, 5, 7])
    gpu = find_gpu("H100-SXM")
    found = search(setting, request, roofline_links(), gpu, 16)
    assert found.best
    for each in found.best:
        assert sum(each.split) == 16
        assert each.layout.layers.sum() == 16
        assert training_memory(setting, each.layout).fits(gpu.memory_bytes)[0]


def test_every_combination_is_legal_or_refused_with_a_reason_and_an_example() -> None:
    setting, request = question(16)
    found, refused, looked_at = candidates(setting, request, 16, 8)
    assert len(found) + sum(refused.counts.values()) <= looked_at
    assert set(refused.counts) == set(refused.examples)
    assert (found.gpus <= 16).all()
    assert (32 % (found.dp * found.micro_batch) == 0).all()


def test_meshes_that_are_kept_differ() -> None:
    setting, request = question(16)
    meshes = [
        mesh_of(each.layout) for each in search(setting, request, roofline_links(), find_gpu("H100-SXM"), 16).best
    ]
    assert len(meshes) == len(set(meshes)) > 1


def test_a_milp_of_the_same_stages_agrees() -> None:
    """One combination: which content each stage has, as a mixed integer programme: one binary for each (content,
    stage), and the largest time and the largest rest as continuous variables."""
    table, index, layers, microbatches = stage_case()
    ours = best_split(table, index, layers, microbatches, np.inf)
    assert ours is not None
    contents, stages = table.time.shape
    pairs = [(c, s) for s in range(stages) for c in range(contents) if np.isfinite(table.time[c, s])]
    time, rest = (np.array([part[c, s] for c, s in pairs]) for part in (table.time, table.rest))
    cost = np.concatenate([table.idle * time, [microbatches - table.idle, 1.0]])
    held = np.concatenate([[table.contents[c].sum() for c, _ in pairs], [0, 0]])
    rows = [LinearConstraint(held, layers, layers)]
    for s in range(stages):
        here = np.array([stage == s for _, stage in pairs], dtype=np.float64)
        rows.append(LinearConstraint(np.concatenate([here, [0, 0]]), 1, 1))
        rows.append(LinearConstraint(np.concatenate([here * time, [-1, 0]]), -np.inf, 0))
        rows.append(LinearConstraint(np.concatenate([here * rest, [0, -1]]), -np.inf, 0))
    whole = np.concatenate([np.ones(len(pairs)), [0, 0]])
    most = np.concatenate([np.ones(len(pairs)), [np.inf, np.inf]])
    solution = milp(cost, integrality=whole, bounds=Bounds(0, most), constraints=rows)
    assert solution.success
    assert ours.total_us == pytest.approx(solution.fun + table.fill, rel=1e-6)


def test_layouts_are_taken_row_by_row() -> None:
    setting, request = question()
    found = search(setting, request, roofline_links(), find_gpu("H100-SXM"), 8)
    layout = found.best[0].layout
    assert isinstance(layout, TrainingLayouts)
    assert len(layout) == 1
