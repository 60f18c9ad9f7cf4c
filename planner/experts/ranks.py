"""The GPUs of a cluster as one expert-parallel group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.step.communication import Network
from planner.contract.clusters import Cluster, Pool
from planner.experts.crossings import Distance
from planner.experts.placement import Floats, Ints, Topology
from profiles.errors import InputError, Unsupported
from profiles.hardware import SHIPPED, Catalogue, find_fabric


@dataclass(frozen=True, eq=False)
class Ranks:
    """Every GPU of the cluster, rank by rank: ``pool`` and ``node`` of each, and its number in the node, shape [gpus].
    Nodes are numbered through all pools; the GPUs of a node share a fast link. ``catalogue`` knows the pools' GPUs."""

    pools: tuple[Pool, ...]
    pool: Ints
    node: Ints
    gpu: Ints
    catalogue: Catalogue = SHIPPED

    @classmethod
    def of(cls, cluster: Cluster, catalogue: Catalogue = SHIPPED) -> Ranks:
        """Raises Unsupported where pools differ in node size, which the exchange model does not cover."""
        pools = cluster.pools
        sizes = {each.gpus_per_node for each in pools}
        if len(sizes) > 1:
            raise Unsupported(
                f"cluster: pools have nodes of {', '.join(map(str, sorted(sizes)))} GPUs; experts of one group are not "
                "placed over unlike nodes",
                "plan a group on the pools that are alike",
            )
        pool = np.repeat(np.arange(len(pools)), [each.gpus for each in pools])
        within = np.concatenate([np.arange(each.gpus) for each in pools])
        per_node = pools[0].gpus_per_node
        first = np.concatenate([[0], np.cumsum([each.nodes for each in pools])[:-1]])
        return cls(pools, pool, first[pool] + within // per_node, within % per_node, catalogue)

    def without(self, lost: Sequence[int]) -> Ranks:
        """The ranks that remain, renumbered in order."""
        left = np.delete(np.arange(self.gpus), list(lost))
        return Ranks(self.pools, self.pool[left], self.node[left], self.gpu[left], self.catalogue)

    @property
    def gpus(self) -> int:
        return len(self.pool)

    @property
    def kinds(self) -> tuple[str, ...]:
        """GPU type of each rank."""
        return tuple(self.pools[int(p)].gpu for p in self.pool)

    @property
    def network(self) -> Network:
        """The slowest fabric of all pools: an exchange waits for it."""
        fabrics = [find_fabric(pool.fabric) for pool in self.pools]
        slowest = min(fabrics, key=lambda fabric: fabric.bytes_per_s_per_gpu)
        return Network(min(self.pools[0].gpus_per_node, self.gpus), slowest)

    @property
    def distance(self) -> float:
        """Time per byte within a node ÷ between nodes, of the slowest GPU type."""
        link = min(self.catalogue.find_gpu(pool.gpu).scale_up_bytes_per_s for pool in self.pools)
        return min(1.0, self.network.fabric.bytes_per_s_per_gpu / link)

    def topology(self, slots: Ints, speed: Floats | None = None) -> Topology:
        return Topology(slots, self.node, self.node, np.ones(self.gpus) if speed is None else speed)

    def distances(self, topology: Topology) -> Distance:
        return Distance.of(topology, self.distance)


def slots_of(ranks: Ranks, experts: int, per_gpu: Sequence[int] | None, redundant: int | None) -> Ints:
    """Slots of each GPU, shape [gpus]: ``per_gpu`` (one number, or one per pool), or ``experts + redundant`` shared out
    evenly; by default as few as hold every expert, equally many on every GPU.

    Raises:
        InputError: both are given, or they do not fit the cluster.
    """
    gpus = ranks.gpus
    if per_gpu is not None and redundant is not None:
        raise InputError("--slots-per-gpu and --redundant are both given", "give one of them")
    if redundant is not None:
        if redundant < 0:
            raise InputError(f"--redundant: {redundant} is negative", "give the number of extra copies per layer")
        total = experts + redundant
        if total < gpus:
            raise InputError(
                f"--redundant: {experts} experts and {redundant} copies leave some of {gpus} GPUs empty",
                f"give at least {gpus - experts}, or fewer GPUs",
            )
        return np.asarray(total // gpus + (np.arange(gpus) < total % gpus), np.int64)
    if per_gpu is None:
        return np.full(gpus, -(-experts // gpus), np.int64)
    if len(per_gpu) not in (1, len(ranks.pools)) or min(per_gpu) < 1:
        raise InputError(
            f"--slots-per-gpu: {','.join(map(str, per_gpu))} is not one positive number, nor one for each of "
            f"{len(ranks.pools)} pools",
            f"at least {-(-experts // gpus)} hold {experts} experts on {gpus} GPUs",
        )
    each = np.array(per_gpu if len(per_gpu) > 1 else list(per_gpu) * len(ranks.pools), np.int64)
    return each[ranks.pool]
