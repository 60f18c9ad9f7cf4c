"""Architectures: what a config.json says, what it must not say, and whether our counts are the world's."""

from __future__ import annotations

import contextlib
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
from profiles.errors import InputError, UnknownName, Unsupported
from profiles.values import shown

FILES = sorted(BUNDLED.glob("*.json"))
TINY: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
TINY_QWEN3 = TINY | {"model_type": "qwen3", "head_dim": 16}
TINY_MOE = TINY | {
    "model_type": "qwen3_moe",
    "head_dim": 16,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}


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
    extra = entry.get("published_extra_parameters", {})
    assert list(extra) == entry["published_includes"]
    published = entry["published_parameters"]
    tolerance = max(0.01 * published, entry.get("rounded_to", 0) / 2)
    assert abs(architecture.parameters + sum(extra.values()) - published) <= tolerance


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
            assert architecture.parameters + beside == entry["checkpoint_parameters"], path.stem
            exact += 1
    assert exact >= 30


def test_at_least_34_models_ship_each_with_its_source() -> None:
    models = registered()
    assert len(models) >= 34
    assert all(model.source and model.max_context_tokens >= 4096 for model in models)
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
    assert find_architecture("google/gemma-3-4b-it").excluded == ("vision tower",)
    assert find_architecture("deepseek-ai/DeepSeek-V3").excluded == ("multi-token-prediction layers (1)",)
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


# --- what is read from a config ---------------------------------------------------------------------------


def test_a_window_as_long_as_the_context_is_no_window() -> None:
    config = TINY | {"model_type": "mistral", "sliding_window": 128}
    assert parse_config(config, "m").layer_groups[0].attention.window_tokens == 128
    assert parse_config(config | {"sliding_window": 512}, "m").layer_groups[0].attention.window_tokens == 0


def test_layer_types_win_over_the_familys_habit() -> None:
    config = TINY_QWEN3 | {"sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]}
    assert [g.attention.window_tokens for g in parse_config(config, "q").layer_groups] == [0, 64]


def test_yarn_stretches_the_context_and_nothing_else_does() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert parse_config(TINY | {"rope_scaling": yarn}, "t").max_context_tokens == 2048
    linear = {"rope_type": "linear", "factor": 8.0}
    assert parse_config(TINY | {"rope_scaling": linear}, "t").max_context_tokens == 512


@pytest.mark.parametrize(
    ("quantization", "precision"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 4}, "int4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_algo": "FP8", "producer": {"name": "modelopt"}}, "fp8"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
            },
            "int4",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
            },
            "fp8",
        ),
    ],
)
def test_weight_precision_is_read(quantization: dict[str, Any], precision: str) -> None:
    assert parse_config(TINY | {"quantization_config": quantization}, "t").weight_precision == precision


def test_half_precision_keeps_its_name() -> None:
    assert parse_config(TINY | {"torch_dtype": "float16"}, "t").weight_precision == "fp16"
    renamed = {key: value for key, value in TINY.items() if key != "torch_dtype"} | {"dtype": "bfloat16"}
    assert parse_config(renamed, "t").weight_precision == "bf16"


def test_parts_that_a_quantized_checkpoint_leaves_alone_are_named() -> None:
    both = ("attention_qkv", "attention_output")
    assert find_architecture("openai/gpt-oss-20b").unquantized == both
    assert find_architecture("moonshotai/Kimi-K2.5").unquantized == (*both, "dense", "shared_experts")
    assert find_architecture("nvidia/DeepSeek-V3.1-NVFP4").unquantized == ("attention_qkv",)
    assert find_architecture("Qwen/Qwen3-235B-A22B-FP8").unquantized == ()
    assert find_architecture("nvidia/GLM-5-NVFP4").unquantized == both
    assert find_architecture("nvidia/Qwen3.5-397B-A17B-NVFP4").unquantized == (*both, "shared_experts")
    some = {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.1.self_attn"]}
    with pytest.raises(Unsupported, match="1 of 2 layers unquantized"):
        parse_config(TINY | {"quantization_config": some}, "t")


TINY_HYBRID = TINY | {
    "model_type": "qwen3_next",
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
TINY_SPARSE = TINY | {
    "model_type": "deepseek_v32",
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "kv_lora_rank": 32,
    "q_lora_rank": 48,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 64,
}


def test_every_so_many_th_layer_of_a_hybrid_is_full_and_layer_types_win() -> None:
    def kinds(**keys: object) -> list[tuple[int, str]]:
        found = parse_config(TINY_HYBRID | {"num_hidden_layers": 6} | keys, "h").layer_groups
        return [(group.count, type(group.attention).__name__) for group in found]

    linear, full = "GatedDeltaNet", "GroupedQueryAttention"
    assert kinds() == [(5, linear), (1, full)]
    assert kinds(full_attention_interval=2) == [(3, linear), (3, full)]
    assert kinds(layer_types=["full_attention"] * 4 + ["linear_attention"] * 2) == [(4, full), (2, linear)]
    with pytest.raises(InputError, match="lists 1 layers"):
        kinds(layer_types=["linear_attention"])
    with pytest.raises(Unsupported, match="sliding_attention"):
        kinds(layer_types=["sliding_attention"] * 6)


def test_a_hybrids_attention_is_gated_and_its_state_is_as_precise_as_it_says() -> None:
    found = parse_config(TINY_HYBRID | {"full_attention_interval": 2}, "h").layer_groups
    linear, full = (group.attention for group in found)
    assert isinstance(full, GroupedQueryAttention)
    assert full.gated_output
    assert isinstance(linear, GatedDeltaNet)
    assert linear.state_bytes == 4
    half = parse_config(TINY_HYBRID | {"mamba_ssm_dtype": "bfloat16"}, "h").layer_groups[0].attention
    assert isinstance(half, GatedDeltaNet)
    assert half.state_bytes == 2
    with pytest.raises(InputError, match="mamba_ssm_dtype' = 'int8': must be one of float32"):
        parse_config(TINY_HYBRID | {"mamba_ssm_dtype": "int8"}, "h")
    with pytest.raises(InputError, match="linear_num_value_heads' = 3 is not a multiple"):
        parse_config(TINY_HYBRID | {"linear_num_value_heads": 3}, "h")


def test_sparse_attention_is_read_with_its_indexer() -> None:
    for kind in ("deepseek_v32", "glm_moe_dsa"):
        attention = parse_config(TINY_SPARSE | {"model_type": kind}, "s").layer_groups[0].attention
        assert isinstance(attention, LatentAttention)
        assert attention.indexer == Indexer(2, 16, 64)
    for key in ("index_topk", "q_lora_rank"):
        with pytest.raises(InputError, match=key):
            parse_config({name: value for name, value in TINY_SPARSE.items() if name != key}, "s")


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "jamba"}, "jamba"),
        ({"mamba_d_state": 16}, "Mamba layers.*mamba_d_state"),
        ({"hybrid_override_pattern": "M*M-"}, "hybrid_override_pattern"),
        ({"index_topk": 2048}, "index_topk"),
        ({"linear_num_key_heads": 16}, "linear attention.*linear_num_key_heads"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"cross_attention_layers": [1]}, "cross_attention_layers"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"kv_lora_rank": 512}, "kv_lora_rank"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"torch_dtype": "float32"}, "float32"),
        ({"quantization_config": {"quant_method": "quark"}}, "quark"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, "gptq.*bits=8"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}}, "MIXED"),
        (TINY_SPARSE | {"indexer_types": ["full", "shared"]}, "an index that layers share.*indexer_types"),
        (TINY_SPARSE | {"linear_num_key_heads": 16}, "linear attention"),
        ({"mamba_ssm_dtype": "float32"}, "linear attention"),
        ({"model_type": "minimax_m2", "head_dim": 16, "attn_type_list": [0, 1]}, "attn_type_list"),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(Unsupported, match=named) as caught:
        parse_config(TINY | change, "tiny")
    assert caught.value.hint


def test_what_a_wrapper_hides_is_refused_by_name_too() -> None:
    with pytest.raises(Unsupported, match="linear_key_head_dim"):
        parse_config({"model_type": "qwen3_5", "text_config": TINY | {"linear_key_head_dim": 8}}, "q")


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True])
def test_senseless_sizes_are_refused_with_key_and_value(key: str, value: object) -> None:
    with pytest.raises(InputError, match=f"'{key}' = {shown(value)}: must be a positive integer"):
        parse_config(TINY | {key: value}, "tiny")


@pytest.mark.parametrize("key", [key for key in TINY if key != "num_key_value_heads"])
def test_a_missing_key_is_named(key: str) -> None:
    for absent in ({k: v for k, v in TINY.items() if k != key}, TINY | {key: None}):
        with pytest.raises(InputError, match=key):
            parse_config(absent, "tiny")


@pytest.mark.parametrize("path", FILES[::9], ids=lambda path: path.stem)
def test_whatever_a_key_says_the_answer_is_an_architecture_or_our_error(path: Path) -> None:
    config = json.loads(path.read_text())["config"]
    for key in config:
        for junk in (None, 0, -1, 1.5, "x", True, [], [1], [[1]], {}, {"a": 1}, 10**30, "re:(", ["re:("]):
            with contextlib.suppress(InputError):
                assert parse_config(config | {key: junk}, "junk").parameters > 0


def test_contradictions_are_refused() -> None:
    with pytest.raises(InputError, match="num_key_value_heads' = 3 does not divide"):
        parse_config(TINY | {"num_key_value_heads": 3}, "tiny")
    with pytest.raises(InputError, match="num_experts_per_tok' = 9: must be at most 8"):
        parse_config(TINY_MOE | {"num_experts_per_tok": 9}, "tiny")
    with pytest.raises(InputError, match="lists 1 layers"):
        parse_config(TINY_QWEN3 | {"layer_types": ["full_attention"]}, "tiny")
    with pytest.raises(InputError, match="tie_word_embeddings' = 'yes'"):
        parse_config(TINY | {"tie_word_embeddings": "yes"}, "tiny")


# --- finding them -----------------------------------------------------------------------------------------


def test_names_are_found_in_any_case_without_organisation_and_by_their_twins() -> None:
    assert find_architecture("qwen/qwen3-32b").name == "Qwen/Qwen3-32B"
    assert find_architecture("gpt-oss-20b").name == "openai/gpt-oss-20b"
    twin = find_architecture("Llama-3.1-8B-Instruct")
    assert twin.name == "meta-llama/Llama-3.1-8B-Instruct"
    assert twin.layer_groups == find_architecture("meta-llama/Llama-3.1-8B").layer_groups
    assert find_architecture("Qwen/Qwen3-32B") is find_architecture("Qwen3-32B"), "parsed once"


def test_an_unknown_name_gives_the_nearest_and_says_that_paths_work() -> None:
    with pytest.raises(UnknownName) as caught:
        find_architecture("Qwen/Qwen3-33B")
    assert "Qwen/Qwen3-32B" in caught.value.hint
    assert "config.json" in caught.value.hint


def test_a_path_to_a_config_or_its_folder_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY))
    assert find_architecture(str(folder)) == find_architecture(str(folder / "config.json"))
    assert find_architecture(str(folder)).name == "my-model"
    with pytest.raises(UnknownName):
        find_architecture(str(folder), allow_paths=False)
    with pytest.raises(UnknownName, match="nowhere"):
        find_architecture(str(tmp_path / "nowhere" / "config.json"))
    with pytest.raises(InputError, match=r"holds no config\.json"):
        find_architecture(str(tmp_path))


def test_quantization_that_is_said_beside_the_config_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    assert find_architecture(str(tmp_path)).weight_precision == "nvfp4"


@pytest.mark.parametrize(
    ("content", "line"), [(b'{"model_type": "llama",\n "hidden_size": }', 2), (b"[1, 2]", 1), (b"", 1)]
)
def test_bad_json_is_refused_with_file_and_line(tmp_path: Path, content: bytes, line: int) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"config.json: line {line}"):
        find_architecture(str(file))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        find_architecture(str(file))
