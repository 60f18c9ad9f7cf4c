"""Readers of families: layers counted by hand, and what they refuse by name."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest

from costmodels.models.architecture import (
    Architecture,
    BlockSparseAttention,
    DenseFeedForward,
    LatentAttention,
    MixtureOfExperts,
    NoFeedForward,
)
from costmodels.models.drafts import draft_head
from costmodels.models.huggingface import parse_config
from costmodels.models.mixers import CompressedAttention, KimiDeltaAttention, Mamba, Mamba2, NoMixer, ShortConvolution
from costmodels.models.precision import choose_precision
from costmodels.models.registry import BUNDLED, find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.step.memory import kv_bytes_per_sequence, weights_bytes
from profiles.errors import InputError, Unsupported
from tests.contracts.reader_files import EAGLE3

BASE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
DENSE = BASE | {"intermediate_size": 96}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
TABLES = 2 * 100 * 64 + 64
ATTENTION = 64 * (64 + 2 * 32) + 64 * 64
FEED_FORWARD = 3 * 64 * 96


def read(config: dict[str, Any], **keys: object) -> Architecture:
    return parse_config(config | keys, "tiny")


# --- dense families ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "keys", "layer"),
    [
        ("granite", {}, ATTENTION + FEED_FORWARD + 2 * 64),
        ("seed_oss", {"attention_bias": True}, ATTENTION + 128 + FEED_FORWARD + 2 * 64),
        ("exaone4", {}, ATTENTION + 2 * 16 + FEED_FORWARD + 2 * 64),
        ("olmo2", {}, ATTENTION + 64 + 32 + FEED_FORWARD + 2 * 64),
        ("glm4", {"attention_bias": True}, ATTENTION + 128 + FEED_FORWARD + 4 * 64),
        ("arcee", {}, ATTENTION + 2 * 64 * 96 + 2 * 64),
        ("mimo", {}, ATTENTION + 128 + FEED_FORWARD + 2 * 64),
    ],
)
def test_a_layer_has_what_its_family_adds_to_llama(model_type: str, keys: dict[str, Any], layer: int) -> None:
    assert read(DENSE, model_type=model_type, **keys).parameters == TABLES + 4 * layer


def test_sliding_windows_follow_the_familys_pattern() -> None:
    def windows(**keys: object) -> list[int]:
        groups = read(DENSE, sliding_window=128, **keys).layer_groups
        return [group.attention.window_tokens for group in groups for _ in range(group.count)]

    assert windows(model_type="gemma2") == [128, 128, 0, 0]
    assert windows(model_type="cohere2") == [128, 128, 128, 0]
    assert windows(model_type="exaone4", sliding_window_pattern="LG") == [128, 128, 0, 0]
    assert windows(model_type="olmo3", layer_types=["full_attention"] * 3 + ["sliding_attention"]) == [0, 0, 0, 128]


def test_phi_has_biases_everywhere_and_on_its_head() -> None:
    layer = 4 * (64 * 64 + 64) + 2 * 64 * 96 + 96 + 64 + 2 * 64
    model = read(DENSE, model_type="phi", num_key_value_heads=4)
    assert model.parameters == TABLES + 4 * layer + 64 + 100


def test_layers_that_were_searched_for_may_lack_a_half() -> None:
    whole = {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 6.0}}
    blocks = [
        whole,
        {"attention": {"no_op": True}, "ffn": {"ffn_mult": 3.0}},
        {"attention": {"n_heads_in_group": 4}, "ffn": {"no_op": True}},
        {"attention": {"no_op": True}, "ffn": {"no_op": True}},
    ]
    model = read(BASE, model_type="nemotron-nas", block_configs=blocks)
    one_head = 64 * (64 + 2 * 16) + 64 * 64
    wide = 3 * 64 * 256  # 2/3 · 6 · 64, already a multiple of 256
    assert model.parameters == TABLES + (ATTENTION + wide + 128) + (wide + 64) + (one_head + 64)
    with pytest.raises(Unsupported, match="replace_with_linear"):
        read(BASE, model_type="nemotron-nas", block_configs=[{"attention": {"replace_with_linear": True}}] * 4)
    with pytest.raises(InputError, match="block_configs' lists 1 layers"):
        read(BASE, model_type="nemotron-nas", block_configs=[whole])


# --- experts ----------------------------------------------------------------------------------------------


def test_idle_experts_take_part_in_the_choice_only() -> None:
    config = BASE | {
        "model_type": "longcat_flash",
        "num_layers": 2,
        "ffn_hidden_size": 96,
        "expert_ffn_hidden_size": 32,
        "n_routed_experts": 8,
        "zero_expert_num": 4,
        "moe_topk": 3,
        "q_lora_rank": 48,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
    }
    model = read(config)
    experts = [g.feed_forward for g in model.layer_groups if isinstance(g.feed_forward, MixtureOfExperts)]
    assert [(e.experts, e.idle_experts, e.working_top_k) for e in experts] == [(8, 4, 2)]
    assert experts[0].router_parameters(64) == 12 * 64 + 12
    assert model.layers == 4  # each of its layers is two
    with pytest.raises(Unsupported, match="zero_expert_type"):
        read(config, zero_expert_type="copy")


def test_gemma_4_reads_keys_as_values_and_experts_beside_a_dense_half() -> None:
    config = DENSE | {
        "model_type": "gemma4_text",
        "sliding_window": 128,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "global_head_dim": 32,
    }
    sliding = ATTENTION + 2 * 16
    full = 64 * (4 * 32 + 32) + 4 * 32 * 64 + 2 * 32
    tied = 100 * 64 + 64
    assert read(config).parameters == tied + 3 * sliding + full + 4 * (FEED_FORWARD + 4 * 64 + 1)
    experts = read(config, enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=8)
    routed = 4 * 3 * 64 * 8 + 64 * 4 + 64 + 4
    assert experts.parameters == read(config).parameters + 4 * (routed + 3 * 64)


def test_gemma_4_e_models_have_an_input_for_every_layer_and_share_caches() -> None:
    config = DENSE | {
        "model_type": "gemma4_text",
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "global_head_dim": 32,
    }
    alone = read(config)
    with_inputs = read(config, hidden_size_per_layer_input=8, vocab_size_per_layer_input=50)
    each = 2 * 8 * 64 + 64  # gate, projection and norm
    assert with_inputs.parameters == alone.parameters + 4 * (50 * 8 + each + 64 * 8) + 8

    shared = read(config, num_kv_shared_layers=2)
    assert shared.parameters == alone.parameters, "the checkpoint has the keys and values that are not used"
    wide = read(config, num_kv_shared_layers=2, use_double_wide_mlp=True)
    assert wide.parameters == alone.parameters + 2 * FEED_FORWARD
    layouts = Layouts.of([(1, 1, 1, 1, 1), (2, 1, 1, 1, 1)])
    half = kv_bytes_per_sequence(shared, choose_precision(shared), layouts, 1000.0)
    whole = kv_bytes_per_sequence(alone, choose_precision(alone), layouts, 1000.0)
    np.testing.assert_allclose(half * 2, whole)

    inputs = weights_bytes(with_inputs, choose_precision(with_inputs), layouts)
    none = weights_bytes(alone, choose_precision(alone), layouts)
    split, copied = 4 * (50 * 8 + 64 * 8) + 8, 4 * each
    np.testing.assert_allclose(inputs - none, 2.0 * np.array([split + copied, split / 2 + copied]))
    with pytest.raises(InputError, match="num_kv_shared_layers"):
        read(config, num_kv_shared_layers=3)
    experts = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 8}
    with pytest.raises(Unsupported, match="use_double_wide_mlp"):
        read(config, use_double_wide_mlp=True, **experts)


def test_gemma_4_e4b_is_as_large_as_llama_cpp_counts_it_and_its_audio_encoder_is_read() -> None:
    model = find_architecture("google/gemma-4-E4B-it")
    assert model.parameters == pytest.approx(7.52e9, abs=0.005e9)
    assert model.audio_parameters == pytest.approx(305e6, rel=0.02)
    config = json.loads((BUNDLED / "google--gemma-4-E4B.json").read_text())["config"]
    assert parse_config(config | {"audio_config": None}, "deaf").audio_parameters == 0
    with pytest.raises(InputError, match="audio_config"):
        parse_config(config | {"audio_config": 7}, "broken")


# --- mixers -----------------------------------------------------------------------------------------------

NEMOTRON = BASE | {
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "M*-E",
    "intermediate_size": 96,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "ssm_state_size": 32,
    "conv_kernel": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 24,
    **MOE,
}


def test_each_block_of_a_nemotron_has_one_half() -> None:
    model = read(NEMOTRON)
    inner, convolved = 128, 128 + 2 * 2 * 32
    mamba = 64 * (inner + convolved + 8) + convolved * 5 + 3 * 8 + inner + inner * 64
    experts = 4 * 2 * 64 * 32 + 64 * 4 + 4 + 2 * 64 * 24
    assert model.parameters == TABLES + mamba + ATTENTION + 2 * 64 * 96 + experts + 4 * 64
    kinds = [(type(group.attention), type(group.feed_forward)) for group in model.layer_groups]
    assert kinds[0] == (Mamba2, NoFeedForward)
    assert kinds[3] == (NoMixer, MixtureOfExperts)
    assert read(NEMOTRON, hybrid_override_pattern=None, layers_block_type=["mamba", "moe"]).layers == 2
    with pytest.raises(Unsupported, match="'X' blocks"):
        read(NEMOTRON, hybrid_override_pattern="MX")


def test_short_convolutions_take_the_place_of_attention_in_most_layers() -> None:
    keys = {"conv_L_cache": 3, "full_attn_idxs": [1], "block_multiple_of": 16, "tie_embedding": False}
    model = read(BASE | {"block_ff_dim": 96}, model_type="lfm2", **keys)
    assert [type(group.attention).__name__ for group in model.layer_groups] == [
        "ShortConvolution",
        "GroupedQueryAttention",
    ]
    assert [group.count for group in model.layer_groups] == [3, 1]
    convolution = 4 * 64 * 64 + 3 * 64
    assert model.parameters == TABLES + 3 * convolution + ATTENTION + 2 * 16 + 4 * (3 * 64 * 64 + 2 * 64)
    plain = read(DENSE, model_type="lfm2", **keys, block_auto_adjust_ff_dim=False)
    assert plain.layer_groups[0].feed_forward == DenseFeedForward(96)
    listed = read(DENSE | MOE, model_type="lfm2_moe", num_experts=4, num_dense_layers=1, layer_types=["conv"] * 4)
    assert [type(group.feed_forward).__name__ for group in listed.layer_groups] == [
        "DenseFeedForward",
        "MixtureOfExperts",
    ]
    kept = ShortConvolution(64, 3).cache_bytes(np.full(1, 500.0), np.full(1, 2), 2.0)
    assert kept.tolist() == [64 * 2 * 2 / 2]


def test_models_of_state_spaces_alone_have_nothing_else() -> None:
    bare = {name: value for name, value in BASE.items() if not name.startswith("num_") and name != "head_dim"}
    mamba = read(bare, model_type="falcon_mamba", num_hidden_layers=4, state_size=16, time_step_rank=4)
    (group,) = mamba.layer_groups
    assert group.attention == Mamba(128, 16, 4, 4, 2, norms=False)
    assert isinstance(group.feed_forward, NoFeedForward)
    two = read(bare, model_type="mamba2", num_hidden_layers=4, num_heads=8, head_dim=16, n_groups=1)
    assert two.layer_groups[0].attention == Mamba2(8, 16, 1, 128, 4, 2)


@pytest.mark.parametrize("model_type", ["minimax_text_01", "step3_text", "rwkv7"])
def test_layers_that_are_not_modelled_are_named(model_type: str) -> None:
    with pytest.raises(Unsupported, match=f"'{model_type}' has .*not modelled"):
        read(DENSE, model_type=model_type)


def test_experts_may_work_in_a_latent_space() -> None:
    plain, latent = read(NEMOTRON), read(NEMOTRON, moe_latent_size=16)
    assert plain.parameters - latent.parameters == 4 * 2 * (64 - 16) * 32 - 2 * 64 * 16


def test_delta_attention_shares_layers_with_latent_attention() -> None:
    config = BASE | {
        "model_type": "kimi_linear",
        "intermediate_size": 96,
        "linear_attn_config": {"full_attn_layers": [4], "kda_layers": [1, 2, 3], "num_heads": 4, "head_dim": 16},
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "num_experts": 4,
        "num_experts_per_token": 2,
        "num_shared_experts": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    }
    kinds = [(group.count, type(group.attention)) for group in read(config).layer_groups]
    assert kinds == [(1, KimiDeltaAttention), (2, KimiDeltaAttention), (1, LatentAttention)]
    with pytest.raises(InputError, match="share out layers 1 to 4"):
        read(config, linear_attn_config=config["linear_attn_config"] | {"kda_layers": [1, 2]})


def test_compressed_attention_has_its_ratio_by_layer() -> None:
    model = find_architecture("deepseek-ai/DeepSeek-V4-Flash")
    attentions = [group.attention for group in model.layer_groups]
    assert all(isinstance(each, CompressedAttention) for each in attentions)
    ratios = [(g.count, g.attention.ratio) for g in model.layer_groups if isinstance(g.attention, CompressedAttention)]
    assert ratios == [(2, 0), (21, 4), (20, 128)]
    assert all(group.residual is not None for group in model.layer_groups)
    assert model.exceptions == tuple((p, "fp8_block") for p in ("attention_qkv", "attention_output", "shared_experts"))


def test_block_sparse_attention_has_an_index_beside_it() -> None:
    model = find_architecture("MiniMaxAI/MiniMax-M3")
    sparse = [group for group in model.layer_groups if isinstance(group.attention, BlockSparseAttention)]
    assert [group.count for group in sparse] == [57]
    attention = sparse[0].attention
    assert isinstance(attention, BlockSparseAttention)
    index = 6144 * 128 * (4 + 1) + 2 * 128
    assert attention.parameters(6144) == attention.attention.parameters(6144) + index


def test_layers_may_share_an_index() -> None:
    model = find_architecture("zai-org/GLM-5.2")
    shared = sum(
        group.count
        for group in model.layer_groups
        if isinstance(group.attention, LatentAttention) and group.attention.indexer and group.attention.indexer.shared
    )
    assert (model.layers, shared) == (78, 57)
    assert find_architecture("zai-org/GLM-5").parameters - model.parameters == 57 * (
        2048 * 32 * 128 + 6144 * 128 + 2 * 128 + 6144 * 32
    )


@pytest.mark.parametrize("model", ["deepseek-ai/DeepSeek-V4-Flash", "moonshotai/Kimi-K3", "google/gemma-4-26B-A4B"])
def test_whatever_a_key_says_the_answer_is_an_architecture_or_our_error(model: str) -> None:
    from costmodels.models.registry import BUNDLED, _entry

    config = _entry(BUNDLED / f"{model.replace('/', '--')}.json")["config"]
    for key in config:
        for junk in (None, 0, -1, 1.5, "x", True, [], [1], [[1]], {}, {"a": 1}, 10**30, "re:(", ["re:("]):
            with contextlib.suppress(InputError):
                assert parse_config(config | {key: junk}, "junk").parameters > 0


# --- beside the layers ------------------------------------------------------------------------------------


def test_a_vision_models_text_keys_may_be_its_own() -> None:
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2, "num_heads": 2, "patch_size": 14}
    model = read(DENSE, model_type="qwen2_vl", vision_config=vision)
    block = 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 4 * 32
    merger = 128 * 128 + 128 + 128 * 64 + 64
    assert model.vision is not None
    assert model.vision.parameters == 3 * 2 * 14 * 14 * 32 + block + 2 * 32 + merger
    assert model.model_type == "qwen2_vl_text"


def test_a_draft_head_of_its_own_is_read_for_its_model() -> None:
    target = find_architecture("Llama-3.1-8B-Instruct")
    h = 4096
    by_hand = 2 * h * (h + 2 * 1024) + h * h + 3 * h * 14336 + 3 * h + h + 3 * h * h + 32000 * h
    assert draft_head(EAGLE3, target, "eagle").parameters(h) == by_hand
    with pytest.raises(InputError, match="drafts for another model"):
        draft_head(EAGLE3, find_architecture("Llama-3.1-70B"), "eagle")
    with pytest.raises(Unsupported, match="Medusa"):
        draft_head(EAGLE3 | {"architectures": ["MedusaModel"]}, target, "medusa")


def test_what_is_only_roughly_so_or_unknown_is_said() -> None:
    llama = DENSE | {"model_type": "llama"}
    assert read(llama).notes == ()
    assert "sets frobnicate, which nobody here knows" in read(llama, frobnicate=3).notes[0]
    assert read(llama, frobnicate=False, rope_theta=1e4, bos_token_id=1).notes == ()
    assert "its name says AWQ" in parse_config(llama, "acme/Rocket-7B-AWQ").notes[0]
    assert (
        "bitsandbytes"
        in read(llama, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}).notes[0]
    )
