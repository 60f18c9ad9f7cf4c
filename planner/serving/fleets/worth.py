"""Which kinds of engine are worth choosing from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from costmodels.estimates import Floats

KEPT = 10
"""Kinds of engine of a pool and a precision that are chosen from: those that carry most of some class for their GPUs,
and the smallest."""

CLOSE = 0.02
"""Share of a capacity by which another kind of the same size counts as no better."""


ABOUT = 0.1
"""Share of what is carried by which a kind of another token budget may carry less and still be kept beside."""


class KindOfEngine(Protocol):
    """What tells kinds apart: those of one pool, precision, role and partners are compared."""

    @property
    def pool_index(self) -> int: ...
    @property
    def gpus(self) -> int: ...
    @property
    def budget(self) -> int: ...
    @property
    def precision(self) -> object: ...
    @property
    def role(self) -> object: ...
    @property
    def partners(self) -> object: ...


def worth_keeping(keys: Sequence[KindOfEngine], cells: Floats) -> list[int]:
    """The kinds that are worth choosing from: none that another of the same GPUs, or of fewer of them, betters in every
    class; of each pool, precision and role a few that together are best in most classes."""
    kept: list[int] = []
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, key in enumerate(keys):
        if cells[:, i].any():
            groups.setdefault((key.pool_index, key.precision, key.role, key.partners), []).append(i)
    for mine in groups.values():
        left = list(mine)
        for i in mine:  # one after the other: of two that each better the other, being close, one stays
            if any(_betters(keys, cells, j, i, earlier=j < i) for j in left if j != i):
                left.remove(i)
        per_gpu = np.stack([cells[:, i] / keys[i].gpus for i in left], axis=1)
        best = np.maximum(per_gpu.max(axis=1), 1e-300)
        chosen: list[int] = []
        covered = np.zeros(len(cells))
        while len(chosen) < min(KEPT, len(left)):
            gain = np.maximum(per_gpu / best[:, None] - covered[:, None], 0).sum(axis=0)
            gain += 1e-6 / np.array([keys[i].gpus for i in left])  # of equals the smaller
            gain[[left.index(i) for i in chosen]] = -1
            nxt = int(np.argmax(gain))
            if gain[nxt] <= CLOSE * len(cells) * 0.05 and chosen:
                break
            chosen.append(left[nxt])
            covered = np.maximum(covered, per_gpu[:, nxt] / best)
        sizes = {keys[i].gpus for i in chosen}
        for size in sorted({keys[i].gpus for i in left} - sizes):  # engines of each size, for what is left over
            alike = [i for i in left if keys[i].gpus == size]
            chosen.append(max(alike, key=lambda i: float(cells[:, i].sum())))
        kept += [*chosen, *_of_other_budgets(keys, cells, mine, chosen)]
    return sorted(kept)


def _of_other_budgets(
    keys: Sequence[KindOfEngine], cells: Floats, mine: Sequence[int], chosen: Sequence[int]
) -> list[int]:
    """Of the sizes of ``mine`` that serve some class not at all, the best of each token budget that carries about as
    much: what such requests do to the others, where they are served all the same, depends on it most."""
    out: list[int] = []
    for size in sorted({keys[i].gpus for i in mine if keys[i].role == "aggregated"}):
        alike = [i for i in mine if keys[i].gpus == size]
        if (cells[:, alike] > 0).any(axis=1).all():
            continue
        carried = {i: float(cells[:, i].sum()) for i in alike}
        for budget in sorted({keys[i].budget for i in alike}):
            best = max((i for i in alike if keys[i].budget == budget), key=lambda i: carried[i])
            if best not in chosen and carried[best] >= (1 - ABOUT) * max(carried.values()):
                out.append(best)
    return out


def _betters(keys: Sequence[KindOfEngine], cells: Floats, j: int, i: int, *, earlier: bool) -> bool:
    if keys[j].gpus > keys[i].gpus:
        return False
    same = keys[j].gpus == keys[i].gpus
    within = 1 + (CLOSE if same and earlier else 0.0)
    better = bool((cells[:, j] * within >= cells[:, i]).all())
    equal = same and bool((cells[:, j] == cells[:, i]).all())
    return better and (not equal or earlier)
