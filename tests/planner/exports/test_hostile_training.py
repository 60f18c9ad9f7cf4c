"""Whatever a model, an image, a script or a module is called stays data in files of training and power plans, too."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.exports.registry import exported, names_for
from planner.exports.target import Asked
from planner.exports.values import Values
from planner.kinds import KINDS, example
from planner.power.document import CapLevel, ClassClock, PowerPlan
from profiles.errors import InputError, Unsupported
from tests.planner.exports.test_hostile_names import HOSTILE
from tests.planner.exports.test_training_exports import made_for

LONG = "n" * 300
MARK = "touch pwned"


def stubs(place: Path) -> dict[str, str]:
    """An environment in which programs of jobs start what they are given, and nothing else."""
    folder = place / "bin"
    folder.mkdir(exist_ok=True)
    for name, does in (("srun", 'shift; exec "$@"'), ("scontrol", "echo node"), ("torchrun", 'printf "%s\\n" "$@"')):
        program = folder / name
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n", "SLURM_NODEID": "0"}


def checked(files: dict[str, str], text: str, place: Path) -> None:
    """Every file is what it is called, and nothing in it runs or says more than one that is called ``plain``."""
    for name, content in files.items():
        if name.endswith(".yaml"):
            assert [*yaml.safe_load_all(content)], name
        elif name.endswith(".json"):
            json.loads(content)
        elif name.endswith(".toml"):
            tomllib.loads(content)
        elif name.endswith((".sh", ".sbatch")):
            script = place / name.replace("/", "-")
            script.write_text(content)
            assert subprocess.run(["sh", "-n", script], capture_output=True).returncode == 0, (name, content)
            subprocess.run(["sh", script], capture_output=True, cwd=place, env=stubs(place), timeout=20)
            assert not (place / "pwned").exists(), (name, content)
        elif name.endswith((".args", ".overrides")):
            words = shlex.split(content, comments=True)
            assert all(MARK not in word or text in word for word in words), (name, words)


@pytest.mark.parametrize("target", names_for("training"))
@pytest.mark.parametrize("text", [*HOSTILE, LONG])
def test_a_training_plan_is_data(target: str, text: str, tmp_path: Path) -> None:
    for framework in ("megatron", "torchtitan@0.2"):
        plan = made_for(framework)
        known: dict[str, Any] = plan.model_dump(mode="json")
        known["request"]["model"] = text
        known["decision"]["pool"] = text
        plan = type(plan).model_validate(known, strict=False).sealed()
        values = Values(image=text, script=f"{text}.py", module=text, config=text)
        try:
            files = exported(target, Asked(plan, values, None))[1]
        except (Unsupported, InputError):
            continue
        checked(files, text, tmp_path)


def capped(text: str) -> PowerPlan:
    """A power plan with levels, whose supply and one of whose classes are called ``text``."""
    plan = KINDS["power"].parse(json.dumps(example("power")))
    assert isinstance(plan, PowerPlan)
    clocks = tuple(ClassClock(priority=name, clock_mhz=1305, gpu_watts=380.0) for name in ("hp", text))
    level = CapLevel(level=1, above=0.9, step_above=None, below=0.85, back_to=0, clocks=clocks, time_share=0.1)
    supply = plan.request.supply.model_copy(update={"name": text})
    request = plan.request.model_copy(update={"supply": supply})
    decision = plan.decision.model_copy(update={"levels": (level,)})
    return plan.model_copy(update={"request": request, "decision": decision})


@pytest.mark.parametrize("target", names_for("power"))
@pytest.mark.parametrize("text", [*HOSTILE, LONG, "../up", "a/b"])
def test_a_power_plan_is_data(target: str, text: str, tmp_path: Path) -> None:
    files = exported(target, Asked(capped(text), Values(), None))[1]
    for name in files:
        assert (tmp_path / name).resolve().parent == tmp_path.resolve(), name
        assert len(name) < 100
    checked(files, text, tmp_path)
    if target == "nvidia-smi":
        script = tmp_path / "apply.sh"
        ran = subprocess.run(
            ["bash", script, "1", text], capture_output=True, text=True, env=stubs(tmp_path), cwd=tmp_path
        )
        assert "--lock-gpu-clocks=" in ran.stdout, ran.stderr
        assert not (tmp_path / "pwned").exists()
    if target == "prometheus":
        (rules,) = yaml.safe_load_all(files["rules.yaml"])
        (alert,) = [each for each in rules["groups"][0]["rules"] if each.get("labels", {}).get("priority") == text]
        assert f"priority={json.dumps(text, ensure_ascii=False)}" in alert["expr"]
        assert "{{ ." not in alert["annotations"]["summary"]


def test_files_of_classes_that_look_alike_are_two() -> None:
    plan = capped("a b")
    (level,) = plan.decision.levels
    clocks = tuple(
        each.model_copy(update={"priority": name}) for each, name in zip(level.clocks, ("a b", "a-b"), strict=True)
    )
    decision = plan.decision.model_copy(update={"levels": (level.model_copy(update={"clocks": clocks}),)})
    assert len(exported("dynamo-power", Asked(plan.model_copy(update={"decision": decision}), Values(), None))[1]) == 4
