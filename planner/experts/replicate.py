"""How many copies each expert gets.

The most loaded copy is lightest when every further slot goes to the expert whose copies are heaviest: loads per copy
only fall with copies, so no other order can do better (the argument of a water-filling or heap). Balance over GPUs is
more than the heaviest copy, which is why :mod:`planner.experts.improve` changes these counts again.
"""

from __future__ import annotations

import numpy as np

from planner.experts.placement import Floats, Ints


def replicate(weight: Floats, copies: int, most: int) -> Ints:
    """Copies of each expert, shape [layers, experts], each 1…``most``, summing to ``copies`` in every layer.

    weight: [layers, experts], what an expert's copies share. Minimises the largest weight ÷ copies. Raises ValueError
    where ``copies`` does not lie in experts…experts × ``most``.
    """
    layers, experts = weight.shape
    if not experts <= copies <= experts * most:
        raise ValueError(f"{copies} copies of {experts} experts, at most {most} each")
    out = np.ones((layers, experts), np.int64)
    each = np.arange(layers)
    per_copy = weight.astype(np.float64, copy=True) if most > 1 else np.full(weight.shape, -1.0)
    for _ in range(copies - experts):
        hottest = per_copy.argmax(axis=1)
        count = out[each, hottest] + 1
        out[each, hottest] = count
        per_copy[each, hottest] = np.where(count < most, weight[each, hottest] / count, -1.0)
    return out


def fits(copies: Ints, slots: Ints) -> np.ndarray:
    """Whether copies [layers, experts] can fill ``slots`` [gpus] with no expert twice on a GPU, shape [layers]:
    the j GPUs with most slots hold at most min(copies, j) of each expert (Gale and Ryser)."""
    largest = np.cumsum(np.sort(slots)[::-1])
    room = np.stack([np.minimum(copies, j).sum(axis=1) for j in range(1, len(slots) + 1)], axis=1)
    return np.asarray((largest <= room).all(axis=1))


def replicate_for(weight: Floats, slots: Ints) -> Ints:
    """:func:`replicate` for GPUs with these ``slots`` [gpus], evened out only where unequal slots demand it.

    Moving a copy from the expert with most to the one with fewest only widens what fits, and the most even counts fit
    whenever any do, so this ends.
    """
    out = replicate(weight, int(slots.sum()), len(slots))
    if (slots == slots[0]).all():
        return out
    while not (good := fits(out, slots)).all():
        bad = np.flatnonzero(~good)
        out[bad, out[bad].argmax(axis=1)] -= 1
        out[bad, out[bad].argmin(axis=1)] += 1
    return out
