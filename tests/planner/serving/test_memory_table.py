"""Tables of engines: each row is the document of its engine, and one that cannot be answered says why."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from planner.serving.memory import memory
from planner.serving.memory_document import parse_memory_request
from planner.serving.memory_table import ADDED, memory_table
from profiles.errors import InputError

CONTAINER_OF_VLLM = "vllm/vllm-openai:v0.11.0"
GOOD = {"model": "Qwen/Qwen3-32B", "gpu": "H100", "framework": "vllm", "tp": "2"}


def rows(*changes: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame([{**GOOD, **change} for change in changes]).fillna("")


def test_a_row_is_the_document_of_its_engine() -> None:
    answer = memory_table(rows({"isl": "4,000", "osl": "500", "max_num_seqs": "64", "chunked_prefill": "true"}))
    fields: dict[str, Any] = {"model": GOOD["model"], "gpu": "H100", "tp": 2, "max_num_seqs": 64}
    found = memory(parse_memory_request({**fields, "workload": "isl=4000,osl=500"}))
    row = answer.iloc[0]
    assert row["starts"] == "true"
    for name, value in {**found.memory.model_dump(), **found.largest.model_dump()}.items():
        assert float(row[name]) == pytest.approx(value)
    assert row["release"] == found.version
    assert row["error"] == ""


def test_sglangs_group_holds_its_attention_replicas() -> None:
    row = {"model": "Qwen/Qwen3-30B-A3B", "framework": "sglang", "ep": "1", "moe_tp": "4"}
    answer = memory_table(
        rows({**row, "tp": "4", "dp": "4", "enable_dp_attention": "true"}, {**row, "tp": "1", "dp": "4"})
    )
    assert answer["error"].tolist() == ["", ""]
    first, second = (answer.iloc[i].drop(["tp", "enable_dp_attention", "note"]) for i in (0, 1))
    assert first.equals(second)
    assert "tp: 4 GPUs in all hold the 4 attention replicas" in answer["note"][0]


def test_what_cannot_be_answered_says_why_and_the_rest_is() -> None:
    answer = memory_table(rows({"framework": ""}, {"tp": "5"}, {"model": "Qwen/Nope"}, {"isl": "60000", "osl": "1"}))
    assert list(answer["starts"]) == ["true", "false", "", "false"]
    assert answer["reasons"].iloc[1] == "64 attention heads do not divide by tp"
    assert answer["error"].iloc[2].startswith("model: 'Qwen/Nope' is not known")
    assert "less than the 60,001 tokens" in answer["reasons"].iloc[3]


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (pd.DataFrame({"model": ["x"]}), "columns: gpu missing"),
        (rows({"starts": "yes"}), "columns: starts is written by plan memory"),
        (rows({}).iloc[:0], "rows: there are none"),
    ],
)
def test_tables_that_are_none_are_refused(table: pd.DataFrame, named: str) -> None:
    with pytest.raises(InputError, match=named):
        memory_table(table)


def test_only_columns_are_added() -> None:
    table = rows({"remark": "mine"})
    assert list(memory_table(table).columns) == [*table.columns, *ADDED]


def test_a_figure_whose_name_the_table_has_is_called_predicted() -> None:
    answer, plain = memory_table(rows({"concurrency": "32"})).iloc[0], memory_table(rows({})).iloc[0]
    assert answer["concurrency"] == "32"
    assert answer["concurrency_predicted"] == plain["concurrency"]


def test_columns_of_one_meaning_are_read_together() -> None:
    plain = memory_table(rows({}))
    table = pd.DataFrame(
        [{"model": GOOD["model"], "hardware": "8xH100", "system": "h100", "engine": "", "container": CONTAINER_OF_VLLM}]
    ).assign(tp="2", tensor_parallel_size="2")
    answer = memory_table(table).iloc[0]
    assert answer["error"] == ""
    assert "8xH100 is taken for the machine" in answer["note"]
    assert answer["release"] == "0.11.0"
    assert answer["weights_bytes"] == plain["weights_bytes"].iloc[0]


def test_columns_of_one_meaning_that_contradict_each_other_refuse_their_row() -> None:
    answer = memory_table(rows({"tensor_parallel_size": "4"}, {"tensor_parallel_size": "2"}))
    assert "'2' and '4' contradict each other" in answer["error"].iloc[0]
    assert answer["starts"].iloc[1] == "true"
