"""Names that are not shipped: relatives are understood and said, the others say how to get a config.json."""

from __future__ import annotations

import pytest

from costmodels.models.model_names import _facts
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
        ("amd/DeepSeek-R1-0528-MXFP4-Preview", "deepseek-ai/DeepSeek-R1-0528", "mxfp4"),
        ("amd/Llama-3.1-70B-Instruct-FP8-KV", "meta-llama/Llama-3.1-70B-Instruct", "fp8"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "meta-llama/Llama-3.3-70B-Instruct", "bf16"),
        ("RedHatAI/DeepSeek-R1-Distill-Llama-70B-FP8-dynamic", "meta-llama/Llama-3.3-70B-Instruct", "fp8"),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "bf16"),
        ("cognitivecomputations/DeepSeek-R1-AWQ", "deepseek-ai/DeepSeek-R1", "int4"),
        ("TheBloke/Llama-2-70B-chat-GPTQ", "meta-llama/Llama-2-70b", "int4"),
        ("amd/Kimi-K2.5-MXFP4", "moonshotai/Kimi-K2.5", "mxfp4"),
        ("Qwen/Qwen3.6-27B-FP8", "Qwen/Qwen3.5-27B", "fp8_block"),
        ("deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct", "deepseek-ai/DeepSeek-V2-Lite", "bf16"),
    ],
)
def test_a_relative_of_a_shipped_model_is_read_as_that_and_said(name: str, relative: str, precision: str) -> None:
    found = find_architecture(name)
    assert (found.name, found.weight_precision) == (name, precision)
    assert found.layer_groups == find_architecture(relative).layer_groups
    assert f"read as that of {relative}" in found.notes[-1]
    assert (precision in found.notes[-1]) == (precision != "bf16")


@pytest.mark.parametrize(
    ("name", "relative"),
    [("Qwen3 14B", "Qwen/Qwen3-14B"), ("Llama-3.3-70B", "meta-llama/Llama-3.3-70B-Instruct")],
)
def test_a_name_without_its_organisation_becomes_one_that_engines_can_load(name: str, relative: str) -> None:
    found = find_architecture(name)
    assert found.name == relative
    assert found.notes[-1] == f"{name} is taken to be {found.name}"


@pytest.mark.parametrize(
    ("name", "meant", "relative"),
    [
        ("deepseek-r1:8b", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "meta-llama/Llama-3.1-8B"),
        ("DeepSeek-R1-Distill-Qwen-7B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "Qwen/Qwen2.5-7B-Instruct"),
        ("qwq", "Qwen/QwQ-32B", "Qwen/Qwen2.5-32B-Instruct"),
    ],
)
def test_engines_load_the_checkpoint_that_is_meant_not_the_one_it_is_read_as(
    name: str, meant: str, relative: str
) -> None:
    found, whole = find_architecture(name), find_architecture(meant)
    assert (found.name, found.max_context_tokens) == (meant, whole.max_context_tokens)
    assert f"{name} is taken to be {meant}" in found.notes[-2]
    assert f"read as that of {relative}" in found.notes[-1]


def test_a_name_of_two_checkpoints_names_the_other() -> None:
    assert "DeepSeek-R1-0528-Qwen3-8B is called so, too" in find_architecture("deepseek-r1-8b").notes[-2]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dsr1", "deepseek-ai/DeepSeek-R1"),
        ("gptoss120b", "openai/gpt-oss-120b"),
        ("gpt_oss_20b", "openai/gpt-oss-20b"),
        ("llama70b", "meta-llama/Llama-3.3-70B-Instruct"),
        ("LLaMA v3.3 70B", "meta-llama/Llama-3.3-70B-Instruct"),
        ("llama3_1-8b", "meta-llama/Llama-3.1-8B"),
        ("qwen3-235b", "Qwen/Qwen3-235B-A22B"),
        ("Qwen3.5 35B", "Qwen/Qwen3.5-35B-A3B"),
        ("minimaxm2.5", "MiniMaxAI/MiniMax-M2.5"),
        ("glm5", "zai-org/GLM-5"),
        ("GLM5-FP8", "zai-org/GLM-5-FP8"),
        ("deepseekv3", "deepseek-ai/DeepSeek-V3"),
    ],
)
def test_short_names_and_loose_spellings_are_what_people_mean(name: str, meant: str) -> None:
    found = find_architecture(name)
    assert found.name == meant
    assert found.notes[-1] == f"{name} is taken to be {found.name}"


@pytest.mark.parametrize(
    ("name", "relative"),
    [
        ("meta/llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B"),
        ("CohereLabs/c4ai-command-r-08-2024", "CohereForAI/c4ai-command-r-08-2024"),
        ("mixtral:8x7b", "mistralai/Mixtral-8x7B-v0.1"),
        ("DeepSeek-R1 (671B)", "deepseek-ai/DeepSeek-R1"),
        ("llama-3.1-405b_fp8", "meta-llama/Llama-3.1-405B"),
        ("cpatonn/GLM-4.5-Air-AWQ-4bit", "zai-org/GLM-4.5-Air"),
        ("codellama/CodeLlama-70b-Instruct-hf", "codellama/CodeLlama-70b-hf"),
        ("moonshotai/Kimi-K2-Thinking", "moonshotai/Kimi-K2.5"),
    ],
)
def test_other_spellings_have_the_layers_of_what_they_mean(name: str, relative: str) -> None:
    found = find_architecture(name)
    assert found.layer_groups == find_architecture(relative).layer_groups


def test_what_a_relative_has_beside_is_told() -> None:
    found = find_architecture("meta-llama/Llama-3.2-11B-Vision-Instruct")
    assert found.notes[-1].endswith("read as that of meta-llama/Llama-3.1-8B, without the layers that attend to images")


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("dsr1-fp8", "fp8_block"),  # as published
        ("nvidia/Qwen3-235B-A22B-FP8", "fp8"),  # Qwen's own are blocks
        ("unsloth/gpt-oss-120b-BF16", "bf16"),
        ("Llama3.3-70B-FP8", "fp8"),
    ],
)
def test_a_format_is_that_of_who_publishes_it(name: str, precision: str) -> None:
    assert find_architecture(name).weight_precision == precision


@pytest.mark.parametrize("name", ["DeepSeek-V4", "mistral", "llama"])
def test_a_name_of_several_models_is_refused(name: str) -> None:
    with pytest.raises(UnknownName):
        find_architecture(name)


def test_a_relative_may_have_a_longer_context_and_another_quantization() -> None:
    assert find_architecture("moonshotai/Kimi-K2-Instruct-0905").max_context_tokens == 262144
    newer = find_architecture("nvidia/DeepSeek-R1-0528-FP4-v2")
    older = find_architecture("nvidia/DeepSeek-R1-0528-FP4")
    assert newer.weight_precision == older.weight_precision == "nvfp4"
    assert dict(newer.exceptions) == {"attention_qkv": "bf16"}
    assert dict(older.exceptions) == {"attention_qkv": "bf16", "attention_output": "bf16"}


@pytest.mark.parametrize("entry", sorted(_facts()["relatives"].values(), key=str), ids=str)
def test_every_relative_is_of_a_model_that_ships(entry: dict[str, str]) -> None:
    found = find_architecture(entry["of"])
    assert found.name == entry["of"]
    assert not any("read as that of" in note for note in found.notes), "what ships is no relative of another"


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


@pytest.mark.parametrize(
    ("name", "cache"),
    [
        ("nvidia/Llama-3.3-70B-Instruct-FP8", "fp8"),
        ("nvidia/Qwen3-30B-A3B-FP4", "fp8"),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8", None),
        ("nvidia/GLM-5.1-NVFP4", None),
    ],
)
def test_checkpoints_of_nvidia_ask_for_their_cache(name: str, cache: str | None) -> None:
    scheme = find_architecture(name).cache_scheme
    assert (scheme and (scheme.writer, scheme.format)) == (cache and ("modelopt", cache))
