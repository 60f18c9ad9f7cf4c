"""Files and folders that are there whole or not at all: written beside, under another name, and renamed.

A reader finds the old content or the new one; a run that is killed leaves the old one, and perhaps a hidden ``.part``
that nothing reads.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """An empty file beside ``path`` for the block to fill. When the block ends it is renamed to ``path``, with the
    permissions of the file that it replaces; where the block raises, it is gone.

    Args:
        durable: its content is on the disk before it is renamed: after a power cut, the name never stands for an empty
            file. What can be made again needs no such wait.

    Raises:
        OSError: there is no such directory, it may not be written, or the disk is full; what was there stays.
    """
    beside = _beside(path)
    beside.open("xb").close()
    try:
        yield beside
        if durable:
            with beside.open("rb+") as stream:
                os.fsync(stream.fileno())
        if path.exists():
            beside.chmod(path.stat().st_mode & 0o777)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """``content`` (text as UTF-8) as the whole content of ``path``; the rest as :func:`whole_file`."""
    with whole_file(path, durable=durable) as beside:
        beside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def whole_folder(path: Path, *, replaces: bool = False) -> Iterator[Path]:
    """An empty folder beside ``path`` for the block to fill. When the block ends it is renamed to ``path``; where the
    block raises, it is gone.

    Args:
        replaces: a folder that is there goes when the new one is whole.

    Raises:
        OSError: as :func:`whole_file`; also where a folder with files is there, unless the new one ``replaces`` it.
    """
    beside = _beside(path)
    beside.mkdir()
    try:
        yield beside
        if replaces and path.is_dir():
            old = _beside(path)
            os.replace(path, old)
            os.replace(beside, path)
            shutil.rmtree(old)
        else:
            os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
