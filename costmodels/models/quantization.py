"""What a checkpoint's ``quantization_config`` says about how its weights are stored, layer by layer.

Formats: transformers ``quantization_config`` (fp8, mxfp4, awq, gptq, fbgemm_fp8, bitsandbytes), compressed-tensors
``config_groups`` and NVIDIA ModelOpt's ``quant_algo`` (in ``config.json`` or ``hf_quant_config.json``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from costmodels.models.architecture import CacheScheme
from costmodels.models.module_names import Rules, rules_of
from costmodels.models.precision import SCALE_GROUPS
from profiles.errors import InputError, Unsupported
from profiles.values import listed, shown

UNQUANTIZED = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_MODELOPT = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8_block",
    "MXFP8": "fp8_block",
    "NVFP4": "nvfp4",
    "W4A16_NVFP4": "nvfp4",
    "W4A16_AWQ": "int4",
    "INT4_AWQ": "int4",
    "W8A16": "int8_wo",
    "INT8_SQ": "int8",
}
_ROUGHLY = {
    "MXFP8": "mxfp8 weights (one scale per 32) are counted as fp8 in blocks: 3 % smaller than they are",
    "W4A16_NVFP4": "its nvfp4 weights are multiplied in 16 bits (W4A16), which is slower than nvfp4 products",
}
_BLOCK = SCALE_GROUPS["fp8_block"]
_EVERY_LINEAR = "Linear"
_EXPERTS = r"re:.*\.experts\..*"
_QUANTIZED_NAME = re.compile(
    r"(?:^|[-_./])((?:nv|mx)fp4|fp[48]|awq|gptq|int[48]|w\d+a\d+|[48]-?bit|bnb|gguf|quantized)(?:$|[-_.])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Storage:
    """``default`` is the precision of every linear layer that no rule names; ``group``: values along a row that share
    a scale, of the format with the fewest bits (0: a whole row or matrix); ``notes``: what is only roughly so;
    ``cache``: how the KV cache is to be kept, where the checkpoint says so.

    Embedding, head, norms and routers stay in 16 bits in every format that is read here.
    """

    default: str
    rules: Rules = field(default_factory=lambda: rules_of({}, ""))
    notes: tuple[str, ...] = ()
    group: int = 0
    cache: CacheScheme | None = None


def storage(config: Mapping[str, Any], model: str) -> Storage:
    """Precisions: bf16, fp16, fp32, fp8, fp8_block, mxfp4, nvfp4, int8, int8_wo (weights only) or int4.

    Raises :class:`Unsupported` for a format or data type that is not one of these, naming it.
    """
    quantization = config.get("quantization_config")
    if quantization is None:
        return Storage(_unquantized_precision(config, model), notes=_doubts(model))
    groups = _groups(quantization, model)
    method = str(quantization.get("quant_method") or _producer(quantization))
    left_out = _left_out(quantization, model)
    layers = _quantized_layers(quantization, model)
    found: Storage | None = None
    if method == "fp8":
        default = "fp8_block" if quantization.get("weight_block_size") else "fp8"
        if quantization.get("weight_block_size") and config.get("expert_dtype") == "fp4" and not layers:
            found = Storage(default, rules_of({"bf16": left_out, "mxfp4": [_EXPERTS]}, model))  # DeepSeek-V4
        elif layers:  # what ModelOpt quantized further; its ``ignore`` is what it left as it was
            found = _by_algorithm(layers, default, {}, model)
        else:
            found = Storage(default, rules_of({"bf16": left_out}, model))
    elif method == "modelopt" and layers:
        found = _by_algorithm(layers, "bf16", {"bf16": left_out}, model)
    elif method == "compressed-tensors":
        found = _compressed_tensors(groups, str(quantization.get("format")), left_out, model)
    else:
        simple, notes = _one_format(method, quantization)
        found = Storage(simple, rules_of({"bf16": left_out}, model), notes) if simple else None
    if found is None:
        raise Unsupported(
            f"{model}: quantization_config {_described(method, quantization, groups)} is not understood",
            "known: fp8 (per tensor, per channel or in blocks), mxfp4, nvfp4, 4-bit and 8-bit integers (awq, gptq, "
            "compressed-tensors, bitsandbytes)",
            quant_method=method,
        )
    return replace(
        found, group=_group_size(quantization, groups, model), cache=_cache_scheme(method, quantization, model)
    )


def _cache_scheme(method: str, quantization: Mapping[str, Any], model: str) -> CacheScheme | None:
    """``kv_cache_scheme`` of compressed-tensors and of ModelOpt, or ModelOpt's ``kv_cache_quant_algo``; other writers'
    words for it no engine reads."""
    if method not in ("modelopt", "compressed-tensors"):
        return None
    key = "kv_cache_scheme"
    said = quantization.get(key)
    if not said and method == "modelopt":
        key = "kv_cache_quant_algo"
        said = quantization.get(key)
    if said is None or said == {} or (isinstance(said, str) and said.casefold() in ("", "none")):
        return None
    if isinstance(said, Mapping):
        bits, kind = said.get("num_bits"), said.get("type")
        names = {(8, "float"): "fp8", (4, "float"): "nvfp4", (8, "int"): "int8", (4, "int"): "int4"}
        if isinstance(bits, int) and isinstance(kind, str) and (bits, kind) in names:
            return CacheScheme("modelopt" if method == "modelopt" else "compressed-tensors", names[bits, kind])
    elif isinstance(said, str) and method == "modelopt":
        return CacheScheme("modelopt", said.casefold())
    raise InputError(
        f"{model}: config key {key!r} = {shown(said)}: is not what any quantizer writes",
        "give the model's own config.json",
        field=key,
    )


def _group_size(quantization: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], model: str) -> int:
    """As the config says it: AWQ and GPTQ as ``group_size`` (-1: a whole row), fp8 as the width of its blocks."""
    block = quantization.get("weight_block_size")
    if block is not None and block != [_BLOCK, _BLOCK]:
        said = f"[{listed(block)}]" if isinstance(block, list) else shown(block)
        raise Unsupported(
            f"{model}: config key 'weight_block_size' = {said} is not modelled",
            f"known: [{_BLOCK}, {_BLOCK}]",
            field="weight_block_size",
        )
    own = [group.get("weights") or {} for group in groups] or [quantization]
    bits = [weights.get("num_bits", weights.get("bits", 4)) for weights in own]
    fewest = min((wide for wide in bits if isinstance(wide, int)), default=4)
    sizes = [weights.get("group_size") for weights, wide in zip(own, bits, strict=True) if wide == fewest]
    for size in sizes:
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < -1):
            raise InputError(
                f"{model}: config key 'group_size' = {shown(size)}: must be a whole number of values, or -1",
                "give the model's own config.json",
                field="group_size",
            )
    given = [size for size in sizes if size is not None]
    return max(min(given), 0) if given else 0


def _one_format(method: str, quantization: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """(the precision of all linear layers, notes) of the formats that have one."""
    if method == "fbgemm_fp8":
        return "fp8", ()
    if method == "mxfp4":
        return "mxfp4", ()
    if method == "awq":
        return ("int4" if quantization.get("bits") == 4 else None), ()
    if method == "gptq":
        bits = quantization.get("bits")
        return ("int4" if bits == 4 else "int8_wo" if bits == 8 else None), ()
    if method == "modelopt":
        algorithm = str(quantization.get("quant_algo")).upper()
        return _MODELOPT.get(algorithm), (_ROUGHLY[algorithm],) if algorithm in _ROUGHLY else ()
    if method == "bitsandbytes":
        note = "bitsandbytes kernels are not measured: times are those of other weight-only kernels of as many bits"
        if quantization.get("load_in_4bit"):
            return "int4", (note,)
        return ("int8_wo" if quantization.get("load_in_8bit") else None), (note,)
    return None, ()


def _unquantized_precision(config: Mapping[str, Any], model: str) -> str:
    dtype = config.get("torch_dtype") or config.get("dtype")
    if dtype is None:
        raise InputError(
            f"{model}: config key 'torch_dtype' is missing",
            'say how the weights are stored, as in "torch_dtype": "bfloat16"',
        )
    name = str(dtype).removeprefix("torch.")
    if name not in UNQUANTIZED:
        raise Unsupported(
            f"{model}: config key 'torch_dtype' = {shown(dtype)} is not a precision that models are served in",
            f"known: {', '.join(UNQUANTIZED)}, or a quantization_config",
        )
    return UNQUANTIZED[name]


def _doubts(model: str) -> tuple[str, ...]:
    """A name that says what the config does not."""
    said = _QUANTIZED_NAME.search(model)
    if said is None:
        return ()
    return (
        f"its name says {said[1]}, its config.json nothing about quantization: the weights are taken as 16 bits wide; "
        "put hf_quant_config.json beside it, or give --precision",
    )


def _producer(quantization: Mapping[str, Any]) -> object:
    producer = quantization.get("producer")
    return producer.get("name") if isinstance(producer, Mapping) else None


def _left_out(quantization: Mapping[str, Any], model: str) -> list[str]:
    patterns: list[str] = []
    for key in ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules", "llm_int8_skip_modules"):
        listed = quantization.get(key) or []
        if not isinstance(listed, list):
            raise InputError(
                f"{model}: config key '{key}' = {shown(listed)}: must be a list of module names",
                "give the model's own config.json",
                field=key,
            )
        patterns += [str(entry) for entry in listed]
    return patterns


def _quantized_layers(quantization: Mapping[str, Any], model: str) -> dict[str, str]:
    """ModelOpt's algorithm of each module that it names."""
    listed = quantization.get("quantized_layers") or {}
    if not isinstance(listed, Mapping) or not all(isinstance(entry, Mapping) for entry in listed.values()):
        raise InputError(
            f"{model}: config key 'quantized_layers' must map module names to what quantized them",
            "give the model's own config.json",
            field="quantized_layers",
        )
    return {str(name): str(entry.get("quant_algo")).upper() for name, entry in listed.items()}


def _by_algorithm(layers: Mapping[str, str], default: str, rules: dict[str, list[str]], model: str) -> Storage | None:
    notes: dict[str, None] = {}
    by_precision = dict(rules)
    for name, algorithm in layers.items():
        precision = _MODELOPT.get(algorithm)
        if precision is None:
            return None
        if algorithm in _ROUGHLY and "head" not in name:
            notes[_ROUGHLY[algorithm]] = None
        by_precision.setdefault(precision, []).append(name)
    return Storage(default, rules_of(by_precision, model), tuple(notes))


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
        if not isinstance(group.get("targets") or [], list):
            raise broken
    return list(groups.values())


def _compressed_tensors(
    groups: Sequence[Mapping[str, Any]], checkpoint_format: str, left_out: list[str], model: str
) -> Storage | None:
    """Groups of modules, each in a format of its own; a module is what the first rule that names it says."""
    rules: dict[str, list[str]] = {"bf16": left_out}
    defaults: set[str] = set()
    for group in groups:
        precision = _compressed_group(group, checkpoint_format)
        if precision is None:
            return None
        targets = [str(target) for target in group.get("targets") or [_EVERY_LINEAR]]
        if _EVERY_LINEAR in targets:
            defaults.add(precision)
        else:
            rules.setdefault(precision, []).extend(targets)
    if len(defaults) > 1 or not groups:
        return None
    return Storage(defaults.pop() if defaults else "bf16", rules_of(rules, model))


def _compressed_group(group: Mapping[str, Any], checkpoint_format: str) -> str | None:
    weights = group.get("weights") or {}
    kind, bits, strategy = weights.get("type"), weights.get("num_bits"), weights.get("strategy")
    layout = str(group.get("format") or checkpoint_format)
    weights_only = not group.get("input_activations")
    if kind == "float" and bits == 8:
        return {"block": "fp8_block", "tensor": "fp8", "channel": "fp8"}.get(str(strategy))
    if kind == "float" and bits == 4:
        return {"mxfp4-pack-quantized": "mxfp4", "nvfp4-pack-quantized": "nvfp4"}.get(layout)
    if kind == "int" and bits == 8:
        return "int8_wo" if weights_only else "int8"
    if kind == "int" and bits == 4 and weights_only:
        return "int4"
    return None


def _described(method: str, quantization: Mapping[str, Any], groups: Iterable[Mapping[str, Any]]) -> str:
    facts = [f"quant_method={shown(method)}"]
    facts += [f"{key}={shown(quantization[key])}" for key in ("quant_algo", "bits", "format") if key in quantization]
    for group in groups:
        weights = group.get("weights") or {}
        facts.append(f"weights {weights.get('num_bits')}-bit {weights.get('type')} ({weights.get('strategy')})")
    return ", ".join(facts)
