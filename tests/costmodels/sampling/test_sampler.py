"""The sampler: what it promises of a row is what the process says after the row, and it chooses by that promise."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from synthetic import GRIDS, UNSEEN_GPU, rows

from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.error_process import ErrorProcess
from costmodels.kernels.kernel_models import coded
from costmodels.operations.roofline import code
from costmodels.sampling.sampler import Sampler, modelled
from costmodels.sampling.targets import Targets, targets
from profiles.errors import InputError, UnknownName
from profiles.hardware import find_gpu
from profiles.store import ProfileStore


@dataclass(frozen=True)
class Point:
    operation: str
    dtype: str
    shape: dict[str, int | str] = field(default_factory=dict)
    num_gpus: int = 1


GEMMS = [
    Point("gemm", "bf16", {"m": m, "n": n, "k": k})
    for m in (1, 16, 256, 4096)
    for n in (512, 2048, 8192)
    for k in (512, 2048, 8192)
]
BMMS = [Point("mla_bmm", "bf16", {"kind": "pre", "tokens": t, "heads": h}) for t in (1, 64, 4096) for h in (8, 128)]
ONES = np.ones(len(GEMMS))


@pytest.fixture(scope="module")
def cost(synthetic_store: ProfileStore) -> CostModel:
    return CostModel(find_gpu(UNSEEN_GPU), "vllm", synthetic_store)


def asked(n: int = 40) -> dict[str, Targets]:
    return {"gemm": Targets(synthetic.questions("gemm", n, seed=9), np.full(n, 1 / n))}


def columns(points: list[Point]) -> dict[str, np.ndarray]:
    return coded(points[0].operation, pd.DataFrame([{"dtype": p.dtype, "num_gpus": 1, **p.shape} for p in points]))


def test_each_choice_is_the_one_that_lowers_the_mean_variance_most(cost: CostModel) -> None:
    """The exhaustive twin: every candidate is tried by inverting its whole matrix."""
    space, priors = cost.errors("gemm")
    target, candidates = (space.points(q, space.model.answer(q))[0] for q in (asked()["gemm"].columns, columns(GEMMS)))

    def variance(chosen: list[int]) -> float:
        r = candidates.take(np.array(chosen))
        k = priors.covariance(r, r) + np.diag(priors.noise(r))
        across = priors.covariance(target, r)
        told = np.einsum("ij,jk,ik->i", across, np.linalg.inv(k), across)
        return float((priors.variance(target) - told).mean())

    taken = Sampler(cost, GEMMS, ONES, asked=asked()).take(5)
    for position, index in enumerate(taken):
        before = taken[:position]
        best = min(variance([*before, i]) for i in range(len(GEMMS)) if i not in before)
        assert variance([*before, index]) == pytest.approx(best, rel=1e-9)


def test_gain_is_weighed_against_seconds(cost: CostModel) -> None:
    first = Sampler(cost, GEMMS, ONES, asked=asked()).take(1)[0]
    seconds = ONES.copy()
    seconds[first] = 1e6
    assert Sampler(cost, GEMMS, seconds, asked=asked()).take(1)[0] != first


@pytest.mark.parametrize("order", ["active", "random", "grid"])
def test_every_order_takes_each_point_once_and_is_the_same_every_time(cost: CostModel, order: str) -> None:
    runs = []
    for _ in range(2):
        sampler = Sampler(cost, GEMMS, ONES, order=order, seed=3, asked=asked())  # type: ignore[arg-type]
        runs.append(sampler.take(10) + sampler.take(100))
        assert sampler.take(1) == []
    assert runs[0] == runs[1]
    assert sorted(runs[0]) == list(range(len(GEMMS)))


def test_seeds_change_the_random_order_only(cost: CostModel) -> None:
    def order(name: str, seed: int) -> list[int]:
        return Sampler(cost, GEMMS, ONES, order=name, seed=seed, asked=asked()).take(9)  # type: ignore[arg-type]

    assert order("random", 0) != order("random", 1)
    assert order("active", 0) == order("active", 1)
    assert order("grid", 0) == order("grid", 1)


def test_any_beginning_of_the_grid_is_spread_evenly(cost: CostModel) -> None:
    first = sorted(Sampler(cost, GEMMS, ONES, order="grid", asked=asked()).take(4))
    assert min(np.diff(first)) >= len(GEMMS) // 8


def test_a_point_that_could_not_be_measured_is_withdrawn(cost: CostModel) -> None:
    sampler, other = (Sampler(cost, GEMMS, ONES, asked=asked()) for _ in range(2))
    first = sampler.take(1)[0]
    sampler.skip(first)
    other.skip(first)
    following = sampler.take(6)
    assert first not in following
    assert following == other.take(6)


def test_a_point_known_from_elsewhere_is_not_offered(cost: CostModel) -> None:
    sampler = Sampler(cost, GEMMS, ONES, asked=asked())
    first = Sampler(cost, GEMMS, ONES, asked=asked()).take(1)[0]
    sampler.observe(first, 12.0)
    assert first not in sampler.take(len(GEMMS))


def test_expected_error_falls_as_rows_are_observed(cost: CostModel) -> None:
    sampler = Sampler(cost, GEMMS, ONES, asked=asked())
    errors = [sampler.errors()["gemm"]]
    for _ in range(3):
        for index in sampler.take(8):
            sampler.observe(index, float(sampler.predicted_us[index] * 1.1))
        errors.append(sampler.errors()["gemm"])
    assert errors[0] > errors[1] > errors[2] > errors[3] > 0


def test_operations_share_the_seconds_by_what_they_weigh(cost: CostModel) -> None:
    points = [*GEMMS, *BMMS]
    bmm = Targets(synthetic.questions("mla_bmm", 20), np.full(20, 1e-9))
    taken = Sampler(cost, points, np.ones(len(points)), asked={**asked(), "mla_bmm": bmm}).take(len(GEMMS))
    assert sorted(taken) == list(range(len(GEMMS)))


def test_rows_of_a_measured_store_count_as_measured(synthetic_store: ProfileStore, tmp_path: Path) -> None:
    made = synthetic.empty_store(tmp_path / "m")
    made.add("gemm", rows("gemm", UNSEEN_GPU, "torch").sample(30, random_state=0))
    again = CostModel(find_gpu(UNSEEN_GPU), "vllm", synthetic_store, None, [made])
    fresh = CostModel(find_gpu(UNSEEN_GPU), "vllm", synthetic_store)
    errors = [Sampler(model, GEMMS, ONES, asked=asked()).errors()["gemm"] for model in (fresh, again)]
    assert errors[1] < errors[0]


def test_points_that_nothing_predicts_are_refused_by_name(cost: CostModel) -> None:
    copy = Point("memcpy", "int8", {"kind": "device_to_device", "copied_bytes": 1 << 20})
    skewed = Point("moe", "bf16", {"routing": "power_law_0.7"})
    assert [modelled(p) for p in (copy, skewed, GEMMS[0])] == [False, False, True]
    with pytest.raises(InputError, match="memcpy"):
        Sampler(cost, [copy], np.ones(1))
    with pytest.raises(UnknownName, match="order: 'greedy'"):
        Sampler(cost, GEMMS, ONES, order="greedy")  # type: ignore[arg-type]
    for seconds in (np.ones(2), ONES * 0):
        with pytest.raises(InputError, match="seconds"):
            Sampler(cost, GEMMS, seconds, asked=asked())


def test_models_ask_every_operation_and_their_weights_are_shares_of_time(synthetic_cost: CostModel) -> None:
    found = targets(synthetic_cost, list(GRIDS), most=200)
    # No model of sparse attention fits into eight H100; prompts have no images; all ranks gather all tokens.
    unasked = {"dsa_prefill", "dsa_decode", "dsa_shared_prefill", "dsa_shared_decode", "encoder_attention"}
    unasked |= {"mla_module_prefill", "mla_module_decode", "wide_moe", "expert_exchange"}
    assert set(found) == set(GRIDS) - unasked
    assert sum(part.weights.sum() for part in found.values()) == pytest.approx(1.0)
    assert all(0 < len(part.weights) <= 200 for part in found.values())
    assert found["gemm"].weights.sum() > found["mla_bmm"].weights.sum()
    again = targets(synthetic_cost, list(GRIDS), most=200)
    np.testing.assert_array_equal(found["gemm"].columns["n"], again["gemm"].columns["n"])


def test_a_gpu_is_asked_only_what_it_can_run(synthetic_store: ProfileStore) -> None:
    """No fp8 on an A100, and no model on fewer GPUs than hold its weights."""
    found = targets(CostModel(find_gpu("A100-SXM-80GB"), "vllm", synthetic_store), ["gemm"])["gemm"]
    assert set(found.columns["dtype"]) == {code("dtype", "bf16")}


def test_the_anchor_sees_what_the_sampler_saw(cost: CostModel) -> None:
    """The sampler's expected error is that of the product's own posterior."""
    sampler = Sampler(cost, GEMMS, ONES, asked=asked())
    taken = sampler.take(12)
    for index in taken:
        sampler.observe(index, float(sampler.predicted_us[index]))
    space, priors = cost.errors("gemm")
    q = columns([GEMMS[i] for i in sorted(taken)])
    p, _ = space.points(q, space.model.answer(q))
    target = asked()["gemm"].columns
    _, width = ErrorProcess(priors, p, np.zeros(12)).at(space.points(target, space.model.answer(target))[0])
    assert sampler.errors()["gemm"] == pytest.approx(float(width.mean()) / 1.2815515655 * np.sqrt(2 / np.pi), rel=1e-6)
