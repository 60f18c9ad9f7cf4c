"""``plan train``, ``plan train predict`` and ``plan train memory`` as people type them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from command import Runner, complaint

sys.path.append(str(Path(__file__).parents[1] / "costmodels" / "training"))

from roofline_cost import roofline_links

from planner.training import machines

PLAN = (
    *("train", "--model", "llama:hidden=4096,layers=16,heads=32,kv_heads=8,ffn=14336,vocab=128256"),
    *("--cluster", "8xH100", "--global-batch", "32", "--seq-len", "4096"),
)
ONE = ("--model", "meta-llama/Llama-3.1-8B", "--gpu", "H100", "--seq-len", "4096", "--dp", "8", "--global-batch", "64")
CSV = """\
model,gpu,seq,tp,dp,gbs,s_iter,source
meta-llama/Llama-3.1-8B,H100,4096,1,8,64,3.5,a
nobody/Nothing,H100,4096,1,8,64,,b
"""


@pytest.fixture(autouse=True)
def _rooflines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        machines.Machines, "links", lambda self, gpu, per_node, fabric: roofline_links(gpu.name, per_node)
    )


def test_a_plan_is_shown_and_written(run: Runner, tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    ran = run(*PLAN, "--explain", "-o", str(file))
    assert ran.code == 0, ran.err
    for words in (
        "Layout",
        "Prediction",
        "Memory of a GPU",
        "Next best",
        "Why this one",
        "What was rejected",
        "Start it",
    ):
        assert words in ran.out
    assert max(len(line) for line in ran.out.splitlines() if "--tensor" not in line) <= 100
    assert json.loads(file.read_text())["kind"] == "training"


def test_json_is_the_document_alone(run: Runner) -> None:
    ran = run(*PLAN, "--json")
    assert json.loads(ran.out)["decision"]["gpus_used"] <= 8


def test_a_request_file_and_options_beside_it(run: Runner, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(
        json.dumps({"model": "meta-llama/Llama-3.1-8B", "cluster": "8xH100", "global_batch": 64, "seq_len": 4096})
    )
    ran = run("train", "--request", str(file), "--seq-len", "2048", "--tp", "1,2", "--json")
    document = json.loads(ran.out)
    assert document["request"]["seq_len"] == 2048
    assert document["request"]["restrictions"]["tp"] == [1, 2]


def test_what_is_missing_is_named(run: Runner) -> None:
    message, hint = complaint(run("train", "--model", "x"))
    assert message == "--cluster is missing"
    assert "plan train --model" in hint
    assert complaint(run("train", "predict"))[0] == "--model is missing"


def test_what_cannot_fit_exits_with_3(run: Runner) -> None:
    message, hint = complaint(
        run(
            "train",
            "--model",
            "meta-llama/Llama-3.1-405B",
            "--cluster",
            "8xH100",
            "--global-batch",
            "8",
            "--seq-len",
            "4096",
            *("--tp", "8", "--cp", "1", "--micro-batch", "1"),
        ),
        3,
    )
    assert "does not fit" in message
    assert "have " in hint


def test_options_before_a_command_are_refused(run: Runner) -> None:
    assert complaint(run("train", "--tp", "2", "memory"))[0].startswith("--tp: has no effect")


def test_one_layout_is_predicted(run: Runner) -> None:
    ran = run("train", "predict", *ONE)
    assert ran.code == 0, ran.err
    for words in ("iteration", "MFU", "bubble", "Where the time goes", "by default", "Memory of a GPU"):
        assert words in ran.out
    rows = json.loads(run("train", "predict", *ONE, "--json").out)
    assert rows[0]["error"] == ""


def test_memory_says_what_would_make_a_layout_fit(run: Runner) -> None:
    ran = run("train", "memory", *ONE, "--micro-batch", "4")
    assert ran.code == 0, ran.err
    assert "does not fit" in ran.out
    assert "What would make it fit" in ran.out
    assert "--recompute" in ran.out


def test_memory_of_every_stage_is_there_as_json(run: Runner) -> None:
    (told,) = json.loads(
        run("train", "memory", *ONE[:-4], "--dp", "2", "--pp", "4", "--global-batch", "64", "--json").out
    )
    assert [stage["stage"] for stage in told["stages"]] == [0, 1, 2, 3]
    assert max(stage["allocated_bytes"] for stage in told["stages"]) == told["memory_bytes_per_gpu"]


def test_a_table_is_predicted_and_scored(run: Runner, tmp_path: Path) -> None:
    given, out = tmp_path / "configs.csv", tmp_path / "out.csv"
    given.write_text(CSV)
    ran = run("train", "predict", str(given), "-o", str(out), "--measured")
    assert ran.code == 0, ran.err
    assert "1 predicted, 1 not" in ran.err
    assert "iteration_s: 1 rows, MAPE" in ran.out
    assert "kept and not read: s_iter, source" in ran.err
    answer = pd.read_csv(out)
    assert answer["source"].tolist() == ["a", "b"]
    assert answer["error"].iloc[1].startswith("model: ")


def test_a_table_without_a_row_that_can_be_predicted_fails(run: Runner, tmp_path: Path) -> None:
    given = tmp_path / "configs.csv"
    given.write_text(CSV.splitlines()[0] + "\n" + CSV.splitlines()[2] + "\n")
    ran = run("train", "memory", str(given), "-o", str(tmp_path / "out.csv"))
    assert ran.code == 2
    assert "no row could be predicted" in ran.err


def test_options_beside_a_table_are_refused(run: Runner, tmp_path: Path) -> None:
    given = tmp_path / "configs.csv"
    given.write_text(CSV)
    assert complaint(run("train", "predict", str(given), "--tp", "2"))[0].startswith("--tp: has no effect")
    assert complaint(run("train", "predict", *ONE, "--measured"))[0].startswith("--measured")


def test_schemas_are_printed(run: Runner) -> None:
    assert json.loads(run("schema", "training").out)["title"] == "TrainingPlan"
    assert json.loads(run("schema", "training-request").out)["title"] == "TrainingRequest"
