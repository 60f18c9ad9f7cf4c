"""Recorded requests: when they came, how long prompt and output were, and what of the prompts had been seen before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from costmodels.estimates import Floats, Ints
from costmodels.serving.simulator.arrivals import Requests
from profiles.errors import InputError
from profiles.files import GIB, Source
from profiles.markup import Malformed, strict_json
from profiles.tables import numbers, read_parts
from profiles.values import shown

FORMATS = (
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    ("arrival_s", "isl", "osl"),
    ("timestamp", "input_length", "output_length"),
)
"""Columns that are read: those of the Azure LLM inference traces, with times of day; seconds and tokens; Mooncake's,
with milliseconds."""

SEEN_BEFORE = "prefix_tokens_seen_before"
"""Column of a CSV: prompt tokens that an earlier request had begun with."""

BLOCK_TOKENS = 512
"""Of a prompt in each of Mooncake's ``hash_ids`` (kvcache-ai/Mooncake, FAST25-release/traces, README)."""

MOST_TOKENS = 10**9

LARGEST = 64 * GIB  # bytes of a trace, which is read in parts

LATEST_S = 1e11
"""Seconds beyond which a time is one of a clock that counts milliseconds: the year 5138."""

_HELP = (
    "a trace is a CSV with the columns "
    + ", or ".join(", ".join(columns) for columns in FORMATS)
    + " (milliseconds), or Mooncake's JSON lines in a .jsonl"
)
_ROWS_AT_ONCE = 500_000


@dataclass(frozen=True)
class Recording:
    """Requests of a trace in the order they came, shape [n] each.

    Attributes:
        name: of the file.
        seconds: after the first.
        isl, osl: prompt and output tokens.
        seen_before: prompt tokens that earlier requests had begun with; None: the trace does not tell.
        hashed: whether that was worked out from hashes of the prompts' blocks.
        skipped: requests without an output, left out.
        begins_s: when the first came, where times count from a start of their own; 0 for times of day.
    """

    name: str
    seconds: Floats
    isl: Ints
    osl: Ints
    seen_before: Ints | None
    hashed: bool
    skipped: int
    begins_s: float = 0.0


def sent(seconds: Floats, isl: Ints, osl: Ints, speed: float) -> Requests:
    """Recorded requests, ``seconds`` after the first, as they come at ``speed`` times their own speed."""
    return Requests(isl, osl, seconds / speed * 1e6)


def recorded(path: Path, *, first: int | None = None, skip_failed: bool = False) -> Recording:
    """The requests of a CSV file, or of a file of JSON lines.

    Args:
        first: read so many rows only.
        skip_failed: leave out rows without output, and count them.

    Raises:
        InputError: the file cannot be read, lacks a column, is empty, or has a value that is not a time or a
            positive number of tokens, or a time before the one above; names the line.
    """
    if first is not None and first < 1:
        raise InputError(f"requests: {first} is not at least 1", "give the number of requests to read")
    source = Source(path, "trace", _HELP, LARGEST)
    parts: list[tuple[Floats, Ints, Ints, Ints | None]] = []
    blocks: list[Sequence[int] | None] = []
    last, skipped = -np.inf, 0
    for table in _tables(source, first):
        columns = _columns(source, list(table.columns))
        seconds = _seconds(source, table[columns[0]])
        back = np.flatnonzero(np.diff(seconds, prepend=last) < 0)
        if len(back):
            time = table[columns[0]]
            raise source.wrong(
                f"line {time.index[back[0]]}: {columns[0]} {shown(time.iloc[back[0]])} is before the line above",
                "sort the trace by time",
            )
        last = seconds[-1]
        if skip_failed:
            answered = ~table[columns[2]].str.strip().isin(("", "0", "0.0", "-1", "None", "nan", "NaN", "null"))
            skipped += int((~answered).sum())
            table, seconds = table[answered], seconds[answered.to_numpy()]
        isl, osl = (_tokens(source, table[name]) for name in columns[1:])
        parts.append((seconds, isl, osl, _seen_before(source, table, isl)))
        blocks += table[_BLOCKS].tolist() if _BLOCKS in table.columns else [None] * len(table)
    if not sum(len(part[0]) for part in parts):
        raise source.wrong("has no requests" + (" with an output" if skipped else ""))
    seconds, isl, osl = (np.concatenate([part[i] for part in parts]) for i in range(3))
    hashed = all(isinstance(each, tuple) for each in blocks)
    seen = [part[3] for part in parts]
    told = None if any(each is None for each in seen) else np.concatenate([each for each in seen if each is not None])
    if hashed:
        told = _found_again([each for each in blocks if each is not None], isl)
    begins = 0.0 if columns[0] == "TIMESTAMP" else float(seconds[0])
    return Recording(path.name, seconds - seconds[0], isl, osl, told, hashed, skipped, begins)


def _found_again(blocks: Sequence[Sequence[int]], isl: Ints) -> Ints:
    """Prompt tokens of each request in leading blocks that an earlier request had, [n]: what a cache that forgets
    nothing holds. A prompt's last token is always computed."""
    known: set[int] = set()
    found = np.zeros(len(isl), np.int64)
    for i, ids in enumerate(blocks):
        leading = 0
        while leading < len(ids) and ids[leading] in known:
            leading += 1
        found[i] = leading * BLOCK_TOKENS
        known.update(ids)
    return np.minimum(found, isl - 1)


# ------------------------------------------------------------------ files, as tables of text

_BLOCKS = "hash_ids"


def _tables(source: Source, first: int | None) -> Iterator[pd.DataFrame]:
    """The file in parts, indexed by line, all values as text, so that what is wrong can be shown as it is written; and
    ``hash_ids`` as lists."""
    json_lines = source.path.suffix.casefold() in (".jsonl", ".ndjson")
    return _json_lines(source, first) if json_lines else _csv(source, first)


def _csv(source: Source, first: int | None) -> Iterator[pd.DataFrame]:
    line = 2  # line 1 has the names
    with read_parts(source, chunksize=_ROWS_AT_ONCE, nrows=first, skip_blank_lines=False) as parts:
        for table in parts:
            if len(table):
                table.index = pd.RangeIndex(line, line + len(table))
                line += len(table)
                yield table.drop(columns=_BLOCKS, errors="ignore")


def _json_lines(source: Source, first: int | None) -> Iterator[pd.DataFrame]:
    lines = islice(((number, text) for number, text in source.lines() if text.strip()), first)
    while part := list(islice(lines, _ROWS_AT_ONCE)):
        rows = [_json_row(source, number, text) for number, text in part]
        yield pd.DataFrame(rows, index=[number for number, _ in part]).fillna("")


def _json_row(source: Source, line: int, text: bytes) -> dict[str, object]:
    try:
        row = strict_json(source.decoded(text, line))
    except Malformed as error:
        raise source.wrong(f"line {line}: is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise source.wrong(f"line {line}: {shown(row)} is not an object")
    known = {name for columns in FORMATS for name in columns} | {SEEN_BEFORE}
    found: dict[str, object] = {name: str(value) for name, value in row.items() if name in known}
    if (blocks := row.get(_BLOCKS)) is not None:
        if not isinstance(blocks, list) or not all(type(each) is int for each in blocks):
            raise source.wrong(f"line {line}: {_BLOCKS} {shown(blocks)} is not a list of whole numbers")
        found[_BLOCKS] = tuple(blocks)
    return found


def _columns(source: Source, present: Sequence[str]) -> tuple[str, str, str]:
    for columns in FORMATS:
        if set(columns) <= set(present):
            return columns
    nearest = max(FORMATS, key=lambda columns: len(set(columns) & set(present)))
    missing = ", ".join(name for name in nearest if name not in present)
    raise source.wrong(f"column {missing} is missing")


def _seconds(source: Source, column: pd.Series[str]) -> Floats:
    if column.name == "TIMESTAMP":
        moments = pd.to_datetime(column, errors="coerce", format="ISO8601", utc=True)
        values = moments.to_numpy(dtype="datetime64[ns]")
        bad = np.isnat(values)
        seconds = values.astype(np.int64) / 1e9
    else:
        seconds = _numbers(column)
        seconds = seconds / 1e3 if column.name == "timestamp" else seconds
        bad = ~np.isfinite(seconds)
    _refuse(source, column, bad, "a time")
    late = np.flatnonzero(seconds >= LATEST_S)
    if column.name != "TIMESTAMP" and len(late):
        raise source.wrong(
            f"line {column.index[late[0]]}: {column.name} {shown(column.iloc[late[0]])} seconds lie beyond the year "
            "5000: it counts milliseconds or less",
            "divide by 1,000, or call the columns timestamp, input_length, output_length, whose times are milliseconds",
        )
    return np.asarray(seconds, dtype=np.float64)


def _tokens(source: Source, column: pd.Series[str], least: int = 1) -> Ints:
    values = _numbers(column)
    with np.errstate(invalid="ignore"):
        bad = ~((values >= least) & (values <= MOST_TOKENS) & (values == np.floor(values)))
    way_out = None
    if str(column.name) in (columns[2] for columns in FORMATS):
        way_out = "correct the line, or leave out requests without output with --skip-failed"
    _refuse(source, column, bad, f"a {'positive ' if least else ''}whole number of tokens", way_out)
    return values.astype(np.int64)


def _seen_before(source: Source, table: pd.DataFrame, isl: Ints) -> Ints | None:
    if SEEN_BEFORE not in table.columns:
        return None
    return np.minimum(_tokens(source, table[SEEN_BEFORE], least=0), isl - 1)


def _numbers(column: pd.Series[str]) -> Floats:
    return np.array(numbers(column), dtype=np.float64)  # None becomes NaN


def _refuse(source: Source, column: pd.Series[str], bad: np.ndarray, kind: str, way_out: str | None = None) -> None:
    where = np.flatnonzero(bad)
    if len(where):
        line, value = column.index[where[0]], column.iloc[where[0]]
        raise source.wrong(
            f"line {line}: {column.name} {shown(value)} is not {kind}",
            way_out or "correct the line, or leave it out",
        )
