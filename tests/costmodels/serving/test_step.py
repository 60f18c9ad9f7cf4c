"""One engine step: the sum of its parts, and the right parts."""

from __future__ import annotations

import numpy as np
import pytest

from costmodels.kernels.cost_model import CostModel
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Batch
from costmodels.origins import FOREST, MEASURED, ROOFLINE
from costmodels.serving.frameworks.calibration import NEUTRAL, Calibration, Effect, Spread
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.served_model import ServedModel
from costmodels.serving.step import StepTimes, step_times
from costmodels.step.communication import Network, point_to_point_us
from costmodels.step.operators import step_work
from profiles.hardware import find_fabric

IB = find_fabric("ib-400g")
VLLM = find_framework("vllm")
ONE = np.ones(1, np.int64)
LAYOUTS = [(1, 1, 1, 1, 1), (4, 1, 1, 4, 1), (8, 1, 1, 1, 8), (2, 4, 1, 2, 1), (1, 1, 8, 8, 1), (2, 2, 4, 8, 1)]


def step(
    cost: CostModel,
    model: str,
    layouts: list[tuple[int, int, int, int, int]],
    *,
    decodes: int = 32,
    context: int = 2000,
    chunk: int = 0,
    gpus_per_node: int = 8,
    calibration: Calibration | None = None,
) -> StepTimes:
    architecture = find_architecture(model)
    n = len(layouts)
    columns = [np.full(n, value, np.int64) for value in (min(chunk, 1), chunk, 0, decodes, context)]
    batch = Batch(*columns, expert_tokens=np.full(n, float(decodes + chunk)))
    served = ServedModel(architecture, choose_precision(architecture), VLLM, cost, Network(gpus_per_node, IB))
    return served.step(Layouts.of(layouts), batch, "balanced", calibration=calibration)


@pytest.mark.parametrize("model", ["Qwen3-32B", "Qwen3-235B-A22B", "DeepSeek-V3", "openai/gpt-oss-120b"])
@pytest.mark.parametrize("chunk", [0, 2048])
def test_parts_add_up_to_the_latency(roofline_cost: CostModel, model: str, chunk: int) -> None:
    got = step(roofline_cost, model, LAYOUTS, chunk=chunk)
    np.testing.assert_allclose(np.sum(list(got.parts.values()), axis=0), got.latency.value)
    assert all(np.all(part >= 0) for part in got.parts.values())
    for estimate in (got.latency, got.stage):
        assert np.all((estimate.low > 0) & (estimate.low <= estimate.value) & (estimate.value <= estimate.high))


def test_a_step_with_prompts_ends_no_earlier_than_its_kernels_are_launched(roofline_cost: CostModel) -> None:
    def took(chunk: int, launching_us: float) -> StepTimes:
        at = NEUTRAL.model_copy(update={"launching_us": launching_us})
        return step(roofline_cost, "Qwen3-235B-A22B", LAYOUTS[:3], chunk=chunk, calibration=at)

    plain, late = took(512, 0.0), took(512, 1e6)
    np.testing.assert_allclose(late.latency.value, 1e6, rtol=0.01)
    np.testing.assert_allclose(np.sum(list(late.parts.values()), axis=0), late.latency.value)
    np.testing.assert_allclose(took(512, 10.0).latency.value, plain.latency.value, rtol=1e-3)
    np.testing.assert_array_equal(took(0, 1e6).latency.value, took(0, 0.0).latency.value)


def test_what_comes_beside_launching_is_added_to_it(roofline_cost: CostModel) -> None:
    late = NEUTRAL.model_copy(update={"launching_us": 1e6})
    slower = late.model_copy(update={"effect": Effect(layer_us=100.0)})
    got = [step(roofline_cost, "Qwen3-235B-A22B", LAYOUTS[:3], chunk=512, calibration=each) for each in (late, slower)]
    layers = find_architecture("Qwen3-235B-A22B").layers
    np.testing.assert_allclose(got[1].latency.value - got[0].latency.value, 100.0 * layers)


def test_a_step_is_never_faster_than_its_roofline(roofline_cost: CostModel) -> None:
    got = step(roofline_cost, "Qwen3-32B", LAYOUTS[:3], chunk=1024, calibration=NEUTRAL)
    kernels = got.latency.value - got.parts["host"] - got.parts["communication"]
    assert np.all(np.maximum(got.compute_us, got.memory_us) <= kernels)


def test_calibration_scales_each_operation_and_adds_the_hosts_share(roofline_cost: CostModel) -> None:
    plain = step(roofline_cost, "Qwen3-235B-A22B", LAYOUTS[:3], calibration=NEUTRAL)
    assert np.all(plain.parts["host"] == 0)
    slower = NEUTRAL.model_copy(update={"factors": {**NEUTRAL.factors, "moe": 2.0}, "step_us": 100.0})
    got = step(roofline_cost, "Qwen3-235B-A22B", LAYOUTS[:3], calibration=slower)
    np.testing.assert_allclose(got.parts["moe"], 2 * plain.parts["moe"])
    np.testing.assert_allclose(got.parts["gemm"], plain.parts["gemm"])
    np.testing.assert_allclose(got.latency.value, plain.latency.value + plain.parts["moe"] + 100.0)


def test_experts_have_a_factor_of_their_own_in_steps_with_prompts(roofline_cost: CostModel) -> None:
    slower = NEUTRAL.model_copy(update={"factors": {**NEUTRAL.factors, "moe_prompts": 3.0}})
    for chunk, times in ((0, 1.0), (1024, 3.0)):
        plain, got = (
            step(roofline_cost, "Qwen3-235B-A22B", LAYOUTS[:2], chunk=chunk, calibration=each)
            for each in (NEUTRAL, slower)
        )
        np.testing.assert_allclose(got.parts["moe"], times * plain.parts["moe"])


def test_a_steps_interval_is_at_least_that_of_models_held_out(roofline_cost: CostModel) -> None:
    wide = NEUTRAL.model_copy(update={"tpot": Spread(low=-3.0, high=3.0)})
    got = step(roofline_cost, "Qwen3-32B", LAYOUTS[:1], calibration=wide).latency
    assert got.low[0] <= got.value[0] * np.exp(-3.0) * (1 + 1e-9)
    assert got.high[0] >= got.value[0] * np.exp(3.0) * (1 - 1e-9)


def test_a_single_gpu_decodes_at_the_speed_of_its_memory(roofline_cost: CostModel) -> None:
    got = step(roofline_cost, "Qwen3-32B", [(1, 1, 1, 1, 1)], decodes=1, context=1, calibration=VLLM.calibration)
    model, gpu = find_architecture("Qwen3-32B"), roofline_cost.gpu
    weights = 2 * (model.parameters - model.embedding_parameters)
    assert got.memory_us[0] == pytest.approx(weights / gpu.memory_bandwidth_bytes_per_s * 1e6, rel=0.01)
    assert got.parts["communication"][0] == 0
    assert got.parts["moe"][0] == 0
    assert got.parts["host"][0] == pytest.approx(VLLM.calibration.host_us(model.layers, ONE, 0 * ONE)[0])


def test_a_large_prefill_runs_at_the_speed_of_the_tensor_cores(roofline_cost: CostModel) -> None:
    got = step(roofline_cost, "Qwen3-32B", [(1, 1, 1, 1, 1)], decodes=0, chunk=8192)
    model, gpu = find_architecture("Qwen3-32B"), roofline_cost.gpu
    products = 2 * (model.active_parameters - 2 * model.embedding_parameters) * 8192
    attention = 4 * 64 * 64 * 128 * 8192 * 8193 / 2
    assert got.compute_us[0] == pytest.approx((products + attention) / gpu.peak_flops["bf16"] * 1e6, rel=0.01)


def test_splitting_a_model_shortens_the_kernels_and_adds_communication(roofline_cost: CostModel) -> None:
    got = step(roofline_cost, "Qwen3-32B", [(tp, 1, 1, 1, 1) for tp in (1, 2, 4, 8)])
    assert np.all(np.diff(got.parts["gemm"]) < 0)
    assert np.all(np.diff(got.parts["attention"]) < 0)
    assert got.parts["communication"][0] == 0
    assert np.all(got.parts["communication"][1:] > 0)


@pytest.mark.parametrize(("axis", "values"), [("decodes", [1, 8, 64, 512]), ("context", [10, 1000, 50_000])])
def test_more_work_is_never_faster(roofline_cost: CostModel, axis: str, values: list[int]) -> None:
    for model in ("Qwen3-32B", "Qwen3-235B-A22B", "DeepSeek-V3"):
        times = [step(roofline_cost, model, LAYOUTS[:2], **{axis: value}).latency.value for value in values]
        assert np.all(np.diff(times, axis=0) > 0)


def test_a_pipeline_passes_through_all_stages_and_beats_at_the_slowest(roofline_cost: CostModel) -> None:
    def piped(pp: int) -> StepTimes:
        return step(roofline_cost, "Qwen3-32B", [(1, pp, 1, 1, 1)], calibration=VLLM.calibration)

    def host_of(layers: float) -> float:
        decodes = np.array([32])
        return float(VLLM.calibration.host_us(layers, decodes, 0 * decodes)[0])

    one, four = piped(1), piped(4)
    assert one.stage.value[0] == pytest.approx(one.latency.value[0])
    host = one.parts["host"][0]
    assert host == pytest.approx(host_of(64))
    hop = four.parts["communication"][0] / 3
    assert four.latency.value[0] == pytest.approx(one.latency.value[0] + 3 * hop)
    assert four.stage.value[0] == pytest.approx((one.latency.value[0] - host) / 4 + hop + host_of(16))
    uneven = piped(6)  # 64 layers: the fullest stage has 11
    assert uneven.stage.value[0] > (one.latency.value[0] - host) * 11 / 64 + host_of(11)


def test_a_pipeline_over_nodes_sends_over_the_fabric(roofline_cost: CostModel) -> None:
    layouts = [(4, 4, 1, 1, 1)]
    inside, across = (step(roofline_cost, "Qwen3-32B", layouts, gpus_per_node=n) for n in (16, 8))
    message = np.array([32 * 5120 * 2.0])
    more = 3 * (point_to_point_us(IB, message) - 2.0 - message / roofline_cost.gpu.scale_up_bytes_per_s * 1e6)
    assert across.latency.value[0] - inside.latency.value[0] == pytest.approx(more[0])


def test_a_tensor_split_over_nodes_is_no_surer_than_its_exchanges(synthetic_cost: CostModel) -> None:
    """No run that constants are fitted to crossed nodes: the kernels' own interval stays where it is wider."""
    sure = NEUTRAL.model_copy(update={"tpot": Spread(low=-0.05, high=0.05), "met": True})
    wide = []
    for gpus_per_node in (16, 8):
        got = step(
            synthetic_cost,
            "Llama-3.1-8B",
            [(8, 1, 1, 1, 1), (16, 1, 1, 1, 1)],
            gpus_per_node=gpus_per_node,
            calibration=sure,
        )
        wide.append(np.log(got.latency.high / got.latency.value))
    assert wide[0][0] == wide[1][0] == pytest.approx(sure.tpot.high)
    assert wide[1][1] > wide[0][1] == pytest.approx(sure.tpot.high)


def test_measured_kernels_are_named_and_the_rest_does_not_weaken_them(
    synthetic_cost: CostModel, roofline_cost: CostModel
) -> None:
    got = step(synthetic_cost, "Llama-3.1-8B", [(1, 1, 1, 1, 1), (4, 1, 1, 1, 1)])
    assert set(got.latency.how) <= {MEASURED, FOREST}
    assert set(step(roofline_cost, "Llama-3.1-8B", [(1, 1, 1, 1, 1)]).latency.how) == {ROOFLINE}


def test_steps_are_taken_row_by_row(roofline_cost: CostModel) -> None:
    got = step(roofline_cost, "Qwen3-235B-A22B", LAYOUTS)
    one = got.take(np.array([3]))
    alone = step(roofline_cost, "Qwen3-235B-A22B", [LAYOUTS[3]])
    assert one.latency.value[0] == pytest.approx(alone.latency.value[0])
    assert one.compute_us[0] == pytest.approx(alone.compute_us[0])
    assert {part: v[0] for part, v in one.parts.items()} == pytest.approx(
        {part: v[0] for part, v in alone.parts.items()}
    )


@pytest.mark.parametrize(("decodes", "chunk", "hides"), [(8, 0, True), (300, 0, False), (8, 512, False)])
def test_shared_experts_hide_behind_routed_ones_in_graphs(
    roofline_cost: CostModel, decodes: int, chunk: int, hides: bool
) -> None:
    """What they take beyond their roofline, up to the framework's tokens."""
    model, layouts = find_architecture("DeepSeek-V3"), Layouts.of([(8, 1, 1, 8, 1)])
    columns = [np.full(1, value, np.int64) for value in (min(chunk, 1), chunk, 0, decodes, 2000)]
    batch = Batch(*columns, expert_tokens=np.full(1, float(decodes + chunk)))
    most = VLLM.capabilities.shared_experts_beside
    assert most == 256
    got = []
    for tokens in (0, most):
        work = step_work(model, choose_precision(model), layouts, batch, "balanced")
        assert sum(part.beside for part in work.asked["gemm"]) == 2
        work.beside_tokens = tokens
        got.append(step_times(model, work, layouts, batch, roofline_cost, {}, Network(8, IB), NEUTRAL))
    apart, beside = got
    assert (beside.parts["gemm"] < apart.parts["gemm"])[0] == hides
    assert beside.latency.value <= apart.latency.value
