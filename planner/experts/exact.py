"""The fewest crossings there are, for small models: a dynamic programme over the layers.

A state is a layer's whole assignment of experts to GPUs; the cost of a step is that of the transitions between two
assignments. All states of a layer within the load limit are kept, so the result is the optimum for any distances and
any slots, as long as every expert has one copy. Where GPUs are alike, what comes before a state depends on it only up
to their names, so states that differ in names alone are arrived at once.
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from planner.experts.affinity import LoadLimit
from planner.experts.crossings import Distance
from planner.experts.placement import Floats, Ints, Placement, Topology

MOST_STATES = 2600
"""Assignments of one layer: 8 experts on 4 GPUs of 2 slots have 2,520."""


def states_of(topology: Topology, experts: int) -> int:
    """Number of assignments of a layer; 0 where copies or empty slots are part of them."""
    if topology.total_slots != experts:
        return 0
    count, left = 1, experts
    for slots in topology.slots.tolist():
        count *= comb(left, slots)
        left -= slots
    return count


def nearest(
    topology: Topology, transitions: Floats, distance: Distance, limit: LoadLimit | None, layer_index: Ints
) -> Placement | None:
    """The placement of least total distance with no GPU above ``limit``; None where there are more than
    :data:`MOST_STATES` assignments, or none within the limit.

    Args:
        transitions: shape [layers − 1, experts, experts].
    """
    experts = transitions.shape[1]
    if not 0 < states_of(topology, experts) <= MOST_STATES:
        return None
    states = np.array(_assignments(topology.slots.tolist(), experts), np.int64)
    like, names = _renamed(states, topology, distance)
    first = np.unique(like)  # one state of each kind is enough to arrive at
    place = (states[:, :, None] == np.arange(topology.gpus)).astype(np.float64)  # [states, experts, gpus]
    flat = place.reshape(len(states), -1)
    near = place @ distance.closeness(topology)
    within = [_within(place, topology, limit, layer) for layer in range(len(transitions) + 1)]
    if not all(chosen.any() for chosen in within):
        return None
    kept = np.where(within[0], 0.0, -np.inf)  # of every state, the most that stays up to its layer
    origins: list[Ints] = []
    for layer, table in enumerate(transitions):
        from_here = np.swapaxes(np.tensordot(near, table, axes=(1, 0)), 1, 2).reshape(len(states), -1)
        total = kept[:, None] + from_here @ flat[first].T
        origin = np.zeros(len(states), np.int64)
        origin[first] = total.argmax(axis=0)
        best = np.full(len(states), -np.inf)
        best[first] = np.where(within[layer + 1][first], total.max(axis=0), -np.inf)
        kept = best[like]
        origins.append(origin)
    state = int(kept.argmax())
    rename = names[state]
    path = [states[state]]
    for origin in reversed(origins):
        state = int(origin[like[state]])
        path.append(rename[states[state]])
        rename = rename[names[state]]
    return Placement(topology, np.argsort(np.array(path[::-1]), axis=1, kind="stable"), experts, layer_index)


def _renamed(states: Ints, topology: Topology, distance: Distance) -> tuple[Ints, Ints]:
    """For each state the number of the one that it is but for the names of its GPUs, shape [states], and that one's
    names in it, shape [states, gpus]. Only like GPUs at equal distances can be renamed; else each state is its own."""
    count, gpus = len(states), topology.gpus
    kinds = len(np.unique(np.stack([topology.slots, topology.speed]), axis=1).T)
    if kinds > 1 or distance.near < 1.0:
        return np.arange(count), np.tile(np.arange(gpus), (count, 1))
    number = {tuple(state): i for i, state in enumerate(states.tolist())}
    names = np.array([list(dict.fromkeys(state)) for state in states.tolist()], np.int64)  # by first appearance
    plain = np.take_along_axis(np.argsort(names, axis=1), states, axis=1)
    return np.array([number[tuple(state)] for state in plain.tolist()], np.int64), names


def _assignments(slots: list[int], experts: int) -> list[tuple[int, ...]]:
    """The GPU of each expert, every way."""
    out: list[tuple[int, ...]] = [()]
    for _ in range(experts):
        out = [(*state, gpu) for state in out for gpu in range(len(slots)) if state.count(gpu) < slots[gpu]]
    return out


def _within(place: Floats, topology: Topology, limit: LoadLimit | None, layer: int) -> NDArray[np.bool_]:
    """Which states keep every GPU within the limit, shape [states]."""
    if limit is None:
        return np.ones(len(place), np.bool_)
    times = np.einsum("we,seg->wsg", limit.counts[:, layer], place) / topology.speed
    most = limit.most[:, layer] * (1 + 1e-9)
    return np.asarray((times <= most[:, None, None]).all(axis=(0, 2)))
