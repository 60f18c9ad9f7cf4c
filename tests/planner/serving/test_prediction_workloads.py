"""``plan predict`` reads the workload's words, and means by them what ``plan`` and ``plan simulate`` mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from costmodels.kernels.cost_model import CostModel
from planner.contract.workload.files import workload_at
from planner.serving import prediction_table as predicting
from planner.serving.prediction_table import predict
from planner.serving.predictions import parse_prediction_request, predictions
from profiles.errors import InputError
from profiles.store import ProfileStore

ENGINE = {"model": "Qwen/Qwen3-8B", "gpu": "H200", "framework": "vllm", "tp": "1"}


@pytest.fixture(autouse=True)
def roofline_only(monkeypatch: pytest.MonkeyPatch, bare: ProfileStore) -> None:
    """Every kernel at its roofline: no forest is fitted."""
    monkeypatch.setattr(predicting, "CostModel", lambda gpu, framework, **_: CostModel(gpu, framework, bare))


def rows(*loads: dict[str, str]) -> pd.DataFrame:
    return predict(pd.DataFrame([{**ENGINE, "isl": "", "osl": "", **load} for load in loads]).fillna(""))


def value(answer: pd.DataFrame, column: str, row: int = 0) -> float:
    return float(answer[column].iloc[row])


def test_pairs_and_columns_say_the_same() -> None:
    answer = rows(
        {"isl": "1k", "osl": "100", "concurrency": "8"},
        {"workload": "isl=1000,osl=100,concurrency=8"},
        {"workload": "isl=9,osl=9,rate=3", "isl": "1000", "osl": "100", "concurrency": "8"},
    )
    assert list(answer["error"]) == ["", "", ""]
    assert answer["ttft_ms_mean"].nunique() == 1


@pytest.mark.parametrize("load", ["concurrency=8", "rate=2"])
def test_lengths_are_exact_unless_a_spread_is_given(load: str) -> None:
    base = f"isl=1000,osl=200,{load}"
    loads = (base, f"{base},spread=0.8-1", f"{base},spread=1-1")
    answer = rows(*({"workload": load, "sampling": "greedy"} for load in loads))
    assert list(answer["error"]) == ["", "", ""]
    assert "each between 80 and 100 % of that" in answer["note"].iloc[1]
    assert value(answer, "e2e_ms_mean", 1) < 0.97 * value(answer, "e2e_ms_mean")
    assert value(answer, "e2e_ms_mean", 2) == value(answer, "e2e_ms_mean")
    if load == "rate=2":
        per_gpu = [value(answer, "output_tokens_per_s_per_gpu", i) for i in range(2)]
        assert per_gpu == [400, 360]


@pytest.mark.parametrize("load", ["concurrency=8", "rate=2"])
def test_facts_that_help_do(load: str) -> None:
    base = f"isl=8000,osl=200,{load}"
    answer = rows(
        {"workload": base}, {"workload": f"{base},prefix_hit=0.9"}, {"workload": f"{base},draft=3,acceptance=0.8"}
    )
    assert list(answer["error"]) == ["", "", ""]
    assert value(answer, "ttft_ms_mean", 1) < 0.8 * value(answer, "ttft_ms_mean")
    # Drafts help steps that decode; of 8 users with prompts of 8,000 tokens, steps with prompts are half of the time.
    assert value(answer, "tpot_ms_mean", 2) < 0.75 * value(answer, "tpot_ms_mean")
    base = f"isl=200,osl=1000,{load}"
    answer = rows({"workload": base}, {"workload": f"{base},draft=3,acceptance=0.8"})
    assert value(answer, "tpot_ms_mean", 1) < 0.5 * value(answer, "tpot_ms_mean")


def test_a_longest_request_takes_memory() -> None:
    long = {"model": "Qwen/Qwen3-32B", "gpu": "A100-SXM-80GB"}
    answer = rows(
        {**long, "workload": "isl=1000,osl=100,concurrency=2"},
        {**long, "workload": "isl=1000,osl=100,concurrency=2,max_len=128k"},
    )
    assert answer["error"].iloc[0] == ""
    assert "a sequence of 128,000 tokens" in answer["error"].iloc[1]


def test_a_trace_is_predicted_at_a_rate_and_of_users(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("arrival_s,isl,osl\n" + "".join(f"{i},{500 + 50 * i},20\n" for i in range(60)))
    table = pd.DataFrame([{**ENGINE, "workload": f"t.csv,{load}"} for load in ("rate=2", "concurrency=2", "rate=peak")])

    def find(text: str) -> object:
        return workload_at(text, tmp_path)

    answer = predict(table, find_workload=find)  # type: ignore[arg-type]
    assert list(answer["error"]) == ["", "", ""]
    assert all("as recorded in t.csv" in note for note in answer["note"])
    for row, far in ((0, 1.5), (1, 1.2)):
        assert value(answer, "ttft_ms_p99", row) > far * value(answer, "ttft_ms_p50", row)


def test_a_short_run_is_mostly_its_opening_burst() -> None:
    load = {"isl": "1000", "osl": "100", "concurrency": "32"}
    answer = rows(load, {**load, "requests": "320"}, {**load, "num_prompts": "1e2"}, {**load, "requests": "32"})
    waits = [value(answer, "ttft_ms_mean", row) for row in range(3)]
    assert waits[0] == waits[1]
    assert list(answer["error"]) == [""] * 4
    burst = rows({**load, "mode": "burst"})
    assert value(answer, "ttft_ms_mean", 3) == value(burst, "ttft_ms_mean")


def test_more_than_ten_requests_a_user_are_said_not_to_be_played() -> None:
    load = {"isl": "1000", "osl": "100", "concurrency": "4"}
    answer = rows(load, {**load, "requests": "5000"})
    assert value(answer, "ttft_ms_mean", 0) == value(answer, "ttft_ms_mean", 1)
    assert "requests: 10 a user are played, fewer than 5000" in answer["note"].iloc[1]
    assert "a user are played" not in answer["note"].iloc[0]


def test_few_requests_at_a_rate_settle_nothing() -> None:
    load = {"isl": "1000", "osl": "100", "rate": "2"}
    answer = rows(load, {**load, "requests": "20"})
    assert value(answer, "ttft_ms_mean", 0) == value(answer, "ttft_ms_mean", 1)
    assert "requests: 20 at a rate settle nothing" in answer["note"].iloc[1]


@pytest.mark.parametrize(
    ("load", "named"),
    [
        ({"workload": "isl=10,osl=2"}, "concurrency, rate: both blank"),
        ({"concurrency": "2"}, "isl: is blank"),
        ({"workload": "isl=10,osl=2,rate=1,requests=5"}, "requests: 5 are too few"),
        ({"workload": "isl=10,osl=2,concurrency=8,requests=7"}, "requests: 7 are too few"),
        ({"workload": "isl=10,osl=2,rate=1,lora=8x16"}, "what adapters take is not modelled"),
    ],
)
def test_what_cannot_be_predicted_says_why(load: dict[str, str], named: str) -> None:
    error = rows({"isl": "", **load})["error"].iloc[0]
    assert named in error
    assert "; " in error


def test_a_request_document_may_hold_a_workload() -> None:
    engine = {**ENGINE, "tp": 1}
    asked = [
        {**engine, "workload": "isl=1k,osl=100,concurrency=8"},
        {**engine, "workload": {"isl": 1000, "osl": 100, "concurrency": 8}},
        {**engine, "isl": "1k", "osl": 100, "concurrency": 8},
    ]
    got = predictions(parse_prediction_request({"configurations": asked}))
    assert [row["error"] for row in got.rows] == ["", "", ""] or [row["error"] for row in got.rows] == [None] * 3
    assert len({row["ttft_ms_mean"] for row in got.rows}) == 1


def test_a_draft_head_takes_cache_from_the_model_that_it_drafts_for(tmp_path: Path) -> None:
    head = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 151936,
    }
    (tmp_path / "config.json").write_text(json.dumps(head))
    load = "isl=1000,osl=200,concurrency=8"
    drafts = {"workload": f"{load},draft=3,acceptance=0.7", "model": "Qwen/Qwen3-32B", "tp": "2"}
    answer = rows(
        drafts, {**drafts, "draft_model": str(tmp_path)}, {**drafts, "workload": load, "draft_model": str(tmp_path)}
    )
    assert list(answer["error"])[:2] == ["", ""]
    assert value(answer, "kv_tokens", 1) < 0.98 * value(answer, "kv_tokens")
    assert "draft_model: has no effect where nothing is drafted" in answer["error"].iloc[2]

    asked = {"model": "Qwen/Qwen3-32B", "gpu": "H200", "tp": 2, "workload": drafts["workload"]}
    heads: list[dict[str, Any]] = [{"draft_model": {"name": "eagle3", "config": head}}, {}, {"draft_model": "x"}]
    got = predictions(parse_prediction_request({"configurations": [asked | each for each in heads]})).rows
    assert [row["error"] for row in got[:2]] == ["", ""]
    assert float(str(got[0]["kv_tokens"])) < float(str(got[1]["kv_tokens"]))
    assert "no draft heads are bundled" in str(got[2]["error"])
    other = {"draft_model": {"name": "eagle3", "config": head | {"num_key_value_heads": 4}}}
    with pytest.raises(InputError, match="two draft models are called 'eagle3'"):
        predictions(parse_prediction_request({"configurations": [asked | heads[0], asked | other]}))


@pytest.mark.parametrize(
    "named",
    [
        {"dataset": "ShareGPT"},
        {"dataset_name": "sharegpt"},
        {"spread": "sharegpt"},
        {"workload": "ShareGPT"},
        {"lengths": "sharegpt"},
    ],
)
def test_a_data_set_is_known_by_its_name_in_any_of_its_columns(named: dict[str, str]) -> None:
    load = {"isl": "217.4", "osl": "201.6", "concurrency": "16"}
    answer = rows({**load, **named}, {**load, "workload": "isl=217,osl=202,dataset=sharegpt,concurrency=16"})
    assert list(answer["error"]) == ["", ""]
    assert answer["tpot_ms_p99"].iloc[0] == answer["tpot_ms_p99"].iloc[1]
    (name,) = named
    assert f"{name} {named[name]}: lengths are those of ShareGPT (vLLM's client)" in answer["note"].iloc[0]


def test_short_answers_of_a_data_set_take_longest_a_token() -> None:
    """Most of the time of an answer of five tokens is others' prompts."""
    load = {"isl": "217", "osl": "202", "mode": "burst", "requests": "300", "concurrency": "300"}
    answer = rows({**load, "dataset": "sharegpt"}, {**load, "spread": "0.5-1.5"})
    tail = [value(answer, "tpot_ms_p99", i) / value(answer, "tpot_ms_p50", i) for i in range(2)]
    assert tail[0] > 1.5 * tail[1]


def test_a_data_set_alone_says_the_lengths() -> None:
    answer = rows({"dataset": "sharegpt", "rate": "2"}, {"dataset": "my-own", "rate": "2"})
    assert answer["error"].iloc[0] == ""
    assert answer["error"].iloc[1].startswith("isl: is blank")


def test_a_spread_goes_before_a_data_set() -> None:
    load = {"isl": "1000", "osl": "100", "concurrency": "8", "spread": "0.8-1"}
    answer = rows(load, {**load, "dataset": "sharegpt"})
    assert answer["ttft_ms_mean"].nunique() == 1


@pytest.mark.parametrize("beside", [{"isl": "500"}, {"osl": "20"}, {"dataset": "azure_code"}])
def test_lengths_beside_recorded_ones_are_refused(beside: dict[str, str]) -> None:
    """They changed the mean that is told, and no request."""
    (error,) = rows({"workload": "dataset=sharegpt,rate=2", **beside})["error"]
    assert f"{next(iter(beside))} has no effect beside ShareGPT" in error


def test_the_data_set_goes_before_other_names_of_one() -> None:
    first, second = rows(
        {"workload": "sharegpt", "dataset": "azure_code", "rate": "2"}, {"dataset": "azure_code", "rate": "2"}
    )["tpot_ms_mean"]
    assert first == second


def test_a_data_set_beside_a_workload_is_scaled_to_its_means() -> None:
    one, other = rows(
        {"workload": "isl=500,osl=100,rate=2", "dataset": "sharegpt"},
        {"workload": "isl=500,osl=100,rate=2,dataset=sharegpt"},
    )["ttft_ms_p99"]
    assert one == other


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"dataset": "my-own"}, "dataset my-own: how long its requests are is not known here"),
        ({"dataset": "sharegpt", "spread": "0.8-1"}, "dataset sharegpt: lengths are as spread says"),
    ],
)
def test_a_data_set_that_says_nothing_is_told(more: dict[str, str], told: str) -> None:
    (note,) = rows({"isl": "500", "osl": "100", "rate": "2", **more})["note"]
    assert told in note
