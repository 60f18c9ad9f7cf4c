"""Several columns of one table that mean the same."""

from __future__ import annotations

import pandas as pd
import pytest

from planner.serving.measured.read import not_read
from planner.serving.prediction_table import predict
from planner.serving.same_columns import agreed, columns_read, with_drafts
from profiles.errors import InputError

ROW = {"model": "Qwen/Qwen3-32B", "gpu": "H200", "framework": "vllm", "isl": "1024", "osl": "512", "concurrency": "4"}


@pytest.mark.parametrize(
    ("columns", "meant", "beside"),
    [
        (["tp_size", "tensor_parallel"], {"tp_size": "tp"}, {"tp": ("tensor_parallel",)}),
        (["tp", "tensor_parallel"], {}, {"tp": ("tensor_parallel",)}),
        (["max_concurrency", "max_concurrent_requests", "completed"], {"max_concurrency": "concurrency"}, {}),
        (["max_concurrent_requests"], {"max_concurrent_requests": "concurrency"}, {}),
        (["max_concurrent_requests", "completed"], {}, {}),
        (["rps", "qps"], {"qps": "rate"}, {"rate": ("rps",)}),
    ],
)
def test_the_first_is_read_and_the_others_stand_beside(
    columns: list[str], meant: dict[str, str], beside: dict[str, tuple[str, ...]]
) -> None:
    assert columns_read(pd.DataFrame(columns=columns), ("tp", "concurrency", "rate")) == (meant, beside)


def test_others_fill_what_is_blank_and_must_agree() -> None:
    beside = {"tp": ("tensor_parallel",), "precision": ("quant",), "isl": ("input_len",), "model": ("model_path",)}
    record = {
        "tp": "",
        "tensor_parallel": "4",
        "precision": "fp4",
        "quant": "nvfp4",
        "isl": "1024",
        "input_len": "1024.0",
    }
    notes: list[str] = []
    assert agreed(record, beside, ("precision",), notes) == {**record, "tp": "4"}
    assert agreed({"isl": "512", "input_len": "1024"}, beside, ("isl",), notes)["isl"] == "512", "our own goes first"
    assert notes == []
    agreed({"model": "a", "model_path": "/data/b"}, beside, (), notes)
    assert notes == ["model: 'a' is read, not '/data/b' in model_path"]


@pytest.mark.parametrize(
    "record",
    [
        {"tp": "2", "tensor_parallel": "4"},
        {"isl": "512", "input_len": "1024"},
        {"precision": "fp8", "quant": "bf16"},
    ],
)
def test_one_row_whose_columns_contradict_each_other_is_refused(record: dict[str, str]) -> None:
    beside = {"tp": ("tensor_parallel",), "precision": ("quant",), "isl": ("input_len",)}
    with pytest.raises(InputError, match="contradict each other"):
        agreed(record, beside, (), [])


def test_a_contradiction_loses_its_own_row_alone() -> None:
    rows = [{**ROW, "tp_size": "2", "tensor_parallel": "4"}, {**ROW, "tp_size": "2", "tensor_parallel": "2"}]
    answer = predict(pd.DataFrame(rows), beside_measured=True)
    assert answer["error"][0] == "tp, tensor_parallel: '2' and '4' contradict each other; keep the one that holds"
    assert answer["error"][1] == ""


def test_our_own_columns_of_an_answer_are_no_words_of_the_table() -> None:
    table = pd.DataFrame([{**ROW, "backend_version": "0.11.0", "tp": "2", "tpot_ms_p50": "10"}])
    answer = predict(table, beside_measured=True)
    assert answer["release"][0] == "0.11.0"
    assert not_read(list(answer.columns), ()) == ()


@pytest.mark.parametrize(
    ("spec", "mtp", "read"),
    [("", "3", "mtp3"), ("mtp", "3", "mtp3"), ("mtp2", "", "mtp2"), ("eagle", "0", "eagle"), ("", "0", "0")],
)
@pytest.mark.parametrize("column", ["spec", "spec_decoding"])
def test_what_mtp_says_counts_beside_another_column_of_drafts(column: str, spec: str, mtp: str, read: str) -> None:
    """It was ignored without a word wherever ``spec`` or the like was there."""
    table = pd.DataFrame([{column: spec, "mtp": mtp}, {column: "", "mtp": "3"}])
    meant, beside = columns_read(table, ("spec",))
    first = with_drafts(table.rename(columns=meant), meant).to_dict("records")[0]
    assert agreed(first, beside, table.columns, [])["spec"] == read


@pytest.mark.parametrize(("spec", "mtp"), [("mtp", "0"), ("mtp2", "mtp3"), ("off", "mtp3")])
def test_drafts_that_contradict_each_other_are_refused(spec: str, mtp: str) -> None:
    with pytest.raises(InputError, match=r"^spec, mtp: .* contradict each other"):
        agreed({"spec": spec, "mtp": mtp}, {"spec": ("mtp",)}, (), [])
