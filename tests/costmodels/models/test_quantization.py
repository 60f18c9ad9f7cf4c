"""What a checkpoint says about how its weights are stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from costmodels.models.architecture import CacheScheme
from costmodels.models.huggingface import parse_config
from costmodels.models.precision import choose_precision
from costmodels.models.registry import BUNDLED, find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.step.memory import weights_bytes
from profiles.errors import InputError, Unsupported
from tests.costmodels.models.tiny import TINY


def unquantized(model: str) -> tuple[str, ...]:
    """Parts that a quantized checkpoint leaves in 16 bits."""
    return tuple(part for part, precision in find_architecture(model).exceptions if precision == "bf16")


@pytest.mark.parametrize(
    ("quantization", "precision"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8_wo"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8_wo"),
        ({"quant_method": "modelopt", "quant_algo": "MXFP8"}, "fp8_block"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "g": {"weights": {"num_bits": 8, "type": "int"}, "input_activations": {"num_bits": 8}}
                },
            },
            "int8",
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8, "type": "int"}}}},
            "int8_wo",
        ),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_algo": "FP8", "producer": {"name": "modelopt"}}, "fp8"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
            },
            "int4",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
            },
            "fp8",
        ),
    ],
)
def test_weight_precision_is_read(quantization: dict[str, Any], precision: str) -> None:
    assert parse_config(TINY | {"quantization_config": quantization}, "t").weight_precision == precision


FP8 = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
GROUPS = {"g": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}}
COMPRESSED = {"quant_method": "compressed-tensors", "config_groups": GROUPS}
NVIDIA = {"quant_method": "modelopt", "quant_algo": "FP8"}


@pytest.mark.parametrize(
    ("quantization", "scheme"),
    [
        (COMPRESSED | {"kv_cache_scheme": FP8}, CacheScheme("compressed-tensors", "fp8")),
        (COMPRESSED | {"kv_cache_scheme": FP8 | {"type": "int"}}, CacheScheme("compressed-tensors", "int8")),
        (COMPRESSED | {"kv_cache_scheme": None}, None),
        (COMPRESSED | {"kv_cache_quant_algo": "FP8"}, None),  # ModelOpt's word
        (COMPRESSED, None),
        (NVIDIA | {"kv_cache_quant_algo": "FP8"}, CacheScheme("modelopt", "fp8")),
        (NVIDIA | {"kv_cache_scheme": FP8}, CacheScheme("modelopt", "fp8")),
        (NVIDIA | {"kv_cache_scheme": None, "kv_cache_quant_algo": "NVFP4"}, CacheScheme("modelopt", "nvfp4")),
        (NVIDIA | {"kv_cache_quant_algo": None}, None),
        (NVIDIA | {"kv_cache_quant_algo": "NONE"}, None),
        (NVIDIA, None),
        ({"quant_method": "fp8", "kv_cache_scheme": "static"}, None),  # AutoFP8's, which no engine follows unasked
    ],
)
def test_the_cache_that_a_checkpoint_asks_for_is_read(quantization: dict[str, Any], scheme: CacheScheme | None) -> None:
    assert parse_config(TINY | {"quantization_config": quantization}, "t").cache_scheme == scheme


@pytest.mark.parametrize(
    ("quantization", "key"),
    [
        (COMPRESSED | {"kv_cache_scheme": FP8 | {"num_bits": 7}}, "kv_cache_scheme"),
        (COMPRESSED | {"kv_cache_scheme": "fp8"}, "kv_cache_scheme"),
        (COMPRESSED | {"kv_cache_scheme": {"num_bits": [8], "type": "float"}}, "kv_cache_scheme"),
        (NVIDIA | {"kv_cache_quant_algo": 8}, "kv_cache_quant_algo"),
    ],
)
def test_a_cache_that_no_quantizer_writes_is_refused(quantization: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=f"config key '{key}' = .* is not what any quantizer writes"):
        parse_config(TINY | {"quantization_config": quantization}, "t")


def test_a_mixed_checkpoint_is_called_by_what_most_of_it_is_stored_in() -> None:
    layers = {f"model.layers.{i}.mlp.{m}_proj": {"quant_algo": "NVFP4"} for i in (0, 1) for m in ("up", "down")}
    layers |= {f"model.layers.{i}.self_attn.{m}_proj": {"quant_algo": "FP8"} for i in (0, 1) for m in ("q", "k", "v")}
    mixed = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    model = parse_config(TINY | {"quantization_config": mixed}, "t")
    assert model.weight_precision == "nvfp4"
    assert model.exceptions == (("attention_qkv", "fp8"), ("attention_output", "bf16"))
    layers["model.layers.0.mlp.up_proj"] = {"quant_algo": "W2A2"}
    with pytest.raises(Unsupported, match="MIXED_PRECISION"):
        parse_config(TINY | {"quantization_config": mixed}, "t")


def test_groups_of_modules_have_formats_of_their_own() -> None:
    groups = {
        "a": {"targets": ["re:.*self_attn.*"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}},
        "b": {"targets": ["re:.*mlp.*"], "weights": {"num_bits": 4, "type": "int"}},
    }
    config = {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"]}
    model = parse_config(TINY | {"quantization_config": config}, "t")
    assert (model.weight_precision, dict(model.exceptions)["attention_output"]) == ("int4", "fp8")


def test_half_and_full_precision_keep_their_names() -> None:
    assert parse_config(TINY | {"torch_dtype": "float32"}, "t").weight_precision == "fp32"
    assert parse_config(TINY | {"torch_dtype": "float16"}, "t").weight_precision == "fp16"
    renamed = {key: value for key, value in TINY.items() if key != "torch_dtype"} | {"dtype": "bfloat16"}
    assert parse_config(renamed, "t").weight_precision == "bf16"


def test_parts_that_a_quantized_checkpoint_leaves_alone_are_named() -> None:
    both = ("attention_qkv", "attention_output")
    assert unquantized("openai/gpt-oss-20b") == both
    assert unquantized("moonshotai/Kimi-K2.5") == (*both, "dense", "shared_experts")
    assert unquantized("nvidia/DeepSeek-V3.1-NVFP4") == ("attention_qkv",)
    assert unquantized("Qwen/Qwen3-235B-A22B-FP8") == ()
    assert unquantized("nvidia/GLM-5-NVFP4") == both
    assert unquantized("nvidia/Qwen3.5-397B-A17B-NVFP4") == (*both, "shared_experts")


def test_a_checkpoint_may_store_its_layers_differently() -> None:
    some = {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.1.self_attn", "lm_head"]}
    model = parse_config(TINY | {"num_hidden_layers": 3, "quantization_config": some}, "t")
    assert (model.weight_precision, model.exceptions) == ("fp8", ())
    left_alone = (("attention_qkv", "bf16"), ("attention_output", "bf16"))
    assert [(group.count, group.exceptions) for group in model.layer_groups] == [(2, ()), (1, left_alone)]


@pytest.mark.parametrize(("kv_heads", "gib"), [(16, 57.75), (8, 56.76)])
def test_llama_405b_in_fbgemm_fp8_is_as_large_as_its_engines_log(kv_heads: int, gib: float) -> None:
    """Attention and the first and last feed-forward stay in 16 bits. The log (57.75 GiB of each of 8 GPUs) is of the
    checkpoint as first released, with every KV head twice: huggingface/blog#2345 has its cache, 0.984 GiB of 1,024
    tokens, twice what the 8 heads of today's config take."""
    kept = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(126) for name in "qkvo"]
    kept += [f"model.layers.{layer}.mlp.{name}_proj" for layer in (0, 125) for name in ("gate", "up", "down")]
    config = json.loads((BUNDLED / "meta-llama--Llama-3.1-405B.json").read_text())["config"]
    config["num_key_value_heads"] = kv_heads
    config["quantization_config"] = {"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head", *kept]}
    model = parse_config(config, "405b")
    got = weights_bytes(model, choose_precision(model), Layouts.of([(8, 1, 1, 1, 8)]))
    assert float(got[0]) / 2**30 == pytest.approx(gib, abs=0.02)


ODD: tuple[Any, ...] = ([4], {}, "x", None, -1, 1.5, True, [], {"a": 1}, [None], {"x": [1]})
FORMS: tuple[dict[str, Any], ...] = (
    {"quant_method": "gptq", "bits": 4, "group_size": 128},
    {"quant_method": "awq", "bits": 4, "group_size": 128, "modules_to_not_convert": ["lm_head"]},
    {"quant_method": "fp8", "weight_block_size": [128, 128], "ignored_layers": ["lm_head"]},
    {"quant_method": "bitsandbytes", "load_in_4bit": True, "llm_int8_skip_modules": ["x"]},
    {
        "quant_method": "compressed-tensors",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}},
        "kv_cache_scheme": {"num_bits": 8, "type": "float"},
    },
    {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "kv_cache_quant_algo": "FP8",
        "quantized_layers": {"model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"}},
    },
)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form["quant_method"])
def test_whatever_stands_in_a_field_is_understood_or_refused(form: dict[str, Any]) -> None:
    def spoilt(node: Any) -> Iterator[Any]:
        yield from ODD
        if isinstance(node, dict):
            yield from ({**node, name: odd} for name, value in node.items() for odd in spoilt(value))

    for odd in spoilt(form):
        with suppress(InputError):  # Unsupported is one
            parse_config({**TINY, "quantization_config": odd}, "t")
