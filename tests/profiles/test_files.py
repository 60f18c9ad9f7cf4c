"""The one door: which files are read, and how what is wrong with one is said."""

from __future__ import annotations

import io
import itertools
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from profiles.errors import DataError, InputError, ShardwrightError
from profiles.files import Source
from profiles.markup import DEEPEST, Malformed, read_json, strict_json
from profiles.tables import read_table
from profiles.values import named, number, shortened, shown, whole
from profiles.yaml_markup import strict_yaml


def source(path: Path, most: int = 1000) -> Source:
    return Source(path, "thing", "give a good one", most)


def refused(path: Path, most: int = 1000) -> ShardwrightError:
    with pytest.raises(InputError) as caught:
        source(path, most).text()
    assert caught.value.hint
    return caught.value


def test_text_is_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfh\xc3\xa9")
    assert source(tmp_path / "f").text() == "hé"


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe").message.endswith("pipe: cannot be read (it is a pipe, not a regular file)")
    assert "it is a device" in refused(Path("/dev/zero")).message
    assert "it is a directory" in refused(tmp_path).message
    assert "No such file" in refused(tmp_path / "none").message
    assert "no file can have this name" in refused(tmp_path / "a\0b").message


def test_size_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 11)
    assert "its 11 bytes are more than 10" in refused(tmp_path / "f", 10).message


def test_the_byte_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a\nb\xff")
    error = refused(tmp_path / "f")
    assert "line 2: byte 0xff is not text in UTF-8" in error.message
    assert error.hint == "save the file as text in UTF-8"


def test_the_reader_says_which_error_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="thing"):
        Source(tmp_path / "none", "thing", "", error=DataError).read()


def test_standard_input_is_read_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"{}")))
    assert read_json(source(Path("-"))) == {}
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"x" * 11)))
    assert "more than 10 bytes" in refused(Path("-"), 10).message


def test_lines_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a\n" + b"x" * 20 + b"\nb")
    assert list(source(tmp_path / "f").lines(longest=30))[2] == (3, b"b")
    with pytest.raises(InputError, match="line 2 is longer than 10 bytes"):
        list(source(tmp_path / "f").lines(longest=10))


def test_a_column_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(InputError, match="column 'a' is given twice"):
        read_table(source(tmp_path / "f"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "a": 2}', "key 'a' is given twice"),
        ("[NaN]", "NaN is not a number"),
        ("[1e999]", "'1e999' is too large"),
        ("[" + "9" * 4200 + "]", "a number of 4,200 digits"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), f"more than {DEEPEST} levels"),
        ("[" * 10**6, f"more than {DEEPEST} levels"),
        ("", "it is empty"),
        ('{"a"', "expecting ':' delimiter, at column 5"),
    ],
)
def test_json_that_json_loads_would_take_or_choke_on_is_refused(text: str, problem: str) -> None:
    with pytest.raises(Malformed, match=problem):
        strict_json(text)


def test_brackets_in_strings_are_no_levels() -> None:
    text = '["' + "[" * 500 + '\\""]'
    assert strict_json(text) == ["[" * 500 + '"']


def test_yaml_numbers_are_those_of_yaml_1_2() -> None:
    assert strict_yaml("a: 1_000\nb: 1:30\nc: 1e3\nd: 010\ne: -.5\nf: 12") == {
        "a": "1_000",
        "b": "1:30",
        "c": 1000.0,
        "d": 10,
        "e": -0.5,
        "f": 12,
    }


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{below}: &{below} [{','.join([f'*{above}'] * 10)}]\n" for above, below in itertools.pairwise("abcdefgh")
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2", "'a' is given twice"),
        ("a: &x [*x]", "stands for itself"),
        ("? [a]\n: 1", "a key is a list"),
        ("[" * 900, "levels"),
        ("a: 2024-99-99", "date of no day"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
        ("a: " + "9" * 4200, "a number of 4,200 digits"),
        (LAUGHS, "more than 1,000,000 values"),
    ],
)  # fmt: skip
def test_yaml_that_safe_load_would_take_or_choke_on_is_refused(text: str, problem: str) -> None:
    with pytest.raises(Malformed, match=problem):
        strict_yaml(text)


@pytest.mark.parametrize(("text", "value"), [("12", 12.0), (" .5 ", 0.5), ("1e-3", 0.001), ("-2.", -2.0), ("+1", 1.0)])
def test_numbers_as_people_write_them(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize("text", ["", "1_000", "１０", "٣", "nan", "inf", "1e999", "0x10", "1 2", "1e", ".", "ten"])
def test_what_is_no_number(text: str) -> None:
    assert number(text) is None
    assert whole(text) is None


def test_values_are_shown_on_one_short_line() -> None:
    assert len(shown("x" * 3000)) < 100
    assert len(shown(10**30000)) < 100
    assert shown("a\nb") == r"'a\nb'"
    assert shown(True) == "true"
    assert len(named("x" * 3000)) < 130
    assert shortened("a " + "x" * 3000 + " \udcff").count("x") == 90


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("a,b\n1,2.5\n", ["1", "2.5"]),
        ("a;b\n1.024;12,5\n", ["1024", "12.5"]),
        ("a;b\n0.11.0;-1.234,5\n", ["0.11.0", "-1234.5"]),
        ("a;b\n1.024;x,y\n", ["1.024", "x,y"]),  # no number has a comma
        ("a;b\n0.125;12,5\n", ["0.125", "12.5"]),  # no thousands begin with 0
        ("a;b\n0.5;0,125\n", ["0.5", "0.125"]),
        ("a\tb\n1\t2,5\n", ["1", "2,5"]),
    ],
)
def test_cells_may_be_parted_by_semicolons_or_tabs(tmp_path: Path, text: str, cells: list[str]) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("\ufeff" + text, encoding="utf-8")
    table = read_table(Source(path, "", ""))
    assert table.iloc[0].tolist() == cells
    assert list(table.columns) == ["a", "b"]


def test_remarks_above_the_header_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("\ufeff# measured, by somebody, in May\n# https://example.org\na,b\n1,2\n3,4\n", encoding="utf-8")
    table = read_table(Source(path, "", ""))
    assert list(table.columns) == ["a", "b"]
    assert table["b"].tolist() == ["2", "4"]
    path.write_text("# remark\na,b\n1,2,3,4\n")
    with pytest.raises(InputError, match="line"):
        read_table(Source(path, "", ""))
    path.write_text("#,b\n1,2\n")
    assert list(read_table(Source(path, "", "")).columns) == ["#", "b"]


def test_commas_beside_decimals_with_a_point_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("isl;ttft_ms\n1,024;12.5\n")
    with pytest.raises(InputError, match="has '1,024' beside decimals with a point") as caught:
        read_table(Source(tmp_path / "t.csv", "", ""))
    assert caught.value.hint == "write thousands without a comma"


def test_a_spreadsheet_is_no_csv(tmp_path: Path) -> None:
    (tmp_path / "runs.xlsx").write_bytes(b"PK")
    with pytest.raises(InputError, match="is a spreadsheet") as refused:
        read_table(Source(tmp_path / "runs.xlsx", "", ""))
    assert "save the sheet as CSV" in refused.value.hint


def test_fields_without_a_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("a,b\n1,2,3\n4,5,6\n")
    with pytest.raises(InputError, match="its lines have more fields than line 1 has names"):
        read_table(source(tmp_path / "f.csv"))
