"""Columns of measurement rows as arrays: what predictions read, without tables around them (and without pandas, whose
import takes a tenth of the time of a plan)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Texts:
    """A column of text: row i holds ``levels[codes[i]]``.

    Attributes:
        codes: shape [n].
        levels: each text once.
    """

    codes: NDArray[np.int64]
    levels: tuple[str, ...]

    @classmethod
    def of(cls, values: Iterable[object]) -> Texts:
        """From the texts themselves."""
        levels: dict[str, int] = {}
        codes = [levels.setdefault(str(value), len(levels)) for value in values]
        return cls(np.array(codes, dtype=np.int64), tuple(levels))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: NDArray[Any]) -> Texts:
        """Of the rows, given by index or mask."""
        return Texts(self.codes[rows], self.levels)

    def positions(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Index of each text in ``names``, shape [n]; −1 for a stranger."""
        at = {name: i for i, name in enumerate(names)}
        return np.array([at.get(level, -1) for level in self.levels] or [-1], dtype=np.int64)[self.codes]

    def isin(self, names: Sequence[str]) -> NDArray[np.bool_]:
        return self.positions(names) >= 0

    def strangers(self, names: Sequence[str]) -> list[str]:
        """The texts that occur and are none of ``names``, sorted."""
        return sorted({self.levels[code] for code in np.unique(self.codes)} - set(names))


Columns = dict[str, "Texts | NDArray[Any]"]
"""By name; all equally long."""


def texts(columns: Mapping[str, Texts | NDArray[Any]], name: str) -> Texts:
    """The text column ``name``."""
    column = columns[name]
    assert isinstance(column, Texts)
    return column


def numbers(columns: Mapping[str, Texts | NDArray[Any]], name: str) -> NDArray[Any]:
    """The column of numbers ``name``."""
    column = columns[name]
    assert not isinstance(column, Texts)
    return column


def joined(parts: Sequence[Columns]) -> Columns:
    """The rows of all ``parts`` (at least one, with the same columns)."""
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: Sequence[Texts | NDArray[Any]]) -> Texts | NDArray[Any]:
    of_text = [part for part in parts if isinstance(part, Texts)]
    if not of_text:
        return np.concatenate([part for part in parts if not isinstance(part, Texts)])
    levels = tuple(dict.fromkeys(level for part in of_text for level in part.levels))
    codes = [np.array([levels.index(level) for level in part.levels] or [0])[part.codes] for part in of_text]
    return Texts(np.concatenate(codes).astype(np.int64), levels)
