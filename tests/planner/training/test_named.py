"""Tables of layouts: rows that cannot be predicted say why, the others are predicted, and errors are scored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from roofline_cost import roofline_links

from planner.training import machines, named
from planner.training.columns import MEMORY, TIMES
from profiles.errors import InputError

ROW = {"model": "meta-llama/Llama-3.1-8B", "gpu": "H100", "seq": "8192", "gbs": "64", "tp": "2", "dp": "4", "mbs": "1"}


@pytest.fixture(autouse=True)
def _rooflines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        machines.Machines, "links", lambda self, gpu, per_node, fabric: roofline_links(gpu.name, per_node)
    )


def table(*rows: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame([{**ROW, **row} for row in rows]).fillna("")


def test_columns_are_kept_and_those_of_the_prediction_added() -> None:
    answer = named.predict(table({"note": "mine"}))
    assert list(answer.columns) == [*ROW, "note", *TIMES, *MEMORY, "how", "error", "defaults"]
    row = answer.iloc[0]
    assert row["error"] == ""
    assert row["iteration_s_low"] < row["iteration_s"] < row["iteration_s_high"]
    assert row["memory_bytes_per_gpu_low"] < row["memory_bytes_per_gpu"] < row["memory_bytes_per_gpu_high"]
    assert row["memory_bytes_per_gpu"] < row["memory_reserved_bytes_per_gpu"]
    assert row["fits"] in ("true", "false")
    assert row["tokens_per_s_gpu"] == pytest.approx(64 * 8192 / 8 / row["iteration_s"], rel=1e-4)
    assert 0 < row["mfu"] < 1


def test_a_row_that_cannot_be_predicted_says_why_and_the_rest_still_is() -> None:
    answer = named.predict(table({}, {"tp": "3"}, {"gpu": "nonsense"}, {"model": "Qwen/Qwen3-8B"}))
    assert [bool(error) for error in answer["error"]] == [False, True, True, False]
    assert answer["error"].iloc[1].startswith("tp: 3")
    assert answer["error"].iloc[2].startswith("gpu: ")


def test_a_row_is_answered_the_same_alone_and_among_others() -> None:
    rows = [{"mbs": "2"}, {"tp": "4", "dp": "2"}, {"pp": "2", "dp": "2"}, {"pp": "4", "tp": "1", "dp": "2", "vpp": "2"}]
    together = named.predict(table(*rows))
    for index, row in enumerate(rows):
        alone = named.predict(table(row)).iloc[0]
        assert float(alone["iteration_s"]) == pytest.approx(float(together["iteration_s"].iloc[index]), rel=1e-6)
        assert alone["memory_bytes_per_gpu"] == together["memory_bytes_per_gpu"].iloc[index]


def test_memory_alone_needs_no_time_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked for links")

    monkeypatch.setattr(machines.Machines, "links", refuse)
    answer, (stages,) = named.memories(table({}))
    assert answer["iteration_s"].iloc[0] == ""
    assert max(stage["allocated_bytes"] for stage in stages) == answer["memory_bytes_per_gpu"].iloc[0] > 0


def test_measured_columns_are_scored() -> None:
    told = named.predict(table({}, {"mbs": "2"}))
    seconds = told["iteration_s"].to_numpy(dtype=np.float64)
    given = table({}, {"mbs": "2"}).assign(s_iter=[str(seconds[0] / 1.1), ""], peak_mem_gib=["40", "50"])
    given, truth = named.measured_columns(given)
    scores = {each.quantity: each for each in named.scores(named.predict(given), truth)}
    assert scores["iteration_s"].rows == 1
    assert scores["iteration_s"].bias_pct == pytest.approx(10, abs=0.01)
    assert scores["memory_bytes_per_gpu"].rows == 2


def test_a_measured_column_of_our_name_is_renamed_or_refused() -> None:
    given = table({}).assign(iteration_s=["3"])
    with pytest.raises(InputError, match="iteration_s: the column is added"):
        named.predict(given)
    renamed, truth = named.measured_columns(given)
    assert "measured_iteration_s" in renamed.columns
    assert truth["iteration_s"].tolist() == [3.0]


@pytest.mark.parametrize("wrong", ["NaN", "-1", "0", "fast"])
def test_measured_values_are_positive_numbers(wrong: str) -> None:
    with pytest.raises(InputError, match=r"s_iter: .* in row 1 is no positive number"):
        named.measured_columns(table({}).assign(s_iter=[wrong]))


def test_measured_without_a_measured_column_is_refused() -> None:
    with pytest.raises(InputError, match="measured: there is no column"):
        named.measured_columns(table({}))


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(InputError, match="rows: there are none"):
        named.predict(table({}).head(0))
