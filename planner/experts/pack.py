"""The first packing: copies go heaviest first to the GPU that they load least (longest processing time first, with
as many copies on a GPU as it has slots and no expert twice)."""

from __future__ import annotations

import numpy as np

from planner.experts.placement import Floats, Ints


def pack(weight: Floats, copies: Ints, slots: Ints, speed: Floats) -> Ints:
    """Expert in each slot of each GPU, shape [layers, gpus, most slots of a GPU]; slots that a GPU does not have hold
    ``experts``, a number that no expert has.

    weight: [layers, experts], ranking and load; copies: [layers, experts], filling the ``slots`` [gpus] exactly;
    speed: [gpus].
    """
    layers, experts = weight.shape
    gpus, wide = len(slots), int(slots.max())
    per_copy = weight / copies
    # Copies of one expert are equal, so they follow each other; of equal experts, those with most copies come first.
    order = np.lexsort((-copies, -per_copy), axis=1)
    each = np.arange(layers)
    queue = np.stack([np.repeat(order[b], copies[b, order[b]]) for b in range(layers)])
    out = np.full((layers, gpus, wide), experts, np.int64)
    used = np.zeros((layers, gpus), np.int64)
    load = np.zeros((layers, gpus))
    holds = np.zeros((layers, experts, gpus), np.bool_)
    stuck = np.zeros(layers, np.bool_)
    for expert in queue.T:
        share = per_copy[each, expert]
        after = (load + share[:, None]) / speed
        after[(used >= slots) | holds[each, expert]] = np.inf
        gpu = after.argmin(axis=1)
        stuck |= np.isinf(after[each, gpu])
        out[each, gpu, np.minimum(used[each, gpu], wide - 1)] = expert
        used[each, gpu] += 1
        load[each, gpu] += share
        holds[each, expert, gpu] = True
    for b in np.flatnonzero(stuck):
        out[b] = _fill(copies[b], slots, experts)
    return out


def _fill(copies: Ints, slots: Ints, experts: int) -> Ints:
    """Any filling without repeats, where the greedy order ran into a corner: the expert with most copies first, on the
    GPUs with most slots left (this always succeeds where anything does)."""
    out = np.full((len(slots), int(slots.max())), experts, np.int64)
    left = slots.copy()
    for expert in np.argsort(-copies, kind="stable"):
        gpus = np.argsort(-left, kind="stable")[: copies[expert]]
        out[gpus, slots[gpus] - left[gpus]] = expert
        left[gpus] -= 1
    return out
