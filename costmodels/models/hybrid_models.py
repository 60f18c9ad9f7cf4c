"""Readers of hybrids: state spaces or linear attention in most layers, attention in the others."""

from __future__ import annotations

from dataclasses import replace

from costmodels.models.architecture import Attention, DenseFeedForward, FeedForward, NoFeedForward, ParallelMixers
from costmodels.models.config_fields import MOST_LAYERS, Fields
from costmodels.models.mixers import KimiDeltaAttention, Mamba, Mamba2, NoMixer, ShortConvolution
from costmodels.models.reading import (
    Decoder,
    Layers,
    check_layer_types,
    dense_layer,
    even_head_dim,
    expert_layer,
    grouped_query,
    latent,
    next_tokens,
    reads,
    with_experts,
)
from profiles.errors import InputError, Unsupported
from profiles.values import shown

_STATE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_BLOCKS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


@reads("nemotron_h")
def _nemotron_h(fields: Fields) -> Decoder:
    """One half a layer, as ``hybrid_override_pattern`` or ``layers_block_type`` lists them (arXiv:2504.03624 §2);
    feed-forwards without a gate."""
    mamba = Mamba2(
        fields.size("mamba_num_heads"),
        fields.size("mamba_head_dim"),
        fields.size("n_groups"),
        fields.size("ssm_state_size"),
        fields.size("conv_kernel"),
        _STATE_BYTES[fields.choice("mamba_ssm_cache_dtype", "float32", _STATE_BYTES)],
        fields.flag("use_conv_bias", True),
        fields.flag("use_bias"),
    )
    fields.inert(r"time_step_\w+", "mamba_hidden_act", "mamba_proj_bias")
    width = fields.number("head_dim") or fields.size("attention_head_dim")
    bias = fields.flag("attention_bias")
    attention = grouped_query(fields, head_dim=width, bias=bias, output_bias=bias)(0)
    attention = replace(attention, head_dim=width)
    names = _blocks(fields, "hybrid_override_pattern", "layers_block_type")
    halves: dict[str, tuple[Attention, FeedForward]] = {
        "mamba": (mamba, NoFeedForward()),
        "attention": (attention, NoFeedForward()),
    }
    if "mlp" in names:
        halves["mlp"] = (
            NoMixer(),
            DenseFeedForward(fields.size("intermediate_size"), gated=False, bias=fields.flag("mlp_bias")),
        )
    drafts = _blocks(fields, "mtp_hybrid_override_pattern", "mtp_layers_block_type")
    if "moe" in (*names, *drafts):
        shared = fields.number("n_shared_experts") * fields.number("moe_shared_expert_intermediate_size")
        experts = expert_layer(
            fields,
            "n_routed_experts",
            "moe_intermediate_size",
            shared=shared,
            latent=fields.number("moe_latent_size"),
            gated=False,
            router_bias=True,
        )
        halves["moe"] = (NoMixer(), experts)
    else:
        fields.inert("moe_latent_size", "moe_shared_expert_intermediate_size", "n_routed_experts", "n_shared_experts")
    fields.inert("mlp_bias")
    draft: Layers = []
    if drafts:  # the blocks of one draft layer, taken together
        mixers = [halves[name][0] for name in drafts if not isinstance(halves[name][0], NoMixer)]
        wide = [halves[name][1] for name in drafts if not isinstance(halves[name][1], NoFeedForward)]
        one: Layers = [((mixers or [NoMixer()])[0], (wide or [NoFeedForward()])[0])]
        draft = next_tokens(fields, one)
    return Decoder([halves[name] for name in names], norms=1, draft=draft)


def _blocks(fields: Fields, pattern: str, listed: str) -> list[str]:
    """Names of the blocks, from a list or from a pattern of letters."""
    names = [str(name) for name in fields.sequence(listed)]
    letters = fields.text(pattern, "-" if names else "")
    if not names:
        names = [_BLOCKS.get(letter, letter) for letter in letters]
    fields.at_most(listed, len(names), MOST_LAYERS, "layers")
    for name in names:
        if name not in _BLOCKS.values():
            raise Unsupported(
                f"{fields.model}: config key '{listed if fields.has(listed) else pattern}' has {shown(name)} blocks, "
                "which are not modelled",
                f"known: {', '.join(_BLOCKS.values())}",
                field=listed,
            )
    if not names and not pattern.startswith("mtp"):
        raise InputError(
            f"{fields.model}: config keys {pattern!r} and {shown(listed)} are missing",
            "a nemotron_h config.json must say one of them",
            field=pattern,
        )
    return names


def _mamba2(fields: Fields, *, gated_norm: bool = True) -> Mamba2:
    """As Bamba, Granite 4 and Falcon-H1 spell it. The state is as wide as the weights where the config does not say
    otherwise: vLLM's ``mamba_ssm_cache_dtype`` is ``auto``."""
    mamba = Mamba2(
        fields.size("mamba_n_heads"),
        fields.size("mamba_d_head"),
        fields.size("mamba_n_groups", 1),
        fields.size("mamba_d_state"),
        fields.size("mamba_d_conv", 4),
        _STATE_BYTES[fields.choice("mamba_ssm_cache_dtype", "bfloat16", _STATE_BYTES)],
        fields.flag("mamba_conv_bias", True),
        fields.flag("mamba_proj_bias"),
        gated_norm,
    )
    fields.inert(
        *("mamba_expand", "mamba_chunk_size", "mamba_d_ssm", "mamba_use_mlp", "mamba_norm_before_gate"),
        *("time_step_\\w+", "ssm_\\w*multipliers?"),
    )
    return mamba


@reads("granitemoehybrid")
def _granite_hybrid(fields: Fields) -> Decoder:
    """Mamba-2 or attention, then experts beside a shared part, or that part alone."""
    bias = fields.flag("attention_bias")
    attention = grouped_query(fields, head_dim=even_head_dim(fields), bias=bias, output_bias=bias)(0)
    kinds = fields.sequence("layer_types") or fields.sequence("layers_block_type")
    check_layer_types(fields, kinds, ("mamba", "attention"))
    mixers: dict[str, Attention] = {"attention": attention}
    if "mamba" in kinds:
        mixers["mamba"] = _mamba2(fields)
    else:
        fields.inert(r"mamba_\w+")
    shared = fields.number("shared_intermediate_size")
    ffn: FeedForward = DenseFeedForward(shared or fields.size("intermediate_size"))
    if fields.number("num_local_experts"):
        ffn = expert_layer(fields, "num_local_experts", "intermediate_size", shared=shared)
    return Decoder([(mixers[str(kind)], ffn) for kind in kinds])


@reads("bamba")
def _bamba(fields: Fields) -> Decoder:
    bias = fields.flag("attention_bias")
    attention = grouped_query(fields, head_dim=even_head_dim(fields), bias=bias, output_bias=bias)(0)
    full, mamba = set(fields.sequence("attn_layer_indices")), _mamba2(fields)
    ffn = dense_layer(fields, bias=fields.flag("mlp_bias"))
    return Decoder([(attention if layer in full else mamba, ffn) for layer in range(fields.layers())])


@reads("falcon_h1")
def _falcon_h1(fields: Fields) -> Decoder:
    """Attention and Mamba-2 read the same input and are added (arXiv:2507.22448 §2)."""
    bias = fields.flag("attention_bias")
    attention = grouped_query(fields, head_dim=even_head_dim(fields), bias=bias, output_bias=bias)(0)
    both = ParallelMixers(attention, _mamba2(fields, gated_norm=fields.flag("mamba_rms_norm")))
    return Decoder([(both, dense_layer(fields, bias=fields.flag("mlp_bias")))] * fields.layers())


@reads("jamba")
def _jamba(fields: Fields) -> Decoder:
    """One layer of attention in ``attn_layer_period``, experts in every ``expert_layer_period``-th."""
    hidden = fields.size("hidden_size")
    attention = grouped_query(fields, head_dim=even_head_dim(fields))(0)
    mamba = Mamba(
        fields.size("mamba_expand", 2) * hidden,
        fields.size("mamba_d_state", 16),
        fields.size("mamba_dt_rank", -(-hidden // 16)),
        fields.size("mamba_d_conv", 4),
        _STATE_BYTES[fields.choice("mamba_ssm_cache_dtype", "bfloat16", _STATE_BYTES)],
        fields.flag("mamba_conv_bias", True),
        fields.flag("mamba_proj_bias"),
    )
    fields.inert("mamba_inner_layernorms")
    count = fields.layers()
    period, offset = fields.size("attn_layer_period", 8), fields.number("attn_layer_offset", 4)
    mixers: list[Attention] = [attention if layer % period == offset else mamba for layer in range(count)]
    period, offset = fields.size("expert_layer_period", 2), fields.number("expert_layer_offset", 1)
    if fields.size("num_experts", 16) == 1:
        fields.inert("num_experts_per_tok")
        return Decoder([(mixer, dense_layer(fields)) for mixer in mixers])
    experts = expert_layer(fields, "num_experts", "intermediate_size")
    sparse = [layer % period == offset for layer in range(count)]
    return Decoder(with_experts(mixers, sparse, experts, lambda: dense_layer(fields)))


@reads("mamba", "falcon_mamba")
def _mamba(fields: Fields) -> Decoder:
    """Nothing but state spaces; Falcon-Mamba's norms on step, B and C have no weights (arXiv:2410.05355 §2)."""
    hidden = fields.size("hidden_size")
    mamba = Mamba(
        fields.size("intermediate_size", fields.size("expand", 2) * hidden),
        fields.size("state_size", 16),
        fields.size("time_step_rank", -(-hidden // 16)),
        fields.size("conv_kernel", 4),
        _STATE_BYTES[fields.choice("mamba_ssm_cache_dtype", "bfloat16", _STATE_BYTES)],
        fields.flag("use_conv_bias", True),
        fields.flag("use_bias"),
        norms=False,
    )
    fields.inert("expand", r"time_step_\w+")
    return Decoder([(mamba, NoFeedForward())] * fields.layers(), norms=1)


@reads("mamba2")
def _mamba2_alone(fields: Fields) -> Decoder:
    """The same of Mamba-2 (Mamba-Codestral)."""
    mamba = Mamba2(
        fields.size("num_heads"),
        fields.size("head_dim"),
        fields.size("n_groups", 8),
        fields.size("state_size", 128),
        fields.size("conv_kernel", 4),
        _STATE_BYTES[fields.choice("mamba_ssm_cache_dtype", "bfloat16", _STATE_BYTES)],
        fields.flag("use_conv_bias", True),
        fields.flag("use_bias"),
    )
    fields.inert("expand", "intermediate_size", "chunk_size", "norm_before_gate", "rms_norm", r"time_step_\w+")
    return Decoder([(mamba, NoFeedForward())] * fields.layers(), norms=1)


@reads("lfm2", "lfm2_moe")
def _lfm2(fields: Fields) -> Decoder:
    """Short convolutions between gates, and attention as ``layer_types`` or ``full_attn_idxs`` say; experts behind
    the first ``num_dense_layers``."""
    count = fields.layers()
    attention = grouped_query(fields, head_dim=even_head_dim(fields), qk_norm="head")(0)
    convolution = ShortConvolution(fields.size("hidden_size"), fields.size("conv_L_cache", 3), fields.flag("conv_bias"))
    full = set(fields.sequence("full_attn_idxs"))
    kinds = fields.sequence("layer_types") or ["full_attention" if i in full else "conv" for i in range(count)]
    check_layer_types(fields, kinds, ("conv", "full_attention"))
    mixers: list[Attention] = [convolution if kind == "conv" else attention for kind in kinds]
    fields.inert(r"block_\w+", "conv_dim", r"conv_use_\w+", "full_attn_idxs", "theta")
    span = convolution.conv_kernel
    told = f"convolutions over {span} tokens are taken to last as long as those over 4, which were measured"
    notes = (told,) if span < 4 else ()
    if fields.model_type == "lfm2":
        return Decoder([(mixer, DenseFeedForward(_lfm2_width(fields))) for mixer in mixers], notes=notes)
    experts = expert_layer(
        fields, "num_experts", "moe_intermediate_size", router_bias=fields.flag("use_expert_bias", True)
    )
    sparse = [i >= fields.number("num_dense_layers") for i in range(count)]
    return Decoder(with_experts(mixers, sparse, experts, lambda: dense_layer(fields)), notes=notes)


def _lfm2_width(fields: Fields) -> int:
    """Two thirds of what the config says, up to a whole multiple, unless it says that it means what it says."""
    width = fields.size("intermediate_size")
    if not fields.flag("block_auto_adjust_ff_dim", True):
        return width
    share = fields.factor("block_ffn_dim_multiplier") if fields.has("block_ffn_dim_multiplier") else 1.0
    whole = fields.size("block_multiple_of", 256)
    return -(-int(share * int(2 * width / 3)) // whole) * whole


@reads("kimi_linear")
def _kimi_linear(fields: Fields) -> Decoder:
    """Kimi Delta Attention, and latent attention in the layers of ``full_attn_layers`` (counted from 1); Kimi-K3 adds
    experts in a latent space and residuals that attend over blocks of layers."""
    count = fields.layers()
    linear = fields.section("linear_attn_config")
    delta = KimiDeltaAttention(
        linear.size("num_heads"),
        linear.size("head_dim"),
        linear.size("short_conv_kernel_size", 4),
        linear.flag("use_full_rank_gate"),
    )
    full, kda = set(linear.sequence("full_attn_layers")), set(linear.sequence("kda_layers"))
    if full & kda or full | kda != set(range(1, count + 1)):
        raise InputError(
            f"{fields.model}: config key 'linear_attn_config': full_attn_layers and kda_layers must share out layers 1 "
            f"to {count}",
            "correct them in the config.json",
            field="linear_attn_config",
        )
    attention = replace(latent(fields)(0), output_gate=fields.flag("mla_use_output_gate"))
    mixers: list[Attention] = [attention if layer + 1 in full else delta for layer in range(count)]
    shared = fields.number("num_shared_experts") * fields.size("moe_intermediate_size")
    experts = expert_layer(
        fields,
        "num_experts",
        "moe_intermediate_size",
        top_k="num_experts_per_token",
        shared=shared,
        latent=fields.number("routed_expert_hidden_size"),
        router_bias=True,
        latent_norm=fields.flag("latent_moe_use_norm"),
    )
    first, step = fields.number("first_k_dense_replace"), fields.size("moe_layer_freq", 1)
    sparse = [layer >= first and layer % step == 0 for layer in range(count)]
    layers = with_experts(mixers, sparse, experts, lambda: dense_layer(fields))
    # each half weighs the blocks before it with a query and a norm, and so does what comes before the head
    blocks = bool(fields.number("attn_res_block_size"))
    return Decoder(layers, norms=6 if blocks else 2, small_parameters=2 * fields.size("hidden_size") * blocks)
