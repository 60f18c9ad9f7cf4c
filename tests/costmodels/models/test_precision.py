"""Precision: as published unless asked otherwise, and nothing that cannot be made or run."""

from __future__ import annotations

import dataclasses

import pytest

from costmodels.models.precision import PARTS, choose_precision, missing_hardware
from costmodels.models.registry import find_architecture
from costmodels.operations.registry import families
from profiles.errors import InputError, UnknownName, Unsupported
from profiles.hardware import find_gpu


@pytest.mark.parametrize(
    ("model", "published"),
    [("Qwen3-32B", "bf16"), ("DeepSeek-V3", "fp8_block"), ("openai/gpt-oss-120b", "mxfp4")],
)
def test_a_model_runs_as_it_was_published(model: str, published: str) -> None:
    architecture = find_architecture(model)
    for asked in (None, published):
        chosen = choose_precision(architecture, asked)
        assert (chosen.weights, chosen.kv, chosen.converted) == (published, "bf16", False)
        for part in PARTS:
            assert chosen.of(part) == ("bf16" if (part, "bf16") in architecture.exceptions else published)


def test_what_a_checkpoint_leaves_in_16_bits_stays_there() -> None:
    chosen = choose_precision(find_architecture("openai/gpt-oss-120b"))
    assert (chosen.attention_qkv, chosen.attention_output, chosen.experts) == ("bf16", "bf16", "mxfp4")


def test_layers_that_are_stored_otherwise_run_otherwise() -> None:
    model = find_architecture("Llama-3.1-8B")
    some, others = (dataclasses.replace(model.layer_groups[0], count=count) for count in (2, 30))
    some = dataclasses.replace(some, exceptions=(("dense", "bf16"), ("attention_qkv", "fp16")))
    mixed = dataclasses.replace(model, layer_groups=(some, others), weight_precision="fp8")
    chosen = choose_precision(mixed)
    assert chosen.exceptional == ("bf16",)
    assert (chosen.within(some).dense, chosen.within(some).attention_qkv, chosen.within(some).experts) == (
        "bf16",
        "bf16",
        "fp8",
    )
    assert chosen.within(others) == chosen
    assert choose_precision(mixed, "bf16").within(some).attention_output == "bf16"


def test_full_precision_checkpoints_run_in_16_bits() -> None:
    model = dataclasses.replace(find_architecture("Llama-3.1-8B"), weight_precision="fp32")
    assert (choose_precision(model).weights, choose_precision(model).converted) == ("bf16", False)


def test_another_precision_converts_every_part() -> None:
    chosen = choose_precision(find_architecture("Qwen3-32B"), "fp8", "fp8")
    assert chosen.converted
    assert {chosen.of(part) for part in PARTS} == {"fp8"}
    assert chosen.kv == "fp8"


def test_four_bits_are_not_requantized() -> None:
    gpt = find_architecture("openai/gpt-oss-120b")
    assert choose_precision(gpt, "bf16").converted
    with pytest.raises(InputError, match="published in mxfp4") as refused:
        choose_precision(gpt, "fp8")
    assert "bf16" in refused.value.hint


@pytest.mark.parametrize(("weights", "kv", "field"), [("fp7", None, "precision"), (None, "int3", "kv_precision")])
def test_an_unknown_precision_is_refused(weights: str | None, kv: str | None, field: str) -> None:
    with pytest.raises(UnknownName, match=f"^{field}:"):
        choose_precision(find_architecture("Qwen3-32B"), weights, kv)


def test_tensor_cores_that_are_missing_are_named() -> None:
    dense, gpt = find_architecture("Qwen3-32B"), find_architecture("openai/gpt-oss-120b")
    assert missing_hardware(choose_precision(dense, "fp8"), find_gpu("H100-SXM")) is None
    why = missing_hardware(choose_precision(dense, "fp8"), find_gpu("A100-SXM-80GB"))
    assert why == "A100-SXM-80GB has no fp8 tensor cores for fp8 weights"
    assert "fp4" in str(missing_hardware(choose_precision(dense, "nvfp4"), find_gpu("H100-SXM")))
    assert missing_hardware(choose_precision(gpt), find_gpu("A100-SXM-80GB")) is None  # weight-only


def test_only_the_measured_widths_of_latent_attention_are_modelled() -> None:
    families().require_measured_widths(find_architecture("DeepSeek-V3"))
    for model in ("Qwen3-32B", "Qwen3.5-397B-A17B", "Qwen3-Next-80B-A3B-Instruct", "GLM-5", "DeepSeek-V3.2"):
        families().require_measured_widths(find_architecture(model))
    model = find_architecture("DeepSeek-V3")
    group = model.layer_groups[0]
    odd = dataclasses.replace(group, attention=dataclasses.replace(group.attention, kv_lora_rank=256))
    with pytest.raises(Unsupported, match=r"widths \(128, 64, 128, 256\)"):
        families().require_measured_widths(dataclasses.replace(model, layer_groups=(odd,)))
