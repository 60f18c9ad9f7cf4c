"""The measurement row: what is refused and in which words, and how rows merge."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from profiles.errors import DataError, UnknownName
from profiles.measured_rows import empty_rows, merge_rows, validate
from profiles.measurements import DTYPE_MEANINGS, DTYPES, OPERATIONS, Operation, columns_of, find_operation

MakeRows = Callable[..., pd.DataFrame]
GEMM = OPERATIONS["gemm"]
PROVENANCE = ("gpu", "kernel", "framework", "framework_version", "source", "date")

each_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=list(OPERATIONS))


def refusal(operation: Operation, rows: pd.DataFrame) -> DataError:
    with pytest.raises(DataError) as caught:
        validate(operation, rows, where="file.csv")
    assert caught.value.message.startswith("file.csv: ")
    assert caught.value.hint
    return caught.value


# -------------------------------------------------------------------------------------- the schema


@each_operation
def test_every_column_says_what_it_means_and_no_name_comes_twice(operation: Operation) -> None:
    columns = columns_of(operation)
    assert len({column.name for column in columns}) == len(columns)
    assert all(column.meaning for column in columns)
    assert operation.meaning
    assert set(operation.key) <= {column.name for column in columns}


@each_operation
def test_a_unit_in_a_name_is_the_unit_of_the_column(operation: Operation) -> None:
    units = {"_us": "µs", "_bytes": "bytes", "_watts": "W", "_mhz": "MHz", "_tokens": "tokens"}
    for column in columns_of(operation):
        for suffix, unit in units.items():
            if column.name.endswith(suffix):
                assert column.unit == unit, column.name


def test_every_precision_has_a_meaning_and_keeps_its_place() -> None:
    assert tuple(DTYPE_MEANINGS) == DTYPES
    assert all(DTYPE_MEANINGS.values())
    # Cost models encode a precision by its place: new ones go to the end.
    known = (
        "fp32",
        "bf16",
        "fp16",
        "int8",
        "int8_wo",
        "fp8",
        "fp8_block",
        "nvfp4",
        "mxfp4",
        "mxfp4_fp8",
        "int4",
    )
    assert DTYPES[: len(known)] == known


def test_an_unknown_operation_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="'attention_decod' is not known") as caught:
        find_operation("attention_decod")
    assert "attention_decode" in caught.value.hint


# -------------------------------------------------------------------------------------- what passes


@each_operation
def test_valid_rows_pass_and_come_back_typed_and_in_order(operation: Operation, make_rows: MakeRows) -> None:
    rows = make_rows(operation.name, 3)
    valid = validate(operation, rows[rows.columns[::-1]])
    assert list(valid.columns) == [column.name for column in columns_of(operation)]
    assert (valid.dtypes == empty_rows(operation).dtypes).all()
    assert_frame_equal(valid, validate(operation, valid))


def test_missing_optional_columns_become_null(make_rows: MakeRows) -> None:
    valid = validate(GEMM, make_rows("gemm", 2))
    optional = [column.name for column in columns_of(GEMM) if not column.required]
    assert len(optional) >= 8
    assert valid[optional].isna().all(axis=None)


def test_given_optional_columns_are_kept_with_their_gaps(make_rows: MakeRows) -> None:
    rows = make_rows("gemm", 2, power_watts=[512.5, None], repeats=[20, None], driver=["580.1", None])
    valid = validate(GEMM, rows)
    assert valid["power_watts"].tolist()[0] == 512.5
    assert valid["repeats"][0] == 20
    assert valid["driver"][0] == "580.1"
    assert valid[["power_watts", "repeats", "driver"]].iloc[1].isna().all()


def test_rows_of_any_index_are_numbered_from_0_and_not_changed(make_rows: MakeRows) -> None:
    rows = make_rows("gemm", 2).set_axis([7, 7])
    before = rows.copy()
    assert validate(GEMM, rows).index.tolist() == [0, 1]
    assert_frame_equal(rows, before)


def test_no_rows_are_valid_rows(make_rows: MakeRows) -> None:
    assert_frame_equal(validate(GEMM, make_rows("gemm", 2).head(0)), empty_rows(GEMM))


@pytest.mark.parametrize("values", [[True, False], ["1", "0"], [1.0, 0.0], np.array([1, 0], dtype="uint8")])
def test_whole_numbers_pass_however_they_are_stored(make_rows: MakeRows, values: object) -> None:
    valid = validate(OPERATIONS["moe"], make_rows("moe", 2, gated=values))
    assert valid["gated"].dtype == "int64"
    assert valid["gated"].tolist() == [1, 0]


def test_texts_pass_however_they_are_stored(make_rows: MakeRows) -> None:
    rows = make_rows("gemm", 2).astype({"gpu": "category", "dtype": "object"})
    assert validate(GEMM, rows)["gpu"].dtype == "str"


# -------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", [column.name for column in columns_of(GEMM) if column.required])
def test_a_missing_column_is_refused(make_rows: MakeRows, name: str) -> None:
    error = refusal(GEMM, make_rows("gemm", 2).drop(columns=name))
    assert f"column {name!r} is missing" in error.message


def test_a_column_that_nobody_knows_is_refused(make_rows: MakeRows) -> None:
    error = refusal(GEMM, make_rows("gemm", 1, latency_ms=1.0))
    assert "'latency_ms' is not a column of operation gemm" in error.message
    assert "latency_us" in error.hint


def test_a_column_that_comes_twice_is_refused(make_rows: MakeRows) -> None:
    rows = make_rows("gemm", 1)
    assert "'m' comes twice" in refusal(GEMM, pd.concat([rows, rows[["m"]]], axis="columns")).message


@pytest.mark.parametrize("name", PROVENANCE)
@pytest.mark.parametrize("blank", [None, "", "  "])
def test_a_row_without_provenance_is_refused(make_rows: MakeRows, name: str, blank: str | None) -> None:
    error = refusal(GEMM, make_rows("gemm", 3, **{name: ["x", blank, blank]}))
    assert f"row 1 (counted from 0), column {name!r}" in error.message
    assert "is empty (2 such rows)" in error.message


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("latency_us", float("nan"), "null is not a number"),
        ("latency_us", "fast", "'fast' is not a number"),
        ("latency_us", float("inf"), "inf is not finite"),
        ("latency_us", 0.0, "0.0 is below 0.001"),
        ("latency_us", -3.5, "-3.5 is below 0.001"),
        ("latency_p90_us", 0.0, "0.0 is below 0.001"),
        ("power_watts", -1.0, "-1.0 is below 0"),
        ("m", float("nan"), "null is not a number"),
        ("m", 0, "0 is below 1"),
        ("m", 1.5, "1.5 is not a whole number"),
        ("m", 1e300, "1e+300 is too large"),
        ("repeats", 2.5, "2.5 is not a whole number"),
        ("dtype", "bfloat16", "'bfloat16' is not one of fp32, bf16"),
        ("date", "21.11.2026", "'21.11.2026' has not the form"),
        ("date", "2026-13-01", "'2026-13-01' has not the form"),
    ],
)
def test_an_impossible_value_is_refused_by_row_column_and_value(
    make_rows: MakeRows, name: str, value: object, why: str
) -> None:
    rows = make_rows("gemm", 3).astype("object")
    rows.loc[1, name] = value
    error = refusal(GEMM, rows)
    assert f"row 1 (counted from 0), column {name!r}: {why}" in error.message
    assert name in error.hint


@pytest.mark.parametrize(
    ("operation", "name", "value"),
    [
        ("attention_decode", "kv_dtype", "float8"),
        ("collective", "kind", "allreduce"),
        ("mla_bmm", "kind", "mla_gen_pre"),
        ("moe", "routing", "zipf"),
    ],
)
def test_a_text_outside_its_levels_is_refused(make_rows: MakeRows, operation: str, name: str, value: str) -> None:
    assert repr(value) in refusal(OPERATIONS[operation], make_rows(operation, 1, **{name: value})).message


@pytest.mark.parametrize(
    ("operation", "columns", "message"),
    [
        ("gemm", {"latency_p10_us": 13.0}, "13.0 is above latency_us"),
        ("gemm", {"latency_p90_us": 12.0}, "12.5 is above latency_p90_us"),
        ("attention_prefill", {"kv_heads": 16}, "16 is above heads"),
        ("moe", {"top_k": 9}, "9 is above experts"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(
    make_rows: MakeRows, operation: str, columns: dict[str, float], message: str
) -> None:
    assert message in refusal(OPERATIONS[operation], make_rows(operation, 1, **columns)).message


# -------------------------------------------------------------------------------------- merging


def test_the_later_table_wins_where_the_question_is_the_same(make_rows: MakeRows) -> None:
    old = validate(GEMM, make_rows("gemm", 2, m=[1, 2], latency_us=[1.0, 2.0]))
    new = validate(GEMM, make_rows("gemm", 2, m=[2, 3], latency_us=[20.0, 30.0], kernel="newer"))
    merged = merge_rows(GEMM, [old, new]).set_index("m")
    assert merged["latency_us"].to_dict() == {1: 1.0, 2: 20.0, 3: 30.0}
    assert merged["kernel"].to_dict() == {1: "cublas", 2: "newer", 3: "newer"}


@pytest.mark.parametrize("name", GEMM.key)
def test_every_column_of_the_key_makes_another_question(make_rows: MakeRows, name: str) -> None:
    other = {"dtype": "fp8", "gpu": "B200", "framework": "sglang"}.get(name, 16)
    rows = [validate(GEMM, make_rows("gemm", 1)), validate(GEMM, make_rows("gemm", 1, **{name: other}))]
    assert len(merge_rows(GEMM, rows)) == 2


@pytest.mark.parametrize("tables", [0, 1, 2])
def test_merging_nothing_gives_no_rows(tables: int) -> None:
    assert_frame_equal(merge_rows(GEMM, [empty_rows(GEMM)] * tables), empty_rows(GEMM))
