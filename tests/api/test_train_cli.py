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


CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 512, "vocab_size": 1024,
    "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
}  # fmt: skip


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
    (row,) = json.loads(run("train", "predict", *ONE, "--json").out)["rows"]
    assert row["error"] == ""
    assert row["dp"] == 8
    assert row["fits"] is False


def test_memory_says_what_would_make_a_layout_fit(run: Runner) -> None:
    ran = run("train", "memory", *ONE, "--micro-batch", "4")
    assert ran.code == 0, ran.err
    assert "does not fit" in ran.out
    assert "What would make it fit" in ran.out
    assert "--recompute" in ran.out


def test_memory_of_every_stage_is_there_as_json(run: Runner) -> None:
    told = json.loads(run("train", "memory", *ONE[:-4], "--dp", "2", "--pp", "4", "--global-batch", "64", "--json").out)
    (row,), (stages,) = told["rows"], told["stages"]
    assert [stage["stage"] for stage in stages] == [0, 1, 2, 3]
    assert max(stage["allocated_bytes"] for stage in stages) == row["memory_bytes_per_gpu"]


def test_scores_are_in_the_document(run: Runner, tmp_path: Path) -> None:
    given, out = tmp_path / "configs.csv", tmp_path / "out.json"
    given.write_text(CSV)
    document = json.loads(run("train", "predict", str(given), "--measured", "--json", "-o", str(out)).out)
    assert json.loads(out.read_text()) == document
    (score,) = document["scores"]
    assert (score["quantity"], score["rows"]) == ("iteration_s", 1)
    assert [row["source"] for row in document["rows"]] == ["a", "b"]
    assert document["rows"][1]["iteration_s"] is None


def test_a_request_is_answered_as_options_are(run: Runner, tmp_path: Path) -> None:
    layout = {"model": "meta-llama/Llama-3.1-8B", "gpu": "H100", "seq_len": 4096, "tp": 2, "dp": 4, "global_batch": 64}
    flags = [word for name, value in layout.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"layouts": [layout]}))
    for verb in ("predict", "memory"):
        by_options = run("train", verb, *flags, "--json", "--quiet")
        assert by_options.code == 0, by_options.err
        by_request = run("train", verb, "--request", str(file), "--quiet")
        assert by_request.out == by_options.out
    beside = json.loads(run("train", "memory", "--request", str(file), "--micro-batch", "2").out)
    assert beside["rows"][0]["micro_batch"] == 2
    file.write_text(json.dumps({"layouts": [{**layout, "colour": 3}]}))
    assert "colour" in complaint(run("train", "predict", "--request", str(file)))[0]


def test_a_model_travels_in_the_request(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    file = tmp_path / "request.yaml"
    file.write_text("layouts:\n- {model: config.json, gpu: H100, seq_len: 2048, dp: 8, global_batch: 8}\n")
    ran = run("train", "memory", "--request", str(file))
    assert ran.code == 0, ran.err
    (row,) = json.loads(ran.out)["rows"]
    assert row["error"] == ""
    assert row["memory_bytes_per_gpu"] > 0


def test_a_table_is_predicted_and_scored(run: Runner, tmp_path: Path) -> None:
    given, out = tmp_path / "configs.csv", tmp_path / "out.csv"
    given.write_text(CSV)
    ran = run("train", "predict", str(given), "-o", str(out), "--measured")
    assert ran.code == 0, ran.err
    assert "1 predicted, 1 not" in ran.err
    assert "iteration_s: 1 rows, MAPE" in ran.out
    assert "kept and not read: source\n" in ran.err
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


def test_a_word_behind_a_flag_is_told_with_the_flags_name(run: Runner) -> None:
    message, hint = complaint(run("train", "--model", "meta-llama/Llama-3.1-8B", "--recompute", "full"))
    assert message == "--recompute: takes no value, and 'full' is no command"
    assert hint.startswith("--recompute or --no-recompute stands alone")
    assert complaint(run("train", "--model", "meta-llama/Llama-3.1-8B", "full"))[0] == "No such command 'full'"
