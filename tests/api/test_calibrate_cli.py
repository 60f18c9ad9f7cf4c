"""``plan calibrate``: own runs in, a store out that predictions follow."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from command import Runner, calibrated, complaint

from planner.serving.prediction_table import predict

CONFIGURATION = {"model": "Qwen/Qwen3-8B", "gpu": "H200", "framework": "vllm", "version": "0.19.0", "osl": "64"}
SLOWER = 1.5


def runs(folder: Path) -> Path:
    """Ten runs of an engine that is slower than predicted."""
    asked = pd.DataFrame(
        [
            {**CONFIGURATION, "isl": str(isl), "concurrency": str(users)}
            for isl in (500, 2000)
            for users in (1, 2, 4, 8, 16)
        ]
    )
    answer = predict(asked)
    for name in ("ttft_ms_mean", "tpot_ms_mean"):
        asked[name] = (SLOWER * answer[name].astype(float)).map("{:.4g}".format)
    path = folder / "runs.csv"
    asked.to_csv(path, index=False)
    return path


@pytest.mark.slow
def test_a_store_of_own_runs_is_followed(run: Runner, tmp_path: Path) -> None:
    path, store = runs(tmp_path), tmp_path / "mine"
    lines = "vllm: 10 runs", "before: the constants that stood", "one model: a second model says"
    said = calibrated(run, path, store, *lines)
    scores, errors = {}, {}
    for name, extra in (("before", ()), ("after", ("--profiles", str(store)))):
        document = json.loads(run("predict", str(path), "--measured", "--json", "--quiet", *extra).out)
        scores[name] = {each["quantity"]: abs(each["bias_pct"]) for each in document["scores"]["scores"]}
        errors[name] = {each["quantity"]: each["mape_pct"] for each in document["scores"]["scores"]}
    assert scores["before"]["tpot_ms_mean"] > 25
    assert scores["after"]["tpot_ms_mean"] < 0.6 * scores["before"]["tpot_ms_mean"]
    assert scores["after"]["ttft_ms_mean"] < scores["before"]["ttft_ms_mean"]
    # Of requests of one length, too: both play the same loop.
    for name, row in (("before", "before: the constants that stood"), ("after", r"nothing \(in sample\)")):
        ttft, tpot = re.findall(rf"{row} .*? ([0-9.]+) %.*? ([0-9.]+) %\s+[0-9.]+ %\s+\S+ %\n", said)[0]
        assert float(ttft) == pytest.approx(errors[name]["ttft_ms_mean"], abs=2)
        assert float(tpot) == pytest.approx(errors[name]["tpot_ms_mean"], abs=2)
    assert "not empty" in complaint(run("calibrate", str(path), "-o", str(store)))[0]
    asked = ("--model", "Qwen/Qwen3-8B", "--cluster", "1xH200", "--workload", "isl=1000,osl=50,rate=2")
    made = run(
        *asked, "--slo", "tpot=50ms", "--no-simulation", "--profiles", str(store), "-o", str(tmp_path / "p.json")
    )
    assert "overheads are learned from 10 runs of runs.csv" in " ".join(made.out.split())
    assert "has no rows" not in made.err
    for given, missed in ((), True), (("--profiles", str(store)), False):
        played = run("simulate", str(tmp_path / "p.json"), "--rate", "2", "--quiet", *given)
        assert ("made with measurements that are not given here" in " ".join(played.out.split())) is missed


def test_runs_at_a_rate_teach(tmp_path: Path, run: Runner) -> None:
    """As those in closed loops do; and every row is used."""
    asked = pd.DataFrame(
        [
            {**CONFIGURATION, "isl": str(isl), "rate": str(rate), "requests": "200"}
            for isl in (500, 2000)
            for rate in (0.5, 2, 4, 8)
        ]
    )
    answer = predict(asked)
    for metric in ("ttft_ms", "tpot_ms"):  # and what they consist of is told
        parts = [[float(each.split()[-1]) for each in text.split("; ")] for text in answer[f"{metric}_by_part"]]
        assert [sum(each) for each in parts] == pytest.approx(answer[f"{metric}_mean"].astype(float).tolist(), rel=2e-3)
    for name in ("ttft_ms_mean", "tpot_ms_mean"):
        asked[name] = (SLOWER * answer[name].astype(float)).map("{:.4g}".format)
    path, store = tmp_path / "rates.csv", tmp_path / "mine"
    asked.to_csv(path, index=False)
    said = json.loads(run("calibrate", str(path), "-o", str(store), "--json", "--quiet").out)
    assert (said["used"], said["left_out"]) == (8, [])
    errors = said["frameworks"]["vllm"]["errors"]
    before, after = (errors[name] for name in ("before", "rows"))
    assert before["tpot"]["bias"] == pytest.approx(100 / SLOWER - 100, abs=3)
    assert abs(after["tpot"]["bias"]) < 0.6 * abs(before["tpot"]["bias"])
    assert abs(after["ttft"]["bias"]) < abs(before["ttft"]["bias"])
    scores = json.loads(run("predict", str(path), "--measured", "--json", "--quiet", "--profiles", str(store)).out)
    bias = {each["quantity"]: each["bias_pct"] for each in scores["scores"]["scores"]}
    for quantity, name in (("tpot_ms_mean", "tpot"), ("ttft_ms_mean", "ttft")):  # both play the same requests
        assert bias[quantity] == pytest.approx(errors["nothing"][name]["bias"], abs=4)


def test_what_cannot_calibrate_is_refused(run: Runner, tmp_path: Path) -> None:
    few = tmp_path / "few.csv"
    header = ",".join([*CONFIGURATION, "isl", "concurrency", "tpot_ms_mean"])
    few.write_text(f"{header}\n{','.join(CONFIGURATION.values())},500,4,10\n")
    message, hint = complaint(run("calibrate", str(few), "-o", str(tmp_path / "a"), "--quiet"))
    assert message == "runs: no framework has 8 that can be used"
    assert "vllm: 1 run is too few, 8 are needed" in hint
    assert not (tmp_path / "a").exists()
    few.write_text(f"{header}\n" + f"{','.join(CONFIGURATION.values())},500,4,10\n" * 8)
    message, hint = complaint(run("calibrate", str(few), "-o", str(tmp_path / "a"), "--quiet"))
    assert message == "runs: no framework has 8 that can be used"
    assert "7 of them: the same as a row before, in every column" in hint
    few.write_text(f"{header}\n")
    assert complaint(run("calibrate", str(few), "-o", str(tmp_path / "a"), "--quiet"))[0] == "runs: 'few.csv': no rows"
    assert not (tmp_path / "a").exists()
