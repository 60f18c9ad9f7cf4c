"""The journal: whole lines only, resumable, one writer, and honest about a full disk."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from machines import gemm

from profiles.collect.journal import FILE, Header, Journal, read, read_points, write_points
from profiles.collect.points import Outcome, Timing
from profiles.errors import DataError, InputError

HEADER = Header("a test", "2026-11-21", "", {"name": "Test CPU"}, {"torch": "2.9"})
TIMING = Timing(12.5, 12.0, 13.0, 20, 0.01, 1, "host_clock")


def measured(m: int) -> Outcome:
    return Outcome(gemm(m), "measured", timing=TIMING, kernel="fake", framework="torch", framework_version="2.9")


def write(folder: Path, *sizes: int) -> None:
    with Journal(folder) as journal:
        journal.begin(HEADER)
        for m in sizes:
            journal.add(measured(m))


def test_what_was_written_is_read_with_its_header(tmp_path: Path) -> None:
    outcomes = [measured(1), Outcome(gemm(2), "skipped", "no fp8"), Outcome(gemm(3), "failed", "it broke")]
    with Journal(tmp_path) as journal:
        journal.begin(HEADER)
        for outcome in outcomes:
            journal.add(outcome)
    entries = list(read(tmp_path / FILE))
    assert [entry.outcome for entry in entries] == outcomes
    assert all(entry.header == HEADER for entry in entries)


def test_a_second_run_adds_a_header_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with Journal(tmp_path) as journal:
        assert [entry.outcome.point for entry in journal.entries] == [gemm(1)]
        journal.begin(Header("a test", "2026-11-22", "", {"name": "Test CPU"}, {"torch": "3.0"}))
        journal.add(measured(2))
    assert [entry.header.versions["torch"] for entry in read(tmp_path / FILE)] == ["2.9", "3.0"]


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_line_that_a_killed_writer_left_is_cut_off(tmp_path: Path, cut: int) -> None:
    write(tmp_path, 1, 2)
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[:-cut])
    assert [entry.outcome.point for entry in read(file)] == [gemm(1)]
    with Journal(tmp_path) as journal:
        journal.begin(HEADER)
        journal.add(measured(3))
    assert [entry.outcome.point for entry in read(file)] == [gemm(1), gemm(3)]


def test_a_full_disk_leaves_whole_lines_and_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path) as journal:
        journal.begin(HEADER)
        journal.add(measured(1))
        before = (tmp_path / FILE).read_bytes()
        real, calls = os.write, 0

        def full(handle: int, data: bytes) -> int:
            nonlocal calls
            calls += 1
            if calls == 1:
                return real(handle, data[:40])  # the disk takes the beginning
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(DataError, match="No space left") as caught:
            journal.add(measured(2))
        monkeypatch.undo()
        assert "make room" in caught.value.hint
        assert (tmp_path / FILE).read_bytes() == before
        assert len(journal.entries) == 1


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(InputError, match="another process"):
        Journal(tmp_path)
    Journal(tmp_path).__exit__(None, None, None)


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1)
    file = tmp_path / FILE
    file.write_text(file.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(DataError, match="newer") as caught:
        Journal(tmp_path)
    assert caught.value.hint == "upgrade shardwright"


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", '{"type": "outcome"}', '{"type": "other"}', '{"type": "header", "format_version": 1}']
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    write(tmp_path, 1)
    with (tmp_path / FILE).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match="line 3 is damaged"):
        Journal(tmp_path)


def test_an_outcome_without_a_header_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1)
    file = tmp_path / FILE
    file.write_text(file.read_text().splitlines()[1] + "\n")
    with pytest.raises(DataError, match="line 1 is damaged"):
        list(read(file))


def test_no_journal_has_no_outcomes(tmp_path: Path) -> None:
    assert list(read(tmp_path / FILE)) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Journal(tmp_path / "file" / "deeper")


def test_points_come_back_in_order_each_once(tmp_path: Path) -> None:
    file = tmp_path / "points.jsonl"
    file.write_text(write_points([gemm(4), gemm(1), gemm(4)]) + "\n")
    assert read_points(file) == [gemm(4), gemm(1)]


def test_a_line_that_is_no_point_is_named(tmp_path: Path) -> None:
    file = tmp_path / "points.jsonl"
    file.write_text(json.dumps({"operation": "gemm"}) + "\n")
    with pytest.raises(InputError, match="line 1 is no point"):
        read_points(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_points(tmp_path / "missing")
