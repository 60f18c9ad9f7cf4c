"""Tables of configurations: what is predicted, what is refused, and that one never spoils the other."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from costmodels.kernels.cost_model import CostModel
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.serving.frameworks.framework import find_framework
from planner.serving import prediction_table as predicting
from planner.serving.layouts import Restrictions, completed, degrees_of, refusals
from planner.serving.prediction_table import ADDED, predict
from planner.serving.predictions import document_of
from profiles.errors import InputError
from profiles.store import ProfileStore

GOOD = {
    "model": "Qwen/Qwen3-32B",
    "gpu": "H200",
    "framework": "vllm",
    "tp": "2",
    "isl": "1000",
    "osl": "100",
    "concurrency": "8",
}


@pytest.fixture(autouse=True)
def roofline_only(monkeypatch: pytest.MonkeyPatch, bare: ProfileStore) -> None:
    """Every kernel at its roofline: no forest is fitted."""
    monkeypatch.setattr(predicting, "CostModel", lambda gpu, framework, **_: CostModel(gpu, framework, bare))


def rows(*changes: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame([{**GOOD, **change} for change in changes]).fillna("")


def value(answer: pd.DataFrame, column: str, row: int = 0) -> float:
    return float(answer[column].iloc[row])


def test_input_columns_are_kept_verbatim_and_the_others_follow() -> None:
    table = rows({"remark": " 007 ", "tp": "02"})
    answer = predict(table)
    assert list(answer.columns) == [*table.columns, *ADDED]
    assert answer["remark"].iloc[0] == " 007 "
    assert answer["tp"].iloc[0] == "02"
    assert answer["error"].iloc[0] == ""


def test_columns_of_ours_that_the_table_has_are_kept_and_ours_are_called_otherwise() -> None:
    table = rows({"note": "mine", "error": "", "predicted_error": "old", "version": "0.19.0", "release": "x"})
    answer = predict(table)
    assert list(answer.columns[: len(table.columns)]) == list(table.columns)
    assert answer["note"].iloc[0] == "mine"
    assert answer["release"].iloc[0] == "x"
    assert answer["predicted_release"].iloc[0] == "0.19.0"
    assert answer["predicted_predicted_error"].iloc[0] == ""
    assert "columns written: release as predicted_release, note as" in answer["predicted_note"].iloc[0]
    document = document_of(answer)
    assert document.rows[0]["predicted_predicted_error"] == ""
    assert document_of(predict(rows({"tpot_ms_mean": "9"}))).rows[0]["predicted_tpot_ms_mean"] == value(
        predict(rows({})), "tpot_ms_mean"
    )


def test_a_column_release_is_the_version_where_there_is_no_other() -> None:
    answer = predict(rows({"release": "0.12.0"}))
    assert answer["predicted_release"].iloc[0] == "0.12.0"
    assert "release as version" in answer["note"].iloc[0]


def test_cells_that_say_they_are_blank_are() -> None:
    answer = predict(rows({}, {"version": "nan", "precision": "None", "ep": "NaN", "moe_tp": "<NA>", "dp": "-"}))
    assert list(answer["error"]) == ["", ""]
    assert value(answer, "tpot_ms_mean") == value(answer, "tpot_ms_mean", 1)


def test_the_results_of_inferencex_are_read_with_their_container() -> None:
    table = rows({"image": "lmsysorg/sglang:v0.5.9", "framework": "dynamo-sglang", "sampling": "Greedy"})
    answer = predict(table.rename(columns={"gpu": "hw", "concurrency": "conc"}))
    assert answer["error"].iloc[0] == ""
    assert "image as container" in answer["note"].iloc[0]
    assert answer["release"].iloc[0] == "0.5.9"
    assert document_of(answer).rows[0]["image"] == "lmsysorg/sglang:v0.5.9"


def test_a_row_is_predicted_for_its_release_by_name_version_or_date() -> None:
    answer = predict(
        rows(
            {"framework": "vLLM@0.19"},
            {"version": "0.19.1", "date": "2026-10-01"},  # a version goes before a date
            {"date": "2026-04"},
            {"framework": "vllm@0.19", "version": "0.11"},  # and what stands in the name before both
            {},
        )
    )
    assert list(answer["error"]) == [""] * 5
    assert list(answer["release"]) == ["0.19.1", "0.19.1", "0.20.0", "0.19.1", find_framework("vllm").release.version]
    assert all("overheads as of 0.19.0" in note for note in answer["note"])


def test_an_unknown_release_is_predicted_as_the_nearest_known_with_a_wider_interval() -> None:
    answer = predict(rows({"version": "0.19.0"}, {"version": "0.19.0.dev2"}, {"version": "nightly"}))
    assert list(answer["error"]) == ["", "", ""]
    newest = find_framework("vllm").release
    assert f"vLLM {newest.version}+nightly is not a release known here; predicted as {newest}" in answer["note"].iloc[2]
    assert "predicted as 0.18.1" in answer["note"].iloc[1]
    nearest = predict(rows({"version": "0.18.1"}))
    assert value(nearest, "tpot_ms_mean") == value(answer, "tpot_ms_mean", 1)
    assert value(nearest, "tpot_ms_low") > value(answer, "tpot_ms_low", 1)
    assert value(nearest, "tpot_ms_high") < value(answer, "tpot_ms_high", 1)


def test_a_framework_that_does_not_run_on_the_gpu_is_refused_and_weight_only_products_are_said() -> None:
    answer = predict(
        rows(
            {"framework": "tensorrt-llm", "gpu": "MI300X"},
            {"model": "Qwen/Qwen3-32B-FP8", "gpu": "A100-SXM-80GB"},
            {"model": "Qwen/Qwen3-32B-FP8", "gpu": "A100-SXM-80GB", "framework": "sglang"},
        )
    )
    assert answer["error"].iloc[0].startswith("framework: TensorRT-LLM does not run on MI300X")
    assert answer["error"].iloc[1] == ""
    assert "16 bits" in answer["note"].iloc[1]
    assert answer["error"].iloc[2].startswith("precision: A100-SXM-80GB has no fp8 tensor cores")


def test_each_mean_lies_in_its_interval_and_percentiles_are_in_order() -> None:
    answer = predict(rows({}, {"concurrency": "64"}, {"model": "Qwen/Qwen3-30B-A3B", "tp": "1", "dp": "2"}))
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        for row in range(3):
            low, mean, high, p50, p99 = (
                value(answer, f"{name}_{part}", row) for part in ("low", "mean", "high", "p50", "p99")
            )
            assert 0 < low <= mean <= high
            assert p50 <= p99


def test_hybrid_and_sparse_models_are_predicted_and_pay_little_for_context() -> None:
    """Three of four layers keep a state, and a sparse query sees 2048 tokens: long contexts cost both far less than a
    dense model of grouped-query attention, and hold more of them."""
    models = ("Qwen/Qwen3.5-27B", "Qwen/Qwen3-32B")
    contexts = ({"isl": "2000"}, {"isl": "30000"})
    answer = predict(rows(*({"model": m, "tp": "4", "concurrency": "32", **c} for m in models for c in contexts)))
    assert (answer["error"] == "").all()
    short, long, dense_short, dense_long = (value(answer, "tpot_ms_mean", row) for row in range(4))
    assert 1 < long / short < dense_long / dense_short
    assert value(answer, "kv_tokens", 1) > 2 * value(answer, "kv_tokens", 3)
    assert value(answer, "kv_tokens", 0) < value(answer, "kv_tokens", 1)  # the state weighs more on short sequences
    sparse = predict(rows({"model": "zai-org/GLM-5-FP8", "tp": "8", "osl": "10"}))
    assert sparse["error"].iloc[0] == ""


def test_a_row_that_cannot_be_predicted_says_why_and_spoils_no_other() -> None:
    bad = {
        "model": "Qwen/Qwen3-33B",
        "gpu": "H99",
        "framework": "vlm",
        "tp": "3",
        "num_gpus": "4",
        "concurrency": "0",
        "isl": "inf",
        "osl": "-3",
        "precision": "fp3",
        "ep": "2",
    }
    answer = predict(rows({}, *({name: text} for name, text in bad.items()), {}))
    assert answer["error"].iloc[0] == answer["error"].iloc[-1] == ""
    assert value(answer, "ttft_ms_mean") == value(answer, "ttft_ms_mean", -1)
    for (name, text), error in zip(bad.items(), answer["error"].iloc[1:-1], strict=True):
        assert text in error, name
        assert "; " in error  # the way out
    assert (answer["ttft_ms_mean"].iloc[1:-1] == "").all()


@pytest.mark.parametrize("both", [{"concurrency": "", "rate": ""}, {"concurrency": "4", "rate": "1"}])
def test_concurrency_and_rate_exclude_each_other(both: dict[str, str]) -> None:
    assert "concurrency, rate" in predict(rows(both))["error"].iloc[0]


def test_a_model_that_does_not_fit_is_refused_with_what_it_needs() -> None:
    error = predict(rows({"model": "meta-llama/Llama-3.1-405B", "tp": "1"}))["error"].iloc[0]
    assert "memory" in error
    assert "GB" in error


def test_a_cache_too_small_for_the_concurrency_makes_requests_wait() -> None:
    answer = predict(
        rows({"concurrency": "64", "tp": "1", "isl": "20000"}, {"concurrency": "4", "tp": "1", "isl": "20000"})
    )
    assert answer["error"].tolist() == ["", ""]
    assert value(answer, "ttft_ms_mean", 0) > 10 * value(answer, "ttft_ms_mean", 1)


def test_degrees_of_experts_that_do_not_make_up_the_group_are_refused() -> None:
    moe = {"model": "Qwen/Qwen3-235B-A22B-FP8", "tp": "4"}
    answer = predict(rows({**moe, "ep": "4", "moe_tp": "2"}, {**moe, "ep": "4"}, {**moe, "ep": "4", "moe_tp": "1"}))
    assert "4 × 2 is not tp × dp = 4" in answer["error"].iloc[0]
    assert value(answer, "tpot_ms_mean", 1) == value(answer, "tpot_ms_mean", 2)


@pytest.mark.parametrize(
    ("model", "framework", "degrees"),
    [
        ("Qwen/Qwen3-32B", "vllm", {"tp": "3"}),
        ("Qwen/Qwen3-32B", "vllm", {"tp": "6", "pp": "2"}),
        ("Qwen/Qwen3-8B", "sglang", {"pp": "48"}),
        ("Qwen/Qwen3-235B-A22B-FP8", "sglang", {"tp": "8"}),
        ("Qwen/Qwen3-235B-A22B-FP8", "sglang", {"tp": "1", "dp": "12", "ep": "12", "redundant": "4"}),
        ("Qwen/Qwen3-235B-A22B-FP8", "trtllm", {"tp": "4", "dp": "2"}),
        ("Qwen/Qwen3-30B-A3B", "vllm", {"tp": "1", "dp": "4", "ep": "2"}),
        ("Qwen/Qwen3-30B-A3B", "vllm", {"tp": "1", "pp": "3", "dp": "8"}),
    ],
)
def test_a_layout_that_plan_refuses_is_refused_with_its_words(
    model: str, framework: str, degrees: dict[str, str]
) -> None:
    architecture = find_architecture(model)
    layout = completed(architecture, {name: int(degree) for name, degree in degrees.items()})
    ((reason, _),) = refusals(
        architecture,
        choose_precision(architecture),
        find_framework(framework),
        Layouts.of([degrees_of(layout)]),
        Restrictions(256, 8, tp_across_nodes=True),
    )
    answer = predict(rows({"model": model, "framework": framework, "tp": "1", **degrees}))
    assert answer["error"].iloc[0].startswith(f"layout: {reason} (")
    assert answer["ttft_ms_mean"].iloc[0] == ""


def test_tokens_at_a_rate_are_counted_as_the_client_does_that_sends_so_many() -> None:
    """The last answers lengthen its run, and gaps at random are sums of so many: both the less the more are sent."""
    sent = [{"concurrency": "", "rate": "4", "requests": n} for n in ("", "100", "4000")]
    offered, few, many = predict(rows(*sent)).to_dict("records")
    value, low, high = (f"output_tokens_per_s_per_gpu{end}" for end in ("", "_low", "_high"))
    assert float(offered[low]) == float(offered[value]) == float(offered[high])
    seconds = 100 / 4 + float(few["e2e_ms_mean"]) / 1e3
    per_gpu = float(offered[value]) / 4  # tokens of one request on one GPU
    assert float(few[value]) == pytest.approx(100 * per_gpu / seconds, rel=0.02)
    assert float(few[value]) < float(many[value]) < float(offered[value]) < float(few[high])
    assert float(few[low]) < float(many[low]) < float(many[high]) < float(few[high])


def test_an_engine_that_cannot_keep_up_with_a_rate_is_refused() -> None:
    answer = predict(rows({"concurrency": "", "rate": "0.5"}, {"concurrency": "", "rate": "5000"}))
    assert answer["error"].iloc[0] == ""
    assert "rate: 5000 requests/s is more than this engine serves" in answer["error"].iloc[1]


def test_tokens_wait_for_prompts_in_a_step_of_ten_where_requests_come_that_often() -> None:
    """At a rate, 1 − exp(−prompts a step) of all steps hold one, and nine tenths of tokens are sooner if few do."""
    answer = predict(rows({"concurrency": "", "rate": "0.2"}, {"concurrency": "", "rate": "14"}))
    seldom, often = ((value(answer.iloc[[k]], "itl_ms_p50"), value(answer.iloc[[k]], "itl_ms_p90")) for k in (0, 1))
    assert seldom[1] < 1.1 * seldom[0]
    assert often[1] > 1.5 * often[0]


def test_tokens_of_equal_requests_wait_for_prompts_seldom() -> None:
    """Those that began together end together, and their successors' prompts share a step."""
    alike = predict(rows({"concurrency": "32", "isl": "512"}))
    apart = predict(rows({"concurrency": "32", "isl": "512", "spread": "0.5-1"}))
    assert value(alike, "itl_ms_p90") < value(apart, "itl_ms_p90")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (rows({}).drop(columns="gpu"), "gpu missing"),
        (rows({}).drop(columns="concurrency"), "neither concurrency nor rate"),
        (rows({}).iloc[:0], "there are none"),
    ],
)
def test_a_table_that_is_no_table_of_configurations_is_refused(table: pd.DataFrame, says: str) -> None:
    with pytest.raises(InputError, match=says):
        predict(table)


def test_rows_are_predicted_alike_in_any_order() -> None:
    table = rows(*({"concurrency": str(c), "tp": tp} for c in (1, 7, 40) for tp in ("1", "4")))
    forward, backward = predict(table), predict(table.iloc[::-1])
    np.testing.assert_array_equal(
        forward["ttft_ms_mean"].to_numpy(dtype=float), backward["ttft_ms_mean"].to_numpy(dtype=float)[::-1]
    )


def test_whole_numbers_as_data_frames_write_them_and_systems_in_the_place_of_their_gpus() -> None:
    table = rows({"concurrency": "8.0", "gpu": "B200"}, {"concurrency": "8", "isl": "1000.0", "gpu": "DGX B200"})
    answer = predict(table.assign(isl="1000"))
    assert list(answer["error"]) == ["", ""]
    assert len(set(answer["ttft_ms_mean"])) == 1


def test_cells_as_spreadsheets_and_result_files_have_them() -> None:
    table = rows({"isl": "1,000"}, {"isl": "1e3"}, {}, {"framework": ""}, {"disagg": "true"}, {"disagg": "false"})
    answer = predict(table)
    assert list(answer["error"][:4]) == [""] * 4
    assert len(set(answer["ttft_ms_mean"][:4])) == 1, "1,000 and 1e3 are a thousand"
    assert "framework is blank: vllm is taken" in answer["note"].iloc[3]
    assert answer["error"].iloc[4].startswith("disagg: 'true': prefill and decode engines apart")
    assert answer["error"].iloc[5] == ""


@pytest.mark.parametrize("load", [{"concurrency": "4"}, {"concurrency": "", "rate": "4"}])
def test_answers_of_one_token_have_no_time_per_token(load: dict[str, str]) -> None:
    answer = predict(rows({"osl": "1", **load}))
    assert answer["error"].iloc[0] == ""
    assert value(answer, "ttft_ms_mean") > 0
    assert value(answer, "ttft_ms_low") <= value(answer, "ttft_ms_mean") <= value(answer, "ttft_ms_high")
    assert set(answer.filter(regex="^(tpot|itl)_ms").iloc[0]) == {""}
    if load["concurrency"]:  # the first token is the answer, and users in flight are rate × time
        assert value(answer, "e2e_ms_mean") == value(answer, "ttft_ms_mean")
        assert value(answer, "output_tokens_per_s_per_gpu") * 2 * value(answer, "ttft_ms_mean") / 1e3 == pytest.approx(
            4, rel=1e-3
        )


def test_a_build_without_a_version_is_of_its_date() -> None:
    answer = predict(
        rows(
            {"version": "gpt-oss-dev", "date": "2026-01-20"},
            {"date": "2026-01-20"},
            {"version": "gpt-oss-dev"},
            {"version": "v0.11.0-dev", "date": "2026-01-20"},
        )
    )
    releases = answer["release"].tolist()
    assert releases[0] == releases[1] != releases[2]
    assert releases[3].startswith("0.11.0")
