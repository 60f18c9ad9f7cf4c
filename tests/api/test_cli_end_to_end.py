"""The command with the real planner and the shipped measurements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Runner

from planner import PlanRequest, plan
from planner.serving.document.plan import parse_plan

EXAMPLE = ("--model", "Qwen/Qwen3-32B", "--cluster", "16xH200", "--workload", "isl=4000,osl=500")
SLO = ("--slo", "ttft=1s,tpot=30ms")


def refused(code: int, out: str, err: str) -> tuple[str, str]:
    """(error, hint); lines of progress may come before them when forests were not in the cache yet."""
    assert code
    assert out == ""
    error, hint = err.splitlines()[-2:]
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    return error, hint


def test_json_view_and_facade_agree(run: Runner, tmp_path: Path) -> None:
    code, document, _ = run(*EXAMPLE, *SLO, "--json")
    assert code == 0
    made = parse_plan(document)
    assert made.to_json() == document
    assert [bound.label for bound in made.request.slo.bounds] == ["ttft_p90", "tpot_p90"]
    request = {
        "model": "Qwen/Qwen3-32B",
        "cluster": "16xH200",
        "slo": "ttft=1s,tpot=30ms",
        "workload": "isl=4000,osl=500",
    }
    assert plan(PlanRequest.model_validate(request)).to_json() == document

    file = tmp_path / "plan.json"
    code, view, err = run(*EXAMPLE, *SLO, "--output", str(file), "--explain")
    assert (code, err) == (0, "")  # all forests are learned by now: nothing to report
    assert file.read_text(encoding="utf-8") == document
    assert max(map(len, view.splitlines())) <= 100
    group = json.loads(document)["decision"]["engines"][0]
    role = "" if group["role"] == "aggregated" else f"{group['role']} "
    assert f"{len(group['replicas'])} {role}engine" in view
    assert "vllm serve Qwen/Qwen3-32B" in view


@pytest.mark.slow  # each framework learns its own forests first
@pytest.mark.parametrize("framework", ["sglang", "trtllm"])
def test_launch_command_is_that_of_the_framework(run: Runner, framework: str) -> None:
    code, document, err = run(*EXAMPLE, *SLO, "--framework", framework, "--json")
    assert code == 0, err
    launch = json.loads(document)["decision"]["engines"][0]["launch"]
    assert launch["framework"] == framework
    assert launch["command"][0] == {"sglang": "python", "trtllm": "trtllm-serve"}[framework]


def test_slo_that_nothing_meets(run: Runner) -> None:
    code, out, err = run(*EXAMPLE, "--slo", "tpot=0.1ms")
    assert code == 3
    error, hint = refused(code, out, err)
    assert "tpot" in error
    assert "ms" in hint


def test_model_that_fits_nowhere(run: Runner) -> None:
    code, out, err = run("--model", "deepseek-ai/DeepSeek-V3", "--cluster", "1xH200", "--workload", "isl=1000,osl=100")
    assert code == 3
    refused(code, out, err)


def test_workload_longer_than_the_context(run: Runner) -> None:
    code, out, err = run("--model", "Qwen/Qwen3-32B", "--cluster", "16xH200", "--workload", "isl=4000000,osl=500")
    assert code == 2
    error, _ = refused(code, out, err)
    assert "context" in error


def test_profile_store_that_is_none(run: Runner, tmp_path: Path) -> None:
    code, out, err = run(*EXAMPLE, "--profiles", str(tmp_path))
    assert code == 2
    refused(code, out, err)
