"""Where engines stand where nodes may be lost: those of one supply are spread evenly over its nodes. What the programme
counts with, and what launchers are told.

Sizes are dealt first, the largest first, each to the node that has most GPUs free; then kinds of one size to the places
of that size, node by node. Where sizes divide each other all that a supply has room for finds its place so.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence


def size_on(node: int, gpus: int) -> int:
    """GPUs of a node that an engine of ``gpus`` keeps others from using: those that no other of its kind can have,
    too."""
    return node // (node // gpus)


def dealt(gpus: Sequence[int], counts: Sequence[int], node: int, room: int) -> list[dict[int, int]] | None:
    """What each node of ``room`` GPUs in nodes of ``node`` (the last may have fewer) holds of kinds of engines no
    larger than a node, ``counts`` of each: kind → engines. None: one finds no place."""
    nodes = [node] * (room // node) + [room % node] * (room % node > 0)
    free = [(-left, i) for i, left in enumerate(nodes)]
    heapq.heapify(free)
    holds = [dict[int, int]() for _ in nodes]
    sizes = [size_on(node, each) for each in gpus]
    for size in sorted(set(sizes), reverse=True):
        alike = [kind for kind, each in enumerate(sizes) if each == size]
        places = []
        turns: Counter[int] = Counter()
        for _ in range(sum(counts[kind] for kind in alike)):
            if not free or -free[0][0] < size:
                return None
            left, i = free[0]
            heapq.heapreplace(free, (left + size, i))
            places.append((turns[i], i))
            turns[i] += 1
        at = iter(sorted(places))
        for kind in alike:
            for _ in range(counts[kind]):
                _, i = next(at)
                holds[i][kind] = holds[i].get(kind, 0) + 1
    return holds
