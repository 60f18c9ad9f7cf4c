"""Results as load generators write them: units that no column says, documents of clients, tables of metrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from api.cli.commands.predict import read_configurations
from planner.serving.harness_words import is_inferencex
from planner.serving.measured.columns import measured_columns, quantity_of
from planner.serving.measured.units import units_told
from profiles.errors import InputError

INFERENCEX = {
    "hardware": "h200",
    "framework": "sglang",
    "model": "dsr1",
    "conc": 16,
    "isl": 1024,
    "osl": 1024,
    "prefill_tp": 8,
    "decode_tp": 8,
    "metrics": {"median_ttft": 0.21, "mean_intvty": 58.4, "output_tput_per_gpu": 110.2},
}


def read(folder: Path, name: str, text: str) -> pd.DataFrame:
    path = folder / name
    path.write_text(text)
    return read_configurations(path)


def test_a_time_per_token_tells_the_unit_of_all_latencies_but_of_whole_requests() -> None:
    ms = {"ttft_median": np.array([121.0]), "itl_median": np.array([25.0]), "request_latency_median": np.array([25.3])}
    assert units_told(ms) == {"ttft_median": "ms", "itl_median": "ms", "request_latency_median": "s"}
    s = {"mean_ttft": np.array([2.8]), "mean_tpot": np.array([0.12]), "mean_e2el": np.array([123.0])}
    assert set(units_told(s).values()) == {"s"}
    assert units_told({**s, "mean_e2el": np.array([123_000.0])})["mean_e2el"] == "ms"


@pytest.mark.parametrize("tokens", [[0.7, 0.8], [0.01, 12.0], [np.nan, np.nan]])
def test_a_unit_that_is_not_plain_is_not_taken(tokens: list[float]) -> None:
    assert units_told({"mean_ttft": np.array([2.8, 3.0]), "mean_tpot": np.array(tokens)}) == {}
    assert units_told({"mean_ttft": np.array([2.8])}) == {}


def test_columns_without_a_unit_say_what_they_were_taken_for() -> None:
    table = pd.DataFrame([{"mean_tpot": "0.012", "mean_ttft": "0.2"}, {"mean_tpot": "0.02", "mean_ttft": "0.3"}])
    truth = measured_columns(table)
    assert truth.values["ttft_ms_mean"].tolist() == [200.0, 300.0]
    assert truth.taken == tuple(f"{name}: says no unit, and is taken to be s" for name in ("mean_tpot", "mean_ttft"))
    unsure = measured_columns(table.assign(mean_tpot=["0.7", "0.9"], tpot_ms_p50="9"))
    assert set(unsure.values) == {"tpot_ms_p50"}
    assert ("mean_ttft: says no unit", 2) in unsure.unread


def test_rows_in_which_two_columns_differ_are_not_measured() -> None:
    truth = measured_columns(
        pd.DataFrame([{"median_tpot_ms": "9", "tpot_ms_p50": "9.01"}, {"median_tpot_ms": "9", "tpot_ms_p50": "5"}])
    )
    assert truth.values["tpot_ms_p50"][0] == 9.0
    assert np.isnan(truth.values["tpot_ms_p50"][1])
    assert truth.unread == (("median_tpot_ms, tpot_ms_p50: differ", 1),)


@pytest.mark.parametrize(
    ("column", "per_gpu"),
    [
        ("Output throughput/GPU (tok/s)", True),
        ("Output throughput per GPU (tok/s)", True),
        ("generation_tps", False),
        ("Output Token Throughput (per sec)", False),
        ("output_token_throughput_per_user", None),
        ("Peak output tokens per second", None),
        ("throughput tok/s", None),
        ("output_tokens", None),
    ],
)
def test_output_tokens_a_second_in_any_words(column: str, per_gpu: bool | None) -> None:
    truth = None if per_gpu is None else measured_columns(pd.DataFrame([{column: "800", "tp": "4"}])).values
    expected = None if per_gpu is None else 800.0 if per_gpu else 200.0
    assert (truth and truth["output_tokens_per_s_per_gpu"][0]) == expected
    assert (quantity_of(column) is not None) == bool(per_gpu)


def test_a_latency_may_be_named_twice() -> None:
    assert quantity_of("Average time-to-first-token [TTFT] (ms)") == ("ttft_ms_mean", 1.0)
    assert quantity_of("TTFT minus TPOT (ms)") is None


def test_inferencexs_interface_is_read_in_seconds(tmp_path: Path) -> None:
    table = read(tmp_path, "api.json", json.dumps([INFERENCEX]))
    assert is_inferencex(table.columns)
    assert measured_columns(table).values["ttft_ms_p50"].tolist() == [210.0]


def test_guidellms_document_is_a_row_for_each_benchmark(tmp_path: Path) -> None:
    told = {"mean": 8.0, "median": 7.9, "percentiles": {"p99": 9.0, "p01": 7.0}}
    metrics = {
        "prompt_token_count": {"successful": {"mean": 1000.0}},
        "output_token_count": {"successful": {"mean": 500.0}},
        "time_per_output_token_ms": {"successful": {"mean": 99.0}},
        "inter_token_latency_ms": {"successful": told},
        "request_latency": {"successful": {"mean": 4.0}},
    }
    runs = [
        {"config": {"strategy": {"type_": "concurrent", "streams": 16}}, "metrics": metrics},
        {"args": {"strategy": {"type_": "constant", "rate": 2.5}}, "metrics": metrics},
        {"config": {"strategy": {"type_": "synchronous"}}, "metrics": metrics},
        {"config": {"strategy": {"type_": "throughput"}}, "metrics": metrics},
    ]
    table = read(tmp_path, "g.json", json.dumps({"args": {"model": "Qwen/Qwen3-8B"}, "benchmarks": runs}))
    assert table["model"].unique().tolist() == ["Qwen/Qwen3-8B"]
    assert table["concurrency"].tolist() == ["16", "", "1", ""]
    assert table["rate"].tolist() == ["", "2.5", "", ""]
    truth = measured_columns(table).values
    assert truth["tpot_ms_mean"].tolist() == [8.0] * 4
    assert truth["e2e_ms_mean"].tolist() == [4000.0] * 4


def test_aiperfs_document_says_model_load_and_data_among_its_options(tmp_path: Path) -> None:
    document = {
        "schema_version": "1.0",
        "inter_token_latency": {"unit": "ms", "avg": 8.05},
        "input_config": {
            "endpoint": {"model_names": ["Qwen/Qwen3-8B"]},
            "input": {"public_dataset": "sharegpt"},
            "loadgen": {"concurrency": 16, "request_rate": None},
        },
    }
    table = read(tmp_path, "a.json", json.dumps(document))
    assert (table["model"][0], table["concurrency"][0], table["dataset"][0]) == ("Qwen/Qwen3-8B", "16", "sharegpt")
    assert measured_columns(table).values["tpot_ms_mean"].tolist() == [8.05]


def test_a_csv_of_metrics_is_one_run(tmp_path: Path) -> None:
    text = (
        'Metric,avg,p99,p50\nTime To First Token (ms),"1,146.31",3000,640.07\n'
        'Input Sequence Length,"3,000.05",3001,3000\n\n'
        "Metric,Value\nOutput Token Throughput (per sec),261.25\n"
    )
    table = read(tmp_path, "genai.csv", text)
    assert len(table) == 1
    assert table["input_sequence_length_avg"][0] == "3000.05"
    truth = measured_columns(table).values
    assert (truth["ttft_ms_mean"][0], truth["ttft_ms_p50"][0]) == (1146.31, 640.07)
    assert truth["output_tokens_per_s_per_gpu"][0] == 261.25


def test_of_red_hats_tables_a_token_after_the_first_is_the_inter_token_latency() -> None:
    row = {"intended concurrency": "16", "tpot_median": "9", "itl_median": "8", "ttft_median": "80"}
    truth = measured_columns(pd.DataFrame([row])).values
    assert (truth["tpot_ms_p50"][0], truth["ttft_ms_p50"][0]) == (8.0, 80.0)
    assert "itl_ms_p50" not in truth


def test_latencies_without_a_unit_alone_are_refused_by_their_name() -> None:
    with pytest.raises(InputError, match="'mean ttft' says no unit, and no time per token tells it"):
        measured_columns(pd.DataFrame([{"mean ttft": "0.06"}]))
