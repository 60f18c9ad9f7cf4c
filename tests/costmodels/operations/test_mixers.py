"""What layers other than plain attention ask for: their kernels, split as they are, counted as often as they occur."""

from __future__ import annotations

import numpy as np
import pytest

from costmodels.kernels.cost_model import CostModel
from costmodels.models.images import EncodedImage
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations import encoder
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Asked, Batch, LayerStep, Split, StepWork
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.served_model import PromptImages, ServedModel
from costmodels.step.communication import Network
from costmodels.step.operators import step_work
from profiles.hardware import find_fabric

LAYOUTS = Layouts.of([(1, 1, 1, 1, 1), (8, 1, 1, 8, 1)])
ONE = np.ones(2, np.int64)
STEP = Batch(ONE, 512 * ONE, 1024 * ONE, 16 * ONE, 4000 * ONE, expert_tokens=528.0 * ONE)
NETWORK = Network(8, find_fabric("ib-400g"))


def asked_of(model: str, batch: Batch = STEP) -> dict[str, list[Asked]]:
    architecture = find_architecture(model)
    return step_work(architecture, choose_precision(architecture), LAYOUTS, batch, "balanced").asked


def per_step(parts: list[Asked], candidate: int = 0) -> float:
    """How often an operation is asked for in a step of one candidate."""
    return float(sum(part.count[part.candidate == candidate].sum() for part in parts))


def test_an_index_is_computed_in_the_layers_that_own_one() -> None:
    asked = asked_of("zai-org/GLM-5.2")
    assert (per_step(asked["dsa_prefill"]), per_step(asked["dsa_shared_prefill"])) == (21, 57)
    assert (per_step(asked["dsa_decode"]), per_step(asked["dsa_shared_decode"])) == (21, 57)
    assert per_step(asked_of("zai-org/GLM-5")["dsa_decode"]) == 78


def test_compressed_layers_keep_their_ratio_and_only_some_their_indexer() -> None:
    parts = asked_of("deepseek-ai/DeepSeek-V4-Flash")["compressed_decode"]
    layers = {int(part.columns["ratio"][0]): (part.count[0], int(part.columns["index_top_k"][0])) for part in parts}
    assert layers == {0: (2, 0), 4: (21, 512), 128: (20, 0)}
    assert all(part.columns["heads"].tolist() == [64, 8] for part in parts)


def test_residual_streams_are_mixed_before_and_behind_every_layer() -> None:
    parts = asked_of("deepseek-ai/DeepSeek-V4-Pro")["hyper_connection"]
    assert per_step(parts) == 2 * 61
    assert {int(part.columns["tokens"][0]) for part in parts} == {528}
    assert "hyper_connection" not in asked_of("deepseek-ai/DeepSeek-V3.2")


def test_states_are_split_over_heads_and_groups_copied() -> None:
    asked = asked_of("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
    (scan,), (conv,) = asked["state_space_decode"], asked["short_conv_decode"]
    assert per_step([scan]) == per_step([conv]) == 23
    assert scan.columns["state_heads"].tolist() == [64, 8]
    assert conv.columns["channels"].tolist() == [64 * 64 + 2 * 8 * 128, 8 * 64 + 2 * 1 * 128]
    assert scan.columns["batch"].tolist() == [16, 16]


def test_every_drafted_token_leaves_a_state() -> None:
    drafting = Batch(0 * ONE, 0 * ONE, 0 * ONE, 16 * ONE, 4000 * ONE, expert_tokens=64.0 * ONE, queries=4)
    asked = asked_of("moonshotai/Kimi-K3", drafting)
    assert "kda_prefill" not in asked
    assert {int(part.columns["batch"][0]) for part in asked["kda_decode"]} == {64}


def test_the_first_mamba_is_a_state_space_of_heads_one_wide() -> None:
    scan = asked_of("ai21labs/AI21-Jamba-Mini-1.6")["state_space_prefill"][0]
    assert (scan.columns["head_dim"][0], scan.columns["state_heads"].tolist()) == (1, [8192, 1024])


def test_a_gate_on_the_output_is_a_product_of_its_own() -> None:
    widths = [
        (int(part.columns["n"][0]), int(part.columns["k"][0]), float(part.count[0]))
        for part in asked_of("moonshotai/Kimi-K3")["gemm"]
    ]
    assert (96 * 128, 7168, 24.0) in widths


def test_parallel_mixers_ask_for_both() -> None:
    asked = asked_of("tiiuae/Falcon-H1-7B-Base")
    assert per_step(asked["attention_decode"]) == per_step(asked["state_space_decode"]) == 44


@pytest.mark.parametrize("model", ["MiniMaxAI/MiniMax-M3", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"])
def test_kernels_that_nobody_measured_are_told(model: str, roofline_cost: CostModel, synthetic_cost: CostModel) -> None:
    architecture = find_architecture(model)
    notes = {}
    for name, cost in {"none": roofline_cost, "all": synthetic_cost}.items():
        served = ServedModel(architecture, choose_precision(architecture), find_framework("vllm"), cost, NETWORK)
        notes[name] = [note for note in served.notes if "measured on no GPU" in note]
    assert notes["all"] == []
    (note,) = notes["none"]
    assert "gemm" in note
    assert "up to 4 times as long" in note


class TestEncoding:
    """Images in the steps that compute the prompt."""

    MODEL = find_architecture("Qwen/Qwen2.5-VL-7B-Instruct")

    def asked(self, images: float) -> StepWork:
        assert self.MODEL.vision is not None
        work = StepWork(len(LAYOUTS))
        step = LayerStep(Split(self.MODEL.hidden, choose_precision(self.MODEL), LAYOUTS), STEP, "balanced", work)
        encoder.ask_images(step, self.MODEL.vision, EncodedImage(1, 5476, 1369), np.full(2, images))
        return work

    def test_most_layers_of_qwen_2_5_attend_within_windows(self) -> None:
        whole, windows = self.asked(2.0).asked["encoder_attention"]
        assert (whole.count[0], windows.count[0]) == (2 * 4, 2 * 28)
        assert (int(windows.columns["patches"][0]), int(windows.columns["batch"][0])) == (64, 86)
        assert whole.columns["heads"].tolist() == [16, 2]

    def test_fractions_of_an_image_count(self) -> None:
        half, two = (self.asked(n).asked["gemm"] for n in (0.5, 2.0))
        assert per_step(two) == pytest.approx(4 * per_step(half))

    def test_an_engine_pays_for_the_images_of_the_tokens_it_computes(self, roofline_cost: CostModel) -> None:
        plain = ServedModel(self.MODEL, choose_precision(self.MODEL), find_framework("vllm"), roofline_cost, NETWORK)
        image = EncodedImage(1, 5476, 1369)
        seeing = ServedModel(
            self.MODEL, plain.precision, plain.framework, roofline_cost, NETWORK, PromptImages(image, 2 / 3738)
        )
        decoding = Batch(0 * ONE, 0 * ONE, 0 * ONE, 16 * ONE, 4000 * ONE, expert_tokens=16.0 * ONE)
        for batch, more in ((STEP, True), (decoding, False)):
            with_images, without = (one.step(LAYOUTS, batch, "balanced").latency.value for one in (seeing, plain))
            assert np.all(with_images > without) == more
            assert np.all(with_images >= without)
