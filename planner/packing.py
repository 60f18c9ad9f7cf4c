"""Engines into nodes: pools of identical nodes, the pieces an engine is cut into, and an exact packing of pieces.

A packing is a flow (arc-flow formulation of bin packing, Valério de Carvalho, Annals of OR 86, 1999). A node is a walk over
its GPUs 0, 1, …, g from left to right: the arc ``a → a + s`` places a piece of ``s`` GPUs on GPUs ``a … a + s − 1``. All
nodes of a pool walk in one graph, and an integer per arc counts how many of them take it. Identical nodes are thus never
told apart, and the model does not grow with their number. Any fill of a node can be walked with its pieces in falling order
of size, so only such arcs exist: 15 for nodes of 8 and pieces of 1, 2, 4 and 8. The linear relaxation is as strong as that over
whole-node patterns (Gilmore & Gomory, Operations Research 9, 1961), whose number explodes for nodes of 72 GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from profiles.errors import InputError

Piece = tuple[int, tuple[int, ...]]
"""(node index in the pool, GPU indices in that node)."""


@dataclass(frozen=True)
class Pool:
    """Identical nodes of one GPU type that can be had.

    ``gpus`` is how many GPUs there are in all. Every node has ``gpus_per_node`` of them, except that the last may have fewer.
    ``usd_per_gpu_hour`` is None where the price is not known. Raises InputError naming the pool where these disagree.
    """

    name: str
    nodes: int
    gpus_per_node: int
    usd_per_gpu_hour: float | None
    gpus: int

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.gpus_per_node < 1:
            raise InputError(
                f"pool {self.name}: {self.nodes} nodes of {self.gpus_per_node} GPUs", "give at least one of each"
            )
        full = self.nodes * self.gpus_per_node
        if not full - self.gpus_per_node < self.gpus <= full:
            raise InputError(
                f"pool {self.name}: {self.gpus} GPUs do not make {self.nodes} nodes of {self.gpus_per_node}",
                f"only the last node may be partial: give {full - self.gpus_per_node + 1} to {full} GPUs, or change nodes",
            )
        if self.usd_per_gpu_hour is not None and not 0 <= self.usd_per_gpu_hour < float("inf"):
            raise InputError(
                f"pool {self.name}: usd_per_gpu_hour {self.usd_per_gpu_hour} is not a price", "give USD per GPU-hour, 0 or more"
            )

    @property
    def last_node_gpus(self) -> int:
        return self.gpus - (self.nodes - 1) * self.gpus_per_node


def with_gpus(pool: Pool, gpus: int) -> Pool:
    """The same kind of pool with ``gpus`` (≥ 1) GPUs in as few nodes as hold them."""
    return Pool(pool.name, -(-gpus // pool.gpus_per_node), pool.gpus_per_node, pool.usd_per_gpu_hour, gpus)


def pieces(gpus: int, block: int, gpus_per_node: int) -> tuple[int, ...] | None:
    """The GPUs of one engine on each node that it touches, largest first; None where a block does not fit into a node.

    An engine that fits into a node stays inside one. A larger one fills nodes with as many blocks as they hold (whole nodes
    where block divides gpus_per_node) and puts what remains, a whole number of blocks, on one more. ``block`` divides ``gpus``.
    """
    if block > gpus_per_node:
        return None
    if gpus <= gpus_per_node:
        return (gpus,)
    full = gpus_per_node // block * block
    return (full,) * (gpus // full) + ((gpus % full,) if gpus % full else ())


def span(cut: tuple[int, ...], gpus_per_node: int) -> int:
    """The fewest GPUs of a pool that host one engine of these pieces: a pool of that many GPUs or more does, others do not."""
    return (len(cut) - 1) * gpus_per_node + cut[-1]


@dataclass(frozen=True)
class Flow:
    """The graph of one pool: arcs (first GPU, GPUs of the piece), and how many nodes start their walk at which GPU.

    A partial last node starts to the right, as if its first GPUs were taken.
    """

    arcs: tuple[tuple[int, int], ...]
    starts: Mapping[int, int]


def flow(pool: Pool, sizes: Iterable[int]) -> Flow:
    """The graph that packs pieces of these sizes (≤ gpus_per_node) into the pool's nodes."""
    missing = pool.gpus_per_node - pool.last_node_gpus
    starts = {0: pool.nodes} if missing == 0 else {0: pool.nodes - 1, missing: 1}
    arcs: list[tuple[int, int]] = []
    reached = {first for first, count in starts.items() if count}
    for size in sorted(set(sizes), reverse=True):
        for first in range(pool.gpus_per_node - size + 1):
            if first in reached:
                arcs.append((first, size))
                reached.add(first + size)
    return Flow(tuple(arcs), starts)


def walk(pool: Pool, graph: Flow, counts: Iterable[int]) -> dict[int, list[Piece]]:
    """The places that a flow makes for pieces, by size, each in order of node and GPU. ``counts``: nodes per arc, (arcs,).

    At every GPU at most as many nodes leave as have come (the flow's rows), so the arcs can be handed out from left to right.
    """
    missing = pool.gpus_per_node - pool.last_node_gpus
    waiting: dict[int, list[int]] = {}
    for first, count in graph.starts.items():
        nodes = range(pool.nodes - 1, pool.nodes) if first and first == missing else range(count)
        waiting.setdefault(first, []).extend(nodes)
    places: dict[int, list[Piece]] = {}
    for (first, size), count in sorted(zip(graph.arcs, counts, strict=True), key=lambda arc: (arc[0][0], -arc[0][1])):
        here = sorted(waiting.get(first, []))
        if count > len(here):
            raise ValueError(f"{count} nodes leave GPU {first}, where only {len(here)} have come")
        for node in here[:count]:
            offset = first - (missing if node == pool.nodes - 1 else 0)
            places.setdefault(size, []).append((node, tuple(range(offset, offset + size))))
        waiting[first] = here[count:]
        waiting.setdefault(first + size, []).extend(here[:count])
    return {size: sorted(found) for size, found in places.items()}
