"""Tables of measured runs, as laboratories publish them, scored against their predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from planner.contract.words import words
from planner.serving.measured.columns import measured_columns, quantity_of
from planner.serving.measured.scores import best_single_score, interval_score, scores_of
from planner.serving.prediction_table import ADDED, predict
from profiles.errors import InputError

RUN = {
    "source": "lab",
    "date": "2026-02-26",
    "mode": "closed",
    "model": "Qwen/Qwen3-32B",
    "gpu": "H200",
    "framework": "vllm",
    "version": "0.16 (V1, async scheduling)",
    "precision": "bf16",
    "kv_precision_assumed": "bf16",
    "tp": "2",
    "spec": "none",
    "isl": "1000",
    "osl": "100",
    "spread": "0.8-1",
    "concurrency": "7.998",
    "rate": "",
    "ttft_ms_mean": "",
    "tpot_ms_p50": "12.5",
    "watts_per_gpu": "",
    "itl_ms_p50": "11",
    "osl_length_biased": "",
}


def runs(*changes: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame([{**RUN, **each} for each in changes])


@pytest.mark.parametrize(
    ("column", "held"),
    [
        ("ttft_ms_p50", ("ttft_ms_p50", 1.0)),
        ("median_ttft_ms", ("ttft_ms_p50", 1.0)),
        ("TTFT (s)", ("ttft_ms_mean", 1000.0)),
        ("P99 E2EL [ms]", ("e2e_ms_p99", 1.0)),
        ("avg-tpot-us", ("tpot_ms_mean", 0.001)),
        ("silicon_tpot_ms", ("tpot_ms_mean", 1.0)),
        ("itl_seconds_p90", ("itl_ms_p90", 1000.0)),
        ("watts_per_gpu", ("watts_per_gpu", 1.0)),
        ("results_ttft_s_mean", ("ttft_ms_mean", 1000.0)),
        ("results_end_to_end_latency_s_quantiles_p99", ("e2e_ms_p99", 1000.0)),
        ("results_inter_token_latency_s_mean", None),
        *((name, None) for name in ("ttft", "mean_itl_ms", "ttft_ms_low", "ttft_ms_by_part", "std_ttft_ms", "s", "")),
        *((name, None) for name in ("ttft_tpot_ms", "ttft_ms_s", "mean_p50_ttft_ms", "ttft_ms_mean_predicted")),
    ],
)
def test_measured_columns_are_read_by_their_words(column: str, held: tuple[str, float] | None) -> None:
    assert quantity_of(column) == held


def test_measured_seconds_are_milliseconds() -> None:
    truth = measured_columns(runs({"ttft_ms_mean": "120"}).rename(columns={"ttft_ms_mean": "mean TTFT (s)"}))
    assert truth.values["ttft_ms_mean"].tolist() == [120_000.0]


def test_published_columns_are_understood_and_kept() -> None:
    table = runs({})
    answer = predict(table, beside_measured=True)
    row = answer.iloc[0]
    assert row["error"] == ""
    assert list(answer.columns[: len(table.columns)]) == list(table.columns)
    assert row["tpot_ms_p50"] == "12.5"
    assert float(row["tpot_ms_p50_predicted"]) > 0
    assert float(row["itl_ms_p50_predicted"]) <= float(row["itl_ms_p90"])
    assert float(row["tpot_ms_p50_low"]) < float(row["tpot_ms_p50_predicted"]) < float(row["tpot_ms_p50_high"])
    assert "concurrency 7.998 is predicted as 8" in row["note"]
    assert row["release"] == "0.16.0"
    plain = predict(runs({"concurrency": "8"})).iloc[0]
    assert plain["predicted_tpot_ms_p50"] == row["tpot_ms_p50_predicted"]


def test_a_row_says_how_many_tokens_are_drafted() -> None:
    said = {"model": "deepseek-ai/DeepSeek-R1", "tp": "8", "precision": "", "framework": "sglang", "version": ""}
    answer = predict(runs(*({**said, "spec": spec} for spec in ("mtp", "mtp2", "mtp3"))), beside_measured=True)
    tpot = answer["tpot_ms_p50_predicted"].astype(float)
    assert tpot[0] == tpot[1] != tpot[2]
    assert "spec: 3 drafted tokens a step" in answer["note"][2]


def test_mean_lengths_are_predicted_as_whole_tokens() -> None:
    answer = predict(runs({"osl": "99.6"}, {"osl": "100"}, {"osl": "0.4"}), beside_measured=True)
    assert answer["tpot_ms_p50_predicted"][0] == answer["tpot_ms_p50_predicted"][1]
    assert "osl is a mean of 99.6 tokens, predicted as 100" in answer["note"][0]
    assert answer["error"][2]


def test_longer_running_outputs_a_burst_and_drafting_change_the_answer() -> None:
    answer = predict(
        runs(
            {},
            {"spread": ""},
            {"spread": "", "osl_length_biased": "4000"},
            {"mode": "burst8"},
            {"spec": "mtp", "model": "deepseek-ai/DeepSeek-R1", "tp": "8", "precision": ""},
            {"spec": "none", "model": "deepseek-ai/DeepSeek-R1", "tp": "8", "precision": ""},
        ),
        beside_measured=True,
    )
    assert (answer["error"] == "").all()
    tpot = answer["tpot_ms_mean"].astype(float)
    assert tpot[2] > tpot[1]
    thin = answer["output_tokens_per_s_per_gpu"].astype(float)
    assert thin[3] < thin[0]  # the tail runs empty
    assert tpot[4] < tpot[5]
    assert "drafted tokens a step" in answer["note"][4]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"spec": "perhaps"}, "spec: 'perhaps'"), ({"concurrency": "0.2"}, "below half a request")],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, str], named: str) -> None:
    assert named in predict(runs(wrong))["error"][0]


def test_scores_count_what_is_left_out_and_cut_by_columns() -> None:
    table = runs(
        {}, {"framework": "atom"}, {"gpu": "H100-SXM", "tpot_ms_p50": ""}, {"gpu": "H100-SXM", "itl_ms_p50": ""}
    )
    scores = scores_of(predict(table, beside_measured=True), measured_columns(table), ["gpu"])
    assert scores.rows == 4
    assert [(each.reason, each.rows) for each in scores.left_out] == [("framework: 'atom' is not modelled", 1)]
    found = {(each.quantity, each.by, each.group): each.rows for each in scores.scores}
    assert found["tpot_ms_p50", "all", "all"] == 2
    assert found["tpot_ms_p50", "gpu", "H200"] == 1
    assert found["itl_ms_p50", "gpu", "H100-SXM"] == 1
    with pytest.raises(InputError, match="no column nothing"):
        scores_of(predict(table, beside_measured=True), measured_columns(table), ["nothing"])


def test_a_perfect_and_a_doubled_prediction_score_as_they_should() -> None:
    table = runs(*({"tpot_ms_p50": value} for value in ("10", "20", "30")))
    answer = predict(table, beside_measured=True)
    answer["tpot_ms_p50_predicted"] = ["10", "40", "60"]
    answer["tpot_ms_p50_low"], answer["tpot_ms_p50_high"] = ["9", "39", "25"], ["11", "41", "70"]
    score = next(s for s in scores_of(answer, measured_columns(table)).scores if s.quantity == "tpot_ms_p50")
    assert (score.mape_pct, score.median_pct, score.bias_pct) == (66.7, 100.0, 100.0)
    assert score.coverage_pct == 66.7


def test_interval_score_is_gneitings() -> None:
    logs = np.array([[0.0, 2.0], [0.0, 0.0], [-1.0, -1.0], [1.0, 1.0]])
    assert interval_score(logs) == pytest.approx([2.0, 2.0 + 10.0 * 1.0])
    errors = np.random.default_rng(0).normal(0, 0.2, 4000)
    assert best_single_score(errors) == pytest.approx(2 * 1.75 * 0.2, rel=0.05)  # of a normal law: 3.5 σ


def test_a_table_without_a_measured_column_is_refused() -> None:
    with pytest.raises(InputError, match="no column holds what was measured"):
        measured_columns(pd.DataFrame([{"other": "1"}]))


def test_every_quantity_is_a_column_of_the_prediction() -> None:
    from planner.serving.measured.columns import ENDS, QUANTITIES

    for quantity in QUANTITIES:
        assert quantity in ADDED
        if not quantity.endswith("p99"):
            assert f"{ENDS.get(quantity, quantity)}_low" in ADDED


def test_a_cell_of_a_time_may_have_its_own_unit() -> None:
    table = pd.DataFrame({"ttft_ms_mean": ["120ms", "0.12 s", "120", "soon"], "e2e_s": ["1.2", "1200 ms", "1.2s", ""]})
    read = measured_columns(table)
    assert list(read.values["ttft_ms_mean"][:3]) == pytest.approx([120.0] * 3)
    assert list(read.values["e2e_ms_mean"][:3]) == pytest.approx([1200.0] * 3)
    assert [count for _, count in read.unread] == [1]


def test_a_unit_is_read_in_any_letters_and_of_cells_alone() -> None:
    table = pd.DataFrame(
        {"TTFT": ["120 MS", "0.12 Seconds", "120", "OOM"], "tpot": ["10ms", "10 \u00b5s", "10 \u03bcs", ""]}
    )
    read = measured_columns(table)
    assert list(read.values["ttft_ms_mean"][:2]) == pytest.approx([120.0] * 2)
    assert list(read.values["tpot_ms_mean"][:3]) == pytest.approx([10.0, 0.01, 0.01])
    assert dict(read.unread) == {"TTFT: says no unit": 1, "TTFT: 'OOM' is no number above 0": 1}
    assert measured_columns(pd.DataFrame({"TTFT (\u00b5s)": ["1200"]})).values["ttft_ms_mean"][0] == 1.2


def test_a_row_that_is_there_before_is_told() -> None:
    table = runs({}, {}, {"tpot_ms_p50": "13"})
    assumed = scores_of(predict(table, beside_measured=True), measured_columns(table)).assumed
    assert [each.rows for each in assumed if "the same as a row before" in each.reason] == [1]


def test_cells_that_are_no_numbers_were_not_measured_and_are_counted() -> None:
    table = pd.DataFrame({"tp": ["2"] * 6, "ttft_ms_mean": ["1,234.5", "OOM", "OOM", "-3", "", "0"]})
    truth = measured_columns(table)
    assert truth.values["ttft_ms_mean"][0] == 1234.5
    assert np.isnan(truth.values["ttft_ms_mean"][1:]).all()
    assert truth.unread == (
        ("ttft_ms_mean: 'OOM' is no number above 0", 2),
        ("ttft_ms_mean: '-3' is no number above 0", 1),
    )


def test_two_columns_of_one_quantity_fill_each_other() -> None:
    table = pd.DataFrame({"median_tpot_ms": ["10", "", "12"], "p50_tpot_ms": ["10.01", "11", ""]})
    assert measured_columns(table).values["tpot_ms_p50"].tolist() == [10, 11, 12]


def test_what_all_gpus_put_out_is_divided_by_them() -> None:
    table = pd.DataFrame(
        {
            "tensor_parallel_size": ["2", "", "", ""],
            "num_gpus": ["", "4", "", ""],
            "gpu": ["H100", "H100", "8xH100", "H100"],
            "output_throughput": ["100", "100", "100", "100"],
            "avg_power_watts": ["1000", "1000", "1000", "1000"],
        }
    )
    truth = measured_columns(table).values
    np.testing.assert_array_equal(truth["output_tokens_per_s_per_gpu"], [50, 25, 12.5, 100])
    np.testing.assert_array_equal(truth["watts_per_gpu"], [500, 250, 125, 1000])
    plain = measured_columns(pd.DataFrame({"output tok/s/GPU": ["7"], "Output Throughput (tok/s)": ["9"]})).values
    assert plain["output_tokens_per_s_per_gpu"].tolist() == [7]


def test_every_column_that_is_known_to_hold_something_measured_is_read() -> None:
    for quantity, names in words().measured.items():
        for column in (*names["per GPU"], *names["of all GPUs"]):
            assert list(measured_columns(pd.DataFrame({"tp": ["1"], column: ["3"]})).values) == [quantity]


def test_scores_equal_what_pandas_makes_of_the_same_columns() -> None:
    rng = np.random.default_rng(0)
    changes = [{"concurrency": str(n), "tpot_ms_p50": f"{8 + n / 8 * rng.uniform(0.5, 2):.3f}"} for n in range(1, 41)]
    answer = predict(table := runs(*changes), beside_measured=True)
    (card, *_) = [s for s in scores_of(answer, measured_columns(table)).scores if s.quantity == "tpot_ms_p50"]
    truth, predicted, low, high = (
        answer[name].astype(float)
        for name in ("tpot_ms_p50", "tpot_ms_p50_predicted", "tpot_ms_p50_low", "tpot_ms_p50_high")
    )
    error = predicted / truth - 1
    assert card.mape_pct == pytest.approx(100 * error.abs().mean(), abs=0.06)
    assert card.median_pct == pytest.approx(100 * error.abs().median(), abs=0.06)
    assert card.bias_pct == pytest.approx(100 * error.median(), abs=0.06)
    assert card.coverage_pct == pytest.approx(100 * truth.between(low, high).mean(), abs=0.06)
    missed = np.log(low / truth).clip(lower=0) + np.log(truth / high).clip(lower=0)
    assert card.interval_score == pytest.approx((np.log(high / low) + 10 * missed).mean(), abs=1e-4)


def test_what_was_taken_and_what_was_not_read_are_told() -> None:
    table = runs({"tp": "", "weather": "fine"}, {"tp": "", "weather": "fair"})
    scores = scores_of(predict(table, beside_measured=True), measured_columns(table), ["date"])
    assert scores.not_read == ("weather",)
    assert [(each.rows, each.reason.partition(":")[0]) for each in scores.assumed] == [
        (2, "source"),  # a laboratory without runs
        (2, "tp, num_gpus"),
    ]


def test_equal_lengths_that_nobody_gave_are_told() -> None:
    table = runs({"spread": ""}, {"spread": "", "concurrency": "1"})
    notes = predict(table, beside_measured=True)["note"]
    assert [("every request is taken to be as long" in note) for note in notes] == [True, False]
