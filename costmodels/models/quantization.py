"""What a checkpoint's ``quantization_config`` says about how its weights are stored.

Formats: transformers ``quantization_config`` (fp8, mxfp4, awq, gptq, fbgemm_fp8), compressed-tensors
``config_groups`` and NVIDIA ModelOpt's ``quant_algo`` (in ``config.json`` or ``hf_quant_config.json``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from costmodels.models.architecture import Attention, FeedForward, MixtureOfExperts
from profiles.errors import InputError, Unsupported
from profiles.values import shown

SIXTEEN_BIT = {"bfloat16": "bf16", "float16": "fp16"}
_MODELOPT = {"FP8": "fp8", "NVFP4": "nvfp4", "FP8_PB_WO": "fp8_block"}
_TELLING = ("quant_algo", "bits", "format")

# What stands for each part, in the spellings of the families.
_PARTS: dict[str, tuple[str, ...]] = {
    "attention_qkv": (
        *("self_attn.q_proj", "self_attn.q_b_proj", "self_attn.qkv_proj"),
        *("linear_attn.in_proj_qkvz", "linear_attn.in_proj_qkv"),
    ),
    "attention_output": ("self_attn.o_proj", "linear_attn.out_proj"),
    "dense": ("mlp.down_proj", "feed_forward.down_proj"),
    "experts": (
        "mlp.experts.0.down_proj",
        "feed_forward.experts.0.down_proj",
        "feed_forward.experts.down_proj",
        "block_sparse_moe.experts.0.w2",
    ),
    "shared_experts": (
        "mlp.shared_experts.down_proj",
        "mlp.shared_expert.down_proj",
        "feed_forward.shared_expert.down_proj",
    ),
}
_PREFIXES = ("model.layers.", "language_model.model.layers.", "model.language_model.layers.")


def weight_precision(config: Mapping[str, Any], model: str) -> str:
    """Precision of the linear layers' weights: bf16, fp16, fp8, fp8_block, mxfp4, nvfp4 or int4.

    Embedding, head, norms and routers stay in 16 bits in every format that is read here. Raises
    :class:`Unsupported` for a format or data type that is not one of these, naming it.
    """
    quantization = config.get("quantization_config")
    if quantization is None:
        return _unquantized_precision(config, model)
    groups = _groups(quantization, model)
    method = str(quantization.get("quant_method") or _producer(quantization))
    precision: str | None = None
    if method == "fp8":
        precision = "fp8_block" if quantization.get("weight_block_size") else "fp8"
    elif method == "fbgemm_fp8":
        precision = "fp8"
    elif method == "mxfp4":
        precision = "mxfp4"
    elif method in ("awq", "gptq"):
        precision = "int4" if quantization.get("bits") == 4 else None
    elif method == "modelopt":
        precision = _MODELOPT.get(str(quantization.get("quant_algo")).upper())
    elif method == "compressed-tensors":
        precision = _compressed_tensors(groups, str(quantization.get("format")))
    if precision is None:
        raise Unsupported(
            f"{model}: quantization_config {_described(method, quantization, groups)} is not understood",
            "known: fp8 (per tensor, per channel or in blocks), mxfp4, nvfp4, int4 weights (awq, gptq, "
            "compressed-tensors)",
            quant_method=method,
        )
    return precision


def unquantized_parts(
    config: Mapping[str, Any], layers: Sequence[tuple[Attention, FeedForward]], model: str
) -> tuple[str, ...]:
    """Which of ``attention_qkv``, ``attention_output``, ``dense``, ``experts`` and ``shared_experts`` a
    quantized checkpoint leaves in 16 bits, from its list of modules that are not converted."""
    quantization = config.get("quantization_config") or {}
    patterns: list[str] = []
    for key in ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules"):
        listed = quantization.get(key) or []
        if not isinstance(listed, list):
            raise InputError(
                f"{model}: config key '{key}' = {shown(listed)}: must be a list of module names",
                "give the model's own config.json",
                field=key,
            )
        patterns += [str(entry) for entry in listed]
    excluded = _matcher(patterns, model)
    if excluded is None:
        return ()
    parts = []
    for part, spellings in _PARTS.items():
        present = [i for i, (_, ffn) in enumerate(layers) if _has(part, ffn)]
        left_out = [
            i
            for i in present
            if any(excluded.fullmatch(f"{prefix}{i}.{name}") for prefix in _PREFIXES for name in spellings)
        ]
        if left_out and len(left_out) < len(present):
            raise Unsupported(
                f"{model}: quantization_config leaves the {part.replace('_', ' ')} of {len(left_out)} of "
                f"{len(present)} layers unquantized (the first is layer {left_out[0]}); "
                "one precision for all layers is what is modelled",
                "give a checkpoint that treats every layer alike",
            )
        if left_out:
            parts.append(part)
    return tuple(parts)


def _unquantized_precision(config: Mapping[str, Any], model: str) -> str:
    dtype = config.get("torch_dtype", config.get("dtype"))
    if dtype is None:
        raise InputError(
            f"{model}: config key 'torch_dtype' is missing",
            'say how the weights are stored, as in "torch_dtype": "bfloat16"',
        )
    name = str(dtype).removeprefix("torch.")
    if name not in SIXTEEN_BIT:
        raise Unsupported(
            f"{model}: config key 'torch_dtype' = {shown(dtype)} is not a precision that models are served in",
            f"known: {', '.join(SIXTEEN_BIT)}, or a quantization_config",
        )
    return SIXTEEN_BIT[name]


def _producer(quantization: Mapping[str, Any]) -> object:
    producer = quantization.get("producer")
    return producer.get("name") if isinstance(producer, Mapping) else None


def _groups(quantization: object, model: str) -> list[Mapping[str, Any]]:
    """The config groups of compressed-tensors (none elsewhere), each with ``weights`` that can be read."""
    broken = InputError(
        f"{model}: config key 'quantization_config' = {shown(quantization)}: is not what any quantizer writes",
        "give the model's own config.json",
        field="quantization_config",
    )
    if not isinstance(quantization, Mapping):
        raise broken
    groups = quantization.get("config_groups") or {}
    if not isinstance(groups, Mapping):
        raise broken
    for group in groups.values():
        if not isinstance(group, Mapping) or not isinstance(group.get("weights") or {}, Mapping):
            raise broken
    return list(groups.values())


def _compressed_tensors(groups: Iterable[Mapping[str, Any]], checkpoint_format: str) -> str | None:
    found = {_compressed_group(group, checkpoint_format) for group in groups}
    return found.pop() if len(found) == 1 else None


def _compressed_group(group: Mapping[str, Any], checkpoint_format: str) -> str | None:
    weights = group.get("weights") or {}
    kind, bits, strategy = weights.get("type"), weights.get("num_bits"), weights.get("strategy")
    layout = str(group.get("format") or checkpoint_format)
    if kind == "float" and bits == 8:
        return {"block": "fp8_block", "tensor": "fp8", "channel": "fp8"}.get(str(strategy))
    if kind == "float" and bits == 4:
        return {"mxfp4-pack-quantized": "mxfp4", "nvfp4-pack-quantized": "nvfp4"}.get(layout)
    if kind == "int" and bits == 4 and not group.get("input_activations"):
        return "int4"
    return None


def _described(method: str, quantization: Mapping[str, Any], groups: Iterable[Mapping[str, Any]]) -> str:
    facts = [f"quant_method={shown(method)}"]
    facts += [f"{key}={shown(quantization[key])}" for key in ("quant_algo", "bits", "format") if key in quantization]
    for group in groups:
        weights = group.get("weights") or {}
        facts.append(f"weights {weights.get('num_bits')}-bit {weights.get('type')} ({weights.get('strategy')})")
    return ", ".join(facts)


def _has(part: str, ffn: FeedForward) -> bool:
    if part.startswith("attention"):
        return True
    if isinstance(ffn, MixtureOfExperts):
        return part == "experts" or (part == "shared_experts" and ffn.shared_intermediate > 0)
    return part == "dense"


def _matcher(patterns: Iterable[str], model: str) -> re.Pattern[str] | None:
    """One expression for all patterns: ``re:`` expressions, globs, and dotted paths (with all below them).
    Heads, norms and routers are dropped: they are never quantized here, so they say nothing."""
    alternatives = []
    for pattern in patterns:
        if pattern.endswith(("lm_head", "norm", "layernorm", ".gate", ".router", "embed_tokens")):
            continue
        if pattern.startswith("re:"):
            alternatives.append(rf"(?:{pattern[3:]})(?:\..*)?")
        else:
            path = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
            alternatives.append(rf"(?:.*\.)?{path}(?:\..*)?")
    try:
        return re.compile("|".join(f"(?:{entry})" for entry in alternatives)) if alternatives else None
    except re.error as error:
        raise InputError(
            f"{model}: quantization_config names modules by a bad regular expression: {error}",
            "correct the list of modules that are not converted",
        ) from error
