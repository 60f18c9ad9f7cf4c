"""CSV files that users write: every value as text, so that what is wrong can be shown as it is written."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from profiles.errors import ShardwrightError
from profiles.files import MIB, Source
from profiles.markup import Malformed, read_json, strict_json
from profiles.values import number, shown

SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
"""Ends of files that spreadsheets write in their own formats."""

_REMARK = re.compile(rb"(?:\xef\xbb\xbf)?#\s")

_FIELDS = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")


def read_table(source: Source, **options: Any) -> pd.DataFrame:
    """The whole file; columns of text, as :func:`pandas.read_csv` reads them with ``options``.

    Raises:
        InputError (or ``source.error``): it cannot be read, is empty, is no CSV, or names a column twice.
    """
    with read_parts(source, chunksize=10**9, **options) as parts:
        return pd.concat(list(parts), ignore_index=True)


def read_lines(source: Source, rows_of: Callable[[Any], Any] = lambda document: document) -> pd.DataFrame:
    """A file of one JSON object a line, as load generators append them; columns of text. Lists and objects within
    (every request's times) are left out.

    Args:
        rows_of: what the objects of all lines mean.

    Raises:
        InputError (or ``source.error``): it cannot be read, or a line is no JSON object.
    """
    rows: list[dict[str, Any]] = []
    for number_of, line in source.lines(longest=64 * MIB):
        if not line.strip():
            continue
        try:
            row = strict_json(line, as_python=True)
        except Malformed as error:
            raise source.wrong(f"line {number_of} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise source.wrong(f"line {number_of} is no JSON object")
        rows.append(row)
    return _table(source, rows_of(rows))


def read_objects(source: Source, rows_of: Callable[[Any], Any] = lambda document: document) -> pd.DataFrame:
    """A file of one JSON object, or of a list of them, as :func:`read_lines` reads each. What an object within says in
    numbers are columns of their own: its name, its unit and the number's (``request_latency_ms_avg``).

    Args:
        rows_of: the objects that a document holds.

    Raises:
        InputError (or ``source.error``): it cannot be read, or is no such JSON.
    """
    document = rows_of(read_json(source, as_python=True))
    rows = document if isinstance(document, list) else [document]
    if not all(isinstance(row, dict) for row in rows):
        raise source.wrong("is no JSON object, or list of them")
    return _table(source, [_flat(row) for row in rows])


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in row.items():
        if not isinstance(value, dict):
            out[name] = value
            continue
        unit = f"_{value['unit']}" if isinstance(value.get("unit"), str) else ""
        inner = {part: each for part, each in value.items() if isinstance(each, int | float | None)}
        out |= {f"{name}{unit}_{part}": each for part, each in inner.items()}
    return out


def _table(source: Source, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    if not rows:
        raise source.wrong("is empty")
    plain = [{name: _text(value) for name, value in row.items() if not isinstance(value, list | dict)} for row in rows]
    return pd.DataFrame(plain).fillna("")


def _text(value: object) -> str:
    """Of a JSON scalar."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).casefold()
    return str(value)


@contextmanager
def read_parts(source: Source, **options: Any) -> Iterator[Iterator[pd.DataFrame]]:
    """The file in parts of ``chunksize`` rows. What is wrong with it is raised where the parts are taken, in our words.
    Lines before the header that begin with ``#`` and a blank are remarks.

    Raises:
        InputError (or ``source.error``): as :func:`read_table`.
    """
    if source.path.suffix.casefold() in SHEETS:
        raise source.wrong("is a spreadsheet, not a CSV", "save the sheet as CSV in UTF-8")
    try:
        with source.opened() as stream:
            line, remarks = stream.readline(2**20), 0
            while _REMARK.match(line) and "comment" not in options:
                line, remarks = stream.readline(2**20), remarks + 1
            separator = _separator(source.decoded(line, remarks + 1))
            _check_header(source, line, separator)
            stream.seek(0)
            as_text: dict[str, Any] = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
            with pd.read_csv(stream, sep=separator, skiprows=remarks, **as_text, **options) as parts:
                named = (_all_named(part, source) for part in parts)
                yield named if separator != SEMICOLON else (_with_points(part, source) for part in named)
    except pd.errors.EmptyDataError as error:
        raise source.wrong("is empty") from error
    except UnicodeDecodeError as error:
        raise source.wrong("cannot be read (it is not text in UTF-8)", "save the file as text in UTF-8") from error
    except (pd.errors.ParserError, csv.Error, MemoryError, OverflowError) as error:
        raise _refused(source, str(error)) from error


SEMICOLON = ";"
_DECIMAL_COMMA = re.compile(r"-?[0-9]{1,3}(?:\.?[0-9]{3})*,[0-9]+", re.ASCII)
_WITH_COMMA = re.compile(rf"{_DECIMAL_COMMA.pattern}|-?[1-9][0-9]{{0,2}}(?:\.[0-9]{{3}})+", re.ASCII)
_THOUSANDS = re.compile(r"-?[1-9][0-9]{0,2},[0-9]{3}", re.ASCII)
"""What may be thousands, too (``1,024``), where other numbers of the file have a decimal point."""
_DECIMAL_POINT = re.compile(r"-?[0-9]+\.[0-9]+|-?[0-9]{1,3}(?:,[0-9]{3})+\.[0-9]+", re.ASCII)


def _separator(header: str) -> str:
    """What stands between the names of a header: a comma, unless none does and they are parted otherwise."""
    return next((each for each in (SEMICOLON, "\t") if each in header and "," not in header), ",")


def _with_points(part: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Numbers as spreadsheets write them that part cells by semicolons (``1.024``, ``12,5``), with a point for the
    comma; where no number has one, points stay.

    Raises:
        InputError (or ``source.error``): commas may part thousands, since decimals have a point.
    """
    commas = {text for column in part for text in part[column].unique() if _DECIMAL_COMMA.fullmatch(text)}
    if not commas:
        return part
    if all(map(_THOUSANDS.fullmatch, commas)) and part.map(_DECIMAL_POINT.fullmatch).any(axis=None):
        first = shown(min(commas))
        raise source.wrong(f"has {first} beside decimals with a point", "write thousands without a comma")

    def plain(cell: str) -> str:
        return cell.replace(".", "").replace(",", ".") if _WITH_COMMA.fullmatch(cell) else cell

    return part.map(plain)


def _all_named(part: pd.DataFrame, source: Source) -> pd.DataFrame:
    """pandas takes fields before the last names of a header for names of rows, silently."""
    if not isinstance(part.index, pd.RangeIndex):
        raise source.wrong("its lines have more fields than line 1 has names", "name every column in line 1")
    return part


def _check_header(source: Source, line: bytes, separator: str = ",") -> None:
    """pandas renames a column that is given twice, silently."""
    names = [name.strip() for name in next(csv.reader(io.StringIO(source.decoded(line, 1)), delimiter=separator), [])]
    twice = [name for i, name in enumerate(names) if name and name in names[:i]]
    if twice:
        raise source.wrong(f"line 1: column {shown(twice[0])} is given twice", "give each column once")


def _refused(source: Source, said: str) -> ShardwrightError:
    if found := _FIELDS.search(said):
        expected, line, saw = found.groups()
        return source.wrong(f"line {line} has {saw} fields, the lines above {expected}")
    if "EOF inside string" in said:
        return source.wrong("is not a CSV file (a quotation mark is never closed)")
    return source.wrong("is not a CSV file")


def numbers(column: pd.Series[str]) -> list[float | None]:
    """The numbers that a column of text holds; None where a text is none."""
    known: dict[str, float | None] = {}
    return [known[text] if text in known else known.setdefault(text, number(text)) for text in column]


def read_parquet(source: Source) -> pd.DataFrame:
    """The rows of a Parquet file.

    Raises:
        InputError (or ``source.error``): it cannot be read, or is no Parquet file.
    """
    with source.opened() as stream:
        try:
            rows: pd.DataFrame = pq.read_table(stream).to_pandas()
        except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
            raise source.wrong("cannot be read (it is no whole Parquet file)") from error
    return rows
