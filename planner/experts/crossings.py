"""How far tokens travel between consecutive MoE layers under a placement, and a bound on how little they can.

A token that used expert i in one layer and j in the next goes from a GPU that holds i to one that holds j. Its copy
of an expert is any of them with equal probability, wherever the token is: serving engines share an expert's tokens
out evenly so that the load is what was planned. With S[e, g] = (copies of e on g) ÷ (copies of e), the expected
transitions from GPU g to GPU h are (Sₗᵀ T Sₗ₊₁)[g, h].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.experts.placement import Floats, Placement, Topology

_ROUNDS = 6  # of coordinate descent: more gain less than a thousandth


@dataclass(frozen=True)
class Distance:
    """What a transition costs: 0 on the same GPU, ``near`` within a fast-link domain, 1 beyond it. Where all GPUs
    share one domain, ``near`` is 1: what counts is whether the token leaves its GPU."""

    near: float

    @classmethod
    def of(cls, topology: Topology, near: float) -> Distance:
        """``near``: time per byte within a domain ÷ that between domains."""
        return cls(1.0 if len(np.unique(topology.domain)) == 1 else near)

    def closeness(self, topology: Topology) -> Floats:
        """1 − distance, shape [gpus, gpus]."""
        same = topology.domain[:, None] == topology.domain[None, :]
        return np.where(np.eye(topology.gpus, dtype=bool), 1.0, np.where(same, 1.0 - self.near, 0.0))


@dataclass(frozen=True, eq=False)
class Crossings:
    """Of the recorded transitions, per pair of consecutive MoE layers, shape [layers − 1] each.

    Attributes:
        transitions: how many there are.
        between_gpus, between_domains: how many leave their GPU, and their fast-link domain.
        cost: their total distance (:class:`Distance`).
    """

    transitions: Floats
    between_gpus: Floats
    between_domains: Floats
    cost: Floats

    def share(self, part: Floats) -> float:
        total = float(self.transitions.sum())
        return float(part.sum()) / total if total else 0.0


def shares(placement: Placement) -> Floats:
    """S, shape [layers, experts, gpus]: the part of each expert's tokens that each GPU gets."""
    out = np.zeros((placement.layers, placement.experts, placement.topology.gpus))
    layer = np.arange(placement.layers)[:, None]
    np.add.at(out, (layer, placement.physical_to_logical, placement.topology.gpu_of_slot[None]), 1.0)
    return np.asarray(out / np.maximum(out.sum(axis=2, keepdims=True), 1.0))


def crossings(placement: Placement, transitions: Floats, distance: Distance) -> Crossings:
    """Expected crossings of ``transitions`` [layers − 1, experts, experts] under ``placement``."""
    share = shares(placement)
    between = np.swapaxes(share[:-1], 1, 2) @ transitions @ share[1:]  # [layers − 1, gpus, gpus]
    total = between.sum(axis=(1, 2))
    domain = placement.topology.domain
    stays = between[:, domain[:, None] == domain[None, :]].sum(axis=1)
    here = np.trace(between, axis1=1, axis2=2)
    close = (between * distance.closeness(placement.topology)).sum(axis=(1, 2))
    left = (np.maximum(total - part, 0.0) for part in (here, stays, close))  # not below 0 by rounding
    return Crossings(total, *left)


# ------------------------------------------------------------------ the bound


def crossings_bound(placement: Placement, transitions: Floats, distance: Distance, *, as_balanced: bool) -> Floats:
    """No placement on these slots has a lower cost, per pair of layers, shape [layers − 1].

    Whatever the placement, the pair (i, j) stays together with weight x[i, j] = Σ_g S[i, g] S′[j, g] ≤ 1, and
    Σ_j x[i, j] is at most the number of slots of a GPU, likewise by columns. The most that can stay is thus at most a
    b-matching; by linear-programming duality every u, v ≥ 0 bounds it by slots·(Σu + Σv) + Σ max(0, T − u − v), and
    coordinate descent finds good ones. Domains likewise, with all their slots.

    ``as_balanced`` restricts the claim to placements whose GPUs carry no more transitions than this one's fullest:
    then of a background c·a·bᵀ (a, b: marginals of T) at most c·min(max a_g Σb, Σa max b_g) stays, and only the rest
    is matched; c is the median of T ÷ a·bᵀ.
    """
    topology = placement.topology
    share = shares(placement)
    total = transitions.sum(axis=(1, 2))
    between = np.swapaxes(share[:-1], 1, 2) @ transitions @ share[1:]
    if distance.near >= 1.0:
        levels = [(1.0, np.arange(topology.gpus))]
    else:
        levels = [(distance.near, np.arange(topology.gpus)), (1.0 - distance.near, topology.domain)]
    close = np.zeros(len(transitions))
    for weight, part in levels:
        parts = int(part.max()) + 1
        slots = int(np.bincount(part, weights=topology.slots, minlength=parts).max())
        for pair, table in enumerate(transitions):
            full = None
            if as_balanced:
                out = np.bincount(part, weights=table.sum(axis=1) @ share[pair], minlength=parts)
                into = np.bincount(part, weights=table.sum(axis=0) @ share[pair + 1], minlength=parts)
                full = (float(out.max()), float(into.max()))
            stays = float(between[pair][part[:, None] == part[None, :]].sum())
            close[pair] += weight * stay_bound(table, slots, full, stays)
    return np.asarray(np.maximum(total - close, 0.0))


def stay_bound(table: Floats, slots: int, full: tuple[float, float] | None = None, reached: float = 0.0) -> float:
    """Upper bound on the transitions of ``table`` [experts, experts] that stay where each part has ``slots`` slots;
    ``full``: most transitions that leave, and reach, one part; ``reached``: how many do stay somewhere, so that a bound
    there is the best."""
    total = float(table.sum())
    if total == 0.0 or slots >= len(table):
        return total
    best = min(total, _matching_bound(table, slots))
    if full is not None and best > reached * (1 + 1e-9):
        rows, columns = table.sum(axis=1), table.sum(axis=0)
        even = np.outer(rows, columns)
        used = even > 0
        c = float(np.median(table[used] / even[used]))
        background = c * min(full[0] * columns.sum(), full[1] * rows.sum())
        best = min(best, background + _matching_bound(table - c * even, slots))
    return best


def _matching_bound(table: Floats, slots: int) -> float:
    """min over u, v of the dual above, by exact minimisation over u and v in turn: the minimum over uᵢ lies anywhere
    between the slots-th and the next largest of T[i] − v, and the middle leaves most room to the other side."""
    u, v = np.zeros(len(table)), np.zeros(table.shape[1])
    best = np.inf
    for _ in range(_ROUNDS):
        u = _middle(table - v[None, :], slots)
        v = _middle((table - u[:, None]).T, slots)
        value = slots * (u.sum() + v.sum()) + np.maximum(table - u[:, None] - v[None, :], 0.0).sum()
        if value >= best * (1 - 1e-9):
            return float(min(best, value))
        best = value
    return float(best)


def _middle(table: Floats, slots: int) -> Floats:
    """Per row the middle of the slots-th and the next largest entry, at least 0."""
    k = table.shape[1] - slots
    top = np.partition(table, (k - 1, k), axis=1)
    return np.maximum((top[:, k - 1] + top[:, k]) / 2, 0.0)
