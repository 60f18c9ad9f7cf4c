"""The one door through which files come in that users name.

Whoever reads such a file asks here for its bytes, its text or an open stream, and gets them only from a regular file
(or, named ``-``, from standard input) of a bounded size: never from a device, a pipe by name or a directory. What is
wrong is said in two lines that name the file. Readers say what the file is (``what``: "plan", "trace"), what a good one
would be (``hint``), and which error a bad one is (:class:`InputError` unless they say otherwise).
"""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from profiles.errors import InputError, ShardwrightError
from profiles.values import named, shown

MIB = 2**20
GIB = 2**30
LARGEST_TEXT = 64 * MIB
"""Bytes of a file that is read whole as text, unless its reader says otherwise."""

STANDARD_INPUT = Path("-")

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class Source:
    """A file that a user named, and how its reader speaks of it.

    Attributes:
        path: the file; ``-`` is standard input.
        what: what it is to be, which messages begin with ("trace", "cluster file", "--points").
        hint: what a good one is; the way out where the file's content is wrong.
        most: bytes at most.
        error: the class of what is raised.
    """

    path: Path
    what: str
    hint: str
    most: int = LARGEST_TEXT
    error: type[ShardwrightError] = InputError

    @property
    def where(self) -> str:
        """How messages about the content begin."""
        return f"{self.what} {named(self.path)}".strip()

    def wrong(self, problem: str, hint: str = "") -> ShardwrightError:
        """The error that says ``problem`` of this file."""
        return self.error(f"{self.where}: {problem}", hint or self.hint)

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The file, open for reading bytes. What the reading itself raises of the system (a disk that fails) is put
        into words too.

        Raises:
            InputError (or ``error``): it is not there, may not be read, is no regular file or larger than ``most``.
        """
        try:
            with self._open() as stream:
                yield stream
        except OSError as error:
            raise self.error(f"{self.where}: cannot be read ({reason(error)})", "check the path") from error

    def _open(self) -> BinaryIO:
        if self.path == STANDARD_INPUT:
            return io.BytesIO(self._bounded(sys.stdin.buffer))
        # Without O_NONBLOCK, opening a pipe would wait for its writer. The descriptor is judged, not the name: nobody
        # can put another file in its place in between.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(self.path, flags)
        except ValueError as error:
            raise self.error(f"{self.where}: cannot be read (no file can have this name)", "check the path") from error
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                kind = next((name for test, name in _KINDS if test(facts.st_mode)), "no file")
                raise self.wrong(
                    f"cannot be read (it is {kind}, not a regular file)",
                    "name a file; what a program writes, save first",
                )
            if facts.st_size > self.most:
                raise self.wrong(f"cannot be read (its {facts.st_size:,} bytes are more than {self.most:,})")
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise

    def _bounded(self, stream: BinaryIO) -> bytes:
        content = stream.read(self.most + 1)
        if len(content) > self.most:
            raise self.wrong(f"cannot be read (it has more than {self.most:,} bytes)")
        return content

    def read(self) -> bytes:
        """The whole content. A file that grows while it is read is refused like one that is too large."""
        with self.opened() as stream:
            return self._bounded(stream)

    def text(self) -> str:
        """The whole content as text in UTF-8, of which a byte-order mark is left out.

        Raises:
            InputError (or ``error``): also where it is not UTF-8, naming the place.
        """
        return self.decoded(self.read())

    def decoded(self, content: bytes, line: int | None = None) -> str:
        """``content`` (of ``line``, where the file is read by lines) as text in UTF-8.

        Raises:
            InputError (or ``error``): it is not UTF-8; names the line and the byte.
        """
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            at = line or 1 + content[: error.start].count(b"\n")
            raise self.wrong(
                f"cannot be read (line {at}: byte {content[error.start]:#04x} is not text in UTF-8)",
                "save the file as text in UTF-8",
            ) from error

    def lines(self, longest: int = MIB) -> Iterator[tuple[int, bytes]]:
        """(number from 1, line) of a file that is read as a stream; a line has ``longest`` bytes at most.

        Raises:
            InputError (or ``error``): a line is longer.
        """
        with self.opened() as stream:
            number = 0
            while line := stream.readline(longest + 1):
                number += 1
                if len(line) > longest:
                    raise self.wrong(f"line {number} is longer than {longest:,} bytes")
                yield number, line


def is_file(path: Path) -> bool:
    """Whether a regular file has this name; no name is too long to ask."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether a directory has this name; no name is too long to ask."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def reason(error: OSError) -> str:
    """What the system says of a failure, in its words and without ours: "no such file or directory"."""
    return error.strerror or (shown(str(error)) if str(error) else type(error).__name__)
