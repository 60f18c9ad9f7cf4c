"""Small data files of named numbers, read into a dataclass."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from profiles.shipped import shipped

Facts = TypeVar("Facts")


def read_numbers(path: Path, kind: type[Facts]) -> Facts:
    """``kind`` with each of its fields read from the YAML mapping in ``path``; other keys (sources) are left alone.

    Raises:
        DataError: the file is missing, no YAML mapping, lacks a field, or has something else than a number there.
    """
    names: Any = fields(kind)  # type: ignore[arg-type]
    return shipped(path, lambda document: kind(**{field.name: float(document[field.name]) for field in names}))
