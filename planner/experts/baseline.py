"""The usual way to place experts, to compare with: the greedy replication and count-capped packing that DeepSeek's
expert-parallel load balancer describes and serving engines use.

Copies go one by one to the expert whose copies are heaviest. Copies then go, heaviest first, to the GPU with least load
that has a slot free. With groups on nodes, groups are packed to nodes in that way first, and each node is replicated
and packed by itself. Nothing keeps two copies of an expert off one GPU.
"""

from __future__ import annotations

import numpy as np

from planner.experts.groups import by_node, hierarchical, whole
from planner.experts.placement import Floats, Ints, Placement, Topology
from planner.experts.replicate import replicate
from profiles.errors import Unsupported


def greedy(counts: Floats, topology: Topology, groups: int | None = None) -> Placement:
    """The placement for ``counts`` [layers, experts]; groups are pinned to nodes where they divide among them.

    GPUs count as equal. Raises Unsupported where they have unequal slots, or nodes unequal GPUs.
    """
    nodes = len(np.unique(topology.node))
    if (topology.slots != topology.slots[0]).any() or (np.bincount(topology.node) != topology.gpus // nodes).any():
        raise Unsupported(
            "baseline: the greedy baseline takes equal GPUs in equal nodes only", "compare on equal GPUs, or without it"
        )
    out = np.zeros((len(counts), topology.total_slots), np.int64)
    if hierarchical(groups, nodes):
        parts = by_node(counts[None], topology, groups or 1, _packed)
    else:
        parts = whole(counts[None], topology)
    for part in parts:
        part.write(out, _replicated(part.counts[0], part.slots), topology)
    return Placement(topology, out, counts.shape[1])


def _replicated(weight: Floats, slots: Ints) -> Ints:
    """Expert in each slot, shape [layers, gpus, slots]."""
    copies = replicate(weight, int(slots.sum()), int(slots.sum()))
    logical = np.stack([np.repeat(np.arange(weight.shape[1]), row) for row in copies])
    held = _packed(np.take_along_axis(weight / copies, logical, axis=1)[None], slots, np.ones(len(slots)))
    return np.take_along_axis(logical, held.reshape(len(weight), -1), axis=1).reshape(held.shape)


def _packed(weight: Floats, slots: Ints, speed: Floats) -> Ints:
    """Items [1, layers, items] into bins with ``slots`` [bins] each, heaviest first to the lightest bin with room;
    shape [layers, bins, slots]."""
    del speed  # GPUs count as equal
    weight = weight[0]
    layers, bins = len(weight), len(slots)
    each = np.arange(layers)
    out = np.zeros((layers, bins, int(slots[0])), np.int64)
    load, used = np.zeros((layers, bins)), np.zeros((layers, bins), np.int64)
    for item in np.argsort(-weight, axis=1, kind="stable").T:
        lightest = np.where(used < slots, load, np.inf).argmin(axis=1)
        out[each, lightest, used[each, lightest]] = item
        load[each, lightest] += weight[each, item]
        used[each, lightest] += 1
    return out
