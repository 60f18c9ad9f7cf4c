"""Group-limited routing: a token's experts come from few groups, so a group whose copies share a node keeps its tokens
on few nodes. Groups go to nodes first; each node is then a problem of its own."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from planner.experts.bounds import slowest_gpu_bound
from planner.experts.placement import Floats, Ints, Topology
from profiles.errors import Infeasible, InputError

Arrange = Callable[[Floats, Ints, Floats], Ints]
"""Counts [windows, layers, items], slots [bins] and speed [bins] → item in each slot, [layers, bins, slots]."""

ASSIGNMENTS = 3000
"""The most assignments of groups to nodes that are all tried for a bound (8 groups on 2 or 4 nodes have 35, 105)."""


@dataclass(frozen=True, eq=False)
class Part:
    """Layers that can be placed together on GPUs of one shape.

    counts: [windows, rows, experts]; layer: [rows]; expert: [rows, experts], their numbers in the layer; gpus: [rows,
    gpus], numbers of the GPUs; slots, speed: [gpus].
    """

    counts: Floats
    layer: Ints
    expert: Ints
    gpus: Ints
    slots: Ints
    speed: Floats

    def write(self, physical_to_logical: Ints, arranged: Ints, topology: Topology) -> None:
        """Enters arranged [rows, gpus, widest] (the part's own expert numbers) into [layers, slots]."""
        first = np.concatenate([[0], np.cumsum(topology.slots)[:-1]])
        for gpu, room in enumerate(self.slots.tolist()):
            slot = first[self.gpus[:, gpu]][:, None] + np.arange(room)
            logical = np.take_along_axis(self.expert, arranged[:, gpu, :room], axis=1)
            physical_to_logical[self.layer[:, None], slot] = logical


def whole(counts: Floats, topology: Topology) -> list[Part]:
    """Every expert may be anywhere: one part."""
    _, layers, experts = counts.shape
    every = np.broadcast_to(np.arange(experts), (layers, experts))
    gpus = np.broadcast_to(np.arange(topology.gpus), (layers, topology.gpus))
    return [Part(counts, np.arange(layers), every, gpus, topology.slots, topology.speed)]


def by_node(counts: Floats, topology: Topology, groups: int, arrange: Arrange) -> list[Part]:
    """Groups on nodes, balanced by ``arrange``; nodes of one shape (GPUs, slots, speeds, groups) form one part.

    counts: [windows, layers, experts]. Raises what :func:`quotas` raises.
    """
    windows, layers, experts = counts.shape
    size, nodes = experts // groups, node_gpus(topology)
    quota = quotas(topology, experts, groups)
    node_speed = np.array([topology.speed[gpus].sum() for gpus in nodes])
    placed = arrange(counts.reshape(windows, layers, groups, size).sum(axis=3), quota, node_speed)
    shapes: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for n, gpus in enumerate(nodes):
        shapes[int(quota[n]), tuple(topology.slots[gpus]), tuple(topology.speed[gpus])].append(n)
    parts = []
    for alike in shapes.values():
        slots, speed = topology.slots[nodes[alike[0]]], topology.speed[nodes[alike[0]]]
        held = placed[:, alike, : quota[alike[0]]].reshape(layers * len(alike), -1)
        expert = (held[:, :, None] * size + np.arange(size)).reshape(len(held), -1)
        layer = np.repeat(np.arange(layers), len(alike))
        gpus = np.tile(np.stack([nodes[n] for n in alike]), (layers, 1))
        parts.append(Part(counts[:, layer[:, None], expert], layer, expert, gpus, slots, speed))
    return parts


def node_gpus(topology: Topology) -> list[Ints]:
    """GPUs of each node."""
    return [np.flatnonzero(topology.node == n) for n in np.unique(topology.node)]


def quotas(topology: Topology, experts: int, groups: int) -> Ints:
    """How many groups each node takes, shape [nodes]: by its speed, within its slots.

    Raises InputError where the experts do not form that many groups, Infeasible where groups do not fit on nodes.
    """
    if groups < 1 or experts % groups:
        raise InputError(
            f"groups: {experts} experts do not form {groups} equal groups", "give a number that divides the experts"
        )
    nodes, size = node_gpus(topology), experts // groups
    room = np.array([topology.slots[gpus].sum() // size for gpus in nodes])
    least = np.array([-(-topology.slots[gpus].max() // size) for gpus in nodes])
    if room.sum() < groups or (least > room).any() or least.sum() > groups:
        raise Infeasible(
            f"groups: {groups} groups of {size} experts cannot be pinned to {len(nodes)} nodes with slots for "
            f"{', '.join(map(str, room))} groups each, of which each takes {', '.join(map(str, least))} at least",
            "place experts without groups, or use as many groups as nodes or a multiple",
        )
    speed = np.array([topology.speed[gpus].sum() for gpus in nodes])
    out = least.copy()
    while out.sum() < groups:
        out[np.where(out < room, (out + 1) / speed, np.inf).argmin()] += 1
    return out


def pinned_bound(counts: Floats, topology: Topology, groups: int, reached: Floats) -> Floats:
    """Lower bound on the slowest GPU's time with groups pinned to nodes, shape [layers].

    counts: [layers, experts]; reached: [layers]. The slowest node bounds the slowest GPU (groups cannot be split), and
    so does the hottest group on the best node with every slot that its other groups can leave it. Over placements with
    :func:`quotas` groups on each node.
    """
    layers, experts = counts.shape
    size, nodes, quota = experts // groups, node_gpus(topology), quotas(topology, experts, groups)
    node_speed = np.array([topology.speed[gpus].sum() for gpus in nodes])
    grouped = counts.reshape(layers, groups, size)
    out = _slowest_node(grouped.sum(axis=2), quota, node_speed, reached)
    alone = np.full((layers, groups), np.inf)
    shapes = {
        (int(q), tuple(topology.slots[g]), tuple(topology.speed[g])): g for q, g in zip(quota, nodes, strict=True)
    }
    for (own, _, _), gpus in shapes.items():
        slots, speed = topology.slots[gpus], topology.speed[gpus]
        for group in range(groups):
            bound = slowest_gpu_bound(
                grouped[:, group], slots, speed, reached, fill=own == 1, extra=int(slots.sum()) - own * size
            )
            alone[:, group] = np.minimum(alone[:, group], bound)
    return np.asarray(np.maximum(out, alone.max(axis=1)))


def _slowest_node(load: Floats, quota: Ints, speed: Floats, reached: Floats) -> Floats:
    """Least time of the slowest node, shape [layers]: exact where all assignments to equal nodes can be tried, a bound
    otherwise. load: [layers, groups]; quota, speed: [nodes]; reached: [layers]."""
    nodes, size = len(quota), int(quota[0])
    equal = (quota == size).all() and (speed == speed[0]).all()
    tries = math.factorial(nodes * size) // (math.factorial(size) ** nodes * math.factorial(nodes)) if equal else 0
    if not 0 < tries <= ASSIGNMENTS:
        return slowest_gpu_bound(load, quota, speed, reached)
    every = np.array(list(_splits(tuple(range(nodes * size)), size)))
    return np.asarray(np.min([load[:, split].sum(axis=2).max(axis=1) for split in every], axis=0) / speed[0])


def _splits(items: tuple[int, ...], size: int) -> Iterator[list[tuple[int, ...]]]:
    """Every way to part ``items`` into sets of ``size``."""
    if not items:
        yield []
        return
    for rest in itertools.combinations(items[1:], size - 1):
        left = tuple(item for item in items[1:] if item not in rest)
        for others in _splits(left, size):
            yield [(items[0], *rest), *others]


def hierarchical(groups: int | None, nodes: int) -> bool:
    """Whether EPLB pins these groups to nodes: where they divide among the nodes."""
    return groups is not None and groups % nodes == 0
