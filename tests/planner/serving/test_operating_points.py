"""Operating points: what is tried, what fits, and what an engine does at less than its capacity."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from costmodels.kernels.cost_model import CostModel
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.serving.frameworks.framework import find_framework
from planner.contract.clusters import parse_cluster
from planner.contract.workload.slo import Bound, parse_slo
from planner.contract.workload.workload import parse_workload
from planner.serving.engines.under_load import at_load
from planner.serving.layouts import Restrictions
from planner.serving.operating_points import (
    FEW_PLACES,
    GRID,
    IDLE,
    Job,
    LayoutSearch,
    OperatingPoints,
    has_room,
    peak_sequences,
    percentile_ms,
    points_of,
    search,
    sequences_that_fit,
    served_on,
)
from profiles.hardware import find_gpu
from profiles.store import ProfileStore

FREE = Restrictions(8, 8)


def job(
    store: ProfileStore,
    model: str = "Qwen/Qwen3-8B",
    workload: str = "isl=1000,osl=200",
    slo: str = "",
    gpu: str = "H100-SXM",
    confidence: float = 0.5,
) -> Job:
    pool = parse_cluster(f"8x{gpu}").pools[0]
    architecture = find_architecture(model)
    cost = CostModel(find_gpu(gpu), "vllm", store)
    served = served_on(pool, architecture, choose_precision(architecture), find_framework("vllm"), cost)
    return Job(0, pool, served, parse_workload(workload), parse_slo(slo), confidence)


def found(points: OperatingPoints | None) -> OperatingPoints:
    assert points is not None
    return points


@pytest.fixture(scope="module")
def free(bare: ProfileStore) -> LayoutSearch:
    return search(job(bare), FREE)


@pytest.fixture(scope="module")
def bounded(bare: ProfileStore) -> LayoutSearch:
    return search(job(bare, slo="ttft=300ms,tpot_p99=12ms"), FREE)


@pytest.mark.parametrize("slo", ["", "ttft=300ms,tpot_p99=12ms"])
def test_one_engine_looked_at_alone_has_the_points_of_the_search(bare: ProfileStore, slo: str) -> None:
    every = search(job(bare, slo=slo), FREE)
    for row, budget in ((0, 2048), (2, 8192)):
        layout = every.layouts.take(np.array([row]))
        alone = points_of(every.job, layout, budget)
        searched = [points for points in (every.fine, every.coarse) if points is not None]
        for points in searched:
            mine = np.flatnonzero((points.layouts.rows == layout.rows).all(axis=1) & (points.budget == budget))
            if len(mine):
                one = alone[0] if points is every.fine else alone[-1]
                assert one.concurrency.tolist() == points.concurrency[mine].tolist()
                assert one.within.tolist() == points.within[mine].tolist()
                assert one.steady.rate_rps.value == pytest.approx(points.steady.rate_rps.value[mine], rel=1e-6)


def test_engines_hold_more_sequences_than_decode_on_average() -> None:
    assert peak_sequences(1) == 4
    assert peak_sequences(100) == 121
    assert (np.diff(peak_sequences(GRID)) > 0).all()


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "Qwen/Qwen3-32B", "deepseek-ai/DeepSeek-V3", "openai/gpt-oss-20b"])
@pytest.mark.parametrize("gpu", ["H100-SXM", "L4"])
def test_refusals_add_up_memory_included(bare: ProfileStore, model: str, gpu: str) -> None:
    if model == "deepseek-ai/DeepSeek-V3" and gpu == "L4":
        gpu = "H200"  # the one of these that holds some layouts of it, and not others
    result = search(job(bare, model, "isl=20000,osl=2000", gpu=gpu), FREE)
    assert sum(r.count for r in result.rejected) == result.considered - result.legal


def test_a_layout_too_big_for_its_weights_says_so(bare: ProfileStore) -> None:
    result = search(job(bare, "Qwen/Qwen3-32B", gpu="L4"), Restrictions(1, 8))
    (why,) = [r for r in result.rejected if r.of_memory]
    assert why.reason == "weights and buffers do not fit into 24 GB of L4"
    assert (why.example, result.legal, result.coarse, result.fine) == ("TP1", 0, None, None)


def test_a_layout_with_too_little_room_for_the_cache_says_how_little(bare: ProfileStore) -> None:
    result = search(job(bare, workload="isl=30000,osl=2000", gpu="L4"), Restrictions(1, 8))
    (why,) = [r for r in result.rejected if r.of_memory]
    assert why.reason == "KV cache left holds no sequence of 32000 tokens"


def test_one_sequence_in_the_cache_is_enough_and_a_quarter_of_few_places_is_used(bare: ProfileStore) -> None:
    result = search(job(bare, workload="isl=9000,osl=1000", gpu="L4"), Restrictions(1, 8))
    points = found(result.coarse)
    assert set(points.most.tolist()) <= {1, 2, 3}
    assert (points.concurrency * FEW_PLACES <= points.most).all()
    assert has_room(1.0, np.array([1, 3, 4])).tolist() == [False, False, True]


def test_an_engine_with_room_for_one_sequence_runs_where_hardly_ever_a_second_comes(bare: ProfileStore) -> None:
    result = search(job(bare, workload="isl=15000,osl=1000", gpu="L4"), Restrictions(1, 8))
    points = found(result.fine)
    assert (points.most == 1).all()
    assert (points.concurrency <= 0.25).all()
    assert points.within.all()


def test_every_point_fits_into_memory_with_its_fluctuations(free: LayoutSearch) -> None:
    points = found(free.coarse)
    assert (peak_sequences(points.concurrency) <= points.most).all()
    assert (points.most == sequences_that_fit(points.job, points.layouts, points.budget)).all()
    assert (points.concurrency < points.budget).all()


def test_without_an_slo_the_points_where_prefill_keeps_up_are_within(free: LayoutSearch) -> None:
    points = found(free.coarse)
    assert (points.within == points.steady.stable).all()
    assert points.within.any()


def test_points_are_within_exactly_when_every_percentile_is(bounded: LayoutSearch) -> None:
    points = found(bounded.coarse)
    ttft = percentile_ms(points.steady, Bound(metric="ttft", limit_ms=300))
    tpot = percentile_ms(points.steady, Bound(metric="tpot", percentile=99, limit_ms=12))
    assert (points.within == (points.steady.stable & (ttft <= 300) & (tpot <= 12))).all()
    assert points.within.any()
    assert not points.within.all()


def test_the_finer_search_keeps_what_the_grid_found_and_looks_beyond(bounded: LayoutSearch) -> None:
    coarse, fine = found(bounded.coarse), found(bounded.fine)
    of_grid = {(coarse.key(i), int(coarse.budget[i]), int(coarse.concurrency[i])) for i in range(len(coarse))}
    of_fine = {(fine.key(i), int(fine.budget[i]), int(fine.concurrency[i])) for i in range(len(fine))}
    inside = {(coarse.key(i), int(coarse.budget[i]), int(coarse.concurrency[i])) for i in np.flatnonzero(coarse.within)}
    assert inside < of_fine
    assert all(peak_sequences(fine.concurrency) <= fine.most)
    assert len(of_fine) == len(fine), "a point occurs twice"
    assert any(concurrency not in GRID for *_, concurrency in of_fine - of_grid)
    best = fine.steady.rate_rps.value[fine.within].max()
    assert best >= coarse.steady.rate_rps.value[coarse.within].max()


def test_a_percentile_rises_with_the_confidence_asked(bounded: LayoutSearch) -> None:
    steady = found(bounded.coarse).steady
    for metric in ("ttft", "tpot", "e2e"):
        bound = Bound(metric=metric, limit_ms=1)  # type: ignore[arg-type]
        by_confidence = [percentile_ms(steady, bound, c) for c in (0.1, 0.3, 0.5, 0.7, 0.9)]
        assert (np.diff(by_confidence, axis=0) >= 0).all()
        assert (by_confidence[0] < by_confidence[-1]).all()


def test_at_nine_in_ten_the_mean_is_at_the_upper_end_of_its_interval(bounded: LayoutSearch) -> None:
    """80 % of true values lie inside, 10 % above: the end is where 90 % lie below."""
    steady = found(bounded.coarse).steady
    bound = Bound(metric="tpot", limit_ms=1)
    expected = percentile_ms(steady, bound) * steady.tpot_us.high / steady.tpot_us.value
    np.testing.assert_allclose(percentile_ms(steady, bound, 0.9), expected)


def test_more_confidence_lets_fewer_points_in(bare: ProfileStore) -> None:
    counts = [
        int(found(search(job(bare, slo="ttft=300ms,tpot=12ms", confidence=c), FREE).coarse).within.sum())
        for c in (0.1, 0.5, 0.9)
    ]
    assert counts[0] > counts[1] > counts[2]


# --- at less than capacity ---


def best(points: OperatingPoints) -> int:
    return int(np.argmax(np.where(points.within, points.steady.rate_rps.value, 0)))


def test_an_engine_at_its_capacity_is_at_its_own_point(bounded: LayoutSearch) -> None:
    points = found(bounded.fine)
    i = best(points)
    loaded, _ = at_load(points, i, float(points.steady.rate_rps.value[i]))
    assert len(loaded) == 1
    # Or at one of fewer sequences that carries as much: steps need not be quicker for more of them.
    assert loaded.concurrency[0] <= points.concurrency[i]
    assert loaded.steady.rate_rps.value[0] >= points.steady.rate_rps.value[i]
    assert loaded.steady.tpot_us.value[0] <= points.steady.tpot_us.value[i]


def test_an_engine_under_less_load_runs_the_fewest_sequences_that_carry_it(bounded: LayoutSearch) -> None:
    points = found(bounded.fine)
    i = best(points)
    capacity = float(points.steady.rate_rps.value[i])
    found_at = [at_load(points, i, capacity * share) for share in (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)]
    loads = [point for point, _ in found_at]
    concurrency = [float(p.concurrency[0]) for p in loads]
    assert concurrency == sorted(concurrency)
    assert concurrency[0] == IDLE
    assert concurrency[-1] <= points.concurrency[i]
    for share, p in zip((0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0), loads, strict=True):
        assert p.within[0]
        assert p.steady.rate_rps.value[0] >= capacity * share * (1 - 1e-9)
    for share, (_, fewer) in zip((0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0), found_at, strict=True):
        assert (fewer is None) == (share == 0)
        assert fewer is None or fewer.steady.rate_rps.value[0] < capacity * share


def test_a_loaded_engine_is_not_put_where_it_would_break_the_slo(bare: ProfileStore) -> None:
    """A step's time need not rise with its batch: a smaller batch may be outside where a larger one is within."""
    points = found(search(job(bare), FREE).fine)
    i = best(points)
    load = float(points.steady.rate_rps.value[i]) / 2
    unbounded, _ = at_load(points, i, load)
    # No promise that the point above breaks and a larger batch keeps: here one is made that nothing keeps.
    broken = dataclasses.replace(points, job=dataclasses.replace(points.job, slo=parse_slo("tpot=1us")))
    assert unbounded.concurrency[0] < points.concurrency[i]
    assert at_load(broken, i, load)[0].concurrency[0] == points.concurrency[i], "the capacity point is what was judged"


# --- what the closed form does not cover ---


def test_layouts_that_prefill_keeps_busy_run_with_less_than_one_sequence_on_average(bare: ProfileStore) -> None:
    """30000 tokens are four steps of 8192: with one decode step, a sequence at a time is more than most layouts can
    prefill for."""
    result = search(job(bare, workload="isl=30000,osl=2"), FREE)
    points = found(result.coarse)
    stable = points.steady.stable
    by_layout = {points.key(i)[1:3] for i in np.flatnonzero(stable & (points.concurrency < 1))}
    assert {(1, 1), (2, 1), (8, 1)} <= by_layout
    assert (points.steady.queue_busy[stable] <= 1).all()
    # The rate rises with the mean number of sequences, and ends where prefill is always busy.
    mine = np.flatnonzero(stable & (points.layouts.gpus == 1) & (points.budget == 8192))
    mine = mine[np.argsort(points.concurrency[mine])]
    assert (np.diff(points.steady.rate_rps.value[mine]) > 0).all()
    most = 1e6 / (points.steady.mixed.stage.value[mine[-1]] * 30000 / 8192)
    assert 0.5 * most < points.steady.rate_rps.value[mine[-1]] <= most * 1.01


@pytest.mark.parametrize("workload", ["isl=1,osl=1", "isl=1,osl=1000", "isl=30000,osl=500", "isl=500,osl=1"])
def test_extreme_lengths_give_finite_positive_predictions(bare: ProfileStore, workload: str) -> None:
    points = found(search(job(bare, workload=workload), FREE).fine)
    steady = points.steady
    several = not workload.endswith("osl=1")
    if not several:
        assert (steady.tpot_us.value == 0).all(), "no token follows the first"
    for estimate in (steady.rate_rps, steady.ttft_us, steady.e2e_us, *([steady.tpot_us] if several else [])):
        assert (estimate.low > 0).all()
        assert (estimate.low <= estimate.value).all()
        assert (estimate.value <= estimate.high).all()
        assert np.isfinite(estimate.high).all()
