"""In which precision each part of a model is stored and multiplied."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from costmodels.models.architecture import Architecture, Attention, GatedDeltaNet, LatentAttention
from profiles.errors import InputError, UnknownName, Unsupported
from profiles.hardware import Gpu

PARTS = ("attention_qkv", "attention_output", "dense", "experts", "shared_experts")
CHOICES = ("bf16", "fp8", "fp8_block", "nvfp4")
KV_CHOICES = ("bf16", "fp8")

_NEEDS = {"fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4", "int8": "int8"}


@dataclass(frozen=True)
class Precision:
    """``weights`` names the whole; the parts may differ (gpt-oss keeps attention in bf16). Embedding, head,
    norms and router are always 16-bit."""

    weights: str
    kv: str
    attention_qkv: str
    attention_output: str
    dense: str
    experts: str
    shared_experts: str
    converted: bool  # not the precision in which the checkpoint is published

    def of(self, part: str) -> str:
        return str(getattr(self, part))


def choose_precision(model: Architecture, weights: str | None = None, kv: str | None = None) -> Precision:
    """The precision to run ``model`` in: as published unless ``weights`` says otherwise; KV cache in bf16
    unless ``kv``.

    Raises:
        InputError: a precision that is unknown, or that cannot be made from the checkpoint.
    """
    kv = kv or "bf16"
    if kv not in KV_CHOICES:
        raise UnknownName("kv_precision", kv, KV_CHOICES)
    published = "bf16" if model.weight_precision == "fp16" else model.weight_precision
    if weights is None or weights == published:
        parts = {part: "bf16" if part in model.unquantized else published for part in PARTS}
        return Precision(published, kv, **parts, converted=False)
    if weights not in CHOICES:
        raise UnknownName("precision", weights, CHOICES)
    if published in ("mxfp4", "nvfp4", "int4") and weights != "bf16":
        raise InputError(
            f"precision: {model.name} is published in {published}; requantizing it to {weights} is not done",
            f"leave --precision out, or give {published} or bf16",
        )
    return Precision(weights, kv, **dict.fromkeys(PARTS, weights), converted=True)


def missing_hardware(precision: Precision, gpu: Gpu, weight_only: Container[str] = ()) -> str | None:
    """Why ``gpu`` cannot run ``precision``, or None where it can. Weight-only formats run anywhere.

    Args:
        weight_only: precisions whose weights can be multiplied in 16 bits where tensor cores for them are lacking.
    """
    for dtype in without_tensor_cores(precision, gpu):
        if dtype not in weight_only:
            return f"{gpu.name} has no {_NEEDS[dtype]} tensor cores for {dtype} weights"
    return None


def without_tensor_cores(precision: Precision, gpu: Gpu) -> tuple[str, ...]:
    """Precisions of the parts that ``gpu`` has no tensor cores for, each once."""
    found = dict.fromkeys(precision.of(part) for part in PARTS)
    return tuple(dtype for dtype in found if dtype in _NEEDS and _NEEDS[dtype] not in gpu.peak_flops)


def require_measured_widths(model: Architecture) -> None:
    """Latent and linear attention are measured for few head widths; others are refused rather than guessed."""
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
