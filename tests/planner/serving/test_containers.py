"""Containers: which framework and release they tell."""

from __future__ import annotations

import pandas as pd
import pytest

from planner.serving.containers import container_column, framework_column, framework_in, with_container
from planner.serving.prediction_table import predict
from profiles.errors import InputError

ROW = {"model": "Qwen/Qwen3-32B", "gpu": "H200", "tp": "2", "isl": "1024", "osl": "512", "concurrency": "4"}


@pytest.mark.parametrize(
    ("container", "framework", "version"),
    [
        ("vllm/vllm-openai:v0.11.0", "vllm", "v0.11.0"),
        ("lmsysorg/sglang:v0.5.5-cu129-amd64", "sglang", "v0.5.5"),
        ("nvcr.io/nvidia/tensorrt-llm/release:1.2.0rc2", "trtllm", "1.2.0rc2"),
        ("nvcr.io/nvidia/tritonserver:25.10-trtllm-python-py3", "trtllm", None),
        ("rocm/vllm:rocm7.0.0_vllm_0.11.1_20251103", "vllm", None),
        ("rocm/sgl-dev:v0.5.2-rocm700-mi35x-20250915", "sglang", None),
    ],
)
def test_a_container_tells_its_framework_and_its_release(container: str, framework: str, version: str | None) -> None:
    notes: list[str] = []
    found = with_container({"container": container}, notes)
    assert (found["framework"], found["version"]) == (framework, version or container)
    assert notes == [f"framework: {framework} is taken, of the container {container}"]


@pytest.mark.parametrize("container", ["mycorp/serve:2026-01", "ghcr.io/huggingface/text-generation-inference:3.0"])
def test_a_container_that_tells_no_framework_is_refused_by_name(container: str) -> None:
    with pytest.raises(InputError, match="does not tell the framework"):
        with_container({"container": container}, [])
    assert with_container({"container": container, "framework": "vllm"}, [])["framework"] == "vllm"


def test_what_columns_say_goes_before_the_container_unless_it_is_another_framework() -> None:
    said = {"framework": "vLLM 0.12.0", "version": "0.12.0", "container": "vllm/vllm-openai:v0.11.0"}
    assert with_container(said, []) == said
    with pytest.raises(InputError, match=r"'sglang' and 'vllm/vllm-openai:v0\.11\.0' contradict each other"):
        with_container({**said, "framework": "sglang"}, [])
    assert with_container({**said, "framework": "openai-chat"}, [])["framework"] == "vllm", "how its client speaks"


def test_the_tag_of_dynamos_containers_is_no_release_of_the_engine() -> None:
    found = with_container({"container": "nvcr.io/nvidia/ai-dynamo/tensorrtllm-runtime:0.5.0"}, [])
    assert (found["framework"], found.get("version")) == ("trtllm", None)


def test_a_name_that_two_frameworks_may_have_tells_none() -> None:
    assert framework_in("corp/vllm-and-sglang:1") is None
    assert framework_in("corp/svllmx:1") is None


def test_the_framework_may_stand_in_the_version_or_in_its_column() -> None:
    assert with_container({"version": "vLLM-0.10.1"}, []) == {"framework": "vLLM", "version": "0.10.1"}
    assert framework_column(["vllm_version", "cuda_version"]) == "vllm"
    assert framework_column(["vllm_version", "sglang_version"]) is None


def test_a_column_of_pictures_is_no_container() -> None:
    assert container_column(pd.DataFrame([{"image": "lmsysorg/sglang:v0.5.9"}])) == "image"
    assert container_column(pd.DataFrame([{"image": "640x480", "images": "1"}])) is None
    assert container_column(pd.DataFrame([{"Docker Image": "x"}])) == "Docker Image"


def test_rows_of_containers_are_predicted_and_others_say_why() -> None:
    table = pd.DataFrame(
        [{**ROW, "docker_image": "vllm/vllm-openai:v0.11.0"}, {**ROW, "docker_image": "mycorp/serve:2026-01"}]
    )
    first, second = (row for _, row in predict(table, beside_measured=True).iterrows())
    assert (first["error"], first["release"]) == ("", "0.11.0")
    assert second["error"].startswith("container: 'mycorp/serve:2026-01' does not tell the framework")
    by_column = predict(pd.DataFrame([{**ROW, "vllm_version": "0.11.0"}])).iloc[0]
    assert (by_column["release"], by_column["tpot_ms_mean"]) == ("0.11.0", first["tpot_ms_mean"])


def test_a_container_may_be_told_twice() -> None:
    """Beside a column ``container`` one called ``image`` lost the whole file."""
    twice = {**ROW, "image": "vllm/vllm-openai:v0.11.0", "container": "vllm/vllm-openai:v0.11.0"}
    answer = predict(pd.DataFrame([twice, {**twice, "container": ""}]))
    assert list(answer["error"]) == ["", ""]
    assert list(answer["release"]) == ["0.11.0", "0.11.0"]
    assert "columns read" not in answer["note"][0]
