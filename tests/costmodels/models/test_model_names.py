"""Names that are not shipped: relatives are understood and said, the others say how to get a config.json."""

from __future__ import annotations

import pytest

from costmodels.models.registry import find_architecture
from profiles.errors import UnknownName


@pytest.mark.parametrize(
    ("name", "relative", "precision"),
    [
        ("zhipuai/GLM-5", "zai-org/GLM-5", "bf16"),
        ("Qwen/Qwen3-14B-Base", "Qwen/Qwen3-14B", "bf16"),
        ("google/gemma-2-9b", "google/gemma-2-9b-it", "bf16"),
        ("Qwen/Qwen3-14B-FP8", "Qwen/Qwen3-14B", "fp8_block"),
        ("RedHatAI/Qwen3-14B-FP8-dynamic", "Qwen/Qwen3-14B", "fp8"),
        ("Qwen/Qwen2.5-72B-Instruct-AWQ", "Qwen/Qwen2.5-72B-Instruct", "int4"),
        ("RedHatAI/Qwen3-8B-quantized.w8a8", "Qwen/Qwen3-8B", "int8"),
        ("Qwen/QwQ-32B", "Qwen/Qwen2.5-32B-Instruct", "bf16"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "Qwen/Qwen3-30B-A3B-Instruct-2507", "bf16"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "meta-llama/Llama-3.3-70B-Instruct", "bf16"),
        ("amd/Llama-3.3-70B-Instruct-FP8-KV", "meta-llama/Llama-3.3-70B-Instruct", "fp8"),
        ("amd/DeepSeek-R1-0528-MXFP4-Preview", "deepseek-ai/DeepSeek-R1-0528", "mxfp4"),
        ("Qwen3 14B", "Qwen/Qwen3-14B", "bf16"),
    ],
)
def test_a_relative_of_a_shipped_model_is_read_as_that_and_said(name: str, relative: str, precision: str) -> None:
    found = find_architecture(name)
    assert (found.name, found.weight_precision) == (name, precision)
    assert found.layer_groups == find_architecture(relative).layer_groups
    assert f"read as that of {relative}" in found.notes[-1]
    assert (precision in found.notes[-1]) == (precision != "bf16")


def test_a_twin_in_nvfp4_is_read_as_nvidias_other_one() -> None:
    found = find_architecture("nvidia/DeepSeek-R1-0528-FP4-v2")
    assert found.weight_precision == "nvfp4"
    assert found.layer_groups == find_architecture("nvidia/DeepSeek-V3.1-NVFP4").layer_groups


def test_what_ships_is_not_called_a_relative() -> None:
    assert find_architecture("meta-llama/Llama-3.1-8B-Instruct").notes == ()
    assert find_architecture("Qwen/Qwen3-32B-FP8").notes == ()


def test_a_quantized_model_is_not_quantized_again_by_its_name() -> None:
    with pytest.raises(UnknownName, match="gpt-oss-120b-FP8"):
        find_architecture("openai/gpt-oss-120b-FP8")


def test_another_models_name_says_how_to_get_its_config() -> None:
    with pytest.raises(UnknownName) as caught:
        find_architecture("acme/rocket-7b")
    assert "hf download acme/rocket-7b config.json" in caught.value.hint
    with pytest.raises(UnknownName) as caught:
        find_architecture("acme/rocket-7b", allow_paths=False)
    assert "config.json" not in caught.value.hint
