"""Readers of mixtures of experts over attention that every framework knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from costmodels.models.architecture import (
    Attention,
    DenseFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    MixtureOfExperts,
)
from costmodels.models.config_fields import MOST_LAYERS, Fields
from costmodels.models.mixers import PerLayerInputs
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
    layer_windows,
    next_tokens,
    reads,
    with_experts,
)
from profiles.errors import InputError, Unsupported
from profiles.values import shown


@reads("granitemoe", "granitemoeshared")
def _granite_moe(fields: Fields) -> Decoder:
    bias = fields.flag("attention_bias")
    attention = grouped_query(fields, head_dim=even_head_dim(fields), bias=bias, output_bias=bias)
    shared = fields.number("shared_intermediate_size")
    return Decoder(
        alike(fields, attention, expert_layer(fields, "num_local_experts", "intermediate_size", shared=shared))
    )


@reads("olmoe")
def _olmoe(fields: Fields) -> Decoder:
    bias = fields.flag("attention_bias")
    attention = grouped_query(fields, head_dim=even_head_dim(fields), bias=bias, output_bias=bias, qk_norm="full")
    return Decoder(alike(fields, attention, expert_layer(fields, "num_experts", "intermediate_size")))


@reads("phimoe")
def _phi_moe(fields: Fields) -> Decoder:
    """LayerNorms with biases, and one on the head (arXiv:2404.14219 §2)."""
    bias = fields.flag("attention_bias")
    attention = grouped_query(fields, head_dim=even_head_dim(fields), bias=bias, output_bias=bias)
    experts = expert_layer(fields, "num_local_experts", "intermediate_size")
    small = fields.size("hidden_size") + (fields.size("vocab_size") if fields.flag("lm_head_bias") else 0)
    layers = alike(fields, attention, experts, fields.number("sliding_window"))
    return Decoder(layers, norms=4, small_parameters=small)


@reads("dbrx")
def _dbrx(fields: Fields) -> Decoder:
    own, wide = fields.section("attn_config"), fields.section("ffn_config")
    kv_heads = own.size("kv_n_heads")
    attention = grouped_query(fields, kv_heads=kv_heads, head_dim=even_head_dim(fields))
    experts = expert_layer(wide, "moe_num_experts", "ffn_hidden_size", top_k="moe_top_k")
    return Decoder(alike(fields, attention, experts))


@reads("grok-1", "git")
def _grok(fields: Fields) -> Decoder:
    """Four norms a layer; Grok-2 (whose config calls itself ``git``) has a dense half beside the experts."""
    fields.inert(r"\w+_softcapping", "attn_temperature_len")
    attention = grouped_query(fields, head_dim=even_head_dim(fields))
    wide = fields.size("intermediate_size")
    beside = wide if fields.flag("residual_moe") else 0
    width = fields.size("moe_intermediate_size", wide)
    count = fields.size("num_local_experts")
    chosen = fields.at_most("num_experts_per_tok", fields.size("num_experts_per_tok"), count, "num_local_experts")
    experts = MixtureOfExperts(count, chosen, width, beside)
    return Decoder(alike(fields, attention, experts), norms=4)


@reads("deepseek")
def _deepseek(fields: Fields) -> Decoder:
    """DeepSeekMoE (arXiv:2401.06066)."""
    attention = grouped_query(fields, head_dim=even_head_dim(fields), bias=fields.flag("attention_bias"))
    return Decoder(dense_first(fields, attention, correction=False))


@reads("exaone_moe", "afmoe")
def _gated_windows(fields: Fields) -> Decoder:
    """Sliding and full layers, experts after the first; Arcee's Trinity (``afmoe``) gates what its attention gives and
    has norms behind both halves too."""
    trinity = fields.model_type == "afmoe"
    attention = grouped_query(fields, head_dim=even_head_dim(fields), qk_norm="head", gated_output=trinity)
    layers = dense_first(fields, attention, correction=True)
    return Decoder(layers, norms=4 if trinity else 2, draft=next_tokens(fields, layers))


@reads("dots1")
def _dots1(fields: Fields) -> Decoder:
    bias = fields.flag("attention_bias")
    attention = grouped_query(fields, bias=bias, head_dim=even_head_dim(fields), qk_norm="head")
    return Decoder(dense_first(fields, attention, correction=True))


@reads("bailing_moe", "bailing_moe_v2")
def _bailing_moe(fields: Fields) -> Decoder:
    """Ling (arXiv:2510.22115 §2)."""
    bias = fields.flag("use_qkv_bias")
    norm: Literal["head", "none"] = "head" if fields.flag("use_qk_norm") else "none"
    attention = grouped_query(
        fields, head_dim=even_head_dim(fields), bias=bias, output_bias=fields.flag("use_bias"), qk_norm=norm
    )
    shared = fields.number("num_shared_experts") * fields.size("moe_intermediate_size")
    experts = expert_layer(
        fields,
        "num_experts",
        "moe_intermediate_size",
        shared=shared,
        router_bias=fields.flag("moe_router_enable_expert_bias"),
    )
    windows = layer_windows(fields)
    sparse = [layer >= fields.number("first_k_dense_replace") for layer in range(len(windows))]
    layers = with_experts([attention(window) for window in windows], sparse, experts, lambda: dense_layer(fields))
    return Decoder(layers, draft=next_tokens(fields, layers))


@reads("ernie4_5_moe")
def _ernie_moe(fields: Fields) -> Decoder:
    """Experts in every ``moe_layer_interval``-th layer from ``moe_layer_start_index`` to ``moe_layer_end_index``."""
    bias = fields.flag("use_bias")
    attention = grouped_query(fields, head_dim=even_head_dim(fields), bias=bias, output_bias=bias)
    each = fields.size("moe_intermediate_size")
    shared = fields.number("moe_num_shared_experts") * each
    experts = expert_layer(
        fields, "moe_num_experts", "moe_intermediate_size", top_k="moe_k", shared=shared, router_bias=True
    )
    count = fields.layers()
    first, step = fields.number("moe_layer_start_index"), fields.size("moe_layer_interval", 1)
    last = fields.number("moe_layer_end_index", count - 1)
    sparse = [first <= layer <= last and (layer + 1) % step == 0 for layer in range(count)]
    layers = with_experts(
        [attention(window) for window in layer_windows(fields)],
        sparse,
        experts,
        lambda: dense_layer(fields, bias=bias),
    )
    return Decoder(layers, draft=next_tokens(fields, layers))


@reads("hunyuan_v1_moe")
def _hunyuan_moe(fields: Fields) -> Decoder:
    """Every size of the expert layers may differ by layer; ``use_mixed_mlp_moe``: a shared expert of
    ``intermediate_size`` beside them. The router's choice has no correction."""
    bias = fields.flag("attention_bias")
    norm: Literal["head", "none"] = "head" if fields.flag("use_qk_norm") else "none"
    attention = grouped_query(fields, head_dim=even_head_dim(fields), bias=bias, output_bias=bias, qk_norm=norm)
    count, wide = fields.layers(), fields.size("intermediate_size")
    experts = fields.per_layer("num_experts", count)
    top_k = fields.per_layer("moe_topk", count)
    width = fields.per_layer("moe_intermediate_size", count) if fields.has("moe_intermediate_size") else [wide] * count
    shared = fields.per_layer("num_shared_expert", count) if fields.flag("use_mixed_mlp_moe") else [0] * count
    fields.inert("num_shared_expert")
    layers: Layers = []
    for layer, window in enumerate(layer_windows(fields)):
        if not 0 < top_k[layer] <= experts[layer] or not width[layer]:
            raise InputError(
                f"{fields.model}: config key 'moe_topk' = {top_k[layer]} of num_experts = {experts[layer]} experts of "
                f"width {width[layer]} in layer {layer} makes no sense",
                "correct moe_topk, num_experts or moe_intermediate_size in the config.json",
                field="moe_topk",
            )
        ffn = MixtureOfExperts(experts[layer], top_k[layer], width[layer], shared[layer] * wide)
        layers.append((attention(window), ffn))
    return Decoder(layers)


@reads("mimo_v2_flash")
def _mimo_v2(fields: Fields) -> Decoder:
    """Full and sliding attention with heads of their own, keys wider than values; sinks in sliding layers."""
    count, bias = fields.layers(), fields.flag("attention_bias")
    sliding = fields.per_layer("hybrid_layer_pattern", count)
    kinds = {}
    for flag, prefix in enumerate(("", "swa_")):
        heads = fields.size(f"{prefix}num_attention_heads"), fields.size(f"{prefix}num_key_value_heads")
        width = fields.size(f"{prefix}head_dim")
        values = fields.size(f"{prefix}v_head_dim", width)
        window = fields.size("sliding_window") if flag else 0
        sinks = fields.flag(f"add_{'swa' if flag else 'full'}_attention_sink_bias")
        kinds[flag] = GroupedQueryAttention(*heads, width, window, bias, value_dim=values, sinks=sinks)
    fields.inert("attention_chunk_size")  # says again what sliding_window does
    shared = fields.number("n_shared_experts") * fields.size("moe_intermediate_size")
    experts = expert_layer(fields, "n_routed_experts", "moe_intermediate_size", shared=shared, router_bias=True)
    sparse = [bool(flag) for flag in fields.per_layer("moe_layer_freq", count)]
    attentions: list[Attention] = [kinds[min(flag, 1)] for flag in sliding]
    layers = with_experts(attentions, sparse, experts, lambda: dense_layer(fields))
    return Decoder(layers, draft=next_tokens(fields, layers))


@reads("step3p5", "step3p7", "step3p5_text", "step3p7_text")
def _step(fields: Fields) -> Decoder:
    """Sliding layers may have more heads (``attention_other_setting``), and each head a gate."""
    count = fields.layers()
    heads = fields.size("num_attention_heads")
    groups = fields.number("num_attention_groups") or fields.size("num_key_value_heads")
    gate = fields.flag("use_head_wise_attn_gate")
    other = fields.section("attention_other_setting")
    wide = other.size("num_attention_heads", heads), other.size("num_attention_groups", groups)
    kinds = [str(kind) for kind in fields.sequence("layer_types")][:count]  # draft layers stand behind
    size, width = fields.size("sliding_window"), fields.size("head_dim", even_head_dim(fields))
    check_layer_types(fields, kinds, ("full_attention", "sliding_attention"))
    attentions: list[Attention] = []
    for kind in kinds:
        slides = kind == "sliding_attention"
        shape = (*(wide if slides else (heads, groups)), width, size if slides else 0)
        attentions.append(GroupedQueryAttention(*shape, qk_norm="head", head_gate=gate))
    experts_key = "moe_num_experts" if fields.has("moe_num_experts") else "num_experts"
    top_k = "moe_top_k" if fields.has("moe_top_k") else "num_experts_per_tok"
    experts = expert_layer(
        fields,
        experts_key,
        "moe_intermediate_size",
        top_k=top_k,
        shared=fields.number("share_expert_dim"),
        router_bias=fields.flag("use_moe_router_bias"),
    )
    fields.inert("n_shared_experts")  # share_expert_dim has them all
    if fields.has("moe_layers_enum"):
        listed = {int(layer) for layer in fields.text("moe_layers_enum", "").split(",") if layer.strip().isdigit()}
        sparse = [layer in listed for layer in range(count)]
    else:
        first = fields.number("first_k_dense_replace")
        sparse = [layer >= first for layer in range(count)]
    layers = with_experts(attentions, sparse, experts, lambda: dense_layer(fields))
    return Decoder(layers, draft=next_tokens(fields, layers))


@reads("longcat_flash")
def _longcat(fields: Fields) -> Decoder:
    """A layer is two, each of latent attention and a dense feed-forward, with experts beside the first of them
    (arXiv:2509.01322 §2): so it is read as a layer whose shared expert is the dense part, and one that is dense."""
    count = fields.at_most("num_layers", fields.size("num_layers"), MOST_LAYERS // 2, "layers")
    ranks = fields.number("q_lora_rank"), fields.size("kv_lora_rank")
    widths = fields.size("qk_nope_head_dim"), fields.size("qk_rope_head_dim"), fields.size("v_head_dim")
    attention = LatentAttention(fields.size("num_attention_heads"), *ranks, *widths)
    dense = dense_layer(fields, "ffn_hidden_size")
    experts = expert_layer(
        fields,
        "n_routed_experts",
        "expert_ffn_hidden_size",
        top_k="moe_topk",
        shared=dense.intermediate,
        router_bias=True,
    )
    idle = fields.number("zero_expert_num")
    kind = fields.text("zero_expert_type", "identity")
    if idle and kind != "identity":
        raise Unsupported(
            f"{fields.model}: config key 'zero_expert_type' = {shown(kind)} is not modelled",
            "known: identity",
            field="zero_expert_type",
        )
    experts = replace(experts, idle_experts=idle)
    return Decoder([(attention, experts), (attention, dense)] * count)


@reads("gemma4_text")
def _gemma4(fields: Fields) -> Decoder:
    """Five sliding layers to a full one, whose heads are wider and fewer and whose keys are its values; experts stand
    beside a dense half, each with norms of its own. The last layers of E2B and E4B see keys and values of the
    last layer of their kind before them (E2B's with a feed-forward twice as wide), and each has an input of its own."""
    count, bias = fields.layers(), fields.flag("attention_bias")
    heads, kv_heads = fields.size("num_attention_heads"), fields.size("num_key_value_heads")
    same = fields.flag("attention_k_eq_v")
    global_kv = fields.size("num_global_key_value_heads", kv_heads) if same else kv_heads
    fields.inert("num_global_key_value_heads", "final_logit_softcapping")
    if fields.text("use_bidirectional_attention", "vision") == "vision":
        fields.inert("use_bidirectional_attention")  # among the tokens of one image
    size = fields.size("sliding_window")
    sliding = GroupedQueryAttention(heads, kv_heads, fields.size("head_dim"), size, bias, bias, "head")
    full = GroupedQueryAttention(
        heads, global_kv, fields.size("global_head_dim"), 0, bias, bias, "head", keys_are_values=same
    )
    windows = layer_windows(fields, lambda layer: size if (layer + 1) % 6 else 0)
    first_shared = _first_shared(fields, windows)
    attentions: list[Attention] = [
        replace(sliding if window else full, shared_cache=layer >= first_shared) for layer, window in enumerate(windows)
    ]
    wide = DenseFeedForward(fields.size("intermediate_size"))
    width = fields.number("hidden_size_per_layer_input")
    own = PerLayerInputs(width, fields.size("vocab_size_per_layer_input", fields.size("vocab_size")), count)
    inputs = own if width else None
    if not fields.flag("enable_moe_block"):
        wider = replace(wide, intermediate=(2 if fields.flag("use_double_wide_mlp") else 1) * wide.intermediate)
        layers: Layers = [
            (attention, wider if layer >= first_shared else wide) for layer, attention in enumerate(attentions)
        ]
        return Decoder(layers, norms=5 if width else 4, per_layer=inputs, small_parameters=count)
    experts = expert_layer(
        fields,
        "num_experts",
        "moe_intermediate_size",
        top_k="top_k_experts",
        shared=wide.intermediate,
        router_scale=True,
    )
    halves: Layers = [(attention, experts) for attention in attentions]
    return Decoder(halves, norms=8 if width else 7, per_layer=inputs, small_parameters=count)


@reads("gemma3n_text")
def _gemma3n(fields: Fields) -> Decoder:
    """Four sliding layers to a full one, of which the last see keys and values of one before, as Gemma 4's E2B; each
    layer beside a low rank (LAuReL, arXiv:2411.07501), and ``altup_num_inputs`` residuals of which it changes one
    (AltUp, arXiv:2301.13310): their weights count, their time is taken to be hidden."""
    hidden, count = fields.size("hidden_size"), fields.layers()
    fields.inert("final_logit_softcapping", r"altup_\w+", "activation_sparsity_pattern")
    attention = grouped_query(fields, qk_norm="head")
    size = fields.size("sliding_window")
    windows = layer_windows(fields, lambda layer: size if (layer + 1) % 5 else 0)
    first_shared = _first_shared(fields, windows)
    wide = fields.per_layer("intermediate_size", count)
    layers: Layers = [
        (replace(attention(window), shared_cache=layer >= first_shared), DenseFeedForward(wide[layer]))
        for layer, window in enumerate(windows)
    ]
    width = fields.size("hidden_size_per_layer_input")
    own = PerLayerInputs(width, fields.size("vocab_size_per_layer_input"), count)
    streams = 2 * (fields.size("altup_num_inputs", 4) - 1) * hidden * hidden
    beside = 2 * count * hidden * fields.size("laurel_rank", 64) + streams
    return Decoder(layers, norms=6, per_layer=own, small_parameters=beside)


def _first_shared(fields: Fields, windows: Sequence[int]) -> int:
    """The first of the last ``num_kv_shared_layers`` layers, each of which needs a layer of its kind before them."""
    first = len(windows) - fields.number("num_kv_shared_layers")
    kinds = {window > 0 for window in windows[: max(first, 0)]}
    if any((window > 0) not in kinds for window in windows[max(first, 0) :]):
        raise InputError(
            f"{fields.model}: config key 'num_kv_shared_layers' = {len(windows) - first} leaves no layer of each kind "
            "whose keys and values the last layers could share",
            "correct num_kv_shared_layers or layer_types in the config.json",
            field="num_kv_shared_layers",
        )
    return first
