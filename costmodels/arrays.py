"""Dataclasses of arrays over the same ``n`` points: rows of them, and one made of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Self, TypeVar

import numpy as np

from costmodels.estimates import Ints

P = TypeVar("P")


def take_rows(points: P, index: Ints) -> P:
    """The points ``index`` (k,) of a dataclass of arrays [n]; what is no array is common to all of them."""

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: values[index] for name, values in value.items()}
        if isinstance(value, np.ndarray):
            return value[index]
        if hasattr(value, "take"):
            return value.take(index)
        return take_rows(value, index) if is_dataclass(value) else value

    changed: Any = {field.name: of(getattr(points, field.name)) for field in fields(points)}  # type: ignore[arg-type]
    return replace(points, **changed)  # type: ignore[type-var]


def concatenate_rows(parts: Sequence[P], rows: Sequence[Ints] | None = None) -> P:
    """One dataclass of arrays of which ``parts`` are the points ``rows``, that is all of them together (None: one part
    after another); what is no array is the first part's."""
    order = slice(None) if rows is None else np.argsort(np.concatenate(list(rows)))

    def of(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: of([value[name] for value in values]) for name in values[0]}
        if isinstance(values[0], np.ndarray):
            return np.concatenate(values)[order]
        return concatenate_rows(values, rows) if is_dataclass(values[0]) else values[0]

    names = [field.name for field in fields(parts[0])]  # type: ignore[arg-type]
    changed: Any = {name: of([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], **changed)  # type: ignore[type-var]


class Rowwise:
    """Base of dataclasses of arrays of ``n`` points that are taken apart by their rows."""

    def take(self, index: Ints) -> Self:
        """The points ``index`` (k,)."""
        return take_rows(self, index)
