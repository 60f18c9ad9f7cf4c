"""One small reader per Hugging Face ``model_type``, each after transformers' modelling code of that name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from costmodels.models.architecture import (
    Attention,
    DenseFeedForward,
    FeedForward,
    GatedDeltaNet,
    GroupedQueryAttention,
    Indexer,
    LatentAttention,
    MixtureOfExperts,
)
from costmodels.models.config_fields import Fields
from profiles.errors import InputError, Unsupported
from profiles.values import shown

Layers = list[tuple[Attention, FeedForward]]


@dataclass(frozen=True)
class Decoder:
    """What a reader finds: the layers in order, and what is not the same for every family."""

    layers: Layers
    norms: int = 2
    excluded: tuple[str, ...] = ()


READERS: dict[str, Callable[[Fields], Decoder]] = {}


def _reads(*model_types: str) -> Callable[[Callable[[Fields], Decoder]], Callable[[Fields], Decoder]]:
    def register(reader: Callable[[Fields], Decoder]) -> Callable[[Fields], Decoder]:
        READERS.update(dict.fromkeys(model_types, reader))
        return reader

    return register


# --- helpers that readers share ---------------------------------------------------------------------------


def _grouped_query(
    fields: Fields,
    *,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    bias: bool = False,
    output_bias: bool = False,
    qk_norm: Literal["none", "head", "full"] = "none",
    sinks: bool = False,
    gated: bool = False,
) -> Callable[[int], GroupedQueryAttention]:
    """Attention as a function of its window. ``kv_heads`` and ``head_dim``: defaults for absent keys."""
    heads = fields.size("num_attention_heads")
    kv = fields.at_most(
        "num_key_value_heads", fields.size("num_key_value_heads", kv_heads), heads, "num_attention_heads"
    )
    if heads % kv:
        raise InputError(
            f"{fields.model}: config key 'num_key_value_heads' = {kv} does not divide num_attention_heads = {heads}",
            "correct num_key_value_heads in the config.json",
            field="num_key_value_heads",
        )
    width = fields.size("head_dim", head_dim)
    return lambda window: GroupedQueryAttention(heads, kv, width, window, bias, output_bias, qk_norm, sinks, gated)


def _even_head_dim(fields: Fields) -> int:
    """hidden_size / num_attention_heads: what families that predate ``head_dim`` mean by its absence."""
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    if hidden % heads and not fields.number("head_dim"):
        raise InputError(
            f"{fields.model}: config key 'hidden_size' = {hidden} is not a multiple of num_attention_heads = {heads}",
            "say head_dim in the config.json",
            field="hidden_size",
        )
    return hidden // heads or 1


def _windows(fields: Fields, otherwise: Callable[[int], int] = lambda layer: 0) -> list[int]:
    """Keys that a query of each layer sees (0: all): from ``layer_types``, else what the family does."""
    layers, longest = fields.layers(), fields.max_context_tokens()
    kinds = [str(kind) for kind in fields.sequence("layer_types")]
    if not kinds:
        windows = [otherwise(layer) for layer in range(layers)]
    else:
        sizes = {"full_attention": None, "sliding_attention": "sliding_window"}
        sizes["chunked_attention"] = "attention_chunk_size"
        _check_layer_types(fields, kinds, sizes)
        windows = [fields.size(key) if (key := sizes[kind]) else 0 for kind in kinds]
    return [window if window < longest else 0 for window in windows]


def _check_layer_types(fields: Fields, kinds: Sequence[int | str], known: Collection[str]) -> None:
    for kind in kinds:
        if kind not in known:
            raise Unsupported(
                f"{fields.model}: config key 'layer_types' has {shown(kind)} layers, which are not modelled",
                f"known: {', '.join(known)}",
                field="layer_types",
            )
    if len(kinds) != fields.layers():
        raise InputError(
            f"{fields.model}: config key 'layer_types' lists {len(kinds)} layers, "
            f"num_hidden_layers = {fields.layers()}",
            "correct layer_types or num_hidden_layers in the config.json",
            field="layer_types",
        )


def _routed(fields: Fields, experts: str, intermediate: str, *, shared: int = 0, **traits: bool) -> MixtureOfExperts:
    """The expert layer; ``experts`` and ``intermediate`` are what the family calls these keys."""
    count = fields.size(experts)
    top_k = fields.at_most("num_experts_per_tok", fields.size("num_experts_per_tok"), count, experts)
    return MixtureOfExperts(count, top_k, fields.size(intermediate), shared, **traits)


def _dense(fields: Fields, key: str = "intermediate_size", *, bias: bool = False) -> DenseFeedForward:
    return DenseFeedForward(fields.size(key), bias=bias)


def _alike(fields: Fields, attention: Callable[[int], Attention], ffn: FeedForward, window: int = 0) -> Layers:
    return [(attention(size), ffn) for size in _windows(fields, lambda layer: window)]


# --- dense ------------------------------------------------------------------------------------------------


@_reads("llama")
def _llama(fields: Fields) -> Decoder:
    bias = fields.flag("attention_bias")
    heads = fields.size("num_attention_heads")
    attention = _grouped_query(fields, kv_heads=heads, head_dim=_even_head_dim(fields), bias=bias, output_bias=bias)
    return Decoder(_alike(fields, attention, _dense(fields, bias=fields.flag("mlp_bias"))))


@_reads("mistral")
def _mistral(fields: Fields) -> Decoder:
    attention = _grouped_query(fields, head_dim=_even_head_dim(fields))
    return Decoder(_alike(fields, attention, _dense(fields), fields.number("sliding_window")))


@_reads("phi3")
def _phi3(fields: Fields) -> Decoder:
    attention = _grouped_query(fields, kv_heads=fields.size("num_attention_heads"), head_dim=_even_head_dim(fields))
    return Decoder(_alike(fields, attention, _dense(fields), fields.number("sliding_window")))


@_reads("qwen2")
def _qwen2(fields: Fields) -> Decoder:
    attention = _grouped_query(fields, head_dim=_even_head_dim(fields), bias=True)
    ffn = _dense(fields)
    return Decoder([(attention(window), ffn) for window in _qwen_windows(fields)])


@_reads("qwen3", "qwen3_vl_text")
def _qwen3(fields: Fields) -> Decoder:
    bias = fields.flag("attention_bias")
    attention = _grouped_query(fields, bias=bias, output_bias=bias, qk_norm="head")
    ffn = _dense(fields)
    return Decoder([(attention(window), ffn) for window in _qwen_windows(fields)])


def _qwen_windows(fields: Fields) -> list[int]:
    """Layers from ``max_window_layers`` on slide, where the model slides at all (most do not)."""
    if not fields.flag("use_sliding_window"):
        return _windows(fields)
    size, first = fields.size("sliding_window"), fields.number("max_window_layers")
    return _windows(fields, lambda layer: size if layer >= first else 0)


@_reads("gemma3_text")
def _gemma3(fields: Fields) -> Decoder:
    """Five sliding layers to one full one; RMSNorm before and after both halves (arXiv:2503.19786 §2)."""
    bias = fields.flag("attention_bias")
    attention = _grouped_query(fields, bias=bias, output_bias=bias, qk_norm="head")
    period, size = fields.size("sliding_window_pattern"), fields.size("sliding_window")
    windows = _windows(fields, lambda layer: size if (layer + 1) % period else 0)
    ffn = _dense(fields)
    return Decoder([(attention(window), ffn) for window in windows], norms=4)


# --- mixture of experts -----------------------------------------------------------------------------------


@_reads("mixtral")
def _mixtral(fields: Fields) -> Decoder:
    attention = _grouped_query(fields, head_dim=_even_head_dim(fields))
    ffn = _routed(fields, "num_local_experts", "intermediate_size")
    return Decoder(_alike(fields, attention, ffn, fields.number("sliding_window")))


@_reads("qwen2_moe")
def _qwen2_moe(fields: Fields) -> Decoder:
    attention = _grouped_query(fields, head_dim=_even_head_dim(fields), bias=fields.flag("qkv_bias", True))
    shared = fields.number("shared_expert_intermediate_size")
    experts = _routed(fields, "num_experts", "moe_intermediate_size", shared=shared, shared_gate=bool(shared))
    return Decoder(_sparse_steps(fields, attention, experts))


@_reads("qwen3_moe", "qwen3_vl_moe_text")
def _qwen3_moe(fields: Fields) -> Decoder:
    bias = fields.flag("attention_bias")
    norm: Literal["head", "none"] = "head" if fields.flag("use_qk_norm", True) else "none"
    attention = _grouped_query(fields, bias=bias, output_bias=bias, qk_norm=norm)
    experts = _routed(fields, "num_experts", "moe_intermediate_size")
    return Decoder(_sparse_steps(fields, attention, experts))


def _sparse_steps(fields: Fields, attention: Callable[[int], Attention], experts: MixtureOfExperts) -> Layers:
    return _with_experts(fields, [attention(window) for window in _qwen_windows(fields)], experts)


def _with_experts(fields: Fields, attentions: Sequence[Attention], experts: MixtureOfExperts) -> Layers:
    """Every ``decoder_sparse_step``-th layer has experts, but those in ``mlp_only_layers`` do not."""
    step, without = fields.size("decoder_sparse_step", 1), set(fields.sequence("mlp_only_layers"))
    sparse = [(layer + 1) % step == 0 and layer not in without for layer in range(len(attentions))]
    dense = experts if all(sparse) else _dense(fields)
    return [(attention, experts if routed else dense) for attention, routed in zip(attentions, sparse, strict=True)]


@_reads("gpt_oss")
def _gpt_oss(fields: Fields) -> Decoder:
    """Sliding and full layers alternate; biases everywhere, and a sink logit per head (arXiv:2508.10925)."""
    bias = fields.flag("attention_bias", True)
    attention = _grouped_query(fields, bias=bias, output_bias=bias, sinks=True)
    experts = _routed(fields, "num_local_experts", "intermediate_size", bias=True)
    size = fields.size("sliding_window")
    windows = _windows(fields, lambda layer: 0 if layer % 2 else size)
    return Decoder([(attention(window), experts) for window in windows])


@_reads("llama4_text")
def _llama4(fields: Fields) -> Decoder:
    """Three of four layers attend within chunks of ``attention_chunk_size``, which is modelled as a window of
    that size (its upper bound). The query-key norm has no weights."""
    bias = fields.flag("attention_bias")
    attention = _grouped_query(fields, bias=bias, output_bias=bias)
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
    windows = _windows(fields, lambda layer: chunk if rope[layer] else 0)
    shared = fields.size("intermediate_size")
    experts = _routed(fields, "num_local_experts", "intermediate_size", shared=shared)
    sparse = set(fields.sequence("moe_layers") or range(step - 1, count, step))
    dense = experts if len(sparse) == count else _dense(fields, "intermediate_size_mlp")
    return Decoder([(attention(window), experts if layer in sparse else dense) for layer, window in enumerate(windows)])


@_reads("glm4_moe")
def _glm4_moe(fields: Fields) -> Decoder:
    norm: Literal["head", "none"] = "head" if fields.flag("use_qk_norm") else "none"
    attention = _grouped_query(fields, bias=fields.flag("attention_bias"), qk_norm=norm)
    return Decoder(_dense_first(fields, attention, correction=True))


@_reads("minimax_m2")
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
    experts = _routed(fields, "num_local_experts", "intermediate_size", shared=shared, router_bias=correction)
    modules = fields.number("num_mtp_modules") if fields.flag("use_mtp") else 0
    excluded = (f"multi-token-prediction layers ({modules})",) if modules else ()
    return Decoder(_alike(fields, _grouped_query(fields, qk_norm=norm), experts), excluded=excluded)


# --- linear attention -------------------------------------------------------------------------------------


@_reads("qwen3_5_text")
def _qwen3_5(fields: Fields) -> Decoder:
    ffn = _dense(fields)
    return Decoder([(attention, ffn) for attention in _hybrid(fields)], excluded=_drafting(fields))


@_reads("qwen3_next", "qwen3_5_moe_text")
def _qwen3_next(fields: Fields) -> Decoder:
    shared = fields.number("shared_expert_intermediate_size")
    experts = _routed(fields, "num_experts", "moe_intermediate_size", shared=shared, shared_gate=bool(shared))
    return Decoder(_with_experts(fields, _hybrid(fields), experts), excluded=_drafting(fields))


def _drafting(fields: Fields) -> tuple[str, ...]:
    layers = fields.number("mtp_num_hidden_layers")
    return (f"multi-token-prediction layers ({layers})",) if layers else ()


def _hybrid(fields: Fields) -> list[Attention]:
    """Gated DeltaNet, and in every ``full_attention_interval``-th layer attention with a gated output."""
    bias = fields.flag("attention_bias")
    gated = fields.flag("attn_output_gate", True)
    full = _grouped_query(fields, bias=bias, output_bias=bias, qk_norm="head", gated=gated)(0)
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
    _check_layer_types(fields, kinds, ("linear_attention", "full_attention"))
    return [linear if kind == "linear_attention" else full for kind in kinds]


# --- latent attention -------------------------------------------------------------------------------------


@_reads("deepseek_v2")
def _deepseek_v2(fields: Fields) -> Decoder:
    return Decoder(_dense_first(fields, _latent(fields), correction=False))


@_reads("deepseek_v3", "kimi_k2")
def _deepseek_v3(fields: Fields) -> Decoder:
    correction = fields.text("topk_method", "noaux_tc") == "noaux_tc"
    return Decoder(_dense_first(fields, _latent(fields), correction=correction))


def _latent(fields: Fields) -> Callable[[int], LatentAttention]:
    ranks = fields.number("q_lora_rank"), fields.size("kv_lora_rank")
    widths = fields.size("qk_nope_head_dim"), fields.size("qk_rope_head_dim"), fields.size("v_head_dim")
    heads = fields.size("num_attention_heads")
    return lambda window: LatentAttention(heads, *ranks, *widths, window)


@_reads("deepseek_v32", "glm_moe_dsa")
def _deepseek_v32(fields: Fields) -> Decoder:
    """DeepSeek sparse attention in every layer. The indexer reads the query's latent, so there must be one."""
    fields.size("q_lora_rank")
    indexer = Indexer(fields.size("index_n_heads"), fields.size("index_head_dim"), fields.size("index_topk"))
    attention = _latent(fields)
    correction = fields.text("topk_method", "noaux_tc") == "noaux_tc"
    return Decoder(
        _dense_first(fields, lambda window: replace(attention(window), indexer=indexer), correction=correction)
    )


def _dense_first(fields: Fields, attention: Callable[[int], Attention], *, correction: bool) -> Layers:
    """The first ``first_k_dense_replace`` layers are dense, then experts every ``moe_layer_freq`` layers.
    ``correction``: the router has a bias per expert (arXiv:2412.19437 §2.1.2)."""
    windows = _windows(fields)
    first, step = fields.number("first_k_dense_replace"), fields.size("moe_layer_freq", 1)
    sparse = [layer >= first and layer % step == 0 for layer in range(len(windows))]
    each = fields.size("moe_intermediate_size")
    shared = fields.number("n_shared_experts") * each
    experts = _routed(fields, "n_routed_experts", "moe_intermediate_size", shared=shared, router_bias=correction)
    dense = experts if all(sparse) else _dense(fields)
    return [(attention(window), experts if routed else dense) for window, routed in zip(windows, sparse, strict=True)]
