"""Memory of engines against what they logged, and each fact that it rests on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.memory import GIB, Loaded, Memory, Stage, StepLimits, engine_memory
from costmodels.step.memory import kv_bytes_per_sequence, weights_bytes
from profiles.errors import Unsupported
from profiles.hardware import find_gpu, gpus
from tests.benchmarks.memory import logs

LLAMA = "meta-llama/Llama-3.1-8B"


def loaded(model: str = LLAMA, framework: str = "vllm@0.19.0", gpu: str = "H100", **facts: Any) -> Loaded:
    """A model as published; ``facts``: of the framework's memory, changed."""
    architecture, release = find_architecture(model), find_framework(framework)
    changed = release.model_copy(update={"memory": release.memory.model_copy(update=facts)})
    return Loaded(architecture, choose_precision(architecture), changed, find_gpu(gpu))


def memory(
    of: Loaded,
    layout: tuple[int, int, int, int, int] = (1, 1, 1, 1, 1),
    *,
    budget: int = 8192,
    sequences: int = 1024,
    share: float = 0.9,
    stage: Stage = "tightest",
) -> Memory:
    return engine_memory(of, Layouts.of([layout]), StepLimits(np.array([budget]), sequences, share), stage)


def gib(values: np.ndarray) -> float:
    return float(values[0]) / GIB


# --- start logs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", logs(), ids=lambda log: f"{log.label} {log.max_model_len}")
def test_the_cache_of_each_start_is_within_half_a_gib(log: Any) -> None:
    parts = engine_memory(log.loaded, log.layouts, log.limits, "first")
    assert gib(parts.kv_bytes) == pytest.approx(log.cache, abs=0.25)
    assert gib(parts.weights_bytes) == pytest.approx(log.weights, abs=0.16)
    assert gib(parts.activation_bytes) == pytest.approx(log.activation, abs=0.07)
    assert gib(parts.other_bytes) == pytest.approx(log.other, abs=0.22)
    assert gib(parts.graph_bytes) == pytest.approx(log.graphs, abs=0.4)


@pytest.mark.parametrize(
    ("release", "cache"), [("0.15.0", 41.94), ("0.16.0", 41.94), ("0.17.0", 45.34), ("0.18.0", 45.23)]
)
def test_each_release_has_its_own_cache(release: str, cache: float) -> None:
    parts = memory(loaded("Qwen/Qwen3-14B", f"vllm@{release}"), share=0.95)
    assert gib(parts.kv_bytes) == pytest.approx(cache, abs=0.05)


@pytest.mark.parametrize(
    ("model", "precision", "tp", "share", "cache"),
    [
        ("openai/gpt-oss-20b", None, 1, 0.9, 50.28),
        ("openai/gpt-oss-120b", None, 1, 0.95, 3.33),
        ("meta-llama/Llama-3.3-70B-Instruct", "fp8", 2, 0.9, 32.0),
        (LLAMA, None, 1, 0.9, 51.38),
        ("Qwen/Qwen3-0.6B", None, 1, 0.9, 64.45),
    ],
)
def test_starts_of_late_2025(model: str, precision: str | None, tp: int, share: float, cache: float) -> None:
    architecture = find_architecture(model)
    framework, gpu = find_framework("vllm@0.11.0"), find_gpu("H100")
    of = Loaded(architecture, choose_precision(architecture, precision), framework, gpu)
    assert gib(memory(of, (tp, 1, 1, 1, tp), share=share).kv_bytes) == pytest.approx(cache, abs=0.2)


@pytest.mark.parametrize(("model", "tokens"), [(LLAMA, 452_512), ("Qwen/Qwen3-30B-A3B", 135_488)])
def test_starts_of_our_own(model: str, tokens: int) -> None:
    """vLLM 0.20.2 on our H100 at its defaults (0.92, graphs taken off); the graphs alone are fitted to these logs."""
    parts = memory(loaded(model, "vllm@0.20.2"), share=0.92)
    per_token = find_architecture(model).layers * {LLAMA: 4096, "Qwen/Qwen3-30B-A3B": 2048}[model]
    assert float(parts.kv_bytes[0]) / per_token == pytest.approx(tokens, rel=2e-3)


def test_a_start_of_2026_10_on_another_gpu() -> None:
    """vLLM 0.31.0 on an A100 at its defaults: 256 sequences, 2,048 tokens, 0.92. No fact was fitted to it."""
    parts = memory(loaded(framework="vllm@0.31.0", gpu="A100"), budget=2048, sequences=256, share=0.92)
    assert gib(parts.kv_bytes) == pytest.approx(56.21, abs=0.1)


# --- parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["vllm@0.11", "vllm@0.19", "vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("layout", [(1, 1, 1, 1, 1), (2, 1, 1, 1, 2), (2, 2, 1, 1, 2)])
def test_the_parts_sum_to_the_gpu(framework: str, share: float, layout: tuple[int, int, int, int, int]) -> None:
    parts = memory(loaded("Qwen/Qwen3-32B", framework), layout, share=share)
    assert sum(float(part[0]) for part in vars(parts).values()) == pytest.approx(find_gpu("H100").memory_bytes)


def test_the_share_is_of_what_the_release_says() -> None:
    whole, of_start, of_rest = (memory(loaded(framework=name), share=0.8) for name in ("vllm@0.19", "sglang", "trtllm"))
    visible, held = find_gpu("H100").visible_memory_bytes / GIB, 0.51
    taken = gib(whole.weights_bytes + whole.activation_bytes + whole.other_bytes)
    assert gib(whole.kv_bytes) == pytest.approx(0.8 * visible - taken)
    assert gib(of_start.kv_bytes) == pytest.approx(0.8 * (visible - held) - gib(of_start.weights_bytes))
    rest = gib(of_rest.kv_bytes + of_rest.unused_bytes)
    assert gib(of_rest.kv_bytes) == pytest.approx(0.8 * rest)


def test_graphs_within_the_budget_come_off_the_cache() -> None:
    outside, inside = (memory(loaded(graphs_within_budget=within)) for within in (False, True))
    assert gib(outside.kv_bytes - inside.kv_bytes) == pytest.approx(gib(inside.graph_bytes))


def test_what_the_share_promises_may_not_be_there() -> None:
    parts = memory(loaded(), share=0.99)
    assert parts.kv_bytes[0] < 0, "graphs and what the process held before do not fit beside it"


def test_what_does_not_fit_leaves_nothing_for_the_cache() -> None:
    parts = memory(loaded("DeepSeek-V3"), (8, 1, 1, 1, 8))
    assert parts.kv_bytes[0] < 0
    assert parts.sequences(np.array([1.0])).tolist() == [0]


def test_the_cache_holds_whole_sequences() -> None:
    model = find_architecture("Qwen3-32B")
    parts = memory(loaded("Qwen3-32B"), (2, 1, 1, 1, 2))
    each = kv_bytes_per_sequence(model, choose_precision(model), Layouts.of([(2, 1, 1, 1, 2)]), 4500)
    held = parts.sequences(each)[0]
    assert held * each[0] <= parts.kv_bytes[0] < (held + 1) * each[0]


# --- activations ------------------------------------------------------------------------------------------


def test_the_sampler_counts_each_logit_of_the_batch_on_every_rank() -> None:
    of = loaded()
    full, half = (gib(memory(of, sequences=count).activation_bytes) for count in (1024, 512))
    assert full - half == pytest.approx(512 * 128256 * 14 / GIB)
    split = gib(memory(of, (4, 1, 1, 1, 4)).activation_bytes)
    assert split == full, "ranks gather the logits"
    fewer = gib(memory(of, sequences=1024, budget=1024).activation_bytes)
    assert gib(memory(of, sequences=4096, budget=1024).activation_bytes) == fewer, "a step has no more than its tokens"


def test_each_fact_of_activations_counts() -> None:
    def of(name: str = LLAMA, sequences: int = 1024, **facts: Any) -> float:
        return gib(memory(loaded(name, **facts), sequences=sequences).activation_bytes)

    assert of(logit_bytes=16) - of(logit_bytes=12) == pytest.approx(4 * 1024 * 128256 / GIB)
    assert of() - of(logit_rows_per_multiprocessor=0) == pytest.approx(132 * 128256 * 4 / GIB)
    assert of(torch_gib=0.1) - of(torch_gib=0.0) == pytest.approx(0.1)
    assert of(sequences=1, hidden_copies=4.5) - of(sequences=1, hidden_copies=3.5) == pytest.approx(
        8192 * 4096 * 2 / GIB
    )
    moe = "Qwen/Qwen1.5-MoE-A2.7B"
    workspaces = 8192 * 4 * (2048 + 2816) * 2 / GIB
    assert of(moe) - of(moe, expert_workspaces_held=False) == pytest.approx(workspaces)


@pytest.mark.parametrize("model", [LLAMA, "Qwen/Qwen3-235B-A22B", "google/gemma-3-12b-it", "DeepSeek-V3"])
def test_more_tokens_or_sequences_in_a_step_leave_no_more_for_the_cache(model: str) -> None:
    by_budget = [memory(loaded(model), (8, 1, 1, 1, 8), budget=each).kv_bytes[0] for each in (1, 2048, 8192, 32768)]
    by_batch = [memory(loaded(model), (8, 1, 1, 1, 8), sequences=each).kv_bytes[0] for each in (1, 256, 1024)]
    assert by_budget == sorted(by_budget, reverse=True)
    assert by_batch == sorted(by_batch, reverse=True)


@pytest.mark.parametrize("model", [LLAMA, "Qwen/Qwen3-235B-A22B", "google/gemma-3-12b-it"])
def test_more_gpus_leave_more_for_the_cache_of_each(model: str) -> None:
    left = [memory(loaded(model, gpu="B200"), (tp, 1, 1, 1, tp)).kv_bytes[0] for tp in (2, 4, 8)]
    assert left == sorted(left)


def test_an_image_encoder_has_weights_and_its_step_holds_pixels() -> None:
    seen, text = loaded("google/gemma-3-12b-it"), find_architecture("google/gemma-3-12b-it")
    assert text.vision is not None
    held = 8192 * (3840 * 2 + 3 * (14 * 4) ** 2 * 2) / GIB
    blind = Loaded(*(lambda m: (m, seen.precision, seen.framework, seen.gpu))(_without_images(text)))
    assert gib(memory(seen).activation_bytes - memory(blind).activation_bytes) == pytest.approx(held)
    assert gib(memory(seen).weights_bytes - memory(blind).weights_bytes) == pytest.approx(
        2 * text.vision.parameters / GIB
    )


def _without_images(model: Any) -> Any:
    from dataclasses import replace

    return replace(model, vision=None)


def test_the_last_stage_samples_and_the_others_send() -> None:
    of, layout = loaded(), (1, 4, 1, 1, 1)
    first, last = (memory(of, layout, stage=stage) for stage in ("first", "tightest"))
    assert gib(first.activation_bytes) == pytest.approx(1.05, abs=0.01)
    assert gib(last.activation_bytes) == pytest.approx(1.89, abs=0.01)
    assert last.kv_bytes[0] < first.kv_bytes[0]


def test_graphs_grow_with_the_layers_of_a_gpu() -> None:
    one, two = (gib(memory(loaded(), (1, pp, 1, 1, 1)).graph_bytes) for pp in (1, 2))
    assert one - two == pytest.approx(16 * 0.0165)


# --- weights ----------------------------------------------------------------------------------------------


def test_experts_in_mxfp4_are_padded_in_vllm() -> None:
    padded, plain = loaded("openai/gpt-oss-120b"), loaded("openai/gpt-oss-120b", padding={})
    assert gib(memory(padded).weights_bytes) == pytest.approx(64.38, abs=0.15)
    assert gib(memory(plain).weights_bytes) == pytest.approx(60.7, abs=0.1)


def test_a_draft_module_has_weights_and_a_cache() -> None:
    model = find_architecture("DeepSeek-V3")
    precision, one = choose_precision(model), Layouts.of([(1, 1, 1, 1, 1)])
    assert model.draft is not None
    more = weights_bytes(model, precision, one, drafting=True) - weights_bytes(model, precision, one)
    assert more[0] == pytest.approx(model.draft.parameters(model.hidden), rel=0.05)  # fp8, a byte each
    cached = [kv_bytes_per_sequence(model, precision, one, 1000, drafting=drafting)[0] for drafting in (True, False)]
    assert cached[0] - cached[1] == 1000 * 576 * 2
    with pytest.raises(Unsupported, match=r"Qwen3-8B has no draft module") as raised:
        weights_bytes(find_architecture("Qwen3-8B"), precision, one, drafting=True)
    assert raised.value.hint


def test_32_bits_double_weights_cache_and_activations() -> None:
    model, one = find_architecture(LLAMA), Layouts.of([(1, 1, 1, 1, 1)])
    wide, narrow = choose_precision(model, "fp32"), choose_precision(model)
    assert wide.kv == "fp32"
    assert weights_bytes(model, wide, one) == pytest.approx(2 * weights_bytes(model, narrow, one))
    assert kv_bytes_per_sequence(model, wide, one, 10) == 2 * kv_bytes_per_sequence(model, narrow, one, 10)


# --- what a process sees ----------------------------------------------------------------------------------


def test_a_process_sees_less_than_the_driver_reports() -> None:
    for gpu in gpus().values():
        hidden = (gpu.memory_bytes - gpu.visible_memory_bytes) / 2**30
        assert 0 < hidden < 1.0, gpu.name
    assert find_gpu("H100").visible_memory_bytes == 79.19 * 2**30
