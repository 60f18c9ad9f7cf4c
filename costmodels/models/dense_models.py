"""Readers of dense models: the many families that are Llama but for a few traits, and those that differ by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from costmodels.models.architecture import (
    Attention,
    DenseFeedForward,
    FeedForward,
    GroupedQueryAttention,
    NoFeedForward,
)
from costmodels.models.config_fields import Fields
from costmodels.models.mixers import NoMixer
from costmodels.models.reading import Decoder, Layers, even_head_dim, grouped_query, layer_windows, next_tokens, reads
from profiles.errors import InputError, Unsupported

Bias = str | bool
"""Whether there are biases: always, never, or as this key of the config says (absent: no)."""


@dataclass(frozen=True)
class DenseFamily:
    """In what a family differs from Llama.

    Attributes:
        bias: on queries, keys and values; ``output_bias``: on the attention's output (None: as ``bias``).
        norms: vectors of ``hidden`` in a layer: a LayerNorm with a bias has two.
        final: vectors of ``hidden`` beyond the final norm's weight.
        head_bias: on the output head.
        every: of so many layers the last sees everything, the others a window (0: none does); keyed by
            ``sliding_window_pattern`` where the config has it.
    """

    bias: Bias = "attention_bias"
    output_bias: Bias | None = None
    mlp_bias: Bias = False
    qk_norm: Literal["none", "head", "full"] = "none"
    gated: bool = True
    norms: int = 2
    final: int = 0
    head_bias: bool = False
    every: int = 0
    windowed: bool = False  # every layer sees ``sliding_window`` keys
    times: int = 0  # the feed-forward as so many times the width, where the config does not say
    positions: bool = False  # a learned table of them


FAMILIES = {
    "apertus": DenseFamily(qk_norm="head", gated=False),
    "arcee": DenseFamily(gated=False, mlp_bias="mlp_bias"),
    "baichuan": DenseFamily(bias=False),
    "bloom": DenseFamily(bias=True, mlp_bias=True, gated=False, norms=4, final=3, times=4),
    "chameleon": DenseFamily(qk_norm="head"),
    "chatglm": DenseFamily(output_bias=False, mlp_bias="mlp_bias"),
    "cohere": DenseFamily(norms=1),
    "cohere2": DenseFamily(norms=1, every=4),
    "ernie4_5": DenseFamily(bias="use_bias", mlp_bias="use_bias"),
    "exaone": DenseFamily(bias=False),
    "exaone4": DenseFamily(bias=False, qk_norm="head", every=4),
    "gemma": DenseFamily(),
    "gemma2": DenseFamily(norms=4, every=2),
    "glm": DenseFamily(output_bias=False),
    "glm4": DenseFamily(output_bias=False, norms=4),
    "gpt2": DenseFamily(bias=True, mlp_bias=True, gated=False, norms=4, final=1, times=4, positions=True),
    "gpt_neox": DenseFamily(bias=True, mlp_bias=True, gated=False, norms=4, final=1),
    "gptj": DenseFamily(bias=False, mlp_bias=True, gated=False, final=1, head_bias=True, times=4),
    "granite": DenseFamily(mlp_bias="mlp_bias"),
    "hunyuan_v1_dense": DenseFamily(qk_norm="head"),
    "internlm2": DenseFamily(bias="bias"),
    "internlm3": DenseFamily(bias="qkv_bias", output_bias="bias", mlp_bias="bias"),
    "minicpm": DenseFamily(),
    "ministral": DenseFamily(bias=False, windowed=True),
    "ministral3": DenseFamily(bias=False, windowed=True),
    "mpt": DenseFamily(bias=False, gated=False, times=4),
    "nemotron": DenseFamily(mlp_bias="mlp_bias", gated=False, norms=4, final=1),
    "olmo": DenseFamily(),
    "olmo2": DenseFamily(qk_norm="full"),
    "olmo3": DenseFamily(qk_norm="full", every=4),
    "phi": DenseFamily(bias=True, mlp_bias=True, gated=False, final=1, head_bias=True),
    "seed_oss": DenseFamily(output_bias="attention_out_bias", mlp_bias="mlp_bias"),
    "smollm3": DenseFamily(mlp_bias="mlp_bias"),
    "stablelm": DenseFamily(bias="use_qkv_bias", output_bias=False, norms=4, final=1),
    "starcoder2": DenseFamily(bias="use_bias", mlp_bias="use_bias", gated=False, norms=4, final=1, windowed=True),
}


@reads(*FAMILIES)
def _family(fields: Fields) -> Decoder:
    family = FAMILIES[fields.model_type]
    bias = _bias(fields, family.bias)
    output_bias = bias if family.output_bias is None else _bias(fields, family.output_bias)
    normed = fields.flag("use_qk_norm", family.qk_norm != "none")
    norm = family.qk_norm if family.qk_norm != "none" else "full"  # Cohere's, where the config asks for it
    attention = grouped_query(
        fields,
        kv_heads=fields.size("num_attention_heads"),
        head_dim=even_head_dim(fields),
        bias=bias,
        output_bias=output_bias,
        qk_norm=norm if normed else "none",
    )
    if fields.flag("qk_layernorm"):
        raise Unsupported(
            f"{fields.model}: config key 'qk_layernorm' = True is not modelled",
            "known: false, as the published models of this family say",
            field="qk_layernorm",
        )
    fields.inert("(attn|final)_logit_softcapping")  # in the attention kernel and behind the head: no time of its own
    hidden = fields.size("hidden_size")
    wide = fields.size("intermediate_size", family.times * hidden or None)
    ffn = DenseFeedForward(wide, family.gated, _bias(fields, family.mlp_bias))
    layers: Layers = [(attention(window), ffn) for window in _windows(fields, family)]
    small = family.final * hidden + (fields.size("vocab_size") if family.head_bias else 0)
    small += fields.size("max_position_embeddings") * hidden if family.positions else 0
    return Decoder(layers, norms=family.norms, small_parameters=small)


def _bias(fields: Fields, bias: Bias) -> bool:
    return fields.flag(bias) if isinstance(bias, str) else bias


def _windows(fields: Fields, family: DenseFamily) -> list[int]:
    size = fields.number("sliding_window") if family.every or family.windowed else 0
    if family.windowed or not size:
        return layer_windows(fields, lambda layer: size)
    every = family.every
    if fields.has("sliding_window_pattern"):
        pattern = fields.text("sliding_window_pattern", "")
        letters = set(pattern) <= {"L", "G"}  # local and global, as EXAONE spells it
        every = len(pattern) if letters else fields.size("sliding_window_pattern")
    return layer_windows(fields, lambda layer: size if (layer + 1) % every else 0)


@reads("opt")
def _opt(fields: Fields) -> Decoder:
    """OPT (arXiv:2205.01068): biases everywhere, LayerNorms, learned positions with an offset of 2."""
    hidden = fields.size("hidden_size")
    if fields.size("word_embed_proj_dim", hidden) != hidden or not fields.flag("do_layer_norm_before", True):
        raise Unsupported(
            f"{fields.model}: config keys 'word_embed_proj_dim' and 'do_layer_norm_before': projected embeddings and "
            "norms behind the layers are not modelled for opt",
            "known: what all sizes but 350m have",
            field="word_embed_proj_dim",
        )
    fields.inert("enable_bias|layer_norm_elementwise_affine|activation_function|layerdrop|init_std")
    heads = fields.size("num_attention_heads")
    attention = grouped_query(fields, kv_heads=heads, head_dim=even_head_dim(fields), bias=True, output_bias=True)
    ffn = DenseFeedForward(fields.size("ffn_dim"), gated=False, bias=True)
    layers: Layers = [(attention(0), ffn)] * fields.layers()
    positions = (fields.size("max_position_embeddings") + 2) * hidden
    return Decoder(layers, norms=4, small_parameters=hidden + positions)


@reads("falcon")
def _falcon(fields: Fields) -> Decoder:
    """Both halves of a layer read the same norm, or one each (arXiv:2311.16867); one head of keys and values in the
    older form."""
    fields.inert("alibi", "multi_query", "parallel_attn", "bias")
    newer = fields.flag("new_decoder_architecture")
    norms = fields.size("num_ln_in_parallel_attn", 2) if newer else 1
    attention = grouped_query(fields, kv_heads=1, head_dim=even_head_dim(fields))
    ffn = DenseFeedForward(fields.size("intermediate_size", 4 * fields.size("hidden_size")), gated=False)
    layers: Layers = [(attention(0), ffn)] * fields.layers()
    return Decoder(layers, norms=2 * norms, small_parameters=fields.size("hidden_size"))


@reads("gpt_bigcode")
def _gpt_bigcode(fields: Fields) -> Decoder:
    """GPT-2 with one head of keys and values (arXiv:2305.06161 §5.1)."""
    fields.inert("multi_query")
    hidden = fields.size("hidden_size")
    attention = grouped_query(fields, kv_heads=1, head_dim=even_head_dim(fields), bias=True, output_bias=True)
    ffn = DenseFeedForward(fields.size("intermediate_size", 4 * hidden), gated=False, bias=True)
    layers: Layers = [(attention(0), ffn)] * fields.layers()
    positions = fields.size("max_position_embeddings") * hidden
    return Decoder(layers, norms=4, small_parameters=hidden + positions)


@reads("phi3small")
def _phi3_small(fields: Fields) -> Decoder:
    """Every second layer attends to blocks chosen by their place (arXiv:2404.14219 §2): priced as if to all."""
    fields.inert(r"blocksparse_\w+", "dense_attention_every_n_layers")
    attention = grouped_query(fields, head_dim=even_head_dim(fields), bias=True, output_bias=True)
    ffn = DenseFeedForward(fields.size("intermediate_size"), bias=True)
    layers: Layers = [(attention(0), ffn)] * fields.layers()
    return Decoder(layers, norms=4, small_parameters=fields.size("hidden_size"))


@reads("mimo")
def _mimo(fields: Fields) -> Decoder:
    """Qwen 2 with a draft layer; its sliding windows are switched off."""
    if fields.flag("use_sliding_window"):
        raise Unsupported(
            f"{fields.model}: config key 'use_sliding_window' = True is not modelled for mimo",
            "known: false, as the published models say",
            field="use_sliding_window",
        )
    fields.inert("sliding_window")
    attention = grouped_query(fields, head_dim=even_head_dim(fields), bias=fields.flag("attention_bias", True))
    ffn = DenseFeedForward(fields.size("intermediate_size"))
    layers: Layers = [(attention(window), ffn) for window in layer_windows(fields)]
    return Decoder(layers, draft=next_tokens(fields, layers))


@reads("nemotron-nas")
def _nemotron_nas(fields: Fields) -> Decoder:
    """Llama whose every layer was searched for (Puzzle, arXiv:2411.19146): fewer KV heads, a narrower feed-forward,
    or one of the halves left out."""
    heads, hidden = fields.size("num_attention_heads"), fields.size("hidden_size")
    bias, mlp_bias = fields.flag("attention_bias"), fields.flag("mlp_bias")
    width = fields.size("head_dim", even_head_dim(fields))
    blocks = fields.sections("block_configs")
    if len(blocks) != fields.layers():
        raise InputError(
            f"{fields.model}: config key 'block_configs' lists {len(blocks)} layers, num_hidden_layers = "
            f"{fields.layers()}",
            "correct block_configs in the config.json",
            field="block_configs",
        )
    layers: Layers = []
    norms = []
    for block in blocks:
        attention, ffn = block.section("attention"), block.section("ffn")
        for half, what in ((attention, "attention"), (ffn, "ffn")):
            _check_block(half, what)
        mixer: Attention = NoMixer()
        if not attention.flag("no_op"):
            group = attention.size("n_heads_in_group")
            if heads % group:
                raise InputError(
                    f"{fields.model}: config key 'n_heads_in_group' = {group} does not divide num_attention_heads = "
                    f"{heads}",
                    "correct block_configs in the config.json",
                    field="block_configs",
                )
            mixer = GroupedQueryAttention(heads, heads // group, width, 0, bias, bias)
        wide: FeedForward = NoFeedForward()
        if not ffn.flag("no_op"):
            # 2/3 of so many times the width, rounded up to 256 (DeciLM's modelling code)
            wide = DenseFeedForward(-(-int(2 * ffn.factor("ffn_mult") * hidden / 3) // 256) * 256, bias=mlp_bias)
        layers.append((mixer, wide))
        norms.append(sum(not isinstance(half, NoMixer | NoFeedForward) for half in (mixer, wide)))
    return Decoder(layers, norms=tuple(norms))


def _check_block(half: Fields, what: str) -> None:
    for key in ("replace_with_linear", "sparsify", "window_length", "num_sink_tokens", "unshifted_sink"):
        if half.has(key):
            raise Unsupported(
                f"{half.model}: config key 'block_configs' has {what} with {key}, which is not modelled",
                "known: n_heads_in_group, ffn_mult and no_op",
                field="block_configs",
            )
