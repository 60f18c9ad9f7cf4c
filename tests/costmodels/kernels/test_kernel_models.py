"""Kernel models: one contract for every operation, with and without a forest; then who answers and how surely."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from synthetic import MEASURED_GPUS, UNSEEN_GPU, questions, rows, truth_us

from costmodels.estimates import Estimates
from costmodels.kernels.cost_model import CostModel, unseen_spreads
from costmodels.kernels.kernel_models import (
    MEASURED_NOISE,
    SATURATED,
    KernelModel,
    coded,
    deduplicated,
    hardware_of,
    load_rows,
    places,
    shape_groups,
)
from costmodels.kernels.row_sources import sources_of
from costmodels.kernels.sound_rows import AHEAD
from costmodels.operations.registry import families
from costmodels.operations.roofline import Hardware
from costmodels.origins import FOREST, MEASURED, ROOFLINE
from profiles.errors import DataError, UnknownName
from profiles.hardware import find_gpu
from profiles.store import ProfileStore

MEASURED_GPU = MEASURED_GPUS[0]


def one(operation: str, **columns: object) -> dict[str, np.ndarray]:
    """The first row of the operation's grid as a question, with other ``columns``."""
    table = rows(operation, MEASURED_GPU).head(1)
    return coded(operation, table.assign(**{name: [value] for name, value in columns.items()}))


def permuted(q: dict[str, np.ndarray], order: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[order] for name, values in q.items()}


def assert_same(got: Estimates, expected: Estimates) -> None:
    for part in ("value", "low", "high"):  # to the last bits: numpy's sums depend on how many are summed at once
        np.testing.assert_allclose(getattr(got, part), getattr(expected, part), rtol=1e-12, err_msg=part)
    for part in ("how", "inside"):
        np.testing.assert_array_equal(getattr(got, part), getattr(expected, part), err_msg=part)


def bound_us(model: KernelModel, q: dict[str, np.ndarray]) -> np.ndarray:
    return model.kernel.roofline_us(q, np.zeros(len(q["dtype"]), np.int64), model.hardware)


@pytest.fixture(scope="session")
def unseen_cost(synthetic_store: ProfileStore) -> CostModel:
    return synthetic.cost_model(UNSEEN_GPU, synthetic_store)


@pytest.mark.parametrize("operation", families().kernels)
@pytest.mark.parametrize("kind", ["forest", "unseen GPU", "roofline"])
class TestEveryKernelModel:
    """What holds for every operation, whether a forest answers (on a GPU with rows or without) or the roofline."""

    @pytest.fixture
    def cost(self, kind: str, synthetic_cost: CostModel, unseen_cost: CostModel, roofline_cost: CostModel) -> CostModel:
        return {"forest": synthetic_cost, "unseen GPU": unseen_cost, "roofline": roofline_cost}[kind]

    @pytest.mark.parametrize("beyond", [1.0, 0.01, 50.0])
    def test_answers_are_finite_positive_and_ordered(self, cost: CostModel, operation: str, beyond: float) -> None:
        q = questions(operation, 60, beyond=beyond)
        got = cost.estimate(operation, q)
        assert len(got) == 60
        for part in (got.value, got.low, got.high):
            assert part.dtype == np.float64
            assert np.isfinite(part).all()
        assert np.all((got.low > 0) & (got.low <= got.value) & (got.value <= got.high))
        assert set(got.how) <= {MEASURED, FOREST, ROOFLINE}
        assert got.inside.dtype == bool

    def test_the_low_side_stays_above_the_roofline(self, cost: CostModel, operation: str) -> None:
        q = questions(operation, 60, seed=1, beyond=8.0)
        got, model = cost.estimate(operation, q), cost.kernel(operation)
        assert np.all(got.low >= np.minimum(bound_us(model, q), got.value) * (1 - 1e-12))

    def test_answers_do_not_depend_on_the_order_of_questions(self, cost: CostModel, operation: str) -> None:
        q = questions(operation, 40)
        order = np.random.default_rng(0).permutation(40)
        assert_same(cost.estimate(operation, permuted(q, order)), cost.estimate(operation, q).take(order))

    def test_answers_do_not_depend_on_what_else_is_asked(self, cost: CostModel, operation: str) -> None:
        q = questions(operation, 12)
        together = cost.estimate(operation, q)
        for i in (0, 5, 11):
            assert_same(cost.estimate(operation, permuted(q, np.array([i]))), together.take(np.array([i])))

    def test_equal_questions_get_equal_answers(self, cost: CostModel, operation: str) -> None:
        q = questions(operation, 10)
        again = np.array([3, 3, 0, 9, 3])
        assert_same(cost.estimate(operation, permuted(q, again)), cost.estimate(operation, q).take(again))

    def test_no_questions_get_no_answers(self, cost: CostModel, operation: str) -> None:
        nothing = permuted(questions(operation, 1), np.zeros(0, np.int64))
        assert len(cost.estimate(operation, nothing)) == 0

    def test_measured_rows_are_answered_by_the_measurement(self, cost: CostModel, kind: str, operation: str) -> None:
        table = rows(operation, MEASURED_GPU)
        got = cost.estimate(operation, coded(operation, table))
        if kind == "forest":
            np.testing.assert_allclose(got.value, table["latency_us"])
            np.testing.assert_allclose(got.high, table["latency_us"] * np.exp(MEASURED_NOISE))
            assert np.all(got.how == MEASURED)
            assert got.inside.all()
        else:
            assert np.all(got.how == (FOREST if kind == "unseen GPU" else ROOFLINE))
            assert not got.inside.any()

    def test_between_the_rows_the_truth_is_met(self, cost: CostModel, kind: str, operation: str) -> None:
        if kind == "roofline":
            pytest.skip("nothing to be right with")
        q = questions(operation, 200, seed=2)
        got = cost.estimate(operation, q)
        truth = truth_us(operation, q, cost.gpu.name)
        assert np.median(np.abs(got.value / truth - 1)) < (0.1 if kind == "forest" else 0.15)
        assert np.mean((got.low <= truth) & (truth <= got.high)) > 0.7


def test_between_two_measured_sizes_the_answer_is_between_theirs(synthetic_cost: CostModel) -> None:
    smaller, larger = (synthetic_cost.estimate("gemm", one("gemm", m=m, n=4096, k=4096)).value[0] for m in (1024, 4096))
    between = synthetic_cost.estimate("gemm", one("gemm", m=2048, n=4096, k=4096))
    assert between.how[0] == FOREST
    assert between.inside[0]
    assert smaller < between.value[0] < larger


def test_beyond_the_measured_range_intervals_widen_with_the_distance(synthetic_cost: CostModel) -> None:
    sizes = [3000, 8192, 32768, 131072]
    got = [synthetic_cost.estimate("gemm", one("gemm", m=m, n=4096, k=4096)) for m in sizes]
    widths = [float(np.log(e.high[0] / e.value[0])) for e in got]
    assert widths == sorted(widths)
    assert widths[-1] > widths[0] + 1
    assert [bool(e.inside[0]) for e in got] == [True, False, False, False]
    assert all(e.how[0] == FOREST for e in got)  # still the forest's answer, however unsure
    for m, e in zip(sizes, got, strict=True):
        bound = bound_us(synthetic_cost.kernel("gemm"), one("gemm", m=m, n=4096, k=4096))
        assert e.low[0] >= bound[0] * (1 - 1e-12)


def test_a_column_that_was_never_varied_counts_the_same_however_far(synthetic_cost: CostModel) -> None:
    near, far = (synthetic_cost.estimate("attention_prefill", one("attention_prefill", prefix_tokens=p))
                 for p in (16, 65536))  # fmt: skip
    for got in (near, far):
        assert not got.inside[0]
        assert np.log(got.high[0] / got.value[0]) < 0.6


@pytest.mark.parametrize("operation", families().kernels)
def test_a_gpu_without_rows_gets_wider_intervals(
    synthetic_cost: CostModel, unseen_cost: CostModel, operation: str
) -> None:
    q = questions(operation, 80, seed=3)
    seen, unseen = synthetic_cost.estimate(operation, q), unseen_cost.estimate(operation, q)
    width = np.log(unseen.high / unseen.value)
    assert np.all(width >= unseen_spreads()[operation] - 1e-9)
    assert np.median(width) > np.median(np.log(seen.high / seen.value))
    assert not unseen.inside.any()


@pytest.mark.parametrize("operation", ["gemm", "mla_decode"])
def test_less_arithmetic_than_a_measured_relative_costs_what_is_missing(
    synthetic_store: ProfileStore, operation: str
) -> None:
    """H20 is H200 with a seventh of the arithmetic: what launches or memory take stays, what is computed grows."""
    poor, relative = (synthetic.cost_model(name, synthetic_store) for name in ("H20", "H200"))
    q = questions(operation, 80, seed=4)
    got, near = poor.estimate(operation, q), relative.estimate(operation, q)
    bound, bound_near = (bound_us(each.kernel(operation), q) for each in (poor, relative))  # type: ignore[arg-type]
    np.testing.assert_allclose(got.value, near.value + SATURATED * np.maximum(bound - bound_near, 0.0))
    assert not got.inside.any()


@pytest.mark.parametrize("operation", ["gemm", "mla_decode"])
def test_the_twin_of_a_measured_gpu_takes_its_times(synthetic_store: ProfileStore, operation: str) -> None:
    """H800 is H100 with fewer links; GH200's memory is too much faster than H100's."""
    q = questions(operation, 80, seed=4)
    twin, near, other = (
        synthetic.cost_model(name, synthetic_store).estimate(operation, q) for name in ("H800", "H100", "GH200")
    )
    np.testing.assert_allclose(twin.value, near.value)
    assert not twin.inside.any()
    assert not np.allclose(other.value, near.value)


def test_an_unseen_precision_is_an_unseen_gpu(synthetic_cost: CostModel) -> None:
    got = synthetic_cost.estimate("gemm", one("gemm", dtype="int8", m=100))
    assert not got.inside[0]
    assert np.log(got.high[0] / got.value[0]) >= unseen_spreads()["gemm"]


def test_an_unseen_model_is_unknown_to_its_moe_rows(synthetic_cost: CostModel) -> None:
    known, unknown = (synthetic_cost.estimate("moe", one("moe", tokens=100, experts=experts)) for experts in (128, 100))
    assert known.inside[0]
    assert not unknown.inside[0]
    assert np.log(unknown.high[0] / unknown.value[0]) > np.log(known.high[0] / known.value[0])


@pytest.mark.usefixtures("cache")
def test_a_few_rows_of_a_new_gpu_anchor_its_predictions(tmp_path: Path) -> None:
    store = synthetic.empty_store(tmp_path / "store")
    for gpu in MEASURED_GPUS:
        store.add("gemm", rows("gemm", gpu))
    asked = questions("gemm", 100, seed=4)
    truth = truth_us("gemm", asked, UNSEEN_GPU) * 1.6  # this GPU is slower than its data sheet lets one think
    before = synthetic.cost_model(UNSEEN_GPU, store).estimate("gemm", asked)
    store.add("gemm", rows("gemm", UNSEEN_GPU, slower=1.6).iloc[::4])
    after = synthetic.cost_model(UNSEEN_GPU, store).estimate("gemm", asked)
    assert np.median(np.abs(before.value / truth - 1)) > 0.3
    assert np.median(np.abs(after.value / truth - 1)) < 0.15
    assert np.median(np.log(after.high / after.low)) < np.median(np.log(before.high / before.low))


def test_the_roofline_alone_counts_a_launch_and_ends_at_the_roofline(roofline_cost: CostModel) -> None:
    q = one("gemm", m=1, n=512, k=512)
    got, bound = roofline_cost.estimate("gemm", q), bound_us(roofline_cost.kernel("gemm"), q)
    assert got.value[0] == pytest.approx(bound[0] + 2)
    assert got.high[0] == pytest.approx(4 * got.value[0])
    large = one("gemm", m=8192, n=8192, k=8192)
    assert roofline_cost.estimate("gemm", large).low[0] == bound_us(roofline_cost.kernel("gemm"), large)[0]


# --- rows -------------------------------------------------------------------------------------------------


def two_frameworks(folder: Path) -> ProfileStore:
    """vLLM measured bf16, SGLang bf16 (twice as slow) and fp8."""
    store = synthetic.empty_store(folder)
    store.add("gemm", rows("gemm", MEASURED_GPU, "vllm"))
    store.add("gemm", rows("gemm", MEASURED_GPU, "sglang", slower=2.0))
    store.add("gemm", rows("gemm", MEASURED_GPU, "sglang").assign(dtype="fp8"))
    return store


def test_a_framework_speaks_for_itself_where_it_was_measured(tmp_path: Path) -> None:
    store = two_frameworks(tmp_path)
    loaded = load_rows(store, "gemm", "vllm", hardware_of(store, "gemm"))
    own = rows("gemm", MEASURED_GPU, "vllm")
    assert len(loaded.gpu) == 2 * len(own)  # its own bf16, SGLang's fp8
    bf16 = loaded.columns["dtype"] == coded("gemm", own)["dtype"][0]
    assert np.all(loaded.origin[bf16] == 0)
    assert np.all(loaded.origin[~bf16] == sources_of("vllm").index("sglang"))
    np.testing.assert_allclose(np.sort(loaded.latency_us[bf16]), np.sort(own["latency_us"]))


def test_rows_of_one_gpu_are_read_alone(synthetic_store: ProfileStore) -> None:
    hardware = Hardware.of([find_gpu("H200")])
    loaded = load_rows(synthetic_store, "mla_bmm", "vllm", hardware, gpu="H200")
    assert len(loaded.gpu) == len(rows("mla_bmm", "H200"))
    assert not loaded.gpu.any()


def test_a_product_that_was_disturbed_takes_the_least_of_the_next_sizes(tmp_path: Path) -> None:
    table = rows("gemm", MEASURED_GPU, "vllm")
    shapes = [group.index for _, group in table.sort_values("m").groupby(["dtype", "n", "k"]) if len(group) >= 4]
    struck = table.copy()
    struck.loc[shapes[0][1], "latency_us"] = 3 * struck.loc[shapes[0], "latency_us"].max()
    struck.loc[shapes[1][-1], "latency_us"] *= 9  # the largest has no larger ones to tell
    store = synthetic.empty_store(tmp_path)
    store.add("gemm", struck)
    alone = load_rows(store, "gemm", "vllm", Hardware.of([find_gpu(MEASURED_GPU)]), gpu=MEASURED_GPU)
    struck.loc[shapes[0][1], "latency_us"] = table.loc[shapes[0][2 : 2 + AHEAD], "latency_us"].min()
    assert sorted(alone.latency_us) == pytest.approx(sorted(struck["latency_us"]))
    assert len(load_rows(store, "gemm", "vllm", hardware_of(store, "gemm")).gpu) == len(table)


def test_collectives_are_the_same_for_all_16_bit_types_and_8_bit_rows_are_repeats(tmp_path: Path) -> None:
    store = synthetic.empty_store(tmp_path)
    table = rows("collective", MEASURED_GPU)
    store.add("collective", pd.concat([table.assign(dtype=d) for d in ("fp16", "int8")]))
    loaded = load_rows(store, "collective", "vllm", hardware_of(store, "collective"))
    assert len(loaded.gpu) == len(table)
    assert set(loaded.columns["dtype"]) == {coded("collective", table)["dtype"][0]}


@pytest.mark.usefixtures("cache")
def test_a_routing_without_a_code_is_refused_by_name(tmp_path: Path) -> None:
    store = synthetic.empty_store(tmp_path / "store")
    store.add("moe", rows("moe", MEASURED_GPU).assign(routing="power_law_0.7"))
    with pytest.raises(DataError, match=r"moe rows have routing 'power_law_0.7'"):
        synthetic.cost_model(MEASURED_GPU, store).kernel("moe")


def test_rows_of_a_gpu_outside_the_catalogue_are_refused_by_name(tmp_path: Path) -> None:
    store = synthetic.empty_store(tmp_path)
    store.add("gemm", rows("gemm", MEASURED_GPU).assign(gpu="H9000"))
    with pytest.raises(UnknownName, match="H9000"):
        hardware_of(store, "gemm")


def test_questions_are_asked_once_and_answers_given_back_in_order() -> None:
    q = questions("gemm", 30)
    twice = {name: np.concatenate([values, values[::-1]]) for name, values in q.items()}
    unique, back = deduplicated("gemm", twice)
    assert len(unique["m"]) == len(np.unique(np.column_stack(list(q.values())), axis=0))
    for name, values in twice.items():
        np.testing.assert_array_equal(unique[name][back], values)


def test_different_questions_never_share_a_key() -> None:
    # m, n and k of a GEMM are not the same when they change places.
    q = {name: np.array(v) for name, v in {"dtype": [1] * 6, "num_gpus": [1] * 6, "m": [1, 1, 2, 2, 3, 3],
         "n": [2, 3, 1, 3, 1, 2], "k": [3, 2, 3, 1, 2, 1]}.items()}  # fmt: skip
    assert len(deduplicated("gemm", q)[0]["m"]) == 6


def test_a_shape_is_what_its_columns_say() -> None:
    table = rows("gemm", MEASURED_GPU)
    groups = shape_groups(families().kernels["gemm"], coded("gemm", table))
    assert len(np.unique(groups)) == len(table[["n", "k"]].drop_duplicates())
    assert pd.Series(groups).groupby([table["n"], table["k"]]).nunique().eq(1).all()


@pytest.mark.parametrize("operation", families().kernels)
def test_doubling_a_column_moves_a_row_by_its_scale(operation: str) -> None:
    family, q = families().kernels[operation], questions(operation, 5)
    for position, (name, scale) in enumerate(family.near.items()):
        q[name] = np.maximum(q[name], 1)
        moved = places(family, {**q, name: q[name] * 2}) - places(family, q)
        np.testing.assert_allclose(moved[:, position], scale, rtol=1e-5)
        assert not np.delete(moved, position, axis=1).any()
