"""Files that commands write: a file is either the old one or the whole new one, never half of it."""

from __future__ import annotations

import os
from pathlib import Path

from api.cli.console import as_json_text, write_text
from profiles.errors import InputError
from profiles.values import named
from profiles.whole_files import write_whole


def check_target(path: Path | None, option: str = "--output") -> None:
    """Refuses, before the work is done, a file that could not be written after it; ``option`` named it. None is no
    file.

    Raises:
        InputError: a directory, a missing or unwritable parent.
    """
    if path is None:
        return
    try:
        _check(path, option)
    except (OSError, ValueError) as error:  # a name that no file can have
        why = getattr(error, "strerror", None) or "no file can have this name"
        raise InputError(f"{option}: {named(path)} cannot be written ({why})", "name another file") from error


def _check(path: Path, option: str) -> None:
    parent = path.parent
    if path.is_dir():
        raise InputError(f"{option}: {named(path)} is a directory", "name a file in it")
    if path.exists() and not path.is_file():
        raise InputError(
            f"{option}: {named(path)} is not a regular file", "name a file, or use --json and redirect standard output"
        )
    if not parent.exists():
        raise InputError(f"{option}: the directory {named(parent)} does not exist", f"make it first: mkdir -p {parent}")
    if not parent.is_dir():
        raise InputError(f"{option}: {named(parent)} is not a directory", "name a file in a directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{option}: no permission to write in {named(parent)}", "name a file elsewhere")


def hand_over(document: str, output: Path | None, *, as_json: bool) -> bool:
    """Writes ``document`` to the file ``output`` and, for ``--json``, to standard output: the same bytes. True where
    people are still to be shown something.

    Raises:
        InputError: as :func:`write_atomically`.
    """
    if output is not None:
        write_atomically(output, document)
    if as_json:
        write_text(document)
    return not as_json


def hand_over_json(document: object, output: Path | None, *, as_json: bool) -> bool:
    """As :func:`hand_over`, of what JSON can hold."""
    if output is None and not as_json:
        return True
    return hand_over(as_json_text(document), output, as_json=as_json)


def write_atomically(path: Path, content: str | bytes, option: str = "--output") -> None:
    """:func:`~profiles.whole_files.write_whole` for what a user named with ``option``. A link's target is replaced, not
    the link.

    Raises:
        InputError: the file cannot be written; what was there stays.
    """
    try:
        write_whole(path.resolve(), content)
    except OSError as error:
        raise InputError(
            f"{option}: {named(path)} cannot be written ({error.strerror})", "name another file, or make room"
        ) from error
