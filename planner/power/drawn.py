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
    """A stretch in as few bytes as its whole numbers need, to be kept: some 6 a request, or 10 a server's second."""

    def __init__(self, day: DayOfRequests) -> None:
        counts = np.bincount(day.second)
        self._per_second, self._server, self._count = _small(counts), _small(day.server), _small(day.count)
        self._means = [None if each is None else _Mean(each, day.count) for each in (day.isl, day.osl, day.square)]
        self.nbytes = sum(each.nbytes for each in (self._per_second, self._server, self._count))
        self.nbytes += sum(each.kept.nbytes for each in self._means if each is not None)

    def day(self) -> DayOfRequests:
        second: Any = np.repeat(np.arange(len(self._per_second), dtype=np.int32), self._per_second)
        count = self._count.astype(np.float32)
        isl, osl, square = (None if each is None else each.told(count) for each in self._means)
        assert isl is not None
        assert osl is not None
        return DayOfRequests(second, self._server.astype(np.int32), isl, osl, count, square)


class _Mean:
    """A column of means: as sums, where they are whole and give the same bytes back."""

    def __init__(self, means: Floats, count: Floats) -> None:
        self._type = means.dtype
        sums = np.rint(means.astype(np.float64) * count)
        self._summed = np.array_equal(self._of(sums, count), means)
        self.kept = _small(sums if self._summed else means)

    def _of(self, sums: Floats, count: Floats) -> Floats:
        return np.asarray(sums / count.astype(np.float64), self._type)

    def told(self, count: Floats) -> Floats:
        return self._of(self.kept, count) if self._summed else self.kept.astype(self._type)


def _small(numbers: Floats | Ints) -> Any:
    """In the smallest type that holds them, where they are whole."""
    least = numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))
    return least if np.array_equal(least, numbers) else numbers
