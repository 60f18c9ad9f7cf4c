"""``plan predict`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command import Runner, complaint

from api.cli.views.prediction_row import explained, show_row
from api.cli.views.scores import told_of_file
from planner.serving import prediction_table as predicting

HEADER = "model,gpu,framework,tp,isl,osl,concurrency"


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the model: every number is 1500; a row whose model is ``bad`` fails."""

    def fake(table: pd.DataFrame, *, beside_measured: bool = False, **_: Any) -> pd.DataFrame:
        failed = table["model"] == "bad"
        columns = predicting.added_columns(table.columns, beside_measured=beside_measured).values()
        out = {name: ["" if bad else "1500" for bad in failed] for name in columns}
        out["how"] = ["forest"] * len(table)
        out["error"] = ["model: 'bad' is not known; try another" if bad else "" for bad in failed]
        return pd.concat([table, pd.DataFrame(out)], axis=1)

    monkeypatch.setattr(predicting, "predict", fake)


def csv(folder: Path, *models: str) -> Path:
    path = folder / "configs.csv"
    path.write_text("\n".join([HEADER, *(f"{model},H200,vllm,2,1000,100,8" for model in models)]) + "\n")
    return path


def test_a_file_is_predicted_and_its_count_told(run: Runner, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    ran = run("predict", str(csv(tmp_path, "good", "bad")), "-o", str(target))
    assert ran.code == 0
    assert ran.out == ""
    assert "1 predicted, 1 not" in ran.err
    written = pd.read_csv(target, dtype=str, keep_default_na=False)
    assert written["error"].tolist() == ["", "model: 'bad' is not known; try another"]


def test_without_a_target_the_csv_goes_to_standard_output(run: Runner, tmp_path: Path) -> None:
    assert run("predict", str(csv(tmp_path, "good"))).out.startswith(HEADER + ",ttft_ms_mean")


def test_no_row_predicted_is_an_error(run: Runner, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    ran = run("predict", str(csv(tmp_path, "bad")), "-o", str(target))
    assert ran.code == 2
    assert "no row could be predicted" in ran.err
    assert target.exists()  # with the reasons


def test_one_configuration_by_options(run: Runner) -> None:
    given = ("--model", "good", "--gpu", "H200", "--isl", "10", "--osl", "10", "--concurrency", "1")
    assert "TTFT" in run("predict", *given).out
    assert json.loads(run("predict", *given, "--json").out)["rows"][0]["ttft_ms_mean"] == 1500
    message, hint = complaint(run("predict", "--model", "bad", *given[2:]))
    assert (message, hint) == ("model: 'bad' is not known", "try another")


def test_what_is_missing_or_without_effect_is_refused(run: Runner, tmp_path: Path) -> None:
    assert complaint(run("predict"))[0] == "--model is missing"
    assert complaint(run("predict", str(csv(tmp_path, "good")), "--tp", "2"))[0].startswith("--tp: has no effect")


@pytest.mark.parametrize(
    ("option", "value"), [("--framework", "nan"), ("--framework", "none"), ("--precision", "null")]
)
def test_a_word_that_leaves_a_cell_blank_is_no_value_of_an_option(run: Runner, option: str, value: str) -> None:
    asked = ("--model", "Qwen/Qwen3-8B", "--gpu", "H100", "--isl", "500", "--osl", "100", "--concurrency", "2")
    error, _ = complaint(run("predict", *asked, option, value))
    assert error.startswith(f"{option}: {value!r}")


def test_one_result_of_a_load_generator_is_scored_with_options_beside(run: Runner, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    result: dict[str, Any] = {
        "model": "good",
        "backend": "openai",
        "max_concurrency": 8,
        "completed": 10,
        "total_input_tokens": 1000,
        "errors": [],
    }
    result |= {"total_output_tokens": 100, "median_tpot_ms": 9.5, "ttfts": [0.1] * 10}
    path.write_text(json.dumps(result))
    engine = ("--gpu", "H100", "--framework", "vllm", "--tp", "1", "--quiet")
    document = json.loads(run("predict", str(path), "--measured", *engine, "--json").out)
    assert document["scores"]["scores"][0]["quantity"] == "tpot_ms_p50"
    assert complaint(run("predict", str(path), "--measured", *engine, "--isl", "5"))[0].startswith(
        "--isl: has no effect"
    )
    other_load = complaint(run("predict", str(path), "--measured", *engine, "--concurrency", "2"))
    assert other_load[0].startswith("--concurrency: has no effect")
    path.write_text(json.dumps({"schema_version": "1.0", "tpot_ms_p50": 3}))
    assert complaint(run("predict", str(path), "--measured"))[0] == "--measured: has no effect beside a document"
    image = run("predict", "--image", "a:b", "--model", "m", "--gpu", "H100", "--isl", "1", "--osl", "1")
    assert complaint(image)[0] == "--image: has no effect without --images"


def test_columns_that_are_not_read_are_told(run: Runner, tmp_path: Path) -> None:
    path = tmp_path / "configs.csv"
    path.write_text(f"{HEADER},fabric\ngood,H200,vllm,2,1000,100,8,ib-400g\n")
    told = "columns that say nothing to us: fabric"
    assert told in run("predict", str(path), "-o", str(tmp_path / "out.csv")).err
    assert told not in run("predict", str(csv(tmp_path, "good")), "-o", str(tmp_path / "out.csv")).err


def test_measured_columns_are_scored(run: Runner, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(f"{HEADER},ttft_ms_p99\ngood,H200,vllm,2,1000,100,8,1000\nbad,H200,vllm,2,1000,100,8,2\n")
    shown = run("predict", str(path), "--measured", "--by", "gpu", "--quiet")
    assert shown.code == 0
    assert "2 rows: 1 predicted, 1 not." in shown.out
    document = json.loads(run("predict", str(path), "--measured", "--json", "--quiet").out)
    score = document["scores"]["scores"][0]
    assert (score["quantity"], score["rows"], score["bias_pct"]) == ("ttft_ms_p99", 1, 50.0)
    assert complaint(run("predict", str(path), "--by", "gpu"))[0] == "--by: has no effect without --measured"
    assert complaint(run("predict", "--measured"))[0] == "--measured: has no effect without a CSV"
    assert "no column nothing" in complaint(run("predict", str(path), "--measured", "--by", "nothing"))[0]


def test_scores_are_cut_by_what_a_column_is_read_as(run: Runner, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("model,device,backend,tp_size,isl,osl,concurrency,ttft_ms_p99\ngood,H200,vllm,2,1000,100,8,1000\n")
    document = json.loads(run("predict", str(path), "--measured", "--by", "framework,gpu", "--json", "--quiet").out)
    assert [(each["by"], each["group"]) for each in document["scores"]["scores"]] == [
        *(("all", "all"), ("backend", "vllm"), ("device", "H200"))
    ]


def test_files_that_cannot_be_read_are_named(run: Runner, tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.touch()
    assert "is empty" in complaint(run("predict", str(empty)))[0]
    assert "cannot be read" in complaint(run("predict", str(tmp_path / "none.csv")))[0]
    assert "is a directory" in complaint(run("predict", str(csv(tmp_path, "good")), "-o", str(tmp_path)))[0]


def test_intervals_are_written_as_in_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    latency = {"mean": "115", "low": "52.6", "high": "225", "p50": "114", "p99": "130"}
    row = {f"{name}_ms_{part}": value for name in ("ttft", "tpot", "e2e") for part, value in latency.items()}
    energy = dict.fromkeys(("watts_per_gpu", "watts_per_gpu_low", "watts_per_gpu_high"), "10")
    energy["joules_per_output_token"] = "2"
    rest = {
        **energy,
        "input_tokens_per_s_per_gpu": "10",
        "output_tokens_per_s_per_gpu": "10",
        "memory_bytes_per_gpu": "1e9",
        "kv_tokens": "7",
        "how": "",
        "note": "",
    }
    show_row(pd.Series({**row, **rest}))
    assert "52.6–225 ms" in capsys.readouterr().out


@pytest.mark.parametrize("framework", ["vLLM v0.11.0", "vLLM (V1)", "vllm@2025-11", "vllm"])
def test_what_times_rest_on_is_told_of_frameworks_as_people_write_them(
    capsys: pytest.CaptureFixture[str], framework: str
) -> None:
    parts = {"step_ms_by_part": "", "tpot_ms_by_part": "gemm 1", "ttft_ms_by_part": "front end 2"}
    row = {"framework": framework, "release": "0.11.0", "gpu": "H100", "how": "forest"}
    explained(pd.Series(parts | row))
    assert "measured runs of the" in capsys.readouterr().out


def test_watts_that_are_not_read_are_told_how() -> None:
    """Of one GPU or of all: `Power (W)` does not say."""
    said = told_of_file(["model", "Power (W)"], 1, 0)
    assert said.endswith("columns that say nothing to us: Power (W) (watts are read of one GPU, as watts_per_gpu)")
    assert told_of_file(["model", "fabric"], 1, 0).endswith("columns that say nothing to us: fabric")
