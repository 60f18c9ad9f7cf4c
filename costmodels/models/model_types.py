"""One small reader per Hugging Face ``model_type``, each after transformers' modelling code of that name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from costmodels.models.architecture import (
    Attention,
    GatedDeltaNet,
    Indexer,
    MixtureOfExperts,
)
from costmodels.models.config_fields import Fields
from costmodels.models.reading import (
    Decoder,
    Layers,
    alike,
    check_layer_types,
    dense_first,
    dense_layer,
    even_head_dim,
    expert_layer,
    grouped_query,
    latent,
    layer_windows,
    next_tokens,
    reads,
    with_experts,
)
from profiles.errors import InputError, Unsupported
from profiles.values import shown

# --- dense ------------------------------------------------------------------------------------------------


@reads("llama")
def _llama(fields: Fields) -> Decoder:
    bias = fields.flag("attention_bias")
    heads = fields.size("num_attention_heads")
    attention = grouped_query(fields, kv_heads=heads, head_dim=even_head_dim(fields), bias=bias, output_bias=bias)
    return Decoder(alike(fields, attention, dense_layer(fields, bias=fields.flag("mlp_bias"))))


@reads("mistral")
def _mistral(fields: Fields) -> Decoder:
    attention = grouped_query(fields, head_dim=even_head_dim(fields))
    return Decoder(alike(fields, attention, dense_layer(fields), fields.number("sliding_window")))


@reads("phi3")
def _phi3(fields: Fields) -> Decoder:
    attention = grouped_query(fields, kv_heads=fields.size("num_attention_heads"), head_dim=even_head_dim(fields))
    return Decoder(alike(fields, attention, dense_layer(fields), fields.number("sliding_window")))


@reads("qwen2", "qwen2_vl_text", "qwen2_5_vl_text")
def _qwen2(fields: Fields) -> Decoder:
    attention = grouped_query(fields, head_dim=even_head_dim(fields), bias=True)
    ffn = dense_layer(fields)
    return Decoder([(attention(window), ffn) for window in _qwen_windows(fields)])


@reads("qwen3", "qwen3_vl_text")
def _qwen3(fields: Fields) -> Decoder:
    bias = fields.flag("attention_bias")
    attention = grouped_query(fields, bias=bias, output_bias=bias, qk_norm="head")
    ffn = dense_layer(fields)
    return Decoder([(attention(window), ffn) for window in _qwen_windows(fields)])


def _qwen_windows(fields: Fields) -> list[int]:
    """Layers from ``max_window_layers`` on slide, where the model slides at all (most do not)."""
    if not fields.flag("use_sliding_window"):
        fields.inert("sliding_window")
        return layer_windows(fields)
    size, first = fields.size("sliding_window"), fields.number("max_window_layers")
    return layer_windows(fields, lambda layer: size if layer >= first else 0)


@reads("gemma3_text")
def _gemma3(fields: Fields) -> Decoder:
    """Five sliding layers to one full one; RMSNorm before and after both halves (arXiv:2503.19786 §2)."""
    bias = fields.flag("attention_bias")
    attention = grouped_query(fields, bias=bias, output_bias=bias, qk_norm="head")
    period, size = fields.size("sliding_window_pattern"), fields.size("sliding_window")
    windows = layer_windows(fields, lambda layer: size if (layer + 1) % period else 0)
    ffn = dense_layer(fields)
    return Decoder([(attention(window), ffn) for window in windows], norms=4)


# --- mixture of experts -----------------------------------------------------------------------------------


@reads("mixtral")
def _mixtral(fields: Fields) -> Decoder:
    attention = grouped_query(fields, head_dim=even_head_dim(fields))
    ffn = expert_layer(fields, "num_local_experts", "intermediate_size")
    return Decoder(alike(fields, attention, ffn, fields.number("sliding_window")))


@reads("qwen2_moe")
def _qwen2_moe(fields: Fields) -> Decoder:
    attention = grouped_query(fields, head_dim=even_head_dim(fields), bias=fields.flag("qkv_bias", True))
    shared = fields.number("shared_expert_intermediate_size")
    experts = expert_layer(fields, "num_experts", "moe_intermediate_size", shared=shared, shared_gate=bool(shared))
    return Decoder(_sparse_steps(fields, attention, experts))


@reads("qwen3_moe", "qwen3_vl_moe_text")
def _qwen3_moe(fields: Fields) -> Decoder:
    bias = fields.flag("attention_bias")
    norm: Literal["head", "none"] = "head" if fields.flag("use_qk_norm", True) else "none"
    attention = grouped_query(fields, bias=bias, output_bias=bias, qk_norm=norm)
    experts = expert_layer(fields, "num_experts", "moe_intermediate_size")
    return Decoder(_sparse_steps(fields, attention, experts))


def _sparse_steps(fields: Fields, attention: Callable[[int], Attention], experts: MixtureOfExperts) -> Layers:
    return _with_experts(fields, [attention(window) for window in _qwen_windows(fields)], experts)


def _with_experts(fields: Fields, attentions: Sequence[Attention], experts: MixtureOfExperts) -> Layers:
    """Every ``decoder_sparse_step``-th layer has experts, but those in ``mlp_only_layers`` do not."""
    step, without = fields.size("decoder_sparse_step", 1), set(fields.sequence("mlp_only_layers"))
    sparse = [(layer + 1) % step == 0 and layer not in without for layer in range(len(attentions))]
    return with_experts(attentions, sparse, experts, lambda: dense_layer(fields))


@reads("gpt_oss")
def _gpt_oss(fields: Fields) -> Decoder:
    """Sliding and full layers alternate; biases everywhere, and a sink logit per head (arXiv:2508.10925)."""
    bias = fields.flag("attention_bias", True)
    attention = grouped_query(fields, bias=bias, output_bias=bias, sinks=True)
    experts = expert_layer(fields, "num_local_experts", "intermediate_size", bias=True)
    size = fields.size("sliding_window")
    windows = layer_windows(fields, lambda layer: 0 if layer % 2 else size)
    return Decoder([(attention(window), experts) for window in windows])


@reads("llama4_text")
def _llama4(fields: Fields) -> Decoder:
    """Three of four layers attend within chunks of ``attention_chunk_size``, which is modelled as a window of
    that size (its upper bound). The query-key norm has no weights."""
    bias = fields.flag("attention_bias")
    attention = grouped_query(fields, bias=bias, output_bias=bias)
    fields.flag("use_qk_norm", True)
    count, chunk = fields.layers(), fields.number("attention_chunk_size")
    period, step = fields.size("no_rope_layer_interval", 4), fields.size("interleave_moe_layer_step", 1)
    rope = fields.sequence("no_rope_layers") or [(layer + 1) % period for layer in range(count)]  # 0: no RoPE
    if len(rope) != count:
        raise InputError(
            f"{fields.model}: config key 'no_rope_layers' lists {len(rope)} layers, num_hidden_layers = {count}",
            "correct no_rope_layers in the config.json",
            field="no_rope_layers",
        )
    windows = layer_windows(fields, lambda layer: chunk if rope[layer] else 0)
    shared = fields.size("intermediate_size")
    experts = expert_layer(fields, "num_local_experts", "intermediate_size", shared=shared)
    sparse = set(fields.sequence("moe_layers") or range(step - 1, count, step))
    attentions = [attention(window) for window in windows]
    has_experts = [layer in sparse for layer in range(count)]
    return Decoder(with_experts(attentions, has_experts, experts, lambda: dense_layer(fields, "intermediate_size_mlp")))


@reads("glm4_moe", "glm4v_moe_text", "solar_open")
def _glm4_moe(fields: Fields) -> Decoder:
    norm: Literal["head", "none"] = "head" if fields.flag("use_qk_norm") else "none"
    attention = grouped_query(fields, bias=fields.flag("attention_bias"), qk_norm=norm)
    layers = dense_first(fields, attention, correction=True)
    return Decoder(layers, draft=next_tokens(fields, layers))


@reads("minimax_m2")
def _minimax_m2(fields: Fields) -> Decoder:
    norm: Literal["full", "none"] = "full" if fields.flag("use_qk_norm") else "none"
    kind = fields.text("qk_norm_type", "per_layer")
    if kind != "per_layer":
        raise Unsupported(
            f"{fields.model}: config key 'qk_norm_type' = {shown(kind)} is not modelled",
            "known: per_layer",
            field="qk_norm_type",
        )
    if set(fields.sequence("attn_type_list")) - {1}:
        raise Unsupported(
            f"{fields.model}: config key 'attn_type_list' has layers other than 1 (full attention): "
            "linear attention is not modelled",
            "choose a model of full, sliding-window or latent attention",
            field="attn_type_list",
        )
    shared, correction = fields.number("shared_intermediate_size"), fields.flag("use_routing_bias")
    experts = expert_layer(fields, "num_local_experts", "intermediate_size", shared=shared, router_bias=correction)
    layers = alike(fields, grouped_query(fields, qk_norm=norm), experts)
    return Decoder(layers, draft=next_tokens(fields, layers, "num_mtp_modules") if fields.flag("use_mtp") else [])


# --- linear attention -------------------------------------------------------------------------------------


@reads("qwen3_5_text")
def _qwen3_5(fields: Fields) -> Decoder:
    ffn = dense_layer(fields)
    return _drafting(fields, [(attention, ffn) for attention in _hybrid(fields)])


@reads("qwen3_next", "qwen3_5_moe_text")
def _qwen3_next(fields: Fields) -> Decoder:
    shared = fields.number("shared_expert_intermediate_size")
    experts = expert_layer(fields, "num_experts", "moe_intermediate_size", shared=shared, shared_gate=bool(shared))
    return _drafting(fields, _with_experts(fields, _hybrid(fields), experts))


def _drafting(fields: Fields, layers: Layers) -> Decoder:
    """Draft layers have attention, not the delta rule."""
    full = [layer for layer in layers if not isinstance(layer[0], GatedDeltaNet)] or layers
    return Decoder(layers, draft=next_tokens(fields, full, "mtp_num_hidden_layers"))


def _hybrid(fields: Fields) -> list[Attention]:
    """Gated DeltaNet, and in every ``full_attention_interval``-th layer attention with a gated output."""
    bias = fields.flag("attention_bias")
    gated = fields.flag("attn_output_gate", True)
    full = grouped_query(fields, bias=bias, output_bias=bias, qk_norm="head", gated_output=gated)(0)
    key_heads, value_heads = fields.size("linear_num_key_heads"), fields.size("linear_num_value_heads")
    if value_heads % key_heads:
        raise InputError(
            f"{fields.model}: config key 'linear_num_value_heads' = {value_heads} is not a multiple of "
            f"linear_num_key_heads = {key_heads}",
            "correct linear_num_value_heads in the config.json",
            field="linear_num_value_heads",
        )
    widths = fields.size("linear_key_head_dim"), fields.size("linear_value_head_dim")
    # transformers computes with the state in fp32 and SGLang keeps it so by default; the config may say otherwise.
    state = {"float32": 4, "bfloat16": 2, "float16": 2}
    element = state[fields.choice("mamba_ssm_dtype", "float32", state)]
    linear = GatedDeltaNet(key_heads, value_heads, *widths, fields.size("linear_conv_kernel_dim"), element)
    layers, interval = fields.layers(), fields.size("full_attention_interval", 4)
    kinds = fields.sequence("layer_types") or [
        "linear_attention" if (layer + 1) % interval else "full_attention" for layer in range(layers)
    ]
    check_layer_types(fields, kinds, ("linear_attention", "full_attention"))
    return [linear if kind == "linear_attention" else full for kind in kinds]


# --- latent attention -------------------------------------------------------------------------------------


@reads("deepseek_v2")
def _deepseek_v2(fields: Fields) -> Decoder:
    return Decoder(dense_first(fields, latent(fields), correction=False))


@reads("deepseek_v3", "glm4_moe_lite", "kimi_k2")
def _deepseek_v3(fields: Fields) -> Decoder:
    correction = fields.text("topk_method", "noaux_tc") == "noaux_tc"
    layers = dense_first(fields, latent(fields), correction=correction)
    return Decoder(layers, draft=next_tokens(fields, layers))


@reads("deepseek_v32", "glm_moe_dsa")
def _deepseek_v32(fields: Fields) -> Decoder:
    """DeepSeek sparse attention in every layer. The indexer reads the query's latent, so there must be one. Where
    layers share an index, a layer sees what the last one before it that has an indexer chose (GLM-5.2)."""
    fields.size("q_lora_rank")
    indexer = Indexer(fields.size("index_n_heads"), fields.size("index_head_dim"), fields.size("index_topk"))
    fields.inert("indexer_rope_interleave", "num_experts")  # n_routed_experts, said again
    plain = latent(fields)
    correction = fields.text("topk_method", "noaux_tc") == "noaux_tc"
    layers = dense_first(
        fields,
        lambda window: replace(plain(window), indexer=indexer),
        correction=correction,
        full="deepseek_sparse_attention",
    )
    shared = _shared_indices(fields)
    layers = [
        (replace(plain(0), indexer=replace(indexer, shared=True)) if lends else attention, ffn)
        for (attention, ffn), lends in zip(layers, shared, strict=True)
    ]
    return Decoder(layers, draft=next_tokens(fields, layers))


def _shared_indices(fields: Fields) -> list[bool]:
    """Which layers use the index of one before them, from ``indexer_types`` (what ``index_topk_freq``,
    ``index_skip_topk_offset`` and ``index_topk_pattern`` say as well)."""
    kinds = fields.sequence("indexer_types")
    if not kinds:
        return [False] * fields.layers()
    fields.inert("index_topk_freq", "index_skip_topk_offset", "index_topk_pattern", "index_share_for_mtp_iteration")
    check_layer_types(fields, kinds, ("full", "shared"), "indexer_types")
    if kinds[0] == "shared":
        raise InputError(
            f"{fields.model}: config key 'indexer_types' begins with 'shared': no layer before has an index",
            "correct indexer_types in the config.json",
            field="indexer_types",
        )
    return [kind == "shared" for kind in kinds]
