"""Requests of a row as they were drawn: one by one, or those of a server's second as one where they are very many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from costmodels.estimates import Floats, Ints

Part = tuple[Ints, Ints, Floats, Floats, Floats]
"""Some requests of a block of ten minutes: second of the day, server, tokens of prompt and output, and how many they
are."""


@dataclass(frozen=True)
class DayOfRequests:
    """In the order they come, [n] each: second, server, tokens of prompt and output (means of ``count``), and the mean
    of the prompts' squares, where there are several (None: they are one by one)."""

    second: Ints
    server: Ints
    isl: Floats
    osl: Floats
    count: Floats
    square: Floats | None = None

    @classmethod
    def of(cls, parts: list[Part]) -> DayOfRequests:
        """One by one, put together and in order."""
        second, server, isl, osl, count = (np.concatenate([part[i] for part in parts]) for i in range(5))
        order = np.argsort(second, kind="stable")
        return cls(
            second[order].astype(np.int32),
            server[order].astype(np.int32),
            np.rint(isl[order]).astype(np.float32),
            np.rint(osl[order]).astype(np.float32),
            count[order].astype(np.float32),
        )

    @classmethod
    def joined(cls, days: list[DayOfRequests]) -> DayOfRequests:
        """One after the other."""
        columns = ([getattr(each, name) for each in days] for name in _COLUMNS)
        whole: list[Any] = [None if each[0] is None else np.concatenate(each) for each in columns]
        return cls(*whole)

    def within(self, first: int, last: int, offset: int) -> DayOfRequests:
        """Those of the seconds from ``first`` until before ``last``, counted from ``offset``."""
        keep = slice(*np.searchsorted(self.second, (first, last)))
        columns = (getattr(self, name) for name in _COLUMNS)
        kept: list[Any] = [None if each is None else each[keep] for each in columns]
        second, *others = kept
        return DayOfRequests(second - offset, *others)


_COLUMNS = ("second", "server", "isl", "osl", "count", "square")


def merged(parts: list[Part], servers: int) -> DayOfRequests:
    """Those of a block and a server's second as one, which the fluid of work is told the same by: their number, and
    means of prompts, of their squares and of outputs (of two tokens at least: the first is prefill's)."""
    begins = min((int(second.min()) for second, *_ in parts if len(second)), default=0)
    upto = max((int(second.max()) for second, *_ in parts if len(second)), default=0) + 1
    sums = np.zeros((4, (upto - begins) * servers))
    for second, server, isl, osl, count in parts:
        key = (second - begins) * servers + server
        prompts = isl * count
        for row, each in zip(sums, (count, prompts, isl * prompts, np.maximum(osl, 2.0) * count), strict=True):
            row += np.bincount(key, each, sums.shape[1])
    where = np.flatnonzero(sums[0])
    total = sums[0, where]
    isl, square, osl = sums[1:, where] / total
    whole = (each.astype(np.int32) for each in (where // servers + begins, where % servers))
    columns: list[Any] = [*whole, *(each.astype(np.float32) for each in (isl, osl, total)), square]
    return DayOfRequests(*columns)


class Packed:
    """A stretch in as few bytes as its whole numbers need, to be kept: some 6 a request."""

    def __init__(self, day: DayOfRequests) -> None:
        counts = np.bincount(day.second)
        self._per_second, self._columns = _small(counts), [_small(getattr(day, name)) for name in _KEPT_COLUMNS]
        self._square = day.square
        self.nbytes = sum(each.nbytes for each in (self._per_second, *self._columns))
        self.nbytes += 0 if day.square is None else day.square.nbytes

    def day(self) -> DayOfRequests:
        second: Any = np.repeat(np.arange(len(self._per_second), dtype=np.int32), self._per_second)
        server, *others = self._columns
        columns: list[Any] = [server.astype(np.int32), *(each.astype(np.float32) for each in others), self._square]
        return DayOfRequests(second, *columns)


_KEPT_COLUMNS = ("server", "isl", "osl", "count")


def _small(numbers: Floats | Ints) -> Any:
    """In the smallest type that holds them, where they are whole."""
    least = numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))
    return least if np.array_equal(least, numbers) else numbers
