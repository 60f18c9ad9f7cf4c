"""Measured rows that cannot stand as they are: what other rows of the same kernel say of them.

With less to do nothing need be slower: an engine could pad. Products that were disturbed take what more rows do
(:func:`undisturbed`); experts that were measured before their kernels were tuned get the time between what does more
and what does less (:func:`as_tuned`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats
from costmodels.operations.roofline import Columns
from profiles.columns import Columns as Measured
from profiles.columns import texts

SPOILED = 1.3
"""Times the least of the next :data:`AHEAD` sizes, that a product was disturbed from on: 1.1 % of TensorRT-LLM's rows,
1.7 % of vLLM's (8 % in fp8 on B200, twice as long in the median) and 3.7 % of SGLang's (6 % on B200); the others' same
products are mostly not. Chosen on the rows themselves."""

AHEAD = 3

UNTUNED = 2.0
"""Times the least that more work takes, from which experts' kernels were not tuned: 5.4 % of TensorRT-LLM's rows in
bf16 on H100 and 6.0 % on H200, 3.0 and 4.4 % in fp8; on its other GPUs and in other precisions 0.8 % at most. Chosen
on the rows themselves, no run of an engine was looked at."""

_SIZE = (1 << 32) - 1
_ALIKE = ("dtype", "num_gpus", "hidden", "intermediate", "top_k", "experts", "gated")
_AXES = ("routing", "tokens", "moe_tp", "moe_ep")


def undisturbed(table: Measured) -> Floats:
    """Times of products in µs, [n]: of those that took :data:`SPOILED` times the least of the next :data:`AHEAD`
    numbers of rows by the same matrix, that least."""
    codes = texts(table, "dtype").codes
    shape = [codes, *(np.asarray(table[name], np.int64) for name in ("n", "k"))]
    order = np.lexsort((np.asarray(table["m"], np.int64), *shape[::-1]))
    latency = np.asarray(table["latency_us"], np.float64)[order]
    least = np.full(len(order), np.inf)
    for ahead in range(1, AHEAD + 1):
        same = np.all([column[order][:-ahead] == column[order][ahead:] for column in shape], axis=0)
        least[:-ahead] = np.minimum(least[:-ahead], np.where(same, latency[ahead:], np.inf))
    out = np.empty(len(order))
    out[order] = np.where(latency > SPOILED * least, least, latency)
    return out


def as_tuned(columns: Columns, latency_us: Floats) -> Floats:
    """Times of experts in µs, [n], ``columns`` those of ``moe``: of rows that take :data:`UNTUNED` times as long as
    more work does, the geometric mean of the least time of more work and the most of less.

    More work: as many tokens or more, split into as many parts or fewer, routed alike; and all on one GPU, however
    routed, since it computes the same. Rows that were not tuned themselves say nothing of the least."""
    out = np.array(latency_us, dtype=np.float64)
    alike = np.column_stack([np.asarray(columns[name]) for name in _ALIKE])
    shapes = np.unique(alike, axis=0, return_inverse=True)[1].ravel()  # a column in numpy 2.0
    order = np.argsort(shapes, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(shapes[order])) + 1):
        if len(rows):
            out[rows] = _of_shape({name: np.asarray(columns[name])[rows] for name in _AXES}, out[rows])
    return out


def _of_shape(axes: Mapping[str, NDArray[np.generic]], latency_us: Floats) -> Floats:
    places = [np.unique(axes[name], return_inverse=True) for name in _AXES]
    at = tuple(index for _, index in places)
    grid = np.full([len(values) for values, _ in places], np.inf)
    np.minimum.at(grid, at, latency_us)
    whole = places[-1][0][0] == 1
    most = _siblings(grid) if whole else grid
    most = np.minimum.accumulate(most[:, ::-1], axis=1)[:, ::-1]
    for split in (2, 3):
        most = np.minimum.accumulate(most, axis=split)
    untuned = grid > UNTUNED * most
    sound = np.where(untuned, np.inf, grid)
    least = _siblings(sound) if whole else sound
    least = np.maximum.accumulate(np.where(np.isfinite(least), least, 0.0), axis=1)
    for split in (2, 3):
        least = np.flip(np.maximum.accumulate(np.flip(least, split), axis=split), split)
    between = np.sqrt(most * np.where(least > 0, np.minimum(least, most), most))
    return np.where(latency_us > UNTUNED * most[at], between[at], latency_us)


def _siblings(grid: Floats) -> Floats:
    """``grid`` [routing, tokens, tp, ep] where the least of all routings stands in for each on one GPU."""
    out = grid.copy()
    out[..., 0] = grid[..., 0].min(axis=0)
    return out


class Curves:
    """Rows of one kernel by the size that grows along a curve, all else equal: what lies between them lies on a line.

    Of rows that were left out between two others (experts, at most a factor of two apart in tokens, H100, H200, B200,
    L40S, three frameworks), the line is off by 2.5 % in the median and 11 % in nine of ten, a forest that has learnt
    from them by 3.3 and 14 %, and by 1.4 % in the mean on H100: beside its own rows it leapt by up to 60 %. Of masked
    experts of 32 slots, left out between 16 and 64 (H100, H200), it is off by 4.3 and 19 %; on GB200, where nobody
    measured 32, a forest said 17 % more than the line.

    Args:
        keys: of the curve that each row lies on, [n].
        size: along it, [n], below 2**31.
        latency_us: [n].
        apart: by what factor two rows are apart at most, for a line to join them.
    """

    def __init__(
        self,
        keys: NDArray[np.uint64],
        size: Sequence[int] | NDArray[np.generic],
        latency_us: Floats,
        apart: int = 2,
    ) -> None:
        self._apart = apart
        self._curves, curve = np.unique(keys, return_inverse=True)
        places = self._places(curve, size)
        order = np.argsort(places, kind="stable")
        self._at, self._us = places[order], np.asarray(latency_us)[order]

    @staticmethod
    def _places(curve: NDArray[np.int64], size: Sequence[int] | NDArray[np.generic]) -> NDArray[np.int64]:
        return (curve.astype(np.int64) << 32) + np.asarray(size, dtype=np.int64)

    def between(self, keys: NDArray[np.uint64], size: NDArray[np.generic], value: Floats) -> Floats:
        """``value`` [n]; where it lies between two rows of its curve that are near enough, the line between them."""
        if not len(self._at) or not len(keys):
            return value
        curve = np.minimum(np.searchsorted(self._curves, keys), len(self._curves) - 1)
        asked = self._places(curve, size)
        after = np.clip(np.searchsorted(self._at, asked), 1, len(self._at) - 1)
        below, above = self._at[after - 1] >> 32 == curve, self._at[after] >> 32 == curve
        inside = (self._curves[curve] == keys) & below & above
        left, right = self._us[after - 1], self._us[after]
        gap = np.maximum(self._at[after] - self._at[after - 1], 1)
        inside &= gap <= (self._apart - 1) * (self._at[after - 1] & _SIZE)
        return np.where(inside, left + (asked - self._at[after - 1]) / gap * (right - left), value)
