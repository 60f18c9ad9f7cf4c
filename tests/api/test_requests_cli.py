"""Requests as documents on the command line, options made from fields, and what every command shares."""

from __future__ import annotations

import io
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import ASKED, Runner, Stub, asking, complaint
from example_plan import example_plan

from api.cli.options import option_name
from costmodels.models.registry import BUNDLED
from planner.contract.documents import Document
from planner.contract.models import ModelConfig
from planner.contract.options import Option
from planner.kinds import example, questions, schema, schema_names
from planner.serving.predictions import Configuration
from planner.serving.request import parse_request
from profiles.measurements import OPERATIONS

FIELDS: dict[str, Any] = {
    "model": ASKED["--model"],
    "cluster": "16xH200",
    "slo": "ttft=1s",
    "workload": {"isl": 4000, "osl": 500},
    "time_limit_s": 7,
}


@pytest.mark.parametrize("written", [json.dumps, yaml.safe_dump], ids=["JSON", "YAML"])
def test_a_request_document_is_what_rest_takes(run: Runner, planner: Stub, tmp_path: Path, written: Any) -> None:
    file = tmp_path / "request"
    file.write_text(written(FIELDS), "utf-8")
    assert run("--request", str(file)).code == 0
    assert planner.requests == [parse_request(FIELDS)]


def test_a_request_comes_on_standard_input(run: Runner, planner: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(FIELDS)))
    assert run("--request", "-").code == 0
    assert planner.requests == [parse_request(FIELDS)]


def test_an_option_beside_a_request_replaces_its_field(run: Runner, planner: Stub, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps({**FIELDS, "cluster": "no such cluster"}), "utf-8")
    ran = run("--request", str(file), "--cluster", "8xH100", "--slo", "tpot=20ms", "--max-tp", "2", "--no-simulation")
    assert ran.code == 0
    changes = {"cluster": "8xH100", "slo": "tpot=20ms", "max_tp": 2, "simulation": False}
    assert planner.requests[0].model_dump() == parse_request({**FIELDS, **changes}).model_dump()


def test_files_that_a_request_names_are_read_beside_it(run: Runner, planner: Stub, tmp_path: Path) -> None:
    config = json.loads((BUNDLED / "Qwen--Qwen3-8B.json").read_text("utf-8"))["config"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config), "utf-8")
    (tmp_path / "ours.yaml").write_text("pools: [{gpu: H200, nodes: 3}]", "utf-8")
    (tmp_path / "request.yaml").write_text(
        yaml.safe_dump({**FIELDS, "model": "mine/config.json", "cluster": "ours.yaml"}), "utf-8"
    )
    assert run("--request", str(tmp_path / "request.yaml")).code == 0
    asked = planner.requests[0]
    assert asked.model == ModelConfig(name="mine", config=config, checkpoint=str(tmp_path / "mine"))
    assert asked.cluster.pools[0].gpus == 24


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1]", "not a mapping"),
        ("a: 1\na: 2", "'a' is given twice"),
        ("{", "not valid YAML"),
        (json.dumps({**FIELDS, "colour": "red"}), "request: colour is not known"),
        (json.dumps({"cluster": "16xH200"}), "--model is missing"),
        (json.dumps({**FIELDS, "model": {"name": "x"}}), "model: config is missing"),
        (json.dumps({**FIELDS, "model": 7}), "request: model: 7 is neither a name nor an object"),
        (json.dumps({**FIELDS, "objective": "speed"}), "objective: 'speed' is not known"),
    ],
)
def test_requests_that_are_wrong_are_refused(
    run: Runner, planner: Stub, tmp_path: Path, content: str, says: str
) -> None:
    file = tmp_path / "request"
    file.write_text(content, "utf-8")
    error, _ = complaint(run("--request", str(file)))
    assert says in error
    assert not planner.requests


def test_a_bare_config_json_is_a_model_too(planner: Stub) -> None:
    config = json.loads((BUNDLED / "Qwen--Qwen3-8B.json").read_text("utf-8"))["config"]
    model = parse_request({**FIELDS, "model": config}).model
    assert isinstance(model, ModelConfig)
    assert (model.name, model.config) == (config["model_type"], config)


@pytest.mark.parametrize(
    ("command", "request_"), [("predict", Configuration), *((kind.command, kind.request) for kind in questions())]
)
def test_every_option_is_in_the_help_with_its_words(run: Runner, command: str, request_: type[Document]) -> None:
    text = " ".join(run(*command.split(), "--help").out.replace("│", " ").split())
    for name, info in request_.model_fields.items():
        for said in info.metadata:
            if isinstance(said, Option):
                assert option_name(request_, name) in text
                words = said.said(info.description)
                assert words is not None
                assert words != Option().said(info.description) or said.help is None, f"{name}: help is the description"
                assert " ".join(words.split()[:3]) in text


def test_help_lists_every_operation_and_every_kind(run: Runner) -> None:
    def words(*command: str) -> set[str]:
        return set(run(*command, "--help").out.replace("│", " ").replace(",", " ").replace(".", " ").split())

    assert set(OPERATIONS) <= words("profile", "show")
    assert set(schema_names()) <= words("schema")


@pytest.mark.parametrize("name", schema_names())
def test_schemas_and_examples_of_all_kinds_are_printed(run: Runner, name: str) -> None:
    assert json.loads(run("schema", name).out) == schema(name)
    assert json.loads(run("schema", name, "--example").out) == example(name)


@pytest.mark.parametrize("command", [("models",), ("gpus",), ("schema", "request"), ("profile", "list")])
def test_output_has_the_bytes_of_json(run: Runner, tmp_path: Path, command: tuple[str, ...]) -> None:
    file = tmp_path / "out.json"
    as_json = () if command[0] == "schema" else ("--json",)
    assert run(*command, *as_json, "-o", str(file)).out == file.read_text("utf-8")
    assert complaint(run(*command, "-o", str(tmp_path)))[0].endswith("is a directory")


def test_quiet_leaves_standard_error_empty(run: Runner, planner: Stub) -> None:
    planner.events = ["learning gemm"]
    assert run(*asking()).err == "learning gemm\n"
    ran = run(*asking(), "--quiet", "--json")
    assert (ran.out, ran.err) == (example_plan().to_json(), "")


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(run: Runner, option: str) -> None:
    assert run(option).out == f"shardwright {version('shardwright')}\n"


def test_shell_completion_is_there(run: Runner) -> None:
    assert "--install-completion" in run("--help").out
