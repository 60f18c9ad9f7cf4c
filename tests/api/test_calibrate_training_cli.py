"""``plan calibrate`` on training runs: own iterations in, a store out that `plan train` follows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import Runner, calibrated, complaint

from planner.calibrate.training_runs import calibrate_training
from planner.training.named import predict

LAYOUT = {"model": "meta-llama/Llama-3.1-8B", "gpu": "H200", "framework": "megatron", "seq_len": "4096"}
SLOWER = 1.4
"""Far beyond what the shipped interval of lasting load on H200 says."""


def runs(folder: Path, *, noise: float = 0.02, slower: float = SLOWER) -> Path:
    """Nine iterations, each slower than predicted by about the same factor."""
    asked = pd.DataFrame(
        [
            {**LAYOUT, "tp": str(tp), "dp": str(dp), "micro_batch": str(micro), "global_batch": "256"}
            for tp, dp in ((1, 8), (2, 8), (4, 2))
            for micro in (1, 2, 4)
        ]
    )
    shaken = np.exp(noise * np.random.default_rng(0).standard_normal(len(asked)))
    asked["s_iter"] = (predict(asked)["iteration_s"].astype(float) * slower * shaken).map("{:.5g}".format)
    path = folder / "training.csv"
    asked.to_csv(path, index=False)
    return path


@pytest.mark.slow
def test_a_store_of_own_iterations_is_followed(run: Runner, tmp_path: Path) -> None:
    path, store = runs(tmp_path), tmp_path / "mine"
    calibrated(run, path, store, "training: 9 runs", "lasting load of H200: 1.05 →", "one model: a second model says")
    table = pd.read_csv(path, dtype=str)
    truth = table["s_iter"].astype(float)
    for extra, least, most in (((), 0.25, 0.35), (("--profiles", str(store)), 0.0, 0.05)):
        ran = run("train", "predict", str(path), "-o", str(tmp_path / "out.csv"), "--quiet", *extra)
        assert ran.code == 0, ran.err
        told = pd.read_csv(tmp_path / "out.csv")
        error = (told["iteration_s"] / truth - 1).abs().mean()
        assert least < error < most
    inside = (told["iteration_s_low"] <= truth) & (truth <= told["iteration_s_high"])
    assert inside.mean() > 0.7
    asked = ("--model", LAYOUT["model"], "--cluster", "8xH200", "--global-batch", "256", "--seq-len", "4096", "--json")
    plan = json.loads(run("train", *asked, "--profiles", str(store), "--quiet").out)
    assert any("learned from 9 runs of training.csv" in note for note in plan["provenance"]["notes"])


def test_what_is_told_of_rows_left_out_is_not_what_was_fitted(run: Runner, tmp_path: Path) -> None:
    path = runs(tmp_path, noise=0.1)
    said = json.loads(run("calibrate", str(path), "-o", str(tmp_path / "mine"), "--quiet", "--json").out)["training"]
    assert said["used"] == 9
    assert said["worse"] == []
    assert said["errors"]["nothing"]["mape"] < said["errors"]["rows"]["mape"] < said["errors"]["before"]["mape"]
    moved = {each["constant"]: each for each in said["moved"]}
    assert moved["lasting_load of H200"]["after"] > 1.2
    assert "expert_overhead" not in moved, "no run has experts"


def test_constants_that_help_nobody_else_are_said_to(run: Runner, tmp_path: Path) -> None:
    """Runs that scatter about what ships teach their scatter: rows left out are predicted worse, and all are told."""
    path, store = runs(tmp_path, noise=0.15, slower=1.0), tmp_path / "mine"
    ran = run("calibrate", str(path), "-o", str(store), "--quiet")
    assert ran.code == 0, ran.err
    assert "Worse than the constants that stood, on runs left out" in ran.out
    assert "the store is written all the same" in ran.out
    said = calibrate_training(pd.read_csv(path, dtype=str)).said()
    (lost,) = said["worse"]
    assert (lost["left_out"], lost["what"]) == ("rows", "iteration")
    assert (lost["before"], lost["after"]) == (said["errors"]["before"]["mape"], said["errors"]["rows"]["mape"])
    assert lost["after"] > lost["before"]
    assert "predicted worse with them than before" in (store / "training_calibration.json").read_text(encoding="utf-8")


def test_serving_and_training_runs_stand_in_one_store(run: Runner, tmp_path: Path) -> None:
    training = pd.read_csv(runs(tmp_path), dtype=str)
    serving = pd.DataFrame(
        [
            {"model": "Qwen/Qwen3-8B", "gpu": "H200", "framework": "vllm", "isl": "500", "osl": "64",
             "concurrency": str(users), "tpot_ms_mean": str(5 + users / 10)}
            for users in range(1, 9)
        ]
    )  # fmt: skip
    both = tmp_path / "both.csv"
    pd.concat([serving, training]).fillna("").to_csv(both, index=False)
    ran = run("calibrate", str(both), "-o", str(tmp_path / "mine"), "--quiet", "--json")
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    assert document["used"] == 8
    assert document["training"]["used"] == 9
    found = {path.name for path in (tmp_path / "mine").iterdir()}
    assert found == {"manifest.json", "calibration.json", "runs.csv", "training_calibration.json", "training_runs.csv"}


def test_what_cannot_teach_training_is_refused(run: Runner, tmp_path: Path) -> None:
    few, store = tmp_path / "few.csv", str(tmp_path / "a")
    few.write_text(f"{','.join(LAYOUT)},gbs,s_iter\n{','.join(LAYOUT.values())},256,9\n")
    assert complaint(run("calibrate", str(few), "-o", store))[0] == "runs: 1 training runs are too few (3)"
    few.write_text(f"{','.join(LAYOUT)},gbs\n" + f"{','.join(LAYOUT.values())},256\n" * 4)
    assert "measured: there is no column iteration_s" in complaint(run("calibrate", str(few), "-o", store))[0]
    few.write_text(f"{','.join(LAYOUT)},gbs,dp,s_iter\n" + f"{','.join(LAYOUT.values())},256,7,9\n" * 4)
    message, hint = complaint(run("calibrate", str(few), "-o", store))
    assert message == "runs: 0 training runs are too few (3)"
    assert hint.startswith("4 of them: ")
    assert not Path(store).exists()


def test_a_broken_store_is_named(run: Runner, tmp_path: Path) -> None:
    path, store = runs(tmp_path), tmp_path / "mine"
    assert run("calibrate", str(path), "-o", str(store), "--quiet").code == 0
    (store / "training_calibration.json").write_text('{"constants": {"fabric": 2}}')
    message, hint = complaint(run("train", "predict", str(path), "--profiles", str(store)))
    assert "training_calibration.json" in message
    assert "plan calibrate" in hint
