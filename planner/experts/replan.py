"""From the placement in use to a better one, copy by copy: how good it gets with how many moved copies.

A moved copy is an expert on a GPU that did not hold it before; changing slots within a GPU moves nothing. Each layer
walks from where it is, by the exchange (two copies, or one where a GPU takes an expert back) or the replacement of a
spare copy (one copy) that helps its slowest GPU most per copy; the freely chosen placement, its GPUs matched to the
present ones, ends the walk. Which layer gets how many of the copies that may move is then decided exactly, by a dynamic
programme over the layers, so more copies never buy less.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from planner.experts.balance import Certificate, Objective, Unused, balance, certify, checked_counts
from planner.experts.improve import SwapSearch
from planner.experts.placement import Floats, Ints, Loads, Placement
from planner.experts.repair import restored, without
from planner.experts.walk import Reachable, by_gpu, ending, held, walk
from profiles.errors import Infeasible, InputError

FRONTIER_POINTS = 64
"""The most points of a frontier that is handed back."""


@dataclass(frozen=True, eq=False)
class Replanned:
    """The best placement found within the copies allowed.

    Attributes:
        placement: experts that stay keep their slots.
        moved: copies moved, shape [layers, gpus]: received by each GPU.
        needed: copies that had to move, for experts that had none left; 0 unless GPUs were lost.
        before: what was minimised (slowest ÷ mean over windows, mean of layers) if only what must moves.
        frontier: shape [points, 2]: copies moved, and what was minimised; falling from ``before``.
        certificate: of the placement.
    """

    placement: Placement
    moved: Ints
    needed: int
    before: float
    frontier: Floats
    certificate: Certificate
    seconds: float

    @property
    def copies(self) -> int:
        return int(self.moved.sum())


@dataclass(frozen=True)
class Transfer:
    """What moving the copies takes: all bytes, those of the GPU that receives most, and the time that this takes while
    all receive at once; ``pays_back_s``: serving time after which the steps it made faster have saved as much as the
    transfer took (infinite where nothing gets faster)."""

    total_bytes: float
    busiest_gpu_bytes: float
    seconds: float
    pays_back_s: float


def transfer(
    moved: Ints, copy_bytes: float, link_bytes_per_s: float, saved_s_per_step: float, steps_per_s: float
) -> Transfer:
    """moved: [layers, gpus] copies received; link_bytes_per_s: into one GPU."""
    for name, value in (("copy_bytes", copy_bytes), ("link_bytes_per_s", link_bytes_per_s)):
        if not value > 0:
            raise InputError(f"{name}: {value} is not positive", "give bytes above 0")
    received = moved.sum(axis=0) * copy_bytes
    seconds = float(received.max() / link_bytes_per_s)
    saved = saved_s_per_step * steps_per_s
    pays_back = 0.0 if seconds == 0 else seconds / saved if saved > 0 else np.inf
    return Transfer(float(received.sum()), float(received.max()), seconds, float(pays_back))


def replan(
    loads: Loads,
    current: Placement,
    *,
    max_moves: int | None = None,
    lost_gpus: tuple[int, ...] = (),
    objective: Objective = "mean",
    unused: Unused = "refuse",
    seed: int = 0,
    time_limit_s: float = 60.0,
) -> Replanned:
    """The best placement within ``max_moves`` moved copies in all layers together (any number if None).

    lost_gpus: numbers of GPUs in ``current`` that are gone; the answer is on those that remain, and experts that lost
    their last copy come first. Raises InputError where ``current`` and the loads disagree, Infeasible where the
    remaining slots cannot hold every expert or ``max_moves`` cannot restore them.
    """
    started = time.perf_counter()
    counts = checked_counts(loads, unused)
    _check(loads, current, max_moves)
    remaining = without(current, lost_gpus)
    weights, topology = loads.weights, remaining.topology
    first = restored(remaining, np.tensordot(weights, counts, 1))
    missing = remaining.copies() == 0
    needed = int(missing.sum())
    if max_moves is not None and max_moves < needed:
        raise Infeasible(
            f"max_moves: {max_moves} moved copies cannot restore {needed} experts that have no copy left",
            f"allow {needed} moved copies or more",
        )
    scaled = counts / (counts.sum(axis=2, keepdims=True) / topology.speed.sum())
    origin = by_gpu(remaining)
    start = SwapSearch.start(scaled, by_gpu(first), topology.slots, topology.speed, weights, objective == "worst")
    options = walk(start, origin, started + time_limit_s / 2)
    free = balance(loads, topology, objective=objective, unused=unused, seed=seed, time_limit_s=time_limit_s / 2)
    kinds = np.unique(np.stack([topology.slots, topology.speed]), axis=1, return_inverse=True)[1].reshape(-1)
    last = ending(by_gpu(free.placement), origin, kinds)
    moves = (held(last, loads.experts) & ~held(origin, loads.experts)).sum(axis=(1, 2))
    for row, moved, value, expert in zip(options, moves.tolist(), free.certificate.value.tolist(), last, strict=True):
        row.append(Reachable(moved, value, expert))
    chosen, frontier = allot(options, max_moves)
    arranged = np.stack([option.expert for option in chosen])
    physical = arranged[:, np.arange(arranged.shape[2]) < topology.slots[:, None]]
    placement = Placement(topology, physical, current.experts, current.layer_index)
    return Replanned(
        placement,
        (held(arranged, loads.experts) & ~held(origin, loads.experts)).sum(axis=2),
        needed,
        float(np.mean([row[0].value for row in options])),
        frontier,
        certify(placement, counts, weights, None, objective),
        time.perf_counter() - started,
    )


def allot(options: list[list[Reachable]], most: int | None) -> tuple[list[Reachable], Floats]:
    """One option per layer, at most ``most`` moves in all, with the least sum of values; and the frontier, shape
    [points, 2] (moves, mean value).

    Exact: a dynamic programme over the layers, whose state is the moves made. Each layer's first option has the fewest
    moves, and ``most`` suffices for all of those.
    """
    undominated = [_undominated(row) for row in options]
    budget = sum(row[-1].moves for row in undominated)
    best = np.zeros(1)  # least sum of values for exactly k moves or fewer
    picks = []
    for row in undominated:
        size = len(best) + row[-1].moves
        total = np.full(size, np.inf)
        pick = np.zeros(size, np.int64)
        for index, option in enumerate(row):
            candidate = np.full(size, np.inf)
            candidate[option.moves : option.moves + len(best)] = best + option.value
            better = candidate < total
            total[better], pick[better] = candidate[better], index
        best = total
        picks.append(pick)
    assert len(best) == budget + 1
    limit = budget if most is None else min(most, budget)
    falls = np.flatnonzero(best < np.concatenate([[np.inf], np.minimum.accumulate(best)[:-1]]))
    spent = int(falls[falls <= limit][-1])
    chosen = []
    for row, pick in zip(reversed(undominated), reversed(picks), strict=True):
        option = row[pick[spent]]
        chosen.append(option)
        spent -= option.moves
    shown = falls[np.unique(np.linspace(0, len(falls) - 1, FRONTIER_POINTS).round().astype(int))]
    return chosen[::-1], np.stack([shown, best[shown] / len(options)], axis=1)


def _undominated(row: list[Reachable]) -> list[Reachable]:
    """By moves, each better than all with fewer."""
    out: list[Reachable] = []
    for option in sorted(row, key=lambda o: (o.moves, o.value)):
        if not out or option.value < out[-1].value:
            out.append(option)
    return out


def _check(loads: Loads, current: Placement, max_moves: int | None) -> None:
    shape = current.physical_to_logical.shape
    if shape != (loads.layers, current.topology.total_slots) or current.experts != loads.experts:
        raise InputError(
            f"current: a placement of {shape[0]} layers and {current.experts} experts in {shape[1]} slots does not fit "
            f"loads of {loads.layers} layers and {loads.experts} experts on {current.topology.total_slots} slots",
            "give the placement that serves this model on these GPUs",
        )
    physical = current.physical_to_logical
    if physical.min() < 0 or physical.max() >= loads.experts:
        layer, slot = np.argwhere((physical < 0) | (physical >= loads.experts))[0]
        raise InputError(
            f"current: slot {slot} of layer {loads.layer_index[layer]} holds expert {physical[layer, slot]}, of "
            f"0…{loads.experts - 1}",
            "give the placement that serves this model",
        )
    if max_moves is not None and max_moves < 0:
        raise InputError(f"max_moves: {max_moves} is negative", "give the most copies that may move, 0 or more")
