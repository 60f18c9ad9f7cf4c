"""Tables of measurement rows: no rows, rows checked against their columns, tables joined.

Apart from :mod:`profiles.measurements`, so that what only names operations does without pandas.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd

from profiles.errors import DataError
from profiles.measurements import Column, Operation, columns_of
from profiles.values import shown

NOT_FINITE = "is not finite"

# (smaller or equal, larger): pairs of columns that contradict each other in the opposite order.
_ORDERED = (
    ("latency_p10_us", "latency_us"),
    ("latency_us", "latency_p90_us"),
    ("kv_heads", "heads"),
    ("key_heads", "value_heads"),
    ("top_k", "experts"),
)
_LARGEST_INT = 2**53  # above it a float column no longer holds whole numbers exactly
_NULLABLE: dict[str, tuple[object, str]] = {
    "int": (pd.NA, "Int64"),
    "float": (np.nan, "float64"),
    "str": (None, "str"),
}
_REQUIRED = {"int": "int64", "float": "float64", "str": "str"}


def empty_rows(operation: Operation) -> pd.DataFrame:
    """No rows, with the columns and types that :func:`validate` gives."""
    return pd.DataFrame(
        {
            column.name: pd.Series(dtype=_REQUIRED[column.kind] if column.required else _NULLABLE[column.kind][1])
            for column in columns_of(operation)
        }
    )


def typed(operation: Operation, rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` of a file with whole numbers that may be missing typed as :func:`validate` does, whatever the file says
    of itself."""
    whole = [each.name for each in columns_of(operation) if each.kind == "int" and not each.required]
    return rows.astype({name: _NULLABLE["int"][1] for name in whole if name in rows.columns})


def validate(operation: Operation, rows: pd.DataFrame, where: str = "rows") -> pd.DataFrame:
    """``rows`` with exactly the operation's columns, in order and typed, numbered from 0.

    Optional columns that are missing are added as null. ``where`` names the origin in errors. ``rows`` itself
    is not changed.

    Raises:
        DataError: a required column is missing or null (a row without provenance is refused), a column is not
            known or comes twice (a unit in the wrong column must not pass silently), a value is out of range,
            or two columns contradict each other. The message names the column and the first offending row.
    """
    known = {column.name: column for column in columns_of(operation)}
    strangers = [str(name) for name in rows.columns if name not in known]
    if strangers:
        raise DataError(
            f"{where}: column {shown(strangers[0])} is not a column of operation {operation.name}",
            f"known: {', '.join(known)} (times in microseconds, sizes in bytes)",
        )
    if not rows.columns.is_unique:
        twice = rows.columns[rows.columns.duplicated()][0]
        raise DataError(f"{where}: column {twice!r} comes twice", "give each column once")
    rows = rows.reset_index(drop=True)
    out: dict[str, pd.Series] = {}
    for column in known.values():
        if column.name in rows.columns:
            out[column.name] = _typed(column, rows[column.name], where)
        elif column.required:
            raise DataError(
                f"{where}: column {column.name!r} is missing", f"every row needs it; it is: {column.meaning}"
            )
        else:
            null, dtype = _NULLABLE[column.kind]
            out[column.name] = pd.Series(null, index=rows.index, dtype=dtype)
    for low, high in _ORDERED:
        if low in out and high in out:
            crossed = (out[low] > out[high]).fillna(False)
            _refuse(where, known[low], out[low], crossed, f"is above {high}")
    return pd.DataFrame(out, index=rows.index, copy=False)


def _typed(column: Column, values: pd.Series, where: str) -> pd.Series:
    return _text(column, values, where) if column.kind == "str" else _number(column, values, where)


def _text(column: Column, values: pd.Series, where: str) -> pd.Series:
    # Text columns hold few different values over many rows: each is judged once.
    typed = values
    if values.dtype != "str":
        typed = values.astype("object").where(values.notna(), None).astype("str")
    different = pd.Series(typed.unique(), dtype="str")
    blank = different.isna() | (different.str.strip() == "")
    if blank.any():
        empty = typed.isin(different[blank]) | typed.isna()
        _refuse(where, column, values, empty & column.required, "is empty")
        typed = typed.where(~empty, None)
    named = different[~blank]
    if column.levels:
        strange = typed.isin(named[~named.isin(column.levels)])
        _refuse(where, column, typed, strange, f"is not one of {', '.join(column.levels)}")
    if column.pattern:
        strange = typed.isin(named[~named.str.fullmatch(column.pattern)])
        _refuse(where, column, typed, strange, "has not the form it must have")
    return typed


def _number(column: Column, values: pd.Series, where: str) -> pd.Series:
    try:
        numbers = pd.to_numeric(values, errors="coerce")
    except OverflowError:  # integers beyond every float
        _refuse(
            where, column, values, values.map(lambda v: isinstance(v, int) and abs(v) > sys.float_info.max), NOT_FINITE
        )
        raise
    if pd.api.types.is_bool_dtype(numbers.dtype):
        numbers = numbers.astype("Int64")
    missing = numbers.isna()
    if missing.any():
        _refuse(where, column, values, missing & (column.required | values.notna()), "is not a number")
    plain = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    _refuse(where, column, values, np.isinf(plain), NOT_FINITE)
    _refuse(where, column, values, plain < column.minimum, f"is below {column.minimum:g}")
    _refuse(where, column, values, plain > column.maximum, f"is above {column.maximum:g}")
    if column.kind == "float":
        return pd.Series(plain, index=values.index, copy=False)
    if not pd.api.types.is_integer_dtype(numbers.dtype):
        _refuse(where, column, values, ~np.isnan(plain) & (plain % 1 != 0), "is not a whole number")
    _refuse(where, column, values, plain > _LARGEST_INT, "is too large")
    return numbers.astype("int64") if column.required else numbers.astype("Int64")


def _refuse(where: str, column: Column, values: pd.Series, bad: pd.Series | np.ndarray, why: str) -> None:
    positions = np.flatnonzero(np.asarray(bad, dtype=bool))
    if len(positions):
        first = int(positions[0])
        value = values.iloc[first]
        plain = value.item() if isinstance(value, np.generic) else value
        if isinstance(plain, np.ndarray):
            plain = plain.tolist()
        elif plain is pd.NA or plain != plain:
            plain = None  # a gap
        unit = f" ({column.unit})" if column.unit else ""
        raise DataError(
            f"{where}: row {first} (counted from 0), column {column.name!r}: {shown(plain)} {why}"
            + (f" ({len(positions):,} such rows)" if len(positions) > 1 else ""),
            f"correct or remove it; {column.name} is: {column.meaning}{unit}",
        )


def merge_rows(operation: Operation, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All rows of the validated ``tables``; where two have the same key, the one in the later table wins.

    Within one table the later row wins.
    """
    filled = [table for table in tables if len(table)]
    if not filled:
        return empty_rows(operation)
    rows = pd.concat(filled, ignore_index=True) if len(filled) > 1 else filled[0]
    repeated = rows.duplicated(operation.key, keep="last").to_numpy()
    return (rows[~repeated] if repeated.any() else rows).reset_index(drop=True)
