"""The placement of one expert-parallel group: copies and GPUs for every expert, so that the slowest GPU of each layer
finishes as early as it can, with a lower bound that says how much better anything could be."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from planner.experts.bounds import window_bounds
from planner.experts.groups import by_node, pinned_bound, whole
from planner.experts.improve import Budget, SwapSearch, descend, improve, over_windows
from planner.experts.pack import pack
from planner.experts.placement import Floats, Ints, Loads, Placement, Topology
from planner.experts.replicate import replicate_for
from profiles.errors import Infeasible, InputError

Objective = Literal["mean", "worst"]
Unused = Literal["refuse", "even"]

TOLERANCE = 1e-4
"""A layer within this of its lower bound is done: the recorded counts themselves vary a hundred times more from one
window to the next."""

EFFORT = 3e7
"""Exchanges looked at, all layers and windows together: below a second on one core. The first descent is finished
whatever it takes."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """What a placement reaches and what none can beat, per window and layer.

    Attributes:
        load: slowest GPU's load (tokens ÷ relative speed), shape [windows, layers].
        bound: lower bound on it over all placements on these GPUs, shape [windows, layers].
        mean: load ÷ speed of all GPUs together, the load where all finish at once; shape [windows, layers].
        weights: of the windows, shape [windows]; objective: how they count together.
    """

    load: Floats
    bound: Floats
    mean: Floats
    weights: Floats
    objective: Objective

    @property
    def balancedness(self) -> Floats:
        """Mean ÷ slowest, shape [windows, layers]."""
        return self.mean / self.load

    @property
    def value(self) -> Floats:
        """What was minimised: slowest ÷ mean, over the windows (weighted mean, or the worst), shape [layers]."""
        return self._over_windows(self.load / self.mean)

    @property
    def value_bound(self) -> Floats:
        """No placement has a smaller :attr:`value`; shape [layers]."""
        return self._over_windows(self.bound / self.mean)

    @property
    def gap(self) -> Floats:
        """1 − bound ÷ value, shape [layers]: by how much the layer's time could at most shrink."""
        return np.maximum(1 - self.value_bound / self.value, 0.0)

    def _over_windows(self, ratio: Floats) -> Floats:
        return over_windows(ratio, self.weights, self.objective == "worst")


@dataclass(frozen=True, eq=False)
class Balanced:
    """A placement with its certificate. ``seconds``: wall time; ``stopped``: the time limit ended the search."""

    placement: Placement
    certificate: Certificate
    seconds: float
    stopped: bool


def balance(
    loads: Loads,
    topology: Topology,
    *,
    groups: int | None = None,
    objective: Objective = "mean",
    unused: Unused = "refuse",
    seed: int = 0,
    time_limit_s: float = 60.0,
) -> Balanced:
    """Every slot filled, every expert somewhere, no expert twice on a GPU, the slowest GPU as early as found.

    groups: the experts form this many equal groups of consecutive numbers (group-limited routing) and a group's copies
    stay on one node. objective: the windows' weighted mean of slowest ÷ mean, or its worst window. unused: a layer
    without any load is refused, or its experts are placed as if evenly used. The same input and seed give the same
    placement unless the time limit ends the search. Raises InputError for loads or GPUs that contradict themselves,
    Infeasible where no placement exists.
    """
    started = time.perf_counter()
    if not time_limit_s > 0:
        raise InputError(f"time_limit_s: {time_limit_s} is not positive", "give a number of seconds above 0")
    counts = checked_counts(loads, unused)
    check_room(loads.experts, topology)
    worst = objective == "worst"
    rng = np.random.default_rng(seed)
    budget = Budget(EFFORT, started + time_limit_s)

    def place(counts: Floats, slots: Ints, speed: Floats) -> Ints:
        return arrange(counts, slots, speed, loads.weights, worst, rng, budget)

    scaled = counts / (counts.sum(axis=2, keepdims=True) / topology.speed.sum())  # GPUs take 1 on average
    parts = whole(scaled, topology) if groups is None else by_node(scaled, topology, groups, place)
    out = np.zeros((loads.layers, topology.total_slots), np.int64)
    for part in parts:
        part.write(out, place(part.counts, part.slots, part.speed), topology)
    placement = Placement(topology, out, loads.experts, loads.layer_index)
    certificate = certify(placement, counts, loads.weights, groups, objective)
    return Balanced(placement, certificate, time.perf_counter() - started, budget.late)


def certify(
    placement: Placement, counts: Floats, weights: Floats, groups: int | None, objective: Objective
) -> Certificate:
    """What ``placement`` reaches for ``counts`` [windows, layers, experts], and what none can beat."""
    topology = placement.topology
    reached = placement.gpu_loads(counts).max(axis=2)
    if groups is None:
        bound = window_bounds(counts, topology.slots, topology.speed, reached)
    else:
        pairs = zip(counts, reached, strict=True)
        bound = np.stack([pinned_bound(window, topology, groups, most) for window, most in pairs])
    return Certificate(
        reached, np.minimum(bound, reached), counts.sum(axis=2) / topology.speed.sum(), weights, objective
    )


def arrange(
    counts: Floats, slots: Ints, speed: Floats, weights: Floats, worst: bool, rng: np.random.Generator, budget: Budget
) -> Ints:
    """Expert in each slot, shape [layers, gpus, most slots of a GPU]; counts: [windows, layers, experts], at least one
    copy each, filling the ``slots`` [gpus].

    Experts and GPUs are put in an order of their own first, so that how they are numbered makes no difference.
    """
    _, layers, experts = counts.shape
    expert_order = np.stack([np.lexsort(-counts[::-1, layer]) for layer in range(layers)])
    gpu_order = np.lexsort((-slots, -speed))
    counts = np.take_along_axis(counts, expert_order[None], axis=2)
    slots, speed = slots[gpu_order], speed[gpu_order]
    weight = np.tensordot(weights, counts, 1)
    found = SwapSearch.start(
        counts, pack(weight, replicate_for(weight, slots), slots, speed), slots, speed, weights, worst
    )
    descend(found, over_windows(counts.sum(axis=2) / speed.sum(), weights, worst) * (1 + TOLERANCE), budget)
    target = over_windows(window_bounds(counts, slots, speed, found.slowest()), weights, worst) * (1 + TOLERANCE)
    improve(found, target, rng, budget)
    own = np.concatenate([expert_order, np.full((layers, 1), experts)], axis=1)
    arranged = np.take_along_axis(own, found.expert.reshape(layers, -1), axis=1).reshape(found.expert.shape)
    out = np.empty_like(arranged)
    out[:, gpu_order] = np.sort(arranged, axis=2)
    return out


def checked_counts(loads: Loads, unused: Unused = "refuse") -> Floats:
    """The counts, shape [windows, layers, experts], after a look at every number; unused layers made even if so
    asked."""
    counts, layer_index = loads.counts, loads.layer_index
    if counts.ndim != 3 or 0 in counts.shape:
        raise InputError(
            f"counts: shape {counts.shape} is not [windows, layers, experts]", "give one number per expert and layer"
        )
    if loads.weights.shape != counts.shape[:1] or layer_index.shape != counts.shape[1:2]:
        raise InputError(
            f"counts: {counts.shape[0]} windows and {counts.shape[1]} layers, but {loads.weights.shape} weights and "
            f"{layer_index.shape} layer numbers",
            "give one weight per window and one number per layer",
        )
    for wrong, what in ((~np.isfinite(counts), "is not a number"), (counts < 0, "is negative")):
        if wrong.any():
            window, layer, expert = np.argwhere(wrong)[0]
            raise InputError(
                f"counts: {counts[window, layer, expert]} of expert {expert} in layer {layer_index[layer]}, window "
                f"{window}, {what}",
                "record the statistics again; counts are tokens, 0 or more",
            )
    idle = counts.sum(axis=2) == 0
    if not idle.any():
        return counts
    if unused == "refuse":
        window, layer = np.argwhere(idle)[0]
        raise InputError(
            f"counts: layer {layer_index[layer]} was never used in window {window}: all {loads.experts} counts are 0",
            "record longer, leave the layer out, or ask for unused='even' to place it as if evenly used",
        )
    return np.where(idle[:, :, None], 1.0, counts)


def check_room(experts: int, topology: Topology) -> None:
    """Raises where ``experts`` cannot fill the slots with no expert twice on a GPU."""
    if topology.total_slots < experts:
        raise Infeasible(
            f"slots: {topology.total_slots} on {topology.gpus} GPUs are fewer than {experts} experts",
            f"use {-(-experts // topology.gpus)} slots per GPU or more, or more GPUs",
        )
    if (topology.slots > experts).any():
        gpu = int(topology.slots.argmax())
        raise Infeasible(
            f"slots: GPU {gpu} has {topology.slots[gpu]} for {experts} experts: an expert would be there twice",
            f"use {experts} slots per GPU or fewer; more copies of an expert than GPUs help nothing",
        )
