"""What ships for running the service: manifests, rules, dashboard and scripts name what there is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from service import ASKED, Client, StubPlanner

from api.rest.app import create_app
from api.service_settings import ServiceSettings

FOLDER = Path(__file__).parents[2] / "examples" / "service"


def names(text: str) -> set[str]:
    return set(re.findall(r"\bshardwright_[a-z_]+", text))


def test_rules_and_dashboard_ask_for_metrics_that_there_are() -> None:
    client = Client(create_app(StubPlanner().kinds()))
    client.plan(json=ASKED)
    known = names(client.get("/metrics").text)
    for file in ("prometheus-rules.yaml", "dashboard.json"):
        assert names((FOLDER / file).read_text("utf-8")) <= known
    assert json.loads((FOLDER / "dashboard.json").read_text("utf-8"))["panels"]


def test_manifests_set_what_is_a_setting() -> None:
    text = "".join((FOLDER / name).read_text("utf-8") for name in ("kubernetes.yaml", "Containerfile"))
    known = {f"SHARDWRIGHT_{name.upper()}" for name in ServiceSettings.model_fields} | {"SHARDWRIGHT_CACHE"}
    assert set(re.findall(r"SHARDWRIGHT_[A-Z_]+", text)) <= known | {"SHARDWRIGHT_GRACE"}
    manifests: list[Any] = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text("utf-8")))
    assert {each["kind"] for each in manifests} == {"Deployment", "Service", "PodDisruptionBudget", "CronJob"}


@pytest.mark.parametrize(
    "command",
    [
        ["promtool", "check", "rules", "prometheus-rules.yaml"],
        ["shellcheck", "ask.sh"],
        ["kubernetes-validate", "--strict", "kubernetes.yaml"],
    ],
    ids=lambda command: command[0],
)
def test_their_own_tools_find_nothing(command: list[str]) -> None:
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    program = shutil.which(command[0], path=beside)
    if program is None:
        pytest.skip(f"{command[0]} is not installed (.ci/run installs it)")
    subprocess.run([program, *command[1:]], cwd=FOLDER, check=True, capture_output=True)


def test_promtool_takes_the_metrics() -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    client = Client(create_app(StubPlanner().kinds()))
    client.plan(json=ASKED)
    ran = subprocess.run(
        [program, "check", "metrics"], input=client.get("/metrics").text, text=True, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
