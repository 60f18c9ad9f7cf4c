"""In which precision each part of a model is stored and multiplied."""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.models.architecture import Architecture
from profiles.errors import InputError, UnknownName
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


def missing_hardware(precision: Precision, gpu: Gpu) -> str | None:
    """Why ``gpu`` cannot run ``precision``, or None where it can. Weight-only formats run anywhere."""
    for part in PARTS:
        need = _NEEDS.get(precision.of(part))
        if need is not None and need not in gpu.peak_flops:
            return f"{gpu.name} has no {need} tensor cores for {precision.of(part)} weights"
    return None
