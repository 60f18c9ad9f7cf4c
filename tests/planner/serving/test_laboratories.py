"""Intervals of figures that somebody else measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from planner.serving.laboratories import laboratories
from planner.serving.prediction_table import predict

EVIDENCE = Path(__file__).parents[3] / "costmodels" / "evidence" / "laboratories.json"
ROW = {"model": "Qwen/Qwen3-8B", "gpu": "H100", "framework": "vllm", "isl": "1000", "osl": "100"}


def ends(latency: str, **said: str) -> tuple[float, float, float]:
    row = predict(pd.DataFrame([{**ROW, "concurrency": "8", **said}])).iloc[0]
    assert not row["error"]
    mean = latency if latency.endswith("gpu") else f"{latency}_mean"
    return float(row[f"{latency}_low"]), float(row[mean]), float(row[f"{latency}_high"])


@pytest.mark.parametrize(
    "who", ["inferencex", "InferenceX", "ml-energy-leaderboard 0cd52da", "accelmark", "NVIDIA", ""]
)
def test_laboratories_with_runs_and_nobody_are_no_strangers(who: str) -> None:
    assert laboratories().stranger({"source": who}) == ""


@pytest.mark.parametrize("who", ["NVIDIA NIM", "NVIDIA Dynamo", "dstack", "my inferencex"])
def test_all_others_are(who: str) -> None:
    assert laboratories().stranger({"source": who}) == who
    assert laboratories().stranger({"source": "inferencex", "campaign": who}) == who


@pytest.mark.parametrize("latency", ["ttft", "tpot", "e2e"])
def test_figures_of_strangers_have_wider_intervals_around_the_same_value(latency: str) -> None:
    low, value, high = ends(f"{latency}_ms")
    wide_low, same, wide_high = ends(f"{latency}_ms", source="dstack")
    by = getattr(laboratories().others, latency)
    assert same == value
    assert math.log(value / wide_low) == pytest.approx(math.hypot(math.log(value / low), by), rel=1e-3)
    assert math.log(wide_high / value) == pytest.approx(math.hypot(math.log(high / value), by), rel=1e-3)


def test_known_laboratories_and_nobody_have_the_same() -> None:
    assert ends("ttft_ms", source="accelmark") == ends("ttft_ms")


def test_a_rate_is_served_whoever_measures() -> None:
    output = "output_tokens_per_s_per_gpu"
    at_rate = {"concurrency": "", "rate": "2"}
    assert ends(output, source="dstack", **at_rate) == ends(output, **at_rate)
    assert ends(output, source="dstack") != ends(output)


def test_the_note_says_why() -> None:
    row = predict(pd.DataFrame([{**ROW, "concurrency": "8", "source": "dstack"}])).iloc[0]
    assert "source: no constant knows runs of 'dstack': intervals count on errors of up to × 3.2 in TTFT" in row["note"]


def test_half_widths_are_those_of_the_evidence() -> None:
    learnt = json.loads(EVIDENCE.read_text(encoding="utf-8"))
    assert laboratories().others.model_dump() == {name: each["half_width"] for name, each in learnt.items()}
