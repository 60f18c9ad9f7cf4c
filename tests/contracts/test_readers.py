"""Whatever is wrong with a file that a user names is said in two lines: no traceback, no words of Python's, no value
repeated at length, no endless reading."""

from __future__ import annotations

import os
import random
import re
import sys
import warnings
import zlib
from pathlib import Path

import pytest
from mutations import spoilt_bytes
from readers import READERS

sys.path.insert(0, str(Path(__file__).parents[1] / "api"))  # example_plan
from profiles.errors import ShardwrightError

FEW, MANY = 25, 3000  # mutations of each reader's file

PYTHON = re.compile(
    r"could not convert|NoneType|object has no|object is not [cis]|invalid literal|Traceback|unhashable|Errno|"
    r"codec can|list index|"
    r"\b\w+Error\b|subscriptable|positional argument|unexpected keyword|set_int_max|C error|ufunc|<class|"
    r"not supported between|must be str|argument of type|out of bounds|dtype\("
)
"""What Python and its libraries say of themselves."""

LONGEST_WORD, LONGEST_MESSAGE, MOST_REPEATS = 125, 700, 15


def said_well(message: str, hint: str) -> None:
    """Two lines that name no Python and repeat nothing at length."""
    for text in (message, hint):
        assert text.strip(), "an empty line"
        assert not PYTHON.search(text), text[:300]
        assert max(map(len, text.split())) <= LONGEST_WORD, text[:300]
        assert len(text) <= LONGEST_MESSAGE, text[:300]
        assert text.count("hugevalue") <= MOST_REPEATS, text[:300]
        assert text.isprintable() or "\n" not in text, text[:300]
        text.encode()


def read_or_refused(name: str, path: Path) -> bool:
    """Whether the file was read; where it was refused, it was refused well."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            READERS[name].read(path)
    except ShardwrightError as error:
        said_well(error.message, error.hint)
        return False
    return True


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "f").mkdir()
    return tmp_path / "f"


@pytest.mark.parametrize("name", READERS)
def test_the_sample_is_read(name: str, folder: Path) -> None:
    path = folder / READERS[name].name
    path.write_bytes(READERS[name].sample())
    READERS[name].read(path)


def spoil(name: str, folder: Path, times: int) -> None:
    reader = READERS[name]
    sample, path = reader.sample(), folder / reader.name
    for number in range(times):
        draw = random.Random(zlib.crc32(f"{name} {number}".encode()))
        content = (reader.spoil if number % 2 else spoilt_bytes)(sample, draw)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        try:
            read_or_refused(name, path)
        except Exception as error:
            raise AssertionError(f"mutation {number} of {name}: {content[:2000]!r}") from error


@pytest.mark.parametrize("name", READERS)
def test_spoilt_files_are_read_or_refused_in_two_lines(name: str, folder: Path) -> None:
    spoil(name, folder, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_thousands_of_spoilt_files_are_read_or_refused_in_two_lines(name: str, folder: Path) -> None:
    spoil(name, folder, MANY)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "missing", "long name", "NUL", "empty", "unreadable"])
def test_what_is_no_file_is_refused(name: str, kind: str, folder: Path) -> None:
    path = folder / READERS[name].name
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "long name":
        path = folder / ("x" * 3000 + path.suffix)
    elif kind == "NUL":
        path = folder / ("x\0" + path.suffix)
    elif kind == "empty":
        path.touch()
    elif kind == "unreadable":
        path.symlink_to(path)
    if name in ("manifest", "rows") and kind in ("long name", "NUL"):
        return  # a store's folder is named, not its files
    read = read_or_refused(name, path)
    # A journal that is not there has no entries, and an empty file of lines no lines.
    nothing = {"journal": ("missing", "long name", "NUL", "empty"), "points": ("empty",)}
    assert read == (kind in nothing.get(name, ()))
