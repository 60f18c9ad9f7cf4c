"""The words of expert placement: the GPUs and their slots, recorded loads and routes, and a placement.

A *slot* is room for one expert's weights in one layer; slots are numbered GPU by GPU. A *copy* is one slot that
holds an expert; an expert's tokens are shared out evenly over its copies, as serving engines do.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Topology:
    """The GPUs of one expert-parallel group, shape [gpus] each.

    Attributes:
        slots: experts' copies that fit on each GPU, per layer; may be unequal.
        node: node of each GPU; nodes are numbered from 0.
        domain: fast-link domain (NVL72 rack, or the node itself) of each GPU.
        speed: relative speed of each GPU; 1 everywhere for equal GPUs.
    """

    slots: Ints
    node: Ints
    domain: Ints
    speed: Floats

    @property
    def gpus(self) -> int:
        return len(self.slots)

    @property
    def total_slots(self) -> int:
        return int(self.slots.sum())

    @property
    def gpu_of_slot(self) -> Ints:
        """Shape [slots]."""
        return np.repeat(np.arange(self.gpus, dtype=np.int64), self.slots)

    @classmethod
    def uniform(cls, gpus: int, slots_per_gpu: int, gpus_per_node: int | None = None) -> Topology:
        index = np.arange(gpus, dtype=np.int64)
        node = index // (gpus_per_node or gpus)
        return cls(np.full(gpus, slots_per_gpu, np.int64), node, node, np.ones(gpus))


@dataclass(frozen=True, eq=False)
class Loads:
    """Tokens that each expert received: ``counts`` shape [windows, layers, experts], one or many recorded
    workloads. ``layer_index``: shape [layers], index of each MoE layer in the model (dense layers are left
    out). ``names``: of the windows. ``weights``: shape [windows], importance, sums to 1."""

    counts: Floats
    layer_index: Ints
    names: tuple[str, ...]
    weights: Floats

    @property
    def windows(self) -> int:
        return int(self.counts.shape[0])

    @property
    def layers(self) -> int:
        return int(self.counts.shape[1])

    @property
    def experts(self) -> int:
        return int(self.counts.shape[2])

    def averaged(self) -> Loads:
        """One window: the weighted mean of the windows, each first scaled to the same tokens per layer."""
        share = self.counts / np.maximum(self.counts.sum(axis=2, keepdims=True), np.finfo(float).tiny)
        return Loads(np.tensordot(self.weights, share, 1)[None], self.layer_index, ("average",), np.ones(1))


@dataclass(frozen=True, eq=False)
class Routes:
    """What recorded token routes say beyond loads. ``transitions``: shape [layers − 1, experts, experts], tokens
    that used expert i in a layer and j in the next (of recorded pairs; a token with top-k experts counts each
    of its k × k pairs). ``coactivation``: shape [layers, experts, experts], tokens that used both (symmetric;
    diagonal: tokens of the expert). ``tokens``: how many were read."""

    transitions: Floats
    coactivation: Floats
    layer_index: Ints
    tokens: int
    top_k: int


@dataclass(frozen=True, eq=False)
class Placement:
    """``physical_to_logical``: shape [layers, slots], the expert in each slot."""

    topology: Topology
    physical_to_logical: Ints
    experts: int
    layer_index: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def layers(self) -> int:
        return int(self.physical_to_logical.shape[0])

    def copies(self) -> Ints:
        """How many copies each expert has, shape [layers, experts]."""
        out = np.zeros((self.layers, self.experts), np.int64)
        np.add.at(out, (np.arange(self.layers)[:, None], self.physical_to_logical), 1)
        return out

    def gpu_loads(self, counts: Floats) -> Floats:
        """Load of each GPU, shape [..., layers, gpus], of ``counts`` [..., layers, experts]: an expert's tokens
        are shared evenly over its copies; divided by the GPU's speed."""
        share = counts / np.maximum(self.copies(), 1)
        index = np.broadcast_to(self.physical_to_logical, (*counts.shape[:-2], *self.physical_to_logical.shape))
        per_slot = np.take_along_axis(share, index, axis=-1)
        edges = np.concatenate([[0], np.cumsum(self.topology.slots)[:-1]])
        return np.add.reduceat(per_slot, edges, axis=-1) / self.topology.speed

    def balancedness(self, counts: Floats) -> Floats:
        """Mean ÷ maximum GPU load per layer, shape [..., layers]; 1 where a layer has no load."""
        loads = self.gpu_loads(counts)
        most = loads.max(axis=-1)
        return np.where(most > 0, loads.mean(axis=-1) / np.where(most > 0, most, 1.0), 1.0)
