"""Traces: both formats read alike, and what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planner.contract.workload import traces
from planner.contract.workload.traces import recorded, sent
from profiles.errors import InputError

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:04.0319600,110,27
2023-11-17 00:00:00,7,1
"""
SECONDS = """id,arrival_s,isl,osl
a,100,4808,10
b,100.052,3180,8
c,100.052,110,27
d,20676.02004,7,1
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "trace.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("text", [AZURE, SECONDS, SECONDS.replace("\n", "\r\n")])
def test_both_formats_read_alike(tmp_path: Path, text: str) -> None:
    got = recorded(write(tmp_path, text))
    assert got.isl.tolist() == [4808, 3180, 110, 7]
    assert got.osl.tolist() == [10, 8, 27, 1]
    assert got.seconds == pytest.approx([0, 0.052, 0.052, 20_576.02004])


def test_speed_and_first(tmp_path: Path) -> None:
    path = write(tmp_path, SECONDS)
    got = recorded(path, first=2)
    assert len(got.isl) == 2
    assert sent(got.seconds, got.isl, got.osl, 2.0).arrival_us[1] == pytest.approx(26_000)


def test_long_files_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "_ROWS_AT_ONCE", 3)
    rows = [f"{i},{i + 1},{i + 2}" for i in range(10)]
    path = write(tmp_path, "\n".join(["arrival_s,isl,osl", *rows]))
    assert np.array_equal(recorded(path).isl, np.arange(10) + 1)
    assert len(recorded(path, first=7).isl) == 7
    rows[6] = "2,7,8"  # before the line above, which another part held the end of
    path = write(tmp_path, "\n".join(["arrival_s,isl,osl", *rows]))
    with pytest.raises(InputError, match="line 8: arrival_s '2' is before"):
        recorded(path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "is empty"),
        ("arrival_s,isl,osl\n", "has no requests"),
        ("arrival_s,isl\n1,2\n", "column osl is missing"),
        ("TIMESTAMP,ContextTokens\n1,2\n", "column GeneratedTokens is missing"),
        ("a,b\n1,2\n", "is missing"),
        (SECONDS.replace("b,100.052", "b,99"), "line 3: arrival_s '99' is before the line above"),
        (SECONDS.replace("110,27", "0,27"), "line 4: isl '0' is not a positive whole number"),
        (SECONDS.replace("110,27", "110,-3"), "line 4: osl '-3' is not"),
        (SECONDS.replace("110,27", "110,2.5"), "line 4: osl '2.5' is not"),
        (SECONDS.replace("110,27", "110,nan"), "line 4: osl 'nan' is not"),
        (SECONDS.replace("110,27", "110,many"), "line 4: osl 'many' is not"),
        (SECONDS.replace("110,27", "110,"), "line 4: osl '' is not"),
        (SECONDS.replace("110,27", "110,1e300"), "line 4: osl '1e300' is not"),
        (SECONDS.replace("b,100.052", "b,inf"), "line 3: arrival_s 'inf' is not a time"),
        (SECONDS.replace("b,100.052", "b,soon"), "line 3: arrival_s 'soon' is not a time"),
        (AZURE.replace("2023-11-17 00:00:00", "tomorrow"), "line 5: TIMESTAMP 'tomorrow' is not a time"),
        ("arrival_s,isl,osl\n1,2,3\n\n4,5,6\n", "line 3: arrival_s '' is not a time"),
        ('arrival_s,isl,osl\n1,2,"3\n', "is not a CSV file"),
        (b"arrival_s,isl,osl\n\xff\xfe,1,1\n", "not text in UTF-8"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str | bytes, named: str) -> None:
    with pytest.raises(InputError, match=named):
        recorded(write(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        recorded(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read"):
        recorded(tmp_path)


def test_no_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="requests: 0"):
        recorded(write(tmp_path, AZURE), first=0)
