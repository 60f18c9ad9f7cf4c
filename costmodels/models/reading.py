"""What the readers of :mod:`costmodels.models.model_types` and its neighbours share: their registry, and reading what
many families say alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypedDict, Unpack

from costmodels.models.architecture import (
    Attention,
    DenseFeedForward,
    FeedForward,
    GroupedQueryAttention,
    LatentAttention,
    MixtureOfExperts,
)
from costmodels.models.config_fields import Fields
from costmodels.models.mixers import HyperConnections, PerLayerInputs
from profiles.errors import InputError, Unsupported
from profiles.values import shown

Layers = list[tuple[Attention, FeedForward]]


@dataclass(frozen=True)
class Decoder:
    """What a reader finds: the layers in order, and what is not the same for every family."""

    layers: Layers
    norms: int | Sequence[int] = 2  # of every layer, or one number a layer
    draft: Layers = field(default_factory=list)  # layers that guess the tokens after the next (MTP)
    residual: HyperConnections | None = None
    per_layer: PerLayerInputs | None = None
    small_parameters: int = 0  # beside the layers
    notes: tuple[str, ...] = ()


READERS: dict[str, Callable[[Fields], Decoder]] = {}


def reads(*model_types: str) -> Callable[[Callable[[Fields], Decoder]], Callable[[Fields], Decoder]]:
    def register(reader: Callable[[Fields], Decoder]) -> Callable[[Fields], Decoder]:
        READERS.update(dict.fromkeys(model_types, reader))
        return reader

    return register


class AttentionTraits(TypedDict, total=False):
    """What distinguishes one family's grouped-query attention, as :class:`GroupedQueryAttention` has it."""

    bias: bool
    output_bias: bool
    qk_norm: Literal["none", "head", "full"]
    sinks: bool
    gated_output: bool
    head_gate: bool


def grouped_query(
    fields: Fields, *, kv_heads: int | None = None, head_dim: int | None = None, **traits: Unpack[AttentionTraits]
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
    return lambda window: GroupedQueryAttention(heads, kv, width, window, **traits)


def even_head_dim(fields: Fields) -> int:
    """hidden_size / num_attention_heads: what families that predate ``head_dim`` mean by its absence."""
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    if hidden % heads and not fields.number("head_dim"):
        raise InputError(
            f"{fields.model}: config key 'hidden_size' = {hidden} is not a multiple of num_attention_heads = {heads}",
            "say head_dim in the config.json",
            field="hidden_size",
        )
    return hidden // heads or 1


def layer_windows(
    fields: Fields, otherwise: Callable[[int], int] = lambda layer: 0, *, full: str = "full_attention"
) -> list[int]:
    """Keys that a query of each layer sees (0: all): from ``layer_types``, where ``full`` names those that see all (or
    choose among all), else what the family does."""
    layers, longest = fields.layers(), fields.max_context_tokens()
    kinds = [str(kind) for kind in fields.sequence("layer_types")]
    if not kinds:
        windows = [otherwise(layer) for layer in range(layers)]
    else:
        sizes = {"full_attention": None, full: None, "sliding_attention": "sliding_window"}
        sizes["chunked_attention"] = "attention_chunk_size"
        check_layer_types(fields, kinds, sizes)
        windows = [fields.size(key) if (key := sizes[kind]) else 0 for kind in kinds]
    return [window if window < longest else 0 for window in windows]


def check_layer_types(
    fields: Fields, kinds: Sequence[int | str], known: Collection[str], key: str = "layer_types"
) -> None:
    for kind in kinds:
        if kind not in known:
            raise Unsupported(
                f"{fields.model}: config key '{key}' has {shown(kind)} layers, which are not modelled",
                f"known: {', '.join(known)}",
                field=key,
            )
    if len(kinds) != fields.layers():
        raise InputError(
            f"{fields.model}: config key '{key}' lists {len(kinds)} layers, num_hidden_layers = {fields.layers()}",
            f"correct {key} or num_hidden_layers in the config.json",
            field=key,
        )


def expert_layer(
    fields: Fields,
    experts: str,
    intermediate: str,
    *,
    top_k: str = "num_experts_per_tok",
    shared: int = 0,
    latent: int = 0,
    **traits: bool,
) -> MixtureOfExperts:
    """The expert layer; ``experts``, ``intermediate`` and ``top_k`` are what the family calls these keys."""
    count = fields.size(experts)
    chosen = fields.at_most(top_k, fields.size(top_k), count, experts)
    return MixtureOfExperts(count, chosen, fields.size(intermediate), shared, latent=latent, **traits)


def dense_layer(fields: Fields, key: str = "intermediate_size", *, bias: bool = False) -> DenseFeedForward:
    return DenseFeedForward(fields.size(key), bias=bias)


def with_experts(
    attentions: Sequence[Attention], sparse: Sequence[bool], experts: FeedForward, dense: Callable[[], FeedForward]
) -> Layers:
    """``experts`` in the layers that are ``sparse``, ``dense()`` in the others (not read where there are none)."""
    other = experts if all(sparse) else dense()
    return [(attention, experts if routed else other) for attention, routed in zip(attentions, sparse, strict=True)]


def alike(fields: Fields, attention: Callable[[int], Attention], ffn: FeedForward, window: int = 0) -> Layers:
    return [(attention(size), ffn) for size in layer_windows(fields, lambda layer: window)]


def latent(fields: Fields) -> Callable[[int], LatentAttention]:
    ranks = fields.number("q_lora_rank"), fields.size("kv_lora_rank")
    widths = fields.size("qk_nope_head_dim"), fields.size("qk_rope_head_dim"), fields.size("v_head_dim")
    heads = fields.size("num_attention_heads")
    return lambda window: LatentAttention(heads, *ranks, *widths, window)


def next_tokens(fields: Fields, layers: Layers, key: str = "num_nextn_predict_layers") -> Layers:
    """Draft layers, as many as ``key`` says, each like the last of ``layers`` (arXiv:2412.19437 §2.2)."""
    return layers[-1:] * fields.at_most(key, fields.number(key), 100, "layers")


def _router_groups(fields: Fields, experts: MixtureOfExperts) -> tuple[int, int]:
    """Groups of experts, and in how many of them a token may choose. DeepSeek's configuration class has 8 and 4 where
    the file says nothing (its models of 256 experts; others of the type say one group)."""
    ours = fields.model_type in ("deepseek_v3", "deepseek_v32") and experts.experts == 256
    groups = fields.size("n_group", 8 if ours else 1)
    if groups == 1 or experts.experts % groups:
        return 1, 1
    return groups, fields.at_most("topk_group", fields.size("topk_group", 4 if ours else groups), groups, "n_group")


def dense_first(
    fields: Fields, attention: Callable[[int], Attention], *, correction: bool, full: str = "full_attention"
) -> Layers:
    """The first ``first_k_dense_replace`` layers are dense (or as ``mlp_layer_types`` lists them), then experts every
    ``moe_layer_freq`` layers. ``correction``: the router has a bias per expert (arXiv:2412.19437 §2.1.2)."""
    windows = layer_windows(fields, full=full)
    first, step = fields.number("first_k_dense_replace"), fields.size("moe_layer_freq", 1)
    sparse = [layer >= first and layer % step == 0 for layer in range(len(windows))]
    kinds = fields.sequence("mlp_layer_types")
    if kinds:
        check_layer_types(fields, kinds, ("dense", "sparse"), key="mlp_layer_types")
        sparse = [kind == "sparse" for kind in kinds]
    shared = fields.number("n_shared_experts") * fields.size("moe_intermediate_size")
    experts = expert_layer(fields, "n_routed_experts", "moe_intermediate_size", shared=shared, router_bias=correction)
    groups, top_groups = _router_groups(fields, experts)
    experts = replace(experts, groups=groups, top_groups=top_groups)
    return with_experts([attention(window) for window in windows], sparse, experts, lambda: dense_layer(fields))
