"""The journal: what was asked and what came of it, one JSON object a line, written as it happens.

A line is written whole or not at all; a line that a killed process left half-written is cut off by the next one. A
run starts with a header that says who measured what on which device under which versions; the outcomes below it are
its. Times are µs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from profiles.collect.points import Outcome, Point, Timing
from profiles.errors import DataError, InputError
from profiles.files import GIB, Source
from profiles.markup import Malformed, strict_json
from profiles.values import shown

try:
    import fcntl
except ImportError:  # Windows: two collectors at once are then not noticed
    fcntl = None  # type: ignore[assignment]

FILE = "journal.jsonl"
FORMAT_VERSION = 1
LARGEST = 4 * GIB  # bytes of a journal, which is read line by line


@dataclass(frozen=True)
class Header:
    """The provenance of the outcomes that follow.

    Attributes:
        source: who measured.
        date: ISO date.
        gpu: the catalogue's name of the device's type; empty where none was looked up (a bare machine).
        device: what the driver reports (:meth:`Device.describe`).
        versions: torch, cuda, driver, nccl, python; None where unknown.
        settings: target error, seed and the like, for the record.
    """

    source: str
    date: str
    gpu: str
    device: Mapping[str, Any]
    versions: Mapping[str, str | None]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """An outcome under the header of its run."""

    header: Header
    outcome: Outcome


class Journal:
    """Appends to ``folder``'s journal, which is made where it is missing. One writer at a time.

    Raises:
        InputError: the folder cannot be written, or another process writes to it.
        DataError: what is there is no journal, or one of a newer version.
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder) / FILE
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
        except OSError as error:
            raise InputError(
                f"--out: {folder} cannot be written ({error.strerror})", "choose a folder that you may write to"
            ) from error
        try:
            self._lock()
            self._entries = list(read(self.path))
            self._cut()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"--out: another process is collecting into {self.path.parent}", "wait for it, or choose another"
                ) from error

    def _cut(self) -> None:
        """Removes a line without an end, which a killed writer left."""
        whole = self.path.read_bytes()
        if whole and not whole.endswith(b"\n"):
            self._file.truncate(whole.rfind(b"\n") + 1)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def entries(self) -> list[Entry]:
        """All outcomes so far, of earlier runs too."""
        return self._entries

    def begin(self, header: Header) -> None:
        """Starts a run."""
        self._header = header
        self._append({"type": "header", "format_version": FORMAT_VERSION, **dataclasses.asdict(header)})

    def add(self, outcome: Outcome) -> None:
        """Writes ``outcome`` under the run's header; it is on its way to the disk when this returns.

        Raises:
            DataError: the disk is full (or gone); the journal then ends with the outcome before.
        """
        self._append({"type": "outcome", **dataclasses.asdict(outcome)})
        self._entries.append(Entry(self._header, outcome))

    def _append(self, document: Mapping[str, Any]) -> None:
        line = (json.dumps(document, allow_nan=False, ensure_ascii=False) + "\n").encode()
        before = os.fstat(self._file.fileno()).st_size
        try:
            written = os.write(self._file.fileno(), line)
            if written < len(line):
                os.write(self._file.fileno(), line[written:])  # says why the first one stopped short
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(before)
            raise DataError(
                f"journal {self.path}: cannot be written ({error.strerror})",
                "make room, then run again: everything measured before is kept",
            ) from error


def read(path: Path) -> Iterator[Entry]:
    """The outcomes in a journal; none where there is no file. A last line without an end is left out.

    Raises:
        DataError: a line is no JSON object of ours, or was written by a newer version.
    """
    source = Source(path, "journal", "give the folder of a journal", LARGEST, DataError)
    if not os.path.lexists(path):
        return
    header: Header | None = None
    for number, line in source.lines():
        if not line.endswith(b"\n"):
            return
        try:
            document = strict_json(line)
            kind = document.pop("type")
            if kind == "header":
                version = document.pop("format_version")
                if version > FORMAT_VERSION:
                    raise DataError(
                        f"journal {path}: format_version {version} is newer than this program's {FORMAT_VERSION}",
                        "upgrade shardwright",
                    )
                header = _typed(Header(**document))
            elif kind == "outcome" and header is not None:
                yield Entry(header, _typed(outcome_of(document)))
            else:
                raise Malformed(f"type {shown(kind)} is not expected here")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = f" ({error})" if isinstance(error, Malformed) else ": it has not the fields that it must have"
            raise source.wrong(
                f"line {number} is damaged{why}", "remove the line, or start in another folder"
            ) from error


T = TypeVar("T", Header, Outcome, Point)


def _typed(value: T) -> T:
    """``value``, whose fields have the types that its class says; a dataclass itself checks none.

    Raises:
        TypeError: one has not.
    """
    for name, hint in get_type_hints(type(value)).items():
        if not _fits(getattr(value, name), hint):
            raise TypeError(name)
    return value


def _fits(value: object, hint: Any) -> bool:
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return value in parts
    if get_origin(hint) is Mapping:
        return isinstance(value, dict) and all(isinstance(k, str) and _fits(v, parts[1]) for k, v in value.items())
    if parts:
        return any(_fits(value, part) for part in parts)
    if dataclasses.is_dataclass(hint):
        return isinstance(value, hint) and bool(_typed(value))  # type: ignore[arg-type, type-var]
    if hint is Any:
        return True
    return isinstance(value, int | float if hint is float else hint) and (hint is bool or not isinstance(value, bool))


def outcome_of(document: Mapping[str, Any]) -> Outcome:
    """The outcome that :func:`dataclasses.asdict` turned into ``document``."""
    timing = document["timing"]
    return Outcome(
        **{
            **document,
            "point": Point(**document["point"]),
            "timing": None if timing is None else Timing(**timing),
        }
    )


def read_points(path: Path) -> list[Point]:
    """The points of a ``points.jsonl`` (:func:`write_points`), in order, each once.

    Raises:
        InputError: the file cannot be read, or a line is no point.
    """
    hint = 'a line is {"operation": "gemm", "dtype": "bf16", "shape": {"m": 64, "n": 4096, "k": 4096}}'
    source = Source(path, "--points:", hint, LARGEST)
    points: dict[str, Point] = {}
    for number, line in source.lines():
        if not line.strip():
            continue
        try:
            point = _typed(Point(**strict_json(line)))
        except (ValueError, TypeError) as error:
            why = f" ({error})" if isinstance(error, Malformed) else ""
            raise source.wrong(f"line {number} is no point{why}") from error
        points.setdefault(point.key, point)
    return list(points.values())


def write_points(points: Iterable[Point]) -> str:
    """The text of a ``points.jsonl``."""
    return "".join(json.dumps(dataclasses.asdict(point)) + "\n" for point in points)
