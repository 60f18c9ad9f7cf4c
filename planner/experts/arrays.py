"""numpy's files, whose headers may promise more than there is: judged before anything is allocated."""

from __future__ import annotations

import ast
import io
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from profiles.errors import ShardwrightError
from profiles.files import GIB, Source
from profiles.values import shown

LARGEST = 16 * GIB
"""Bytes of a file of arrays."""

_LARGEST_UNPACKED = 4 * GIB
_LONGEST_HEADER = 10_000  # as numpy's own limit


def read_array(source: Source) -> np.ndarray:
    """The array in a ``.npy`` file, mapped, not read: values come from the disk as they are used.

    Raises:
        InputError: it cannot be read, is cut off, or holds anything but plain values.
    """
    with source.opened() as stream:
        start, shape, order, dtype = _header(source, stream)
        _check_size(source, shape, dtype, stream.seek(0, io.SEEK_END) - start)
        if not all(shape):
            return np.zeros(shape, dtype)
        return np.memmap(stream, dtype, "r", start, shape, order)


def read_arrays(source: Source) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` file by name.

    Raises:
        InputError: it cannot be read, is damaged, unpacks to more than 4 GiB, or holds anything but plain values.
    """
    with source.opened() as stream:
        names, unpacked = _library(source, lambda: _listing(stream))
        if unpacked > _LARGEST_UNPACKED:
            raise source.wrong(f"unpacks to {unpacked:,} bytes, more than the {_LARGEST_UNPACKED:,} that are read")
        return {name.removesuffix(".npy"): _member(source, stream, name) for name in names}


def _listing(stream: BinaryIO) -> tuple[list[str], int]:
    with zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
    return [entry.filename for entry in entries], sum(entry.file_size for entry in entries)


def _member(source: Source, stream: BinaryIO, name: str) -> np.ndarray:
    def unpacked() -> bytes:
        with zipfile.ZipFile(stream) as archive:
            return archive.read(name)

    content = io.BytesIO(_library(source, unpacked))
    start, shape, order, dtype = _header(source, content)
    _check_size(source, shape, dtype, len(content.getbuffer()) - start)
    count = int(np.prod(shape, dtype=object))
    return np.frombuffer(content.getbuffer()[start:], dtype, count).reshape(shape, order=order)


def _header(source: Source, stream: BinaryIO) -> tuple[int, tuple[int, ...], Any, np.dtype[Any]]:
    """(where the values start, shape, order, type) that a ``.npy`` file says of itself: the format of NEP 1."""
    magic = stream.read(8)
    if magic[:6] != b"\x93NUMPY" or len(magic) < 8:
        raise source.wrong("numpy cannot read it (no array that numpy.save wrote)")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    text = stream.read(min(length, _LONGEST_HEADER))
    try:
        entries = ast.literal_eval(text.decode("utf-8"))
        shape, fortran, descr = entries["shape"], entries["fortran_order"], entries["descr"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names of types that numpy is about to forget
            dtype = np.dtype(descr)
        good = len(text) == length and isinstance(shape, tuple) and len(shape) <= 32 and isinstance(descr, str)
        good &= all(type(size) is int and 0 <= size < 2**62 for size in shape)
    except (ValueError, TypeError, KeyError, AttributeError, SyntaxError, MemoryError, RecursionError) as error:
        raise source.wrong("is damaged: its header cannot be understood") from error
    if not good:
        raise source.wrong("is damaged: its header cannot be understood")
    if dtype.kind not in "biuf":
        raise source.wrong(f"holds values of type {shown(str(dtype))}, not plain numbers")
    return 8 + width + length, shape, "F" if fortran else "C", dtype


def _check_size(source: Source, shape: tuple[int, ...], dtype: np.dtype[Any], there: int) -> None:
    needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if needed > there:
        raise source.wrong(f"is cut off: {needed:,} bytes of values are announced, {max(there, 0):,} are there")


def _library(source: Source, work: Callable[[], Any]) -> Any:
    """What ``work`` gives. A damaged archive makes zipfile and its unpackers raise nearly anything."""
    try:
        return work()
    except (OSError, ShardwrightError):
        raise
    except Exception as error:
        raise source.wrong("is damaged: it is not a whole archive that numpy wrote") from error
