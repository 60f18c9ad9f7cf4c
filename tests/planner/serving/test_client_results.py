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


def test_an_sglang_server_says_how_it_was_started(tmp_path: Path) -> None:
    server = {"model_path": "Qwen/Qwen3-8B", "tp_size": 4, "dp_size": 1, "kv_cache_dtype": "auto", "version": "0.5.6"}
    server |= {"chunked_prefill_size": 8192, "quantization": None, "internal_states": [{"memory_usage": {}}]}
    run = {"backend": "sglang-oai", "max_concurrency": 16, "median_ttft_ms": 55.0, "server_info": server}
    table = read(tmp_path, "s.jsonl", f"{json.dumps(run)}\n\n{json.dumps(run)}\n")
    assert len(table) == 2
    told = table.iloc[0].to_dict()
    expected = {"framework": "sglang", "model": "Qwen/Qwen3-8B", "tp_size": "4", "version": "0.5.6"}
    assert expected.items() <= told.items()
    assert told["chunked_prefill_size"] == "8192"
    assert not {"kv_cache_dtype", "quantization", "server_info", "internal_states"} & told.keys()
    several = {**run, "server_info": {**server, "dp_size": 4, "enable_dp_attention": True}}
    told = read(tmp_path, "d.json", json.dumps(several)).iloc[0].to_dict()
    assert (told["dp_size"], told["enable_dp_attention"]) == ("4", "true")
    assert "chunked_prefill_size" not in told
    for word, spec in (("EAGLE", "eagle:3"), ("EAGLE3", "eagle3:3"), ("NEXTN", "mtp3"), ("NGRAM", "ngram")):
        drafts = {**run, "server_info": {**server, "speculative_algorithm": word, "speculative_num_steps": 3}}
        assert read(tmp_path, "e.json", json.dumps(drafts))["spec"][0] == spec
    assert "spec" not in read(tmp_path, "n.json", json.dumps(run))


TRTLLM_BENCH = {
    "engine": {"model": "Qwen/Qwen3-8B", "version": "1.1.0", "backend": "Pytorch", "quantization": None},
    "world_info": {"tp_size": 2, "pp_size": 1, "world_size": 2, "max_num_tokens": 8192, "kv_cache_percentage": 0.8},
    "request_info": {
        "num_requests": 640,
        "avg_num_concurrent_requests": 63.7,
        "avg_input_length": 1024.0,
        "avg_output_length": 511.6,
    },
    "performance": {
        "output_throughput_per_gpu_tok_s": 900.0,
        "system_output_throughput_tok_s": 1800.0,
        "avg_request_latency_ms": 5000.0,
        "request_latency_percentiles_ms": {"p50": 4900.0, "p99": 6000.0, "average": 5000.0},
    },
    "streaming_metrics": {"avg_ttft_ms": 50.0, "avg_tpot_ms": 6.0, "ttft_percentiles": {"p50": 48.0, "p99": 90.0}},
}


def test_trtllm_benchs_report_is_a_run(tmp_path: Path) -> None:
    table = read(tmp_path, "report.json", json.dumps(TRTLLM_BENCH))
    told = table.iloc[0].to_dict()
    expected = {
        "framework": "trtllm",
        "model": "Qwen/Qwen3-8B",
        "version": "1.1.0",
        "tp_size": "2",
        "num_gpus": "2",
        "max_num_tokens": "8192",
        "concurrency": "63.7",
        "isl": "1024",
        "osl": "512",
        "requests": "640",
        "kv_cache_free_gpu_memory_fraction": "0.8",
    }
    assert expected.items() <= told.items()
    truth = {name: values[0] for name, values in measured_columns(table).values.items()}
    assert truth == {
        "ttft_ms_mean": 50.0,
        "ttft_ms_p50": 48.0,
        "ttft_ms_p99": 90.0,
        "tpot_ms_mean": 6.0,
        "e2e_ms_mean": 5000.0,
        "e2e_ms_p50": 4900.0,
        "e2e_ms_p99": 6000.0,
        "output_tokens_per_s_per_gpu": 900.0,
    }


def test_requests_that_trtllm_bench_sends_at_once_are_no_users(tmp_path: Path) -> None:
    half = {**TRTLLM_BENCH["request_info"], "avg_num_concurrent_requests": 322.0}
    told = read(tmp_path, "report.json", json.dumps({**TRTLLM_BENCH, "request_info": half})).iloc[0].to_dict()
    assert (told["concurrency"], told["rate"], told["requests"]) == ("", "inf", "640")
