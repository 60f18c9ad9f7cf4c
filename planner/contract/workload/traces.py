"""Recorded requests: when they came, and how long prompt and output were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from costmodels.estimates import Floats, Ints
from costmodels.serving.simulator.arrivals import Requests
from profiles.errors import InputError
from profiles.files import GIB, Source
from profiles.tables import numbers, read_parts
from profiles.values import shown

FORMATS = (("TIMESTAMP", "ContextTokens", "GeneratedTokens"), ("arrival_s", "isl", "osl"))
"""Columns that are read: those of the Azure LLM inference traces, with times of day, or seconds and tokens."""

MOST_TOKENS = 10**9

MOST_SECONDS = 1e11
"""Of ``arrival_s``: three thousand years. Clocks that count milliseconds since 1970 are beyond it."""

LARGEST = 64 * GIB  # bytes of a trace, which is read in parts

_HELP = "a trace is a CSV with the columns " + ", or ".join(", ".join(columns) for columns in FORMATS)
_ROWS_AT_ONCE = 500_000


def read_trace(path: Path, *, first: int | None = None, speed: float = 1.0) -> Requests:
    """The requests of a CSV file, the first of them at time 0; other columns are ignored.

    Args:
        first: read so many requests only.
        speed: requests come so many times as fast.

    Raises:
        InputError: what :func:`recorded` raises.
    """
    if not (np.isfinite(speed) and speed > 0):
        raise InputError(f"speed: {speed} is not a positive number", "1 is the trace's own speed")
    seconds, isl, osl, _ = recorded(path, first=first)
    return sent(seconds, isl, osl, speed)


def sent(seconds: Floats, isl: Ints, osl: Ints, speed: float) -> Requests:
    """Recorded requests, ``seconds`` after the first, as they come at ``speed`` times their own speed."""
    return Requests(isl, osl, seconds / speed * 1e6)


def recorded(path: Path, *, first: int | None = None, skip_failed: bool = False) -> tuple[Floats, Ints, Ints, int]:
    """(seconds after the first request, isl, osl) of the requests of a CSV file, shape [n] each, and how many rows were
    skipped.

    Args:
        first: of so many rows only.
        skip_failed: leave rows without output (blank or 0 tokens) out, which are refused otherwise.

    Raises:
        InputError: the file cannot be read, lacks a column, is empty, or has a value that is not a time or a
            positive number of tokens, or a time before the one above; names the line.
    """
    if first is not None and first < 1:
        raise InputError(f"requests: {first} is not at least 1", "give the number of requests to read")
    source = Source(path, "trace", _HELP, LARGEST)
    times: list[Floats] = []
    lengths: list[tuple[Ints, Ints]] = []
    line, last, skipped = 2, -np.inf, 0  # line 1 has the names
    for table in _tables(source, first):
        columns = _columns(source, list(table.columns))
        lines = np.arange(line, line + len(table))
        line += len(table)
        if skip_failed:
            answered = ~table[columns[2]].str.strip().isin(["", "0"]).to_numpy()
            skipped += int((~answered).sum())
            table, lines = table[answered], lines[answered]
            if not len(table):
                continue
        seconds = _seconds(source, table[columns[0]], columns[0], lines)
        back = np.flatnonzero(np.diff(seconds, prepend=last) < 0)
        if len(back):
            value = shown(table[columns[0]].iloc[back[0]])
            raise source.wrong(
                f"line {lines[back[0]]}: {columns[0]} {value} is before the line above", "sort the trace by time"
            )
        times.append(seconds)
        isl, osl = (_tokens(source, table[name], name, lines) for name in columns[1:])
        lengths.append((isl, osl))
        last = seconds[-1]
    if not times:
        raise source.wrong("has no requests")
    seconds = np.concatenate(times)
    isl, osl = (np.concatenate(side) for side in zip(*lengths, strict=True))
    return seconds - seconds[0], isl, osl, skipped


def _tables(source: Source, first: int | None) -> Iterator[pd.DataFrame]:
    """The file in parts."""
    with read_parts(source, chunksize=_ROWS_AT_ONCE, nrows=first, skip_blank_lines=False) as parts:
        yield from (table for table in parts if len(table))


def _columns(source: Source, present: Sequence[str]) -> tuple[str, str, str]:
    for columns in FORMATS:
        if set(columns) <= set(present):
            return columns
    nearest = max(FORMATS, key=lambda columns: len(set(columns) & set(present)))
    missing = ", ".join(name for name in nearest if name not in present)
    raise source.wrong(f"column {missing} is missing")


def _seconds(source: Source, column: pd.Series[str], name: str, lines: Ints) -> Floats:
    if name == "TIMESTAMP":
        moments = pd.to_datetime(column, errors="coerce", format="ISO8601", utc=True)
        values = moments.to_numpy(dtype="datetime64[ns]")
        bad = np.isnat(values)
        seconds = values.astype(np.int64) / 1e9
    else:
        seconds = _numbers(column)
        bad = ~np.isfinite(seconds)
        late = np.flatnonzero(seconds > MOST_SECONDS)
        if len(late):
            raise source.wrong(
                f"line {lines[late[0]]}: {name} {shown(column.iloc[late[0]])} is no number of seconds",
                f"divide the column by 1000 where it is in milliseconds, so that {name} is in seconds",
            )
    _refuse(source, column, name, lines, bad, "a time")
    return np.asarray(seconds, dtype=np.float64)


def _tokens(source: Source, column: pd.Series[str], name: str, lines: Ints) -> Ints:
    values = _numbers(column)
    with np.errstate(invalid="ignore"):
        bad = ~((values >= 1) & (values <= MOST_TOKENS) & (values == np.floor(values)))
    _refuse(source, column, name, lines, bad, "a positive whole number of tokens")
    return values.astype(np.int64)


def _numbers(column: pd.Series[str]) -> Floats:
    return np.array(numbers(column), dtype=np.float64)  # None becomes NaN


def _refuse(source: Source, column: pd.Series[str], name: str, lines: Ints, bad: np.ndarray, kind: str) -> None:
    where = np.flatnonzero(bad)
    if len(where):
        value = column.iloc[where[0]]
        failed = ", or give --skip-failed for requests without output" if value.strip() in ("", "0") else ""
        raise InputError(
            f"line {lines[where[0]]}: {name} {shown(value)} is not {kind}",
            f"correct the line, or leave it out{failed}",
        )
