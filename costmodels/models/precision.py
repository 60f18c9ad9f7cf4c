"""In which precision each part of a model is stored and multiplied."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from costmodels.models.architecture import Architecture, Attention, GatedDeltaNet, LatentAttention, LayerGroup
from costmodels.models.mixers import Mixer, NoMixer
from profiles.errors import InputError, UnknownName, Unsupported
from profiles.hardware import Gpu

PARTS = ("attention_qkv", "attention_output", "dense", "experts", "shared_experts")
CHOICES = ("bf16", "fp8", "fp8_block", "nvfp4")
KV_CHOICES = ("bf16", "fp8")

_NEEDS = {"fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4", "int8": "int8"}


@dataclass(frozen=True)
class Precision:
    """``weights`` names the whole; the parts may differ (gpt-oss keeps attention in bf16), and so may the parts of
    some layers (:meth:`within`; ``exceptional`` lists what these are in). Embedding, head, norms and router are always
    16-bit."""

    weights: str
    kv: str
    attention_qkv: str
    attention_output: str
    dense: str
    experts: str
    shared_experts: str
    converted: bool  # not the precision in which the checkpoint is published
    exceptional: tuple[str, ...] = ()

    def of(self, part: str) -> str:
        return str(getattr(self, part))

    def within(self, group: LayerGroup) -> Precision:
        """That of layers which the checkpoint stores otherwise than most (a conversion treats all alike)."""
        if self.converted or not group.exceptions:
            return self
        changes: dict[str, Any] = {part: _served(precision) for part, precision in group.exceptions}
        return replace(self, **changes)


def _served(published: str) -> str:
    """Engines run 16-bit and 32-bit checkpoints in 16 bits; bf16 stands for both kinds of these."""
    return "bf16" if published in ("fp16", "fp32") else published


def choose_precision(model: Architecture, weights: str | None = None, kv: str | None = None) -> Precision:
    """The precision to run ``model`` in: as published unless ``weights`` says otherwise; KV cache in bf16
    unless ``kv``.

    Raises:
        InputError: a precision that is unknown, or that cannot be made from the checkpoint.
    """
    kv = kv or "bf16"
    if kv not in KV_CHOICES:
        raise UnknownName("kv_precision", kv, KV_CHOICES)
    published = _served(model.weight_precision)
    if weights is None or weights == published:
        parts: dict[str, Any] = dict.fromkeys(PARTS, published) | {part: _served(own) for part, own in model.exceptions}
        exceptional = {_served(own) for group in model.layer_groups for _, own in group.exceptions}
        return Precision(published, kv, **parts, converted=False, exceptional=tuple(sorted(exceptional)))
    if weights not in CHOICES:
        raise UnknownName("precision", weights, CHOICES)
    if published in ("mxfp4", "nvfp4", "int4", "int8", "int8_wo") and weights != "bf16":
        raise InputError(
            f"precision: {model.name} is published in {published}; requantizing it to {weights} is not done",
            f"leave --precision out, or give {published} or bf16",
        )
    every: dict[str, Any] = dict.fromkeys(PARTS, weights)
    return Precision(weights, kv, **every, converted=True)


def missing_hardware(precision: Precision, gpu: Gpu) -> str | None:
    """Why ``gpu`` cannot run ``precision``, or None where it can. Weight-only formats run anywhere."""
    for format_ in (*(precision.of(part) for part in PARTS), *precision.exceptional):
        need = _NEEDS.get(format_)
        if need is not None and need not in gpu.peak_flops:
            return f"{gpu.name} has no {need} tensor cores for {format_} weights"
    return None


def require_timed_layers(model: Architecture) -> None:
    """Raises Unsupported, naming them, for layers whose kernels have no times: their memory is known, and nothing of
    them may be left out of a step."""
    untimed: dict[str, int] = {}
    for group in model.layer_groups:
        attention, kinds = group.attention, []
        if isinstance(attention, Mixer) and not isinstance(attention, NoMixer):
            kinds.append(attention.kind)
        if isinstance(attention, LatentAttention) and attention.indexer is not None and attention.indexer.shared:
            kinds.append("sparse attention with the index of another layer")
        if isinstance(attention, LatentAttention) and attention.output_gate:
            kinds.append("latent attention with an output gate")
        if group.residual is not None:
            kinds.append("hyper-connections")
        for kind in kinds:
            untimed[kind] = untimed.get(kind, 0) + group.count
    if untimed:
        listed = ", ".join(f"{kind} ({count} of {model.layers} layers)" for kind, count in untimed.items())
        raise Unsupported(
            f"model: the kernels of {model.name} have no times yet: {listed}",
            "its weights and cache are known; for times choose a model of other layers (`plan models` lists some)",
            kinds=tuple(untimed),
        )


def require_measured_widths(model: Architecture) -> None:
    """Latent and linear attention are measured for few head widths; others are refused rather than guessed, and so
    are layers without any times (:func:`require_timed_layers`)."""
    require_timed_layers(model)
    for attention in {group.attention for group in model.layer_groups}:
        kind, widths, measured = _widths(attention)
        if measured and widths not in measured:
            raise Unsupported(
                f"model: {model.name} has {kind} of widths {widths}; only {' and '.join(map(str, measured))} "
                f"{'are' if len(measured) > 1 else 'is'} measured",
                "choose a model of these widths; `plan models` lists some",
            )


def _widths(attention: Attention) -> tuple[str, tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """(the kind of attention, its widths, those that are measured; none: any)."""
    if isinstance(attention, GatedDeltaNet):
        linear = (attention.key_dim, attention.value_dim, attention.conv_kernel, attention.state_bytes)
        return "gated delta rule (key, value, convolution, bytes of state)", linear, ((128, 128, 4, 4),)
    if not isinstance(attention, LatentAttention):
        return "attention", (), ()
    heads = (attention.qk_nope_head_dim, attention.qk_rope_head_dim, attention.v_head_dim, attention.kv_lora_rank)
    index = attention.indexer
    if index is None:
        return "latent attention", heads, ((128, 64, 128, 512),)
    sparse = (*heads, attention.q_lora_rank, index.heads, index.head_dim, index.top_k)
    deepseek, glm = (128, 64, 128, 512, 1536, 64, 128, 2048), (192, 64, 256, 512, 2048, 32, 128, 2048)
    return "sparse attention (heads, latent, query rank, indexer)", sparse, (deepseek, glm)
