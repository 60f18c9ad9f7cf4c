"""Finding a model by its name, its twins' names or a path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from costmodels.models.architecture import CacheScheme
from costmodels.models.registry import find_architecture
from profiles.errors import InputError, UnknownName, Unsupported
from tests.costmodels.models.tiny import TINY


def test_names_are_found_in_any_case_without_organisation_and_by_their_twins() -> None:
    assert find_architecture("qwen/qwen3-32b").name == "Qwen/Qwen3-32B"
    assert find_architecture("gpt-oss-20b").name == "openai/gpt-oss-20b"
    twin = find_architecture("Llama-3.1-8B-Instruct")
    assert twin.name == "meta-llama/Llama-3.1-8B-Instruct"
    assert twin.layer_groups == find_architecture("meta-llama/Llama-3.1-8B").layer_groups
    assert find_architecture("Qwen/Qwen3-32B") is find_architecture("Qwen3-32B"), "parsed once"


def test_an_unknown_name_gives_the_nearest_and_says_that_paths_work() -> None:
    with pytest.raises(UnknownName) as caught:
        find_architecture("Qwen/Qwen3-33B")
    assert "Qwen/Qwen3-32B" in caught.value.hint
    assert "config.json" in caught.value.hint


@pytest.mark.parametrize("name", ["MiniMaxAI/MiniMax-M1-80k", "minimax-text-01", "stepfun-ai/step3"])
def test_a_model_whose_layers_are_not_modelled_is_refused_as_such(name: str) -> None:
    with pytest.raises(Unsupported, match="not modelled"):
        find_architecture(name)
    assert find_architecture("stepfun-ai/Step-3.7-Flash").name == "stepfun-ai/Step-3.7-Flash"


def test_a_path_to_a_config_or_its_folder_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY))
    assert find_architecture(str(folder)) == find_architecture(str(folder / "config.json"))
    assert find_architecture(str(folder)).name == "my-model"
    with pytest.raises(UnknownName):
        find_architecture(str(folder), allow_paths=False)
    with pytest.raises(UnknownName, match="is not known"):
        find_architecture(str(tmp_path / "nowhere" / "config.json"))
    with pytest.raises(InputError, match=r"holds no config\.json"):
        find_architecture(str(tmp_path))


def test_quantization_that_is_said_beside_the_config_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    beside = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    found = find_architecture(str(tmp_path))
    assert (found.weight_precision, found.cache_scheme) == ("nvfp4", CacheScheme("modelopt", "fp8"))


def test_configs_in_one_folder_have_their_quantization_under_their_name(tmp_path: Path) -> None:
    for name in ("a-NVFP4", "b-NVFP4"):
        (tmp_path / f"{name}_config.json").write_text(json.dumps(TINY))
    (tmp_path / "a-NVFP4_hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    a, b = (find_architecture(str(tmp_path / f"{name}-NVFP4_config.json")) for name in "ab")
    assert (a.name, a.weight_precision) == ("a-NVFP4", "nvfp4")
    assert b.weight_precision == "bf16"
    assert any("its name says NVFP4" in doubt for doubt in b.notes)


@pytest.mark.parametrize(
    ("content", "line"), [(b'{"model_type": "llama",\n "hidden_size": }', 2), (b"[1, 2]", 1), (b"", 1)]
)
def test_bad_json_is_refused_with_file_and_line(tmp_path: Path, content: bytes, line: int) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"config.json: line {line}"):
        find_architecture(str(file))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        find_architecture(str(file))


def test_a_config_that_python_wrote_may_say_infinity(tmp_path: Path) -> None:
    """As those of Mamba hybrids do, where nothing asks for the number."""
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "initializer_range": float("inf")}))
    assert find_architecture(str(tmp_path)).layer_groups
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "hidden_size": float("inf")}))
    with pytest.raises(InputError, match="'hidden_size' = 'Infinity': must be a positive integer"):
        find_architecture(str(tmp_path))
