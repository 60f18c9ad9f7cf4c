"""Rows on a grid of two sizes: what lies among four of them is not much longer than they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from costmodels.operations.roofline import Columns

LONGER = 1.2
"""Times what four rows say, by a surface that is straight along each size (α + β·batch + γ·batch·context is), that an
answer among them may be. On Hopper 1 % of a forest's answers for vLLM's decode attention are longer (H100 1.23, H200
1.11); on B200 and GB200, where trees have learnt from shapes whose kernels change elsewhere, one in five, up to four
times as long as the rows on all sides. Chosen on the rows, no run of an engine was looked at."""

Lookup = Callable[[Columns], tuple[Floats, NDArray[np.bool_]]]
"""(measured latency, whether there is one) of questions, [n] each."""


class Cells:
    """The sizes along the ``names`` (two columns, or none) that were measured."""

    def __init__(self, names: tuple[str, ...], measured: Columns) -> None:
        self._sizes = {name: np.unique(np.asarray(measured[name], np.int64)) for name in names}

    def no_longer(self, q: Columns, value: Floats, lookup: Lookup) -> Floats:
        """``value`` of the questions ``q``, [n], but :data:`LONGER` times what the four rows around say at most."""
        if not self._sizes or not all(len(sizes) for sizes in self._sizes.values()):
            return value
        inside = np.ones(len(value), np.bool_)
        ends: list[tuple[str, list[Ints], Floats]] = []
        for name, sizes in self._sizes.items():
            asked = np.asarray(q[name], np.int64)
            up = np.searchsorted(sizes, asked)
            inside &= (up < len(sizes)) & ((up > 0) | (sizes[0] == asked))
            up = np.minimum(up, len(sizes) - 1)
            low, high = sizes[np.where(sizes[up] == asked, up, np.maximum(up - 1, 0))], sizes[up]
            share = (asked - low) / np.maximum(high - low, 1)
            ends.append((name, [low, high], share))
        (first, at_first, along_first), (second, at_second, along_second) = ends
        said = np.zeros(len(value))
        for one, weight in zip(at_first, (1 - along_first, along_first), strict=True):
            for other, share in zip(at_second, (1 - along_second, along_second), strict=True):
                row, found = lookup({**q, first: one, second: other})
                inside &= found
                said += weight * share * row
        return np.where(inside, np.minimum(value, LONGER * said), value)
