"""In which pools the stages of a pipeline run: contiguous blocks of stages in pools of different GPU types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np

from costmodels.estimates import Ints
from costmodels.training.exchanges import Links
from profiles.hardware import Gpu

MOST_TYPES = 3
"""Pools in one pipeline: of more, each three of them are considered."""


@dataclass(frozen=True)
class StagePool:
    """GPUs of one type that stages may run on.

    Attributes:
        capacity: bytes of each GPU that may be used.
    """

    links: Links
    gpu: Gpu
    gpus: int
    capacity: float


def joinable(pools: Sequence[StagePool]) -> list[tuple[int, ...]]:
    """Indices of pools that one pipeline may span: of one maker, whose collective library all its ranks speak."""
    makers = dict.fromkeys(pool.gpu.vendor for pool in pools)
    groups = [tuple(i for i, pool in enumerate(pools) if pool.gpu.vendor == maker) for maker in makers]
    return [group for group in groups if len(group) > 1]


def lines(stages: int, room: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All ways to put ``stages`` stages into two pools or more, pool p taking at most ``room[p]`` of them, one block of
    neighbours in each; the pool of each stage."""
    for count in range(2, min(len(room), stages, MOST_TYPES) + 1):
        for order in permutations(range(len(room)), count):
            for cuts in combinations(range(1, stages), count - 1):
                held = [b - a for a, b in zip((0, *cuts), (*cuts, stages), strict=True)]
                if all(held[place] <= room[pool] for place, pool in enumerate(order)):
                    yield tuple(pool for pool, many in zip(order, held, strict=True) for _ in range(many))


def spread(stages: Ints, ranks: Ints, pools: Sequence[StagePool]) -> tuple[Ints, Ints]:
    """(of each layout and each of its lines the row of the layout; the pool of each stage, shape [rows, most stages]),
    where layouts have ``stages`` stages of ``ranks`` GPUs each, shape [n]."""
    room = np.stack([np.minimum(pool.gpus // ranks, stages) for pool in pools], axis=1)
    kinds, back = np.unique(np.column_stack([stages, room]), axis=0, return_inverse=True)
    most = int(stages.max(initial=1))
    tables = []
    for pp, *each in kinds.tolist():
        found = [line + (0,) * (most - pp) for line in lines(pp, each)]
        tables.append(np.array(found, dtype=np.int64).reshape(-1, most))
    back = back.reshape(-1)
    rows = np.repeat(np.arange(len(stages)), [len(tables[kind]) for kind in back])
    pool = np.concatenate([tables[kind] for kind in back]) if len(back) else np.zeros((0, most), np.int64)
    return rows, pool
