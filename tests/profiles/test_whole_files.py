"""Written whole or not at all: what is there before, after, and where the writer fails."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from profiles.whole_files import whole_file, whole_folder, write_whole


class Stopped(BaseException):
    """Ctrl-C, or whatever else ends a writer that can still clean up."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    with whole_file(file) as beside:
        beside.write_text("half a")
        assert not file.exists()
        assert beside.parent == tmp_path
        beside.write_text("whole")
    assert file.read_text() == "whole"
    assert names(tmp_path) == ["plan.json"]


def test_a_writer_that_stops_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text("old")

    def write() -> None:
        with whole_file(file) as beside:
            beside.write_text("half a")
            raise Stopped

    with pytest.raises(Stopped):
        write()
    assert file.read_text() == "old"
    assert names(tmp_path) == ["plan.json"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_new_file_has_the_permissions_of_any_and_an_old_one_keeps_its_own(
    tmp_path: Path, mask: int, mode: int
) -> None:
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "new", "text")
        (tmp_path / "old").touch()
        (tmp_path / "old").chmod(0o751)
        write_whole(tmp_path / "old", b"bytes")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o751


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_to_last_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    calls: list[str] = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("sync"), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda *both: (calls.append("rename"), rename(*both)))
    write_whole(tmp_path / "file", "é", durable=durable)
    assert calls == ["sync", "rename"][not durable :]
    assert (tmp_path / "file").read_bytes() == "é".encode()


def test_writers_at_once_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with whole_file(file) as first, whole_file(file) as second:
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first"  # which was renamed last
    assert names(tmp_path) == ["file"]


def test_a_folder_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "store") as beside:
        (beside / "file").write_text("text")
        assert not (tmp_path / "store").exists()
    assert names(tmp_path) == ["store"]
    assert names(tmp_path / "store") == ["file"]


@pytest.mark.parametrize("replaces", [True, False])
def test_a_folder_with_files_gives_way_only_where_it_is_to(tmp_path: Path, replaces: bool) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "old").touch()

    def make() -> None:
        with whole_folder(store, replaces=replaces) as beside:
            (beside / "new").touch()

    if replaces:
        make()
    else:
        with pytest.raises(OSError, match="not empty"):
            make()
    assert names(store) == ["new" if replaces else "old"]
    assert names(tmp_path) == ["store"]


def test_a_folder_whose_maker_stops_is_not_there(tmp_path: Path) -> None:
    def make() -> None:
        with whole_folder(tmp_path / "store", replaces=True) as beside:
            (beside / "file").touch()
            raise Stopped

    with pytest.raises(Stopped):
        make()
    assert names(tmp_path) == []
