"""Architectures: whether our counts are the world's, and formulas counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.models.architecture import (
    Architecture,
    DenseFeedForward,
    GatedDeltaNet,
    GroupedQueryAttention,
    Indexer,
    LatentAttention,
    MixtureOfExperts,
)
from costmodels.models.huggingface import parse_config
from costmodels.models.registry import BUNDLED, find_architecture, registered
from tests.costmodels.models.tiny import TINY, TINY_MOE, TINY_QWEN3

FILES = sorted(BUNDLED.glob("*.json"))


def bundled(path: Path) -> tuple[dict[str, Any], Architecture]:
    return json.loads(path.read_text()), find_architecture(path.stem.replace("--", "/", 1))


def groups(model: str) -> list[tuple[int, int, str]]:
    """(layers, window, kind of feed-forward) of each group, in the model's order."""
    return [
        (group.count, group.attention.window_tokens, type(group.feed_forward).__name__)
        for group in find_architecture(model).layer_groups
    ]


# --- against the world ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_parameters_are_within_one_percent_of_what_the_publisher_says(path: Path) -> None:
    entry, architecture = bundled(path)
    assert set(entry["published_includes"]) <= {"vision tower", "audio tower"}
    total = architecture.parameters
    if "vision tower" in entry["published_includes"]:
        assert architecture.vision is not None
        total += architecture.vision.parameters
    if "audio tower" in entry["published_includes"]:
        assert architecture.audio_parameters
        total += architecture.audio_parameters
    published = entry["published_parameters"]
    assert abs(total - published) <= max(0.01 * published, entry.get("rounded_to", 0) / 2)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_active_parameters_are_within_three_percent_of_what_the_publisher_says(path: Path) -> None:
    entry, architecture = bundled(path)
    published = entry.get("published_active_parameters")
    if published is None:
        assert architecture.active_parameters == architecture.parameters, "a MoE model must say what is active"
        return
    active = architecture.active_parameters
    for part in entry.get("published_active_excludes", []):
        assert part in ("input embedding", "output head")
        active -= architecture.embedding_parameters
    assert abs(active - published) <= max(0.03 * published, entry.get("active_rounded_to", 0) / 2)


def test_parameters_equal_the_checkpoints_to_the_last_weight() -> None:
    exact = 0
    for path in FILES:
        entry, architecture = bundled(path)
        if "checkpoint_parameters" in entry:
            beside = sum(entry.get("checkpoint_extra_parameters", {}).values())
            if "checkpoint_extra_parameters" not in entry and architecture.vision is not None:
                beside = architecture.vision.parameters
            assert architecture.parameters + beside == entry["checkpoint_parameters"], path.stem
            exact += 1
    assert exact >= 55


def test_image_encoders_and_draft_layers_equal_the_checkpoints_too() -> None:
    def beside(model: str) -> dict[str, int]:
        entry = json.loads((BUNDLED / f"{model.replace('/', '--')}.json").read_text())
        return dict(entry["checkpoint_extra_parameters"])

    for model in ("google/gemma-3-4b-it", "google/gemma-3-27b-it", "meta-llama/Llama-4-Scout-17B-16E-Instruct"):
        vision = find_architecture(model).vision
        assert vision is not None
        assert vision.parameters == sum(beside(model).values())
    for model in ("zai-org/GLM-4.5", "zai-org/GLM-4.5-Air"):
        architecture = find_architecture(model)
        assert architecture.draft is not None
        assert architecture.draft.parameters(architecture.hidden) == beside(model)["multi-token-prediction layer"]


def test_at_least_34_models_ship_each_with_its_source() -> None:
    models = registered()
    assert len(models) >= 34
    assert all(model.source and model.max_context_tokens >= 2048 for model in models)
    assert len({model.name.casefold() for model in models}) == len(models)


def test_kv_cache_elements_per_token_match_hand_computed_ones() -> None:
    def elements(model: str) -> set[int]:
        return {group.attention.kv_elements_per_token() for group in find_architecture(model).layer_groups}

    assert elements("deepseek-ai/DeepSeek-V3") == {512 + 64}
    assert elements("Qwen/Qwen3-32B") == {2 * 8 * 128}
    assert elements("meta-llama/Llama-2-7b-hf") == {2 * 32 * 128}
    assert elements("openai/gpt-oss-120b") == {2 * 8 * 64}


def test_layers_that_differ_are_grouped() -> None:
    moe, dense = "MixtureOfExperts", "DenseFeedForward"
    assert groups("openai/gpt-oss-20b") == [(12, 128, moe), (12, 0, moe)]
    assert groups("google/gemma-3-27b-it") == [(52, 1024, dense), (10, 0, dense)]
    assert groups("google/gemma-3-4b-it") == [(29, 1024, dense), (5, 0, dense)]
    assert groups("deepseek-ai/DeepSeek-V3") == [(3, 0, dense), (58, 0, moe)]
    maverick = groups("meta-llama/Llama-4-Maverick-17B-128E-Instruct")
    assert maverick == [(24, 8192, dense), (12, 8192, moe), (12, 0, moe)]
    assert groups("meta-llama/Llama-4-Scout-17B-16E-Instruct") == [(36, 8192, moe), (12, 0, moe)]
    assert groups("Qwen/Qwen2.5-7B-Instruct") == [(28, 0, dense)]
    assert groups("Qwen/Qwen3.5-397B-A17B") == [(45, 0, moe), (15, 0, moe)]
    assert groups("Qwen/Qwen3.5-27B") == [(48, 0, dense), (16, 0, dense)]
    assert groups("zai-org/GLM-5") == [(3, 0, dense), (75, 0, moe)]


def test_family_traits_are_read() -> None:
    def first(model: str) -> GroupedQueryAttention:
        attention = find_architecture(model).layer_groups[0].attention
        assert isinstance(attention, GroupedQueryAttention)
        return attention

    assert first("openai/gpt-oss-20b").sinks
    assert first("openai/gpt-oss-20b").output_bias
    assert first("Qwen/Qwen2.5-7B-Instruct").bias
    assert not first("Qwen/Qwen2.5-7B-Instruct").output_bias
    assert first("MiniMaxAI/MiniMax-M2.5").qk_norm == "full"
    assert first("zai-org/GLM-4.5").qk_norm == "head"
    assert first("zai-org/GLM-4.5-Air").qk_norm == "none"
    assert find_architecture("google/gemma-3-4b-it").layer_groups[0].norms == 4
    assert find_architecture("google/gemma-3-4b-it").tied_embeddings
    assert find_architecture("google/gemma-3-4b-it").vision is not None
    assert find_architecture("deepseek-ai/DeepSeek-V3").draft is not None
    assert find_architecture("deepseek-ai/DeepSeek-V3").is_latent


# --- formulas, counted by hand ----------------------------------------------------------------------------


def test_grouped_query_parameters_match_a_hand_count() -> None:
    # hidden 8, 4 heads of 2, 2 KV heads: q 8x8, k and v 8x4 each, o 8x8
    assert GroupedQueryAttention(4, 2, 2).parameters(8) == 64 + 32 + 32 + 64
    assert GroupedQueryAttention(4, 2, 2, bias=True).parameters(8) == 192 + 8 + 4 + 4
    assert GroupedQueryAttention(4, 2, 2, qk_norm="head", sinks=True).parameters(8) == 192 + 2 + 2 + 4
    assert GroupedQueryAttention(4, 2, 2, qk_norm="full").parameters(8) == 192 + 8 + 4


def test_latent_parameters_match_a_hand_count() -> None:
    # hidden 8, 2 heads, ranks 4 and 3, widths nope 2, rope 1, v 2
    key_value = 8 * (3 + 1) + 3 + 3 * 2 * (2 + 2)  # down-projection, its norm, rebuild of K and V
    output = 2 * 2 * 8
    with_rank = LatentAttention(2, 4, 3, 2, 1, 2)
    assert with_rank.parameters(8) == (8 * 4 + 4 + 4 * 2 * 3) + key_value + output
    assert with_rank.kv_elements_per_token() == 4
    assert LatentAttention(2, 0, 3, 2, 1, 2).parameters(8) == 8 * 2 * 3 + key_value + output


def test_an_indexer_adds_its_projections_to_latent_attention() -> None:
    # 3 heads of 5: from the query's rank 4, a key and its LayerNorm from hidden 8, a weight per head
    plain, sparse = LatentAttention(2, 4, 3, 2, 1, 2), LatentAttention(2, 4, 3, 2, 1, 2, indexer=Indexer(3, 5, 16))
    assert sparse.parameters(8) - plain.parameters(8) == 4 * 3 * 5 + (8 * 5 + 2 * 5) + 8 * 3
    assert sparse.kv_elements_per_token() == plain.kv_elements_per_token()


def test_delta_net_parameters_and_state_match_a_hand_count() -> None:
    # hidden 8, 2 key heads of 3, 4 value heads of 5, convolution of 4: 2×6 + 20 channels
    net = GatedDeltaNet(2, 4, 3, 5, 4)
    projections = 8 * (6 + 6 + 20 + 20) + 8 * (4 + 4)
    assert net.parameters(8) == projections + 32 * 4 + (4 + 4) + 5 + 20 * 8
    assert net.kv_elements_per_token() == 0
    assert net.state_bytes_per_sequence() == 4 * 3 * 5 * 4 + 32 * 3 * 2


def test_expert_parameters_match_a_hand_count() -> None:
    assert DenseFeedForward(3).parameters(2) == 3 * 2 * 3
    experts = MixtureOfExperts(4, 1, 3, shared_intermediate=5, router_bias=True, shared_gate=True)
    always = 2 * 4 + 4 + 3 * 2 * 5 + 2  # router, its correction, shared expert, its gate
    assert experts.parameters(2) == 4 * 18 + always
    assert experts.active_parameters(2) == 1 * 18 + always


def test_a_whole_tiny_model_matches_a_hand_count() -> None:
    layer = (64 * 64 + 2 * 64 * 32 + 64 * 64) + 3 * 64 * 96 + 2 * 64
    assert parse_config(TINY, "tiny").parameters == 2 * layer + 2 * 100 * 64 + 64
    assert parse_config(TINY | {"tie_word_embeddings": True}, "tiny").parameters == 2 * layer + 6400 + 64


@given(
    layers=st.integers(1, 40),
    heads=st.sampled_from([4, 8, 16]),
    kv=st.sampled_from([1, 2, 4]),
    moe=st.booleans(),
)
def test_doubling_the_layers_doubles_what_is_not_embedding(layers: int, heads: int, kv: int, moe: bool) -> None:
    config = (TINY_MOE if moe else TINY_QWEN3) | {"num_attention_heads": heads, "num_key_value_heads": kv}

    def body(count: int) -> tuple[int, int]:
        found = parse_config(config | {"num_hidden_layers": count}, "tiny")
        rest = 2 * found.embedding_parameters + found.hidden
        assert found.layers == count
        return found.parameters - rest, found.active_parameters - rest

    one, two = body(layers), body(2 * layers)
    assert two == (2 * one[0], 2 * one[1])
    assert one[1] <= one[0]
