"""What is read from a config.json, and what is refused in it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from costmodels.models.architecture import (
    GatedDeltaNet,
    GroupedQueryAttention,
    Indexer,
    LatentAttention,
)
from costmodels.models.huggingface import parse_config
from costmodels.models.registry import BUNDLED
from profiles.errors import InputError, Unsupported
from profiles.values import shown
from tests.costmodels.models.tiny import TINY, TINY_MOE, TINY_QWEN3

FILES = sorted(BUNDLED.glob("*.json"))


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
        ({"model_type": "rwkv7"}, "rwkv7"),
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
        ({"torch_dtype": "float8_e4m3fn"}, "float8_e4m3fn"),
        ({"quantization_config": {"quant_method": "quark"}}, "quark"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "gptq.*bits=3"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}}, "MIXED"),
        (TINY_SPARSE | {"indexer_types": ["full", "none"]}, "indexer_types' has 'none' layers"),
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
