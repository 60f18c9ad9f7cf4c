"""What every serving framework must have; and that one more is a YAML file, a launcher and constants."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.serving.frameworks import framework as module
from costmodels.serving.frameworks.framework import PARTS, Framework, Registry, find_framework, registry
from costmodels.serving.frameworks.names import CALIBRATION, FOLDER, framework_choices, framework_names
from planner.contract.engine import Layout, Limits
from planner.imports.options import Options
from planner.launchers import EngineSpec, Launcher, find_launcher, launch, launchers
from planner.launchers.releases import nearest_release
from planner.serving.layouts import Restrictions, legal_layouts
from planner.serving.request import PlanRequest, parse_request
from profiles.errors import DataError, UnknownName, Unsupported
from profiles.hardware import find_gpu

ASKED = {"model": "Qwen/Qwen3-30B-A3B", "cluster": "8xH100", "workload": "isl=1000,osl=100"}


def engine(framework: str, layout: Layout) -> EngineSpec:
    return EngineSpec(
        framework=framework,
        model="org/model",
        layout=layout,
        limits=Limits(max_sequences=96, max_tokens_per_step=8192, max_model_len=4608, memory_fraction=0.9),
        weights_precision="bf16",
        kv_precision="bf16",
        precision_converted=False,
        published_precision="bf16",
        gpus_per_node=8,
        is_moe=True,
    )


def keeps_the_contract(framework: Framework) -> None:
    """Everything that is asked of a framework somewhere is there, and answers."""
    name = framework.name
    assert find_framework(name) is find_framework(framework.full_name.upper()) is framework
    assert [basis.part for basis in framework.bases] == list(PARTS)
    assert framework.calibration.rows > 0
    assert framework.scheduler.graph_sizes
    assert framework.limits.memory_fraction < 1
    assert parse_request({**ASKED, "framework": framework.full_name}).framework == name
    assert name in PlanRequest.model_json_schema()["properties"]["framework"]["anyOf"][0]["enum"]
    assert parse_request({**ASKED, "framework": framework.spec}).framework == framework.spec
    assert framework.at(framework.release.version) == framework
    model = find_architecture("Qwen/Qwen3-30B-A3B")
    legal, _, considered = legal_layouts(model, choose_precision(model), framework, Restrictions(8, 8))
    assert 0 < len(legal) <= considered
    started = launch(engine(name, Layout(tp=2, pp=1, dp=1, ep=1, moe_tp=2)))
    assert started.framework == name
    assert started.command[: len(framework.command.program)] == framework.command.program


@pytest.mark.parametrize("name", framework_names())
def test_releases_are_in_order_and_every_one_has_facts(name: str) -> None:
    releases = registry().releases(name)
    assert [Version(each.version) for each in releases] == sorted(Version(each.version) for each in releases)
    for release in releases:
        at = find_framework(f"{name}@{release.version}")
        assert at.release == release
        assert at.listed
        assert at.defaults.on(find_gpu("H100")).max_num_batched_tokens
    assert find_framework(name).release == releases[-1]


@pytest.mark.parametrize("name", framework_names())
def test_every_framework_keeps_the_contract(name: str) -> None:
    keeps_the_contract(find_framework(name))


def test_frameworks_and_launchers_are_the_same() -> None:
    assert set(launchers()) == set(framework_names()) == set(registry().names)


@pytest.mark.parametrize("spelling", ["TensorRT-LLM", "tensorrt-llm", "tensorrt_llm", "TRTLLM", "trt-llm", "trtllm"])
def test_a_framework_is_found_in_any_case_and_under_its_full_name(spelling: str) -> None:
    assert find_framework(spelling).name == "trtllm"


def test_an_unknown_framework_is_refused() -> None:
    with pytest.raises(UnknownName, match="framework: 'vlm'") as refused:
        find_framework("vlm")
    assert "vllm" in refused.value.hint


@pytest.mark.parametrize("engine", ["tgi", "lmdeploy", "atom", "triton", "deepspeed-mii", "ollama"])
def test_an_engine_of_another_kind_is_not_taken_for_a_misspelling(engine: str) -> None:
    with pytest.raises(Unsupported, match=f"framework: '{engine}' is not modelled") as refused:
        find_framework(engine)
    assert "nearest" not in refused.value.hint
    assert all(name in refused.value.hint for name in framework_names())


# --- one more ---------------------------------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Framework]:
    """A framework that differs from SGLang in its name, its port and how it shares out experts."""
    folder = shutil.copytree(FOLDER, tmp_path / "frameworks", ignore=shutil.ignore_patterns("*.py*", "__pycache__"))
    document = yaml.safe_load((folder / "sglang.yaml").read_text())
    document["full_name"] = "Toy Engine"
    document["parallelism"][0]["expert_splits"] = "all_or_nothing"
    document["command"][0] |= {"program": ["toy", "serve"], "port": 1234}
    (folder / "toy.yaml").write_text(yaml.safe_dump(document))
    constants = yaml.safe_load((folder / CALIBRATION).read_text())
    (folder / CALIBRATION).write_text(yaml.safe_dump(constants | {"toy": constants["sglang"]}))
    known = Registry(folder)
    monkeypatch.setattr(module, "registry", lambda: known)
    monkeypatch.setattr("planner.contract.engine.framework_names", lambda: known.names)

    class ToyLauncher(Launcher):
        name = "toy"

        def _parallel(self, spec: EngineSpec, notes: list[str]) -> list[str]:
            return self._flag("tp", spec.layout.tp)

        def _limits(self, spec: EngineSpec, notes: list[str]) -> list[str]:
            return self._flag("max_sequences", spec.limits.max_sequences)

        def _drafting(self, spec: EngineSpec, notes: list[str]) -> list[str]:
            return []

        def _role(self, spec: EngineSpec, notes: list[str]) -> list[str]:
            return []

    yield known.find("toy")
    Launcher.kinds.pop("toy", None)


def test_a_file_a_launcher_and_constants_make_a_framework(toy: Framework) -> None:
    keeps_the_contract(toy)
    assert launch(engine("toy", Layout(tp=2, pp=1, dp=1, ep=1, moe_tp=2))).command == (
        *("toy", "serve", "--model-path", "org/model", "--tp-size", "2", "--max-running-requests", "96"),
    )
    why = find_launcher("toy").cannot_express(Layout(tp=4, pp=1, dp=1, ep=2, moe_tp=2), is_moe=True)
    assert why == "Toy Engine shares experts out over all GPUs of a stage or over none"


def test_a_framework_without_a_launcher_says_so(toy: Framework, monkeypatch: pytest.MonkeyPatch) -> None:
    Launcher.kinds.pop("toy", None)
    with pytest.raises(Unsupported, match="nothing starts engines of Toy Engine"):
        find_launcher("toy")


def test_one_of_which_no_release_is_read_yet_is_not_exported_nor_imported(toy: Framework) -> None:
    with pytest.raises(Unsupported, match="which options Toy Engine takes is not known"):
        nearest_release("toy", toy.release.version)
    with pytest.raises(Unsupported, match="what commands of Toy Engine mean is not known"):
        Options.of(toy)


def copied(tmp_path: Path) -> Path:
    return shutil.copytree(FOLDER, tmp_path / "copy", ignore=shutil.ignore_patterns("*.py*", "__pycache__"))


def test_a_framework_without_constants_says_so(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    shutil.copy(folder / "vllm.yaml", folder / "toy.yaml")
    with pytest.raises(DataError, match="no constants of toy"):
        Registry(folder)


@pytest.mark.parametrize("part", PARTS)
def test_a_framework_without_a_part_is_refused_by_file_and_part(tmp_path: Path, part: str) -> None:
    folder = copied(tmp_path)
    document = yaml.safe_load((folder / "vllm.yaml").read_text())
    del document[part]
    (folder / "vllm.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(DataError, match=rf"vllm\.yaml: .*{part}"):
        Registry(folder)


@pytest.mark.parametrize("content", [None, b"", b"[1, 2]", b"{", b"\xff\xfe\xff", b"full_name: 3\n", b"limits: many\n"])
@pytest.mark.parametrize("name", ["vllm.yaml", CALIBRATION])
def test_a_broken_file_is_a_data_error_that_names_it(tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = copied(tmp_path)
    if content is None and name != CALIBRATION:
        pytest.skip("a framework less")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        Registry(folder)


def test_help_names_every_framework() -> None:
    assert all(name in framework_choices() for name in framework_names())
