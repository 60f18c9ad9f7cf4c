"""What load generators' results say of lengths, users and engines in other terms than ours."""

from __future__ import annotations

import pandas as pd
import pytest

from planner.contract.workload.workload import parse_workload, tokens_input
from planner.serving.harness_words import in_one_cell, in_our_terms, is_inferencex
from planner.serving.prediction_table import predict
from planner.serving.same_columns import with_drafts
from profiles.errors import InputError, Unsupported

SGLANG = {
    "framework": "sglang",
    "dataset_name": "random",
    "isl": "1024",
    "osl": "1024",
    "random_range_ratio": "0.0",
    "completed": "640",
    "total_input_tokens": "333000",
    "total_output_tokens": "331000",
}
ROW = {"model": "Qwen/Qwen3-32B", "gpu": "H200", "framework": "vllm", "isl": "1024", "osl": "512", "concurrency": "4"}


def test_lengths_of_sglangs_default_are_drawn_from_one_token_on() -> None:
    found = in_our_terms(SGLANG, [])
    assert (found["isl"], found["osl"], found["spread"]) == ("1024", "1024", "0.01-1")


@pytest.mark.parametrize(
    ("more", "drawn"),
    [
        ({"dataset_name": "sharegpt"}, {"dataset": "sharegpt_whole"}),
        ({"total_input_tokens": "196000"}, {"spread": "0.5-1.5"}),
    ],
)
def test_random_lengths_that_were_not_sent_are_not_read(more: dict[str, str], drawn: dict[str, str]) -> None:
    notes: list[str] = []
    found = in_our_terms({**SGLANG, "total_output_tokens": "132000", **more}, notes)
    assert found["osl"] == "206"
    assert {name: found[name] for name in ("spread", "dataset") if found.get(name)} == drawn
    assert "osl is total_output_tokens ÷ completed: 206" in notes


def test_totals_of_chosen_lengths_are_equal_lengths() -> None:
    totals = {"completed": "320", "total_input_tokens": "327680", "total_output_tokens": "163840"}
    found = in_our_terms(totals, [])
    assert (found["isl"], found["osl"], found.get("spread")) == ("1024", "512", None)


@pytest.mark.parametrize(
    ("record", "users", "rate"),
    [
        ({"concurrency": "61.7", "max_concurrency": "64"}, "64", ""),
        ({"concurrency": "23.4", "max_concurrency": "", "rate": "4"}, "", "4"),
        ({"concurrency": "61.7", "max_concurrency": ""}, "61.7", ""),
    ],
)
def test_a_generators_bound_goes_before_the_mean_that_it_measured(
    record: dict[str, str], users: str, rate: str
) -> None:
    found = in_our_terms({"completed": "640", **record}, [])
    assert (found["concurrency"], found.get("rate", "")) == (users, rate)


@pytest.mark.parametrize("text", ["2P4D", "1P1D TP8", "P:TP8, D:TP16", "prefill TP4 decode TP8"])
def test_prefill_and_decode_engines_in_a_cell_are_no_tensor_parallelism(text: str) -> None:
    with pytest.raises(Unsupported, match="prefill and decode engines apart"):
        in_one_cell({"parallelism": text, "num_gpus": "8"})
    answer = predict(pd.DataFrame([{**ROW, "serving_mode": "2P4D"}, {**ROW, "serving_mode": "aggregated"}]))
    assert "prefill and decode engines apart" in answer["error"][0]
    assert answer["error"][1] == ""


def test_degrees_may_stand_together_in_the_column_of_one() -> None:
    assert in_one_cell({"tp": "TP8EP8"}) == {"tp": "8", "ep": "8"}
    assert in_one_cell({"tp": "DEP8"}) == {"tp": "DEP8"}
    with pytest.raises(InputError, match="contradict each other"):
        in_one_cell({"tp": "TP8EP8", "ep": "4"})


@pytest.mark.parametrize(
    ("mtp", "spec"),
    [
        (["0", "1", ""], ["0", "mtp", ""]),
        (["0", "1", "3"], ["0", "mtp1", "mtp3"]),
        (["true", "false"], ["true", "false"]),
    ],
)
def test_a_column_mtp_tells_tokens_a_step_or_whether(mtp: list[str], spec: list[str]) -> None:
    assert list(with_drafts(pd.DataFrame({"spec": mtp}), {"mtp": "spec"})["spec"]) == spec
    assert list(with_drafts(pd.DataFrame({"spec": mtp}), {"spec_decoding": "spec"})["spec"]) == mtp


def test_what_mtp_says_is_predicted() -> None:
    run = {**ROW, "model": "deepseek-ai/DeepSeek-R1", "framework": "sglang", "tp": "8"}
    answer = predict(pd.DataFrame([{**run, "mtp": "0"}, {**run, "mtp": "1"}, {**run, "mtp": "3"}]))
    assert list(answer["error"]) == [""] * 3
    assert answer["tpot_ms_mean"].nunique() == 3


def test_a_kind_of_data_is_no_precision() -> None:
    assert "precision" not in in_our_terms({"data_type": "synthetic"}, [])
    assert in_our_terms({"data_type": "fp8"}, [])["precision"] == "fp8"


def test_gpus_of_several_engines_are_not_those_of_one() -> None:
    rows = [
        {**ROW, "tp": "4", "total_gpus": total, "gpus_per_replica": each} for total, each in (("8", "4"), ("4", "4"))
    ]
    answer = predict(pd.DataFrame(rows))
    assert answer["error"][0].startswith("total_gpus: 8 are not the 4 of the engine")
    assert answer["error"][1] == ""
    alone = predict(pd.DataFrame([{**ROW, "total_gpus": "4"}]))
    assert alone["tpot_ms_mean"][0] == answer["tpot_ms_mean"][1]


def test_the_roles_of_inferencexs_interface_are_one_engine_where_they_are_alike() -> None:
    roles = {f"{role}_{name}": "8" for role in ("prefill", "decode") for name in ("tp", "ep")}
    assert in_our_terms(roles, []) == {**roles, "tp": "8", "ep": "8"}
    with pytest.raises(Unsupported, match="prefill_ep, decode_ep: '8', '4'"):
        in_our_terms({**roles, "decode_ep": "4"}, [])
    assert is_inferencex(["hardware", "conc", "mean_intvty"])
    assert not is_inferencex(["hardware", "conc"])


def test_a_column_in_other_spelling_is_the_same() -> None:
    plain, spaced = (
        predict(pd.DataFrame([{**ROW, "concurrency": "", name: "4"}])) for name in ("batch_size", "Batch Size")
    )
    assert plain["error"][0] == spaced["error"][0] == ""
    assert plain["tpot_ms_mean"][0] == spaced["tpot_ms_mean"][0]


def test_random_prompts_are_of_one_length_unless_a_ratio_is_told() -> None:
    """vLLM's results tell no ratio: its client sends lengths as they are asked for unless it is told one."""
    totals = {"completed": "500", "total_input_tokens": "1997942", "total_output_tokens": "99803"}
    for name in ("random", "sonnet", "prefix_repetition"):
        assert "spread" not in in_our_terms({**totals, "dataset_name": name}, [])
    assert in_our_terms({**totals, "dataset_name": "custom"}, [])["spread"] == "0.5-1.5"


def test_lengths_of_a_named_data_set_of_conversations_differ() -> None:
    notes: list[str] = []
    said = {"isl": "232.6", "osl": "220.61", "rate": "4", "dataset_name": "lmsys-chat-1m"}
    assert in_our_terms(said, notes)["spread"] == "0.5-1.5"
    assert "means of lmsys-chat-1m" in notes[0]
    assert "spread" not in in_our_terms({**said, "dataset_name": "random"}, [])
    assert in_our_terms({**said, "spread": "0.8-1"}, [])["spread"] == "0.8-1"


@pytest.mark.parametrize(
    ("said", "read"), [("0-1", "0.01-1"), ("0.0-2", "0.01-2"), ("0.8-1", "0.8-1"), ("01-2", "01-2")]
)
def test_lengths_from_nothing_on_begin_with_a_token(said: str, read: str) -> None:
    assert in_our_terms({"spread": said}, [])["spread"] == read


def test_no_more_users_were_there_than_requests_were_sent() -> None:
    notes: list[str] = []
    found = in_our_terms({"concurrency": "256", "requests": "50"}, notes)
    assert (found["concurrency"], found["mode"]) == ("50", "burst")
    assert notes == ["concurrency: no more than the 50 requests that were sent were there at once, of 256"]
    assert in_our_terms({"concurrency": "50", "requests": "50"}, []) == {"concurrency": "50", "requests": "50"}


def test_prompts_found_in_the_prefix_cache_have_a_column() -> None:
    run = {"model": "Qwen/Qwen3-8B", "gpu": "H200", "framework": "vllm", "isl": "4096", "osl": "64", "concurrency": "4"}
    new, again = predict(pd.DataFrame([{**run, "prefix_hit": ""}, {**run, "prefix_hit": "0.9"}]))[
        "ttft_ms_mean"
    ].astype(float)
    assert again < new / 2


def test_a_reader_is_told_of_answers_that_are_shorter_than_asked() -> None:
    notes: list[str] = []
    totals = {"completed": "160", "total_input_tokens": "163840", "total_output_tokens": "10000"}
    assert in_our_terms({"isl": "1024", "osl": "128", **totals}, notes)["osl"] == "128"
    assert notes == ["osl: 128 is read, and not total_output_tokens ÷ completed, which is 62"]
    drawn: list[str] = []
    in_our_terms({"isl": "1024", "osl": "70", "spread": "0.8-1", **totals, "total_input_tokens": "147456"}, drawn)
    assert drawn == []


@pytest.mark.parametrize("isl", ["512-1536", "1024±200", "uniform(100;2000)", "1k-2k", "512..1024"])
def test_lengths_as_ranges_are_refused_with_the_way_out(isl: str) -> None:
    error = predict(pd.DataFrame([{**ROW, "isl": isl}]))["error"][0]
    assert "is how lengths are drawn; give their mean" in error
    with pytest.raises(InputError, match="is how lengths are drawn"):
        parse_workload(f"isl={isl},osl=10")
    with pytest.raises(ValueError, match="is how lengths are drawn"):
        tokens_input(isl)
