"""Weights and cache against published checkpoints and hand-counted caches; power between idle and the limit."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.power import board as power_module
from costmodels.power.board import (
    SHARES,
    Activity,
    idle_loaded_watts,
    mean_watts,
    power_facts,
    step_watts,
    watts_by_window,
)
from costmodels.serving.step import TILE_ROWS
from costmodels.step.memory import kv_bytes_per_sequence, weights_bytes
from profiles.errors import DataError
from profiles.hardware import find_gpu, gpus

# Bytes of the weights on all GPUs together. DeepSeek-V3: 671e9 in fp8, its embedding, head and router in 16 bits
# (+2.0e9), the absorbed projections (+2.0e9); gpt-oss: the size of the files on the Hugging Face Hub.
CHECKPOINTS = [
    ("Qwen3-32B", 2 * 32.76e9),
    ("Qwen3-235B-A22B", 2 * 235.1e9),
    ("DeepSeek-V3", 675.0e9),
    ("openai/gpt-oss-120b", 65.2e9),
    ("openai/gpt-oss-20b", 13.8e9),
    ("Llama-3.1-8B", 2 * 8.03e9),
    ("gemma-3-27b-it", 2 * 27.0e9),
    ("Qwen3.5-397B-A17B", 2 * 396.35e9),
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 2 * 31.58e9),
    ("ibm-granite/granite-4.0-h-small", 2 * 32.21e9),
    ("ai21labs/AI21-Jamba-Mini-1.6", 2 * 51.57e9),
    ("tiiuae/Falcon-H1-34B-Instruct", 2 * 33.64e9),
    ("MiniMaxAI/MiniMax-M3", 2 * 426.2e9),
    ("google/gemma-4-26B-A4B", 2 * 25.23e9),
    ("XiaomiMiMo/MiMo-V2-Flash", 309.4e9),
    ("moonshotai/Kimi-K2.5", 595.2e9),  # one scale for 32 values
    ("moonshotai/Kimi-K3", 1.56e12),
]


def weights(model: str, layout: tuple[int, int, int, int, int], precision: str | None = None) -> float:
    """GB per GPU."""
    architecture = find_architecture(model)
    chosen = choose_precision(architecture, precision)
    return float(weights_bytes(architecture, chosen, Layouts.of([layout]))[0]) / 1e9


def positions(model: str) -> float:
    """GB of the tables of rotary positions, which are on every GPU."""
    return 2 * find_architecture(model).position_table_elements / 1e9


def kv(model: str, tokens: float, tp: int = 1, pp: int = 1, precision: str = "bf16") -> float:
    architecture = find_architecture(model)
    chosen = choose_precision(architecture, kv=precision)
    return float(kv_bytes_per_sequence(architecture, chosen, Layouts.of([(tp, pp, 1, 1, tp)]), tokens)[0])


# --- weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "expected"), CHECKPOINTS)
@pytest.mark.parametrize("tp", [1, 2, 8])
def test_weights_of_all_gpus_together_are_the_checkpoint(model: str, expected: float, tp: int) -> None:
    # Router, norms and the down-projections of latents are on every GPU: a little more than once in all (5 % in
    # Kimi-K3, whose experts are in 4 bits).
    together = (weights(model, (tp, 1, 1, 1, tp)) - positions(model)) * tp * 1e9
    vision = find_architecture(model).vision
    expected += 2.0 * vision.parameters if vision else 0.0
    assert expected * 0.99 <= together <= expected * (1.01 if tp == 1 else 1.06)


def test_data_parallel_ranks_repeat_attention_and_share_the_experts() -> None:
    model = find_architecture("DeepSeek-V3")
    alone, shared = weights("DeepSeek-V3", (1, 1, 1, 1, 1)), weights("DeepSeek-V3", (1, 1, 8, 8, 1))
    sparse = [g for g in model.layer_groups if hasattr(g.feed_forward, "experts")]
    experts = sum(g.count * g.feed_forward.experts * 3 * 7168 * 2048 for g in sparse) / 1e9  # type: ignore[union-attr]
    assert shared == pytest.approx(alone - experts * 7 / 8)
    assert weights("DeepSeek-V3", (1, 1, 8, 1, 8)) == pytest.approx(shared)  # split or shared out, it is the same


def test_kv_projections_are_repeated_where_there_are_more_gpus_than_heads() -> None:
    one_head = 4096 * 2 * 128 * 2 * 94 / 1e9  # K and V of one head in all layers of Qwen3-235B-A22B (4 KV heads)
    four, eight = (weights("Qwen3-235B-A22B", (tp, 1, 1, 1, tp)) for tp in (4, 8))
    router_and_norms = 94 * (4096 * 128 + 2 * 4096) * 2 / 1e9  # are on every GPU too
    everywhere = router_and_norms + positions("Qwen3-235B-A22B")
    assert 8 * eight - 4 * four == pytest.approx(4 * one_head + 4 * everywhere, rel=1e-3)


def test_a_pipeline_stage_has_its_layers_and_one_of_the_two_tables() -> None:
    model = find_architecture("Qwen3-32B")
    table = model.embedding_parameters * 2 / 1e9
    known = positions("Qwen3-32B")  # on every stage
    layers = weights("Qwen3-32B", (1, 1, 1, 1, 1)) - 2 * table - known
    assert weights("Qwen3-32B", (1, 4, 1, 1, 1)) == pytest.approx(layers / 4 + table + known)
    assert weights("Qwen3-32B", (1, 3, 1, 1, 1)) == pytest.approx(layers * 22 / 64 + table + known)


def test_fewer_bits_take_less_room() -> None:
    bf16, fp8, nvfp4 = (weights("Qwen3-32B", (1, 1, 1, 1, 1), p) for p in ("bf16", "fp8", "nvfp4"))
    tables = find_architecture("Qwen3-32B").embedding_parameters * 2 * 2 / 1e9
    assert fp8 - tables == pytest.approx((bf16 - tables) / 2, rel=1e-3)
    assert nvfp4 - tables == pytest.approx((bf16 - tables) * 0.5625 / 2, rel=1e-3)


# --- KV cache ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "per_token"),
    [
        ("Qwen3-32B", 64 * 2 * 8 * 128 * 2),
        ("Llama-3.1-8B", 32 * 2 * 8 * 128 * 2),
        ("Qwen3-235B-A22B", 94 * 2 * 4 * 128 * 2),
        ("DeepSeek-V3", 61 * (512 + 64) * 2),
    ],
)
def test_kv_bytes_per_token_are_those_one_counts(model: str, per_token: int) -> None:
    assert kv(model, 1000) == 1000 * per_token
    assert kv(model, 1000, precision="fp8") == 500 * per_token


def test_linear_attention_keeps_a_state_however_long_the_sequence() -> None:
    state = 45 * (64 * 128 * 128 * 4 + (2 * 16 + 64) * 128 * 3 * 2)  # fp32 matrices, three inputs of the convolution
    per_token = 15 * 2 * 2 * 256 * 2
    assert kv("Qwen3.5-397B-A17B", 0) == state
    assert kv("Qwen3.5-397B-A17B", 1000) == state + 1000 * per_token
    assert kv("Qwen3.5-397B-A17B", 1000, precision="fp8") == state + 500 * per_token
    assert kv("Qwen3.5-397B-A17B", 1000, tp=8) == pytest.approx(state / 8 + 1000 * per_token / 2)  # two KV heads


def test_sparse_attention_keeps_the_latent_and_the_indexers_keys() -> None:
    assert kv("GLM-5", 1000) == 78 * 1000 * (576 * 2 + 128 + 4)
    assert kv("GLM-5", 1000, precision="fp8", tp=8) == 78 * 1000 * (576 + 132)


def test_layers_that_share_an_index_keep_none() -> None:
    assert kv("GLM-5.2", 1000) == 1000 * (78 * 576 * 2 + 21 * 132)


def test_state_spaces_keep_a_state_and_the_attention_between_them_a_cache() -> None:
    nano = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"
    state = 23 * (64 * 64 * 128 * 4 + (64 * 64 + 2 * 8 * 128) * 3 * 2)
    per_token = 6 * 2 * 2 * 128 * 2
    assert kv(nano, 0) == state
    assert kv(nano, 1000) == state + 1000 * per_token
    assert kv(nano, 1000, tp=4) == pytest.approx(state / 4 + 1000 * per_token / 2)  # two KV heads


def test_delta_attention_keeps_a_matrix_for_each_head() -> None:
    state = 69 * 96 * (128 * 128 * 4 + 3 * 128 * 3 * 2)
    assert kv("moonshotai/Kimi-K3", 1000) == state + 24 * 1000 * 576 * 2


def test_compressed_attention_keeps_a_window_and_one_latent_for_so_many_tokens() -> None:
    entry = 448 + 2 * 64 + 7 + 1  # fp8, the rotated part in bf16, a scale for each 64 and padding
    open_sparse, open_heavy = 8 * 2 * 2 * (512 + 128) * 4, 128 * 2 * 512 * 4
    tokens = 12800
    sparse = 128 * entry + tokens / 4 * (entry + 128 + 4) + open_sparse
    heavy = 128 * entry + tokens / 128 * entry + open_heavy
    expected = 2 * 128 * entry + 21 * sparse + 20 * heavy
    assert kv("deepseek-ai/DeepSeek-V4-Flash", tokens) == pytest.approx(expected)
    assert kv("deepseek-ai/DeepSeek-V4-Flash", tokens, tp=8, precision="fp8") == pytest.approx(expected)


def test_block_sparse_attention_keeps_the_keys_of_its_index_beside_the_cache() -> None:
    assert kv("MiniMaxAI/MiniMax-M3", 1000) == 1000 * (60 * 2 * 4 * 128 * 2 + 57 * 128 * 2)
    assert kv("MiniMaxAI/MiniMax-M3", 1000, tp=8) == 1000 * (60 * 2 * 128 * 2 + 57 * 128 * 2)


def test_wider_keys_than_values_and_wider_heads_count_as_they_are() -> None:
    sliding, full = 39 * 8 * (192 + 128) * 2, 9 * 4 * (192 + 128) * 2
    assert kv("XiaomiMiMo/MiMo-V2-Flash", 1000) == 128 * sliding + 1000 * full
    assert kv("google/gemma-4-26B-A4B", 2000) == 1024 * 25 * 2 * 8 * 256 * 2 + 2000 * 5 * 2 * 2 * 512 * 2


def test_windowed_layers_keep_their_window_only() -> None:
    per_layer = 2 * 8 * 64 * 2  # gpt-oss-120b: 18 full layers, 18 of window 128
    assert kv("openai/gpt-oss-120b", 100) == 36 * per_layer * 100
    assert kv("openai/gpt-oss-120b", 5000) == 18 * per_layer * (5000 + 128)


def test_heads_divide_the_cache_until_there_is_one_a_gpu_and_the_latent_is_everywhere() -> None:
    whole = kv("Qwen3-235B-A22B", 1000)
    assert [whole / kv("Qwen3-235B-A22B", 1000, tp=tp) for tp in (2, 4, 8)] == [2, 4, 4]
    assert kv("DeepSeek-V3", 1000, tp=8) == kv("DeepSeek-V3", 1000)
    assert kv("DeepSeek-V3", 1000, pp=2) == pytest.approx(kv("DeepSeek-V3", 1000) * 31 / 61)


# --- power ------------------------------------------------------------------------------------------------


SHARE = st.floats(0, 1)


def activity(compute: float, memory: float, exchange: float = 0.0, waits: float = 0.0, filled: float = 0.0) -> Activity:
    return Activity(*(np.array([share]) for share in (compute, memory, exchange, waits, filled)))


@given(st.sampled_from(sorted(gpus())), st.tuples(*[SHARE] * 5), SHARE)
def test_power_is_between_loaded_idle_and_what_was_measured(
    gpu: str, shares: tuple[float, ...], running: float
) -> None:
    fact = find_gpu(gpu)
    got = mean_watts(fact, activity(*shares), np.array([running]))
    idle = idle_loaded_watts(fact)
    assert fact.idle_watts < idle
    assert fact.idle_watts - 1e-6 <= got.low[0] <= got.value[0] <= got.high[0] <= 1.05 * fact.tdp_watts + 1e-6


@given(SHARE, SHARE, SHARE)
def test_busier_is_never_less_power(share: float, other: float, more: float) -> None:
    gpu, most = find_gpu("H200"), max(share, more)
    for less, greater in (
        (activity(share, other), activity(most, other)),
        (activity(other, share), activity(other, most)),
    ):
        assert step_watts(gpu, less).value[0] <= step_watts(gpu, greater).value[0] + 1e-9
    pairs = [mean_watts(gpu, activity(share, other), np.array([at])).value[0] for at in (0.0, more, 1.0)]
    assert pairs == sorted(pairs)
    assert pairs[0] == pytest.approx(idle_loaded_watts(gpu))


def test_power_of_steps_that_were_metered() -> None:
    """An H200's own decode steps of Llama-3.1-8B and its loaded idle (evidence: this project, 2026-11-26)."""
    gpu = find_gpu("H200")
    assert idle_loaded_watts(gpu) == pytest.approx(127, abs=15)
    for measured, shares, filled in (
        (453, (0.003, 0.624), 0.02),
        (691, (0.173, 0.470), 0.8),
        (690, (0.582, 0.156), 1.0),
    ):
        assert step_watts(gpu, activity(*shares, filled=filled)).value[0] == pytest.approx(measured, rel=0.15)


def test_power_of_a_generation_that_was_not_metered_is_marked_and_less_sure() -> None:
    known, other = (step_watts(find_gpu(gpu), activity(0.1, 0.5)) for gpu in ("H100-SXM", "MI300X"))
    assert known.inside[0]
    assert not other.inside[0]
    assert other.high[0] / other.low[0] > known.high[0] / known.low[0]


def test_a_board_goes_beyond_its_limit_for_a_second_and_holds_it_from_then_on() -> None:
    gpu, prefill = find_gpu("H100-SXM"), Activity(*(np.full(40, share) for share in (0.6, 0.2, 0.0, 0.0, 0.0)))
    watts = watts_by_window(gpu, prefill, np.ones(40), 0.25)
    limit = step_watts(gpu, activity(1.0, 1.0)).value[0]
    assert watts[0] == pytest.approx(770, rel=0.04)  # an H100's first quarter of a second after rest: 772 W
    assert watts[-8:].mean() == pytest.approx(limit, rel=0.01)
    assert watts.max() <= power_facts().peak_burst_hopper * gpu.tdp_watts
    slow = watts_by_window(gpu, prefill, np.ones(40), 1.0)
    assert np.array_equal(slow, mean_watts(gpu, prefill, np.ones(40)).value)


def test_the_same_work_in_longer_steps_draws_as_much_less() -> None:
    """Above what a board draws whatever runs, a joule a piece of work."""
    gpu, work = find_gpu("H200"), np.array([0.05, 0.4, 0.0, 0.0, 0.0])
    resting = step_watts(gpu, activity(0.0, 0.0)).value[0]
    fast, slow = (step_watts(gpu, activity(*(work / longer))).value[0] - resting for longer in (1.0, 1.5))
    assert slow == pytest.approx(fast / 1.5, rel=0.02)


def test_more_sequences_draw_more_for_the_same_bytes() -> None:
    gpu, n = find_gpu("H100"), np.array([1, 8, 64, 512])
    watts = [step_watts(gpu, activity(0.0, 0.4, filled=share)).value[0] for share in n / (n + TILE_ROWS)]
    assert watts == sorted(watts)
    assert 50 < watts[-1] - watts[0] < 150


def test_a_board_rests_while_gpus_exchange() -> None:
    gpu = find_gpu("H100")
    idle = idle_loaded_watts(gpu)
    for shares in ((0.0, 0.4), (0.6, 0.6)):  # below and at its limit
        alone, among = (step_watts(gpu, activity(*shares, exchange)).value[0] for exchange in (0.0, 0.2))
        assert among - idle == pytest.approx(0.8 * (alone - idle))
    ampere = find_gpu("A100-SXM-80GB")  # whose law is of whole runs on 2 to 8 GPUs
    assert step_watts(ampere, activity(0.1, 0.4, 0.2)).value == step_watts(ampere, activity(0.1, 0.4)).value


def test_a_byte_takes_less_on_an_h200_than_on_an_h100() -> None:
    one, other = (
        step_watts(find_gpu(gpu), activity(0.0, 2e12 / find_gpu(gpu).memory_bandwidth_bytes_per_s)).value[0]
        for gpu in ("H100-SXM", "H200")
    )
    assert 0.8 * one < other < one


def test_activities_mix_by_time() -> None:
    parts = [(activity(1.0, 0.0), np.array([3.0])), (activity(0.0, 1.0, 0.25, 1.0, 0.5), np.array([1.0]))]
    mixed = Activity.mixed(parts)
    assert [getattr(mixed, name)[0] for name in SHARES] == [0.75, 0.25, 0.0625, 0.25, 0.125]
    assert mixed.level[0] == pytest.approx(sum(float(each.level[0] * share[0]) for each, share in parts) / 4)


# --- data files -------------------------------------------------------------------------------------------

FILES = [
    (power_module, power_facts, "board.yaml"),
]
BROKEN = {
    "no file": None,
    "empty": b"",
    "a list": b"[1, 2]",
    "not YAML": b"{",
    "not text": b"\xff\xfe\xff",
    "a word for a number": b"base: many\nidle: many\n",
    "keys missing": b"vllm: {full_name: vLLM}\n",
    "an entry that is no mapping": b"vllm: 3\n",
}


@pytest.mark.parametrize(("module", "reader", "name"), FILES, ids=[name for *_, name in FILES])
@pytest.mark.parametrize("content", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_data_file_is_a_data_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    module: ModuleType,
    reader: object,
    name: str,
    content: bytes | None,
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "module.py"))
    with pytest.raises(DataError, match=name):
        reader.__wrapped__()  # type: ignore[attr-defined]
