"""Whatever a model, a path, an image or a pool is called stays data in every file of every target."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.contract.engine import Layout, Role
from planner.exports.registry import exported, names_for
from planner.serving.document.plan import Plan
from profiles.errors import Unsupported
from tests.planner.exports.made import MODELS, asked, layout, planned

HOSTILE = (
    "a b",
    'it\'s "both"',
    "$(touch pwned)`touch pwned`",
    "x; touch pwned #",
    "line\ntouch pwned\nEOF",
    "x: - {a: &b [*b]} # !!python/object",
    "ends\\",
    "%{x} ${HOME} $HOME {{ .Values }} ~",
    "ü\u202e\u2028",
    "true",
    "1e3",
    "null",
)
SHAPES: dict[str, list[tuple[Role, Layout, int]]] = {
    "aggregated": [("aggregated", layout(tp=4), 2)],
    "disaggregated": [("prefill", layout(tp=4), 1), ("decode", layout(tp=4), 1)],
}


def hostile_plan(text: str, framework: str, shape: str) -> Plan:
    """A plan whose model and pool are called ``text``."""
    plan = planned(framework, MODELS["dense"], SHAPES[shape], drafting=True)
    known = plan.model_dump(mode="json")
    config = json.loads(Path("costmodels/models/architectures/Qwen--Qwen3-32B.json").read_text("utf-8"))["config"]
    known["request"] |= {"model": text, "config": config}
    known["request"]["cluster"]["pools"][0]["name"] = text
    for group in known["decision"]["engines"]:
        group["pool"] = text
        group["launch"]["command"] = [text if word == MODELS["dense"] else word for word in group["launch"]["command"]]
    return Plan.model_validate(known, strict=False).sealed()


def strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from strings(key)
            yield from strings(yaml.safe_load(value) if key.endswith(".yaml") else value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)


@pytest.mark.parametrize("target", names_for("serving"))
@pytest.mark.parametrize("text", HOSTILE)
def test_yaml_and_scripts_hold_it_as_data(target: str, text: str, tmp_path: Path) -> None:
    written = 0
    for framework, shape in (("vllm", "aggregated"), ("sglang", "disaggregated"), ("trtllm", "disaggregated")):
        plan = hostile_plan(text, framework, shape)
        argument = f"/models/{text}"
        try:
            files = exported(target, asked(plan, checkpoint=argument, draft_model=argument, image=text, name=None))[1]
        except Unsupported:
            continue
        written += 1
        for name, content in files.items():
            if name.endswith((".yaml", ".json")):
                documents = [json.loads(content)] if name.endswith(".json") else [*yaml.safe_load_all(content)]
                found = [each for document in documents for each in strings(document)]
                carries = [each for each in found if "touch pwned" in each and not each.startswith(("#", "set -eu"))]
                for each in carries:
                    assert text in each.replace("$$(", "$("), (name, each)
            elif name.endswith((".sh", ".sbatch")):
                place = tmp_path / f"{written}-{name.replace('/', '-')}"
                place.write_text(content)
                assert subprocess.run(["sh", "-n", place], capture_output=True).returncode == 0, (name, content)
    assert written or target in ("gateway",)


STUB = """#!/bin/sh
printf '%s\\0' "$@" >> "$SEEN"
"""


@pytest.mark.parametrize("text", HOSTILE)
def test_scripts_that_run_pass_it_on_whole(text: str, tmp_path: Path) -> None:
    plan = hostile_plan(text, "vllm", "aggregated")
    argument = f"/models/{text}"
    files = exported("shell", asked(plan, checkpoint=argument, draft_model=argument, name=None))[1]
    for name, content in files.items():
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o755)
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("vllm", "vllm-router", "curl"):
        (programs / program).write_text(STUB)
        (programs / program).chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "SEEN": str(tmp_path / "seen"), "HOME": "/nowhere"}
    script = tmp_path / "out" / "node-0" / "start.sh"
    script.write_text(f"{script.read_text()}\nwait\n")
    subprocess.run([script], check=True, env=environment, timeout=20, cwd=tmp_path)
    seen = (tmp_path / "seen").read_bytes().decode().split("\0")
    assert seen.count(argument) == 4  # of two engines, the checkpoint and what drafts
    assert not (tmp_path / "pwned").exists()
