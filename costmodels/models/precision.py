"""In which precision each part of a model is stored and multiplied."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any

from costmodels.models.architecture import Architecture, LayerGroup
from profiles.errors import InputError, UnknownName
from profiles.hardware import Gpu

PARTS = ("attention_qkv", "attention_output", "dense", "experts", "shared_experts")
CHOICES = ("bf16", "fp8", "fp8_block", "nvfp4", "fp32")
CONVERSIONS = (*CHOICES, "mxfp4", "int4", "int8", "int8_wo")
"""What a checkpoint can be made into: the choices of ``any``, and those that have to be named."""
STORED_SMALL = ("mxfp4", "nvfp4", "int4", "int8", "int8_wo")
REPUBLISHED = {("int4", "nvfp4"), ("int4", "mxfp4")}
"""Published in few bits, and again in others with the same layers left as they are (nvidia/Kimi-K2.5-NVFP4,
amd/Kimi-K2.5-MXFP4: model cards on huggingface.co)."""
KV_CHOICES = ("bf16", "fp8")
CONVERTED_GROUP = 128
"""Values that share a scale in 4-bit integers that somebody makes: AWQ's and GPTQ's usual."""

SCALE_GROUPS = {"fp8_block": 128, "mxfp4": 32, "nvfp4": 16}
"""Of formats that fix it: DeepSeek-V3's blocks (arXiv:2412.19437 §3.3), OCP's microscaling (MX 1.0 §5), NVIDIA's
nvfp4."""

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
    group: int = 0  # values along a row that share a scale, where the checkpoint says so (4-bit integers)

    @property
    def element_bytes(self) -> int:
        """Of what is never quantized, and of activations."""
        return 4 if self.weights == "fp32" else 2

    def of(self, part: str) -> str:
        return str(getattr(self, part))

    def scale_group(self, part: str) -> int:
        """Values along a row of the weights of ``part`` that share a scale, which no split may cut; 0: a split may cut
        anywhere (a whole row or matrix shares one, or engines pad)."""
        dtype = self.of(part)
        if dtype == "mxfp4" and part == "experts":
            return 0  # engines pad the experts of each rank to whole blocks (vLLM's and SGLang's mxfp4.py)
        if dtype in ("int4", "int8_wo") or (dtype == "fp8_block" and self.weights == dtype and self.group):
            return self.group
        return SCALE_GROUPS.get(dtype, 0)

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
    unless ``kv`` (in fp32 beside fp32 weights, as engines have it). What an engine takes when nothing is said:
    :func:`costmodels.serving.frameworks.caches.default_cache`.

    Raises:
        InputError: a precision that is unknown, or that cannot be made from the checkpoint.
    """
    if kv is not None and kv not in KV_CHOICES:
        raise UnknownName("kv_precision", kv, KV_CHOICES)
    kv = kv or ("fp32" if weights == "fp32" else "bf16")
    published = _served(model.weight_precision)
    if weights is None or weights == published:
        parts: dict[str, Any] = dict.fromkeys(PARTS, published) | {part: _served(own) for part, own in model.exceptions}
        exceptional = {_served(own) for group in model.layer_groups for _, own in group.exceptions}
        return Precision(
            published, kv, **parts, converted=False, exceptional=tuple(sorted(exceptional)), group=model.weight_group
        )
    if weights not in CONVERSIONS:
        raise UnknownName("precision", weights, CONVERSIONS)
    left = {part: _served(own) for part, own in model.exceptions} if (published, weights) in REPUBLISHED else {}
    if published in STORED_SMALL and weights not in ("bf16", "fp32") and not left:
        raise InputError(
            f"precision: {model.name} is published in {published}; requantizing it to {weights} is not done",
            f"leave --precision out, or give {published} or bf16",
        )
    every: dict[str, Any] = dict.fromkeys(PARTS, weights) | left
    return Precision(weights, kv, **every, converted=True, group=CONVERTED_GROUP if weights == "int4" else 0)


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
    found = dict.fromkeys((*(precision.of(part) for part in PARTS), *precision.exceptional))
    return tuple(dtype for dtype in found if dtype in _NEEDS and _NEEDS[dtype] not in gpu.peak_flops)
