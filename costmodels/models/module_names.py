"""What a checkpoint calls the matrices of a layer, and the rules by which quantizers name them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from costmodels.models.architecture import Attention, DenseFeedForward, FeedForward, MixtureOfExperts, ParallelMixers
from costmodels.models.mixers import CompressedAttention, Mamba, Mamba2, NoMixer, ShortConvolution
from profiles.errors import InputError

_ATTENTION: dict[str, tuple[str, ...]] = {
    "attention_qkv": (
        *("self_attn.q_proj", "self_attn.q_b_proj", "self_attn.qkv_proj", "mixer.q_proj", "mixer.qkv_proj"),
        *("linear_attn.in_proj_qkvz", "linear_attn.in_proj_qkv"),
    ),
    "attention_output": ("self_attn.o_proj", "linear_attn.out_proj", "mixer.o_proj"),
}
_COMPRESSED = {
    "attention_qkv": ("attn.wq_b", "self_attn.q_b_proj"),
    "attention_output": ("attn.wo_b", "self_attn.o_b_proj"),
}
_STATE_SPACE = {
    "attention_qkv": ("mixer.in_proj", "mamba.in_proj"),
    "attention_output": ("mixer.out_proj", "mamba.out_proj"),
}
_SHORT_CONVOLUTION = {"attention_qkv": ("conv.in_proj",), "attention_output": ("conv.out_proj",)}
_FEED_FORWARD: dict[str, tuple[str, ...]] = {
    "dense": ("mlp.down_proj", "feed_forward.down_proj", "mixer.down_proj", "ffn.w2"),
    "experts": (
        *("mlp.experts.0.down_proj", "mlp.experts.down_proj", "experts.0.down_proj", "moe.experts.0.down_proj"),
        *("feed_forward.experts.0.down_proj", "feed_forward.experts.down_proj", "mixer.experts.0.down_proj"),
        *("block_sparse_moe.experts.0.w2", "ffn.experts.0.w2", "moe.down_proj"),
    ),
    "shared_experts": (
        *("mlp.shared_experts.down_proj", "mlp.shared_expert.down_proj", "feed_forward.shared_expert.down_proj"),
        *("mixer.shared_experts.down_proj", "block_sparse_moe.shared_experts.down_proj"),
        *("ffn.shared_experts.w2", "share_expert.down_proj", "shared_mlp.down_proj"),
    ),
}
# Gemma 4's dense half beside its experts is what elsewhere is a shared expert.
_GEMMA_EXPERTS = {
    "experts": ("experts.0.down_proj", "experts.down_proj", "moe.experts.0.down_proj"),
    "shared_experts": ("mlp.down_proj",),
}
_PREFIXES = (
    *("model.layers.", "language_model.model.layers.", "model.language_model.layers.", "backbone.layers.", "layers."),
)
_NEVER_QUANTIZED = ("lm_head", "norm", "layernorm", ".gate", ".router", "embed_tokens", "conv1d")
_OF_A_LAYER = re.compile(r"(?:.*\.)?(layers\.\d+\.[\w.]+)")


def parts_of(attention: Attention, ffn: FeedForward) -> dict[str, tuple[str, ...]]:
    """The parts that a layer has, and what its checkpoint may call them (below the layer's own name)."""
    found: dict[str, tuple[str, ...]] = {}
    if isinstance(attention, Mamba | Mamba2):
        found |= _STATE_SPACE
    elif isinstance(attention, ShortConvolution):
        found |= _SHORT_CONVOLUTION
    elif isinstance(attention, ParallelMixers):
        found |= {part: names + _STATE_SPACE[part] for part, names in _ATTENTION.items()}
    elif isinstance(attention, CompressedAttention):
        found |= _COMPRESSED
    elif not isinstance(attention, NoMixer):
        found |= _ATTENTION
    if isinstance(ffn, MixtureOfExperts):
        names = _GEMMA_EXPERTS if ffn.router_scale else _FEED_FORWARD
        found["experts"] = names["experts"]
        if ffn.shared_intermediate:
            found["shared_experts"] = names["shared_experts"]
    elif isinstance(ffn, DenseFeedForward):
        found["dense"] = _FEED_FORWARD["dense"]
    return found


@dataclass(frozen=True)
class Rules:
    """Which precision the modules that a quantizer names have: whole names, and expressions in their order."""

    exact: Mapping[str, str]
    patterns: tuple[tuple[re.Pattern[str], str], ...]

    def precision(self, layer: int, names: Iterable[str]) -> str | None:
        """Of the module that is called one of ``names`` in ``layer``; None where no rule names it."""
        for name in names:
            path = f"layers.{layer}.{name}"
            steps = path.split(".")
            for length in range(len(steps), 2, -1):
                if (found := self.exact.get(".".join(steps[:length]))) is not None:
                    return found
        for pattern, precision in self.patterns:
            for name in names:
                if any(pattern.fullmatch(f"{prefix}{layer}.{name}") for prefix in _PREFIXES):
                    return precision
        return None


def rules_of(by_precision: Mapping[str, Iterable[str]], model: str) -> Rules:
    """From module names by precision: ``re:`` expressions, globs, and dotted paths (with all below them).

    Heads, norms and routers are dropped: they are never quantized here, so they say nothing. Raises InputError for a
    bad expression.
    """
    exact: dict[str, str] = {}
    compiled = []
    for precision, names in by_precision.items():
        alternatives = []
        for name in names:
            if name.endswith(_NEVER_QUANTIZED):
                continue
            of_layer = _OF_A_LAYER.fullmatch(name)
            if of_layer is not None:
                exact.setdefault(of_layer[1], precision)
            elif name.startswith("re:"):
                alternatives.append(rf"(?:{name[3:]})(?:\..*)?")
            else:
                path = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in name)
                alternatives.append(rf"(?:.*\.)?{path}(?:\..*)?")
        try:
            if alternatives:
                compiled.append((re.compile("|".join(f"(?:{entry})" for entry in alternatives)), precision))
        except re.error as error:
            raise InputError(
                f"{model}: quantization_config names modules by a bad regular expression: {error}",
                "correct the list of modules that are not converted",
            ) from error
    return Rules(exact, tuple(compiled))
