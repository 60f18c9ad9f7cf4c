"""Rows that speak for an operation in the place of a framework's own, and what else tells engines with several
attention replicas apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.row_sources import sources_of
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.exchanges import ONE_SIDED
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Batch, StepWork
from costmodels.serving.frameworks.calibration import NEUTRAL
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.frameworks.names import framework_names
from costmodels.serving.served_model import ServedModel
from costmodels.serving.step import StepTimes
from costmodels.step.communication import Network
from costmodels.step.operators import step_work
from profiles.hardware import find_fabric, find_gpu
from profiles.store import ProfileStore, shipped_pack

TRTLLM = find_framework("trtllm")
NETWORK = Network(8, find_fabric("ib-400g"))
ONE_REPLICA, EIGHT_REPLICAS = (8, 1, 1, 8, 1), (1, 1, 8, 8, 1)  # tp, pp, dp, ep, moe_tp


@pytest.fixture
def bare(bare_store: ProfileStore) -> Callable[..., ServedModel]:
    """DeepSeek-V3 where nothing was measured: rooflines answer."""

    def of(gpu: str, precision: str, framework: str = "trtllm") -> ServedModel:
        return served(CostModel(find_gpu(gpu), framework, bare_store), precision, framework)

    return of


def served(cost: CostModel, precision: str, framework: str) -> ServedModel:
    model = find_architecture("DeepSeek-V3")
    return ServedModel(model, choose_precision(model, precision), find_framework(framework), cost, NETWORK)


def step(model: ServedModel, layouts: list[tuple[int, ...]], sequences: int = 8) -> StepTimes:
    n = len(layouts)
    columns = [np.full(n, value, np.int64) for value in (0, 0, 0, sequences, 2000)]
    batch = Batch(*columns, expert_tokens=np.full(n, float(sequences)))
    return model.step(Layouts.of(layouts), batch, "power_law_1.01", calibration=NEUTRAL)


def test_they_name_measured_rows_and_speak_for_their_precision_and_gpus_alone() -> None:
    measured = set(shipped_pack().summary()["framework"])
    for framework in map(find_framework, framework_names()):
        for entry in framework.stand_ins:
            assert entry.measured_under in measured & set(sources_of(framework.name))
            for gpu in map(find_gpu, ("H100", "B200")):
                got = framework.stand_in(entry.operation, gpu, entry.precision)
                speaking = [
                    each
                    for each in framework.stand_ins
                    if (each.operation, each.precision) == (entry.operation, entry.precision)
                    and each.from_capability <= (gpu.compute_capability or 0.0) < (each.below_capability or math.inf)
                ]
                assert len(speaking) <= 1
                assert got == (speaking[0] if speaking else None)
                if got is not None and got.one_attention_replica:
                    assert framework.stand_in(entry.operation, gpu, entry.precision, replicas=True) is None
    assert TRTLLM.stand_in("gemm", find_gpu("H100"), "bf16") is None


@pytest.mark.parametrize(
    ("gpu", "precision", "framework", "apart"),
    [
        ("B200", "fp8_block", "trtllm", True),  # FlashInfer's kernels with one replica, DeepGEMM's with several
        ("B200", "nvfp4", "trtllm", False),
        ("B200", "fp8_block", "trtllm@1.1.0rc2.post2", False),  # DeepGEMM with either
        ("B200", "fp8_block", "trtllm@1.2.0rc6.post2", True),
        ("H200", "fp8_block", "trtllm", False),
        ("B200", "fp8_block", "sglang", False),
    ],
)
def test_engines_with_several_attention_replicas_are_told_apart(
    bare: Callable[..., ServedModel], gpu: str, precision: str, framework: str, apart: bool
) -> None:
    assert bare(gpu, precision, framework)._told_apart is apart


def test_layouts_told_apart_answer_beside_each_other_as_they_do_alone(bare: Callable[..., ServedModel]) -> None:
    model = bare("B200", "fp8_block")
    mixed = step(model, [EIGHT_REPLICAS, ONE_REPLICA, EIGHT_REPLICAS])
    for place, layout in enumerate((EIGHT_REPLICAS, ONE_REPLICA)):
        alone = step(model, [layout])
        assert mixed.latency.value[place] == pytest.approx(alone.latency.value[0])
        assert mixed.parts["moe"][place] == pytest.approx(alone.parts["moe"][0])
    assert mixed.latency.value[2] == mixed.latency.value[0]


def test_rows_of_the_busiest_gpu_are_not_made_longer_for_uneven_experts(bare: Callable[..., ServedModel]) -> None:
    assert step(bare("B200", "nvfp4"), [ONE_REPLICA]).uneven[0] == 0
    assert step(bare("B200", "fp8_block"), [EIGHT_REPLICAS], 1).uneven[0] > 0  # its own rows, of all GPUs alike


def test_tokens_are_gathered_as_the_experts_take_them(bare: Callable[..., ServedModel]) -> None:
    """TensorRT-LLM quantizes before ranks gather: 4.5 of 16 bits there, 16 back."""
    model = find_architecture("DeepSeek-V3")
    layouts = Layouts.of([EIGHT_REPLICAS])
    columns = [np.full(1, value, np.int64) for value in (0, 0, 0, 64, 2000)]
    batch = Batch(*columns, expert_tokens=np.full(1, 64.0))

    def sent(work: StepWork) -> dict[bool, float]:
        out = {True: 0.0, False: 0.0}
        for each in work.exchanges:
            out[each.to_experts] += float(each.message_bytes @ each.count)
        return out

    work = step_work(model, choose_precision(model, "nvfp4"), layouts, batch, "balanced")
    before = sent(work)
    assert before[True] == 58 * 8 * 64 * 7168 * 2
    work.gathered_in(TRTLLM.capabilities.gathers_in["nvfp4"])
    after = sent(work)
    assert after == {True: before[True] * 4.5 / 16, False: before[False]}
    assert set(TRTLLM.capabilities.gathers_in) == {"nvfp4", "mxfp4_fp8", "fp8"}
    parts = [step(bare("B200", precision), [EIGHT_REPLICAS], 64).parts for precision in ("nvfp4", "fp8_block")]
    assert parts[0]["communication"][0] < parts[1]["communication"][0]


def test_releases_of_one_process_take_more_of_each_running_sequence(bare: Callable[..., ServedModel]) -> None:
    took = [
        bare("H200", "bf16", f"vllm@{release}").calibration.step_us_per_sequence for release in ("0.7.3", "0.8", "0.20")
    ]
    assert took[0] > took[1] + 50
    assert took[1] == took[2]


@pytest.mark.parametrize(
    ("gpu", "release", "measured_as"),
    [
        ("H100", "0.10.2", "int4"),
        ("H200", "0.11.0", "int4"),
        ("H100", "0.11.1", None),
        ("A100", "0.11.0", None),
        ("B200", "0.11.0", "mxfp4_fp8"),
    ],
)
def test_hopper_ran_marlin_for_mxfp4_before_triton_kernels_came_with_vllm(
    gpu: str, release: str, measured_as: str | None
) -> None:
    found = find_framework(f"vllm@{release}").stand_in("moe", find_gpu(gpu), "mxfp4")
    assert (found and found.measured_as) == measured_as


def test_some_kernels_for_experts_take_longer_than_their_rows_say(bare: Callable[..., ServedModel]) -> None:
    """Those that TensorRT-LLM runs on Blackwell where attention ranks gather, and in older releases where experts are
    shared out whole, in steps without prompts: no others."""
    slower = NEUTRAL.model_copy(update={"slow_experts": 0.5})

    def more(gpu: str, precision: str, layout: tuple[int, ...], prompts: int = 0, framework: str = "trtllm") -> float:
        model = bare(gpu, precision, framework)
        columns = [np.full(1, value, np.int64) for value in (prompts, 100 * prompts, 0, 64, 2000)]
        batch = Batch(*columns, expert_tokens=np.full(1, 64.0))
        resolved = slower.resolved(model.gpu, None, model.model.name, model.kind, greedy=True, slow=model.slow)
        alone, told = (
            model.step(Layouts.of([layout]), batch, "balanced", calibration=each).parts["moe"][0]
            for each in (NEUTRAL, resolved)
        )
        return float(np.log(told / alone))

    assert more("B200", "nvfp4", EIGHT_REPLICAS) == pytest.approx(0.5)
    assert more("B200", "fp8_block", EIGHT_REPLICAS) == pytest.approx(0.5)
    old = "trtllm@1.1.0rc2.post2"
    assert more("B200", "fp8_block", ONE_REPLICA, framework=old) == pytest.approx(0.5)
    assert more("B200", "fp8_block", (8, 1, 1, 1, 8), framework=old) == 0
    assert more("B200", "fp8_block", ONE_REPLICA) == more("B200", "nvfp4", ONE_REPLICA) == 0
    assert more("B200", "nvfp4", EIGHT_REPLICAS, prompts=1) == 0
    assert more("B200", "nvfp4", (*EIGHT_REPLICAS, ONE_SIDED)) == 0
    assert more("H200", "fp8_block", EIGHT_REPLICAS) == 0


def test_kernels_start_before_the_last_has_ended_where_a_guide_says_so() -> None:
    """TensorRT-LLM's for gpt-oss, on Hopper and newer, in steps without prompts."""
    early = NEUTRAL.model_copy(update={"early_launch_us_per_layer": 10.0})

    def gained_us(gpu: str, prompts: int = 0, framework: str = "trtllm", name: str = "gpt-oss-120b") -> float:
        model = find_architecture(name)
        cost = CostModel(find_gpu(gpu), framework, shipped_pack())
        served = ServedModel(model, choose_precision(model), find_framework(framework), cost, NETWORK)
        columns = [np.full(1, value, np.int64) for value in (prompts, 100 * prompts, 0, 8, 2000)]
        batch = Batch(*columns, expert_tokens=np.full(1, 8.0))
        both = (
            each.resolved(served.gpu, None, model.name, served.kind, greedy=True, slow=served.slow)
            for each in (NEUTRAL, early)
        )
        layouts = Layouts.of([(1, 1, 1, 1, 1)])
        alone, told = (served.step(layouts, batch, "balanced", calibration=each) for each in both)
        assert sum(part[0] for part in told.parts.values()) == pytest.approx(told.latency.value[0])
        return float(alone.latency.value[0] - told.latency.value[0])

    assert gained_us("H200") == pytest.approx(36 * 10)
    assert gained_us("H200", prompts=1) == gained_us("A100-SXM-80GB", name="Llama-3.1-8B") == 0
    assert gained_us("H200", framework="vllm") == gained_us("H200", name="Llama-3.1-8B") == 0
