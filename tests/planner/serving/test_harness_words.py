"""Tables as load generators write them: vLLM's and SGLang's results, InferenceX, ML.ENERGY."""

from __future__ import annotations

import pandas as pd
import pytest

from planner.serving.dates import day_stamped
from planner.serving.harness_words import in_one_cell, in_our_terms
from planner.serving.measured.columns import measured_columns, quantity_of
from planner.serving.prediction_table import predict
from profiles.errors import InputError

VLLM = {
    "date": "20260301-101010",
    "backend": "vllm",
    "model_id": "Qwen/Qwen3-32B",
    "num_prompts": "320",
    "request_rate": "inf",
    "max_concurrency": "32",
    "completed": "320",
    "total_input_tokens": "327680",
    "total_output_tokens": "163840",
    "median_tpot_ms": "9",
    "gpu_name": "NVIDIA H200",
    "tensor_parallel_size": "2",
}


def answered(record: dict[str, str]) -> pd.Series:
    return predict(pd.DataFrame([record]), beside_measured=True).iloc[0]


def test_what_vllm_bench_serve_writes_is_predicted_as_the_same_run_in_our_words() -> None:
    ours = answered(
        {
            "model": "Qwen/Qwen3-32B",
            "gpu": "H200",
            "framework": "vllm",
            "date": "2026-03-01",
            "tp": "2",
            "isl": "1024",
            "osl": "512",
            "concurrency": "32",
            "requests": "320",
        }
    )
    row = answered(VLLM)
    assert row["error"] == ours["error"] == ""
    assert row["release"] == ours["release"] == "0.16.0"
    assert row["tpot_ms_p50"] == ours["tpot_ms_p50"]
    assert "isl is total_input_tokens ÷ completed: 1024" in row["note"]


@pytest.mark.parametrize(
    ("column", "quantity"),
    [
        ("time_to_first_token_ms_avg", "ttft_ms_mean"),
        ("Time To First Token (ms) p99", "ttft_ms_p99"),
        ("inter_token_latency_ms_p50", "tpot_ms_p50"),
        ("request_latency_ms_p99", "e2e_ms_p99"),
        ("time_to_first_token_ms_std", None),
    ],
)
def test_latencies_in_words(column: str, quantity: str | None) -> None:
    held = quantity_of(column)
    assert (held[0] if held else None) == quantity


def test_a_rate_without_end_and_no_bound_is_a_burst() -> None:
    notes: list[str] = []
    found = in_our_terms({"rate": "inf", "requests": "64", "isl": "8"}, notes)
    assert (found["concurrency"], found["mode"], found["rate"]) == ("64", "burst", "")
    assert "sent at once" in notes[0]
    assert in_our_terms({"rate": "4", "requests": "64"}, []) == {"rate": "4", "requests": "64"}


@pytest.mark.parametrize(
    ("framework", "ratio", "spread"),
    [("sglang", "0.8", "0.8-1"), ("SGLang", "0", "0.01-1"), ("sglang", "1", ""), ("vllm", "0.2", "0.8-1.2")],
)
def test_a_range_ratio_is_what_its_generator_draws(framework: str, ratio: str, spread: str) -> None:
    assert in_our_terms({"random_range_ratio": ratio, "framework": framework}, [])["spread"] == spread


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"random_range_ratio": "0.8", "framework": "trtllm"}, "mean different things"),
        ({"random_range_ratio": "8", "framework": "vllm"}, "is no share"),
        ({"total_input_tokens": "many", "completed": "3"}, "no lengths"),
        ({"total_input_tokens": "100", "completed": "0"}, "no lengths"),
        ({"total_input_tokens": "inf", "completed": "3"}, "no lengths"),
        ({"total_input_tokens": "100", "completed": "1e-320"}, "no lengths"),
        ({"enable_expert_parallel": "maybe", "tp": "8"}, "neither true nor false"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_its_column(record: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says) as refused:
        in_our_terms(record, [])
    assert refused.value.message.startswith(next(iter(record)))


@pytest.mark.parametrize(
    ("record", "ep"),
    [
        ({"enable_expert_parallel": "True", "tp": "4", "dp": "2"}, "8"),
        ({"enable_expert_parallel": "1", "tp": "8"}, "8"),
        ({"enable_expert_parallel": "false", "tp": "8"}, ""),
        ({"enable_expert_parallel": "true", "tp": "8", "ep": "4"}, "4"),
        ({"ep": "true", "tp": "8"}, "8"),
        ({"ep": "true", "tp": "inf", "dp": "2"}, "2"),
        ({"ep": "false", "tp": "8"}, ""),
        ({"ep": "2", "tp": "8"}, "2"),
    ],
)
def test_a_switch_spreads_experts_over_all_gpus_of_a_stage(record: dict[str, str], ep: str) -> None:
    assert in_our_terms(record, []).get("ep", "") == ep


def test_latencies_of_inferencex_are_in_seconds_and_others_without_a_unit_are_not_taken() -> None:
    table = pd.DataFrame([{"hw": "h200", "conc": "4", "mean_ttft": "0.2", "output_tput_per_gpu": "500"}])
    truth = measured_columns(table).values
    assert truth["ttft_ms_mean"].tolist() == [200.0]
    assert truth["output_tokens_per_s_per_gpu"].tolist() == [500.0]
    assert quantity_of("mean_ttft") is None


def test_tables_made_by_hand_name_lengths_and_users_in_plain_words() -> None:
    said = {name: value for name, value in VLLM.items() if name != "max_concurrency" and "tokens" not in name}
    row = answered({**said, "Input Tokens": "1000", "Output Tokens": "100", "Users": "4"})
    assert row["error"] == ""
    assert row["ttft_ms_p50"] != ""


@pytest.mark.parametrize("date", ["2026-03-01T10:10:10Z", "2026-03-01 10:10", "2026/03/01", "1772359810"])
def test_a_run_is_of_its_day_however_that_is_stamped(date: str) -> None:
    assert answered({**VLLM, "date": date})["release"] == "0.16.0"


def test_a_date_that_is_none_or_may_be_two_is_refused() -> None:
    assert answered({**VLLM, "date": "soon"})["error"].startswith("date: 'soon' is no day")
    both = answered({**VLLM, "date": "03/01/2026"})["error"]
    assert both == "date: '03/01/2026' may be 2026-03-01 or 2026-01-03; write it as the one that it is"


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("25/03/2026", "2026-03-25"),
        ("03/25/2026 14:20", "2026-03-25"),
        ("05/05/2026", "2026-05-05"),
        ("2026/3/5", "2026-03-05"),
        ("2026.03.05", "2026-03-05"),
        ("5 March 2026", "2026-03-05"),
        ("Mar 5th, 2026", "2026-03-05"),
        ("05-Mar-2026", "2026-03-05"),
        ("March 2026", "2026-03"),
    ],
)
def test_days_as_people_write_them(text: str, day: str) -> None:
    assert day_stamped(text) == day


@pytest.mark.parametrize("text", ["2026-13-01", "31/02/2026", "5 Marzipan 2026", "2026", "45936"])
def test_what_is_no_day_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(InputError, match="is no day"):
        day_stamped(text)


def test_samples_of_aiconfigurator_say_users_by_replica_and_their_day_in_words() -> None:
    said = {"batch_size": "16", "dp": "4", "silicon_data_source": "x; silicon_concurrency=64; measured=2026-04-17T00"}
    found = in_our_terms(said, [])
    assert (found["concurrency"], found["date"]) == ("64", "2026-04-17")
    assert (found["campaign"], found["spread"]) == ("InferenceX", "0.8-1")
    assert in_our_terms({**said, "batch_size": "8"}, [])["concurrency"] == "32"
    assert in_our_terms({**said, "concurrency": "5", "date": "2026-01-01"}, [])["concurrency"] == "5"


@pytest.mark.parametrize(
    ("degrees", "meant"),
    [
        ({"tp": "16", "dp": "1", "ep": "4", "moe_tp": "4"}, ("4", "1", "4", "1")),
        ({"tp": "4", "dp": "4", "ep": "4", "moe_tp": "4"}, ("1", "4", "4", "1")),
        ({"tp": "4", "dp": "4", "ep": "16", "moe_tp": "1"}, ("1", "4", "4", "1")),
        ({"tp": "1", "dp": "", "ep": "4", "moe_tp": "1"}, ("1", "4", "4", "1")),
        ({"tp": "8", "dp": "1", "ep": "8", "moe_tp": "1"}, ("8", "1", "8", "1")),
        ({"tp": "8", "dp": "1", "ep": "1", "moe_tp": "8"}, ("8", "1", "1", "8")),
    ],
)
def test_samples_of_aiconfigurator_list_some_engines_as_the_square_of_their_gpus(
    degrees: dict[str, str], meant: tuple[str, ...]
) -> None:
    found = in_our_terms({**degrees, "silicon_data_source": "db-dump", "isl": "1024"}, [])
    assert tuple(found[name] for name in degrees) == meant
    assert in_our_terms({**degrees, "isl": "1024"}, []) == {**degrees, "isl": "1024"}, "of no other table"


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({"concurrency": "31.2"}, "rate"),  # a mean was measured
        ({"concurrency": "32", "request_throughput": "3.99"}, "rate"),
        ({"concurrency": "32", "request_throughput": "2.5"}, "concurrency"),
    ],
)
def test_of_a_rate_and_requests_at_once_the_one_that_limited_is_read(more: dict[str, str], kept: str) -> None:
    notes: list[str] = []
    found = in_our_terms({"rate": "4", **more}, notes)
    assert [name for name in ("rate", "concurrency") if found[name]] == [kept]
    assert len(notes) == 1
    assert in_our_terms({"rate": "4", "concurrency": "32"}, notes) == {"rate": "4", "concurrency": "32"}


def test_a_release_may_stand_behind_the_framework() -> None:
    run = {name: value for name, value in VLLM.items() if name not in ("date", "backend")}
    assert answered({**run, "framework": "vLLM v0.16.0"})["release"] == "0.16.0"
    assert answered({**run, "framework": "vllm (CUDA)", "version": "0.16.0"})["release"] == "0.16.0"


@pytest.mark.parametrize("version", ["25.12-py3", "nvcr.io/nvidia/vllm:25.12-py3", "2025.12", "25.12"])
def test_a_tag_of_nvidias_containers_is_a_month(version: str) -> None:
    run = {name: value for name, value in VLLM.items() if name != "date"}
    assert answered({**run, "version": version})["release"] == answered({**run, "date": "2025-12"})["release"]
    assert answered({**run, "version": "0.12.0"})["release"] == "0.12.0"
    assert answered({**VLLM, "version": "V1"})["release"] == answered(VLLM)["release"]


def test_remarks_on_a_precision_are_not_read() -> None:
    plain, told = (answered({**VLLM, "precision": word}) for word in ("fp8", "FP8 (E4M3)"))
    assert told["error"] == "" != plain["tpot_ms_p50"] == told["tpot_ms_p50"]


def test_engines_apart_are_no_one_configuration_and_unused_degrees_are_zero() -> None:
    assert "prefill and decode engines apart" in answered({**VLLM, "mode": "disagg"})["error"]
    assert answered({**VLLM, "dp": "0", "ep": "0"})["error"] == ""


def test_a_measured_engine_had_its_experts_cut_as_it_starts() -> None:
    run = {**VLLM, "model_id": "MiniMaxAI/MiniMax-M2.5", "tensor_parallel_size": "8", "ep": "1"}
    ran, asked = answered(run), predict(pd.DataFrame([run])).iloc[0]
    assert ran["error"] == ""
    assert "spread over 8 GPUs" in ran["note"]
    assert ran["tpot_ms_p50"] == answered({**run, "ep": "8"})["tpot_ms_p50"]
    assert asked["error"].startswith("layout: expert width 1536")


def test_words_that_are_taken_for_others_are_said() -> None:
    run = {**VLLM, "mode": "weird", "spec": "eagle", "total_input_tokens": str(320 * 50_000)}
    note = answered(run)["note"]
    assert "mode: 'weird' is not known" in note
    assert "nothing says what Qwen/Qwen3-32B drafts with" in note
    assert "longer than the 40,960" in note
    assert "not known" not in answered({**VLLM, "mode": "closed"})["note"]


def test_lengths_that_are_means_of_a_data_set_differ() -> None:
    notes: list[str] = []
    said = {"isl": "236", "osl": "346", "mode": "closed"}
    assert in_our_terms(said, notes)["spread"] == "0.5-1.5"
    assert "means of a data set" in notes[0]
    others = (
        {**said, "mode": ""},
        {**said, "spread": "0.8-1"},
        {**said, "osl_length_biased": "400"},
        {**said, "isl": "1024", "osl": "1000"},
        {**said, "isl": "1024", "osl": "1"},  # prompts alone
        {"isl": "28650", "osl": "256", "mode": "closed"},
    )
    for other in others:
        assert in_our_terms(other, []).get("spread") == other.get("spread")


def test_results_of_inferencex_are_started_and_sent_as_it_does() -> None:
    run = {
        "hw": "b200-nvd",
        "conc": "16",
        "model": "dsr1",
        "framework": "sglang",
        "precision": "fp8",
        "tp": "8",
        "ep": "1",
    }
    run |= {
        "precision": "fp8",
        "ep": "1",
        "isl": "1024",
        "osl": "1024",
        "median_ttft": "0.3",
        "image": "lmsysorg/sglang:v0.5.9-cu130",
    }
    row = answered(run)
    ours = {**run, "campaign": "InferenceX", "spread": "0.8-1", "gpu": "B200", "concurrency": "16"}
    del ours["hw"], ours["conc"]
    assert row["error"] == ""
    assert row["ttft_ms_mean"] == answered(ours)["ttft_ms_mean"]
    assert "as InferenceX starts it" in row["note"]


def test_a_measured_rate_beyond_what_an_engine_serves_is_that_of_a_full_one() -> None:
    run = {name: value for name, value in VLLM.items() if name not in ("max_concurrency", "num_prompts")}
    run["request_rate"] = "5000"
    ran, asked = answered(run), predict(pd.DataFrame([run])).iloc[0]
    assert asked["error"].startswith("rate: 5000 requests/s is more than this engine serves")
    assert ran["error"] == ran["ttft_ms_mean"] == ran["e2e_ms_p99"] == ""
    assert "predicted as full" in ran["note"]
    full = answered({**VLLM, "max_concurrency": "1024", "num_prompts": "10240"})
    assert float(ran["output_tokens_per_s_per_gpu"]) == pytest.approx(
        float(full["output_tokens_per_s_per_gpu"]), rel=0.1
    )


def test_a_measured_rate_of_so_many_requests_is_that_run_whether_the_engine_keeps_up_or_not() -> None:
    run = {name: value for name, value in VLLM.items() if name != "max_concurrency"} | {"request_rate": "5000"}
    few, many = (answered({**run, "num_prompts": n}) for n in ("2000", "4000"))
    assert few["error"] == many["error"] == ""
    assert "predicted as full" not in few["note"]
    assert 0 < float(few["ttft_ms_mean"]) < 0.7 * float(many["ttft_ms_mean"])
    assert float(few["e2e_ms_low"]) < float(few["e2e_ms_mean"]) < float(few["e2e_ms_high"])
    slow = predict(pd.DataFrame([{**run, "num_prompts": "2000"}])).iloc[0]
    assert "is more than this engine serves" in slow["error"], "what was not measured is not said to run"


@pytest.mark.parametrize(
    ("record", "meant"),
    [
        ({"ISL/OSL": "1024/8192"}, {"isl": "1024", "osl": "8192"}),
        ({"Sequence Length (ISL/OSL)": "1,000 / 1k"}, {"isl": "1,000", "osl": "1k"}),
        ({"ISL/OSL": "1024/8192", "isl": "7"}, {"isl": "7", "osl": "8192"}),
        ({"parallelism": "TP4EP4"}, {"tp": "4", "ep": "4"}),
        ({"Parallelism": "DEP8"}, {"dp": "8", "ep": "8"}),
        ({"mapping": "TEP8, PP2"}, {"tp": "8", "ep": "8", "pp": "2"}),
        ({"tp": "TP8"}, {"tp": "8"}),
        ({"tp": "EP8"}, {"tp": "EP8"}),
        ({"parallelism": "TP4", "tp": "4"}, {"tp": "4"}),
        ({"parallelism": "8-way TP"}, {"tp": "8"}),
        ({"parallelism": "tensor_parallel_size=4, pipeline parallelism 2"}, {"tp": "4", "pp": "2"}),
        ({"parallelism": "TP=8, EP="}, {"tp": "8"}),
        ({"parallelism": "Tensor Parallel", "num_gpus": "4"}, {"tp": "4"}),
        ({"parallelism": "TP", "gpu": "8xH100"}, {"tp": "8"}),
        ({"parallelism": "DEP", "num_gpus": "8"}, {"dp": "8", "ep": "8"}),
        ({"parallelism": "TP+EP", "num_gpus": "8"}, {"tp": "8", "ep": "8"}),
        ({"parallelism": "single GPU"}, {"tp": "1"}),
        ({"parallelism": "hybrid", "tp": "4"}, {"tp": "4"}),
        ({"seq_len": "1,024"}, {}),  # one length
        ({"ISL,OSL": "128,128"}, {"isl": "128", "osl": "128"}),
        ({"parallelism": "TP8 + EP8"}, {"tp": "8", "ep": "8"}),
        ({"parallelism": "tensor", "num_gpus": "2"}, {}),
        ({"parallelism": ""}, {}),
    ],
)
def test_lengths_and_degrees_may_stand_in_one_cell(record: dict[str, str], meant: dict[str, str]) -> None:
    assert in_one_cell(record) == {**record, **meant}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("TP8 / TP4", "says two degrees of tp"),
        ("TEP8 TP4", "says two degrees of tp"),
        ("2xTP4", "has more than degrees"),
        ("TP4 x2", "has more than degrees"),
        ("distributed", "tells no degree"),
        ("8", "tells no degree"),
        ("TP8 + EP", "has more than degrees"),
    ],
)
def test_degrees_of_more_than_one_engine_are_not_guessed(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        in_one_cell({"parallelism": text})


@pytest.mark.parametrize("text", ["EP", "expert parallel", "TP + PP", "DP attention"])
def test_words_that_do_not_say_how_all_gpus_are_shared_are_not_guessed(text: str) -> None:
    with pytest.raises(InputError, match="tells no degree"):
        in_one_cell({"parallelism": text, "num_gpus": "8"})


@pytest.mark.parametrize(
    ("remarked", "plain"),
    [("INT8 (weight-only)", "int8_wo"), ("FP8 (block)", "fp8_block"), ("BF16 (FP8 KV cache)", None)],
)
def test_remarks_that_make_another_precision_are(remarked: str, plain: str | None) -> None:
    row = answered({**VLLM, "precision": remarked})
    if plain is None:
        assert row["error"].startswith("precision: 'bf16_fp8_kv_cache' is not known")
    else:
        assert row["ttft_ms_mean"] == answered({**VLLM, "precision": plain})["ttft_ms_mean"]


def test_such_cells_are_predicted() -> None:
    run = {"model": "Qwen/Qwen3-32B", "gpu": "H200", "framework": "vllm", "concurrency": "4"}
    plain = answered({**run, "tp": "4", "isl": "1024", "osl": "512", "gpu_memory_utilization": "0.9"})
    said = answered({**run, "parallelism": "TP4", "ISL/OSL": "1024/512", "gpu_memory_utilization": "90%"})
    assert plain["error"] == said["error"] == ""
    assert plain["ttft_ms_mean"] == said["ttft_ms_mean"]
    assert answered({**run, "tp": "4", "isl": "1024 tokens", "osl": "512"})["ttft_ms_mean"] == plain["ttft_ms_mean"]


def test_degrees_that_contradict_each_other_are_refused_and_missing_ones_told() -> None:
    with pytest.raises(InputError, match="parallelism, tp: 'TP4' and '2' contradict each other"):
        in_one_cell({"parallelism": "TP4", "tp": "2"})
    row = answered(VLLM | {"tensor_parallel_size": ""})
    assert "tp, num_gpus: nothing says how many GPUs the engine has, one is taken" in row["note"]
    assert "one is taken" not in answered(VLLM | {"tensor_parallel_size": "", "gpu_name": "2xH100"})["note"]


def test_a_release_beside_another_in_the_frameworks_name_is_told() -> None:
    other = answered(VLLM | {"backend": "vLLM 0.11.0", "version": "0.9.1"})
    assert "version: '0.9.1' is read, not 0.11.0 behind the framework's name" in other["note"]
    assert "is read, not" not in answered(VLLM | {"backend": "vLLM 0.11.0", "version": "v0.11.0"})["note"]
    assert "is read, not" not in answered(VLLM | {"backend": "vLLM v0.11.0", "version": "0.11"})["note"]


@pytest.mark.parametrize(
    ("dtype", "precision"), [("bfloat16", None), ("auto", None), ("fp8", "fp8"), ("torch.float16", None)]
)
def test_a_dtype_says_how_weights_are_stored_only_below_16_bits(dtype: str, precision: str | None) -> None:
    assert in_our_terms({"dtype": dtype}, []).get("precision") == precision
    assert in_our_terms({"dtype": dtype, "precision": "int4"}, [])["precision"] == "int4"


def test_the_version_of_llmperfs_format_is_no_engines() -> None:
    summary = {"version": "2023-08-31", "results_ttft_s_mean": "0.5"}
    assert in_our_terms(summary, [])["version"] == ""
    assert in_our_terms({"version": "2023-08-31"}, [])["version"] == "2023-08-31"


@pytest.mark.parametrize(
    ("other", "ours"),
    [("num_concurrent_requests", "max_concurrency"), ("device_name", "gpu_name"), ("served_model_name", "model_id")],
)
def test_columns_that_others_write_are_the_same(other: str, ours: str) -> None:
    plain = answered(VLLM)
    same = answered({other if name == ours else name: value for name, value in VLLM.items()})
    assert plain["error"] == same["error"] == ""
    assert plain["ttft_ms_mean"] == same["ttft_ms_mean"]
