"""Engines into nodes: pools of identical nodes, the pieces an engine is cut into, and an exact packing of
pieces.

A packing is a flow (arc-flow formulation of bin packing, Valério de Carvalho, Annals of OR 86, 1999). A node
is a walk over its GPUs 0, 1, …, g from left to right: the arc ``a → a + s`` places a piece of ``s`` GPUs on
GPUs ``a … a + s − 1``. All nodes of a pool walk in one graph, and an integer per arc counts how many of them
take it. Identical nodes are thus never told apart, and the model does not grow with their number. Any fill of
a node can be walked with its pieces in falling order of size, so only such arcs exist: 15 for nodes of 8 and
pieces of 1, 2, 4 and 8. The linear relaxation is as strong as that over whole-node patterns (Gilmore &
Gomory, Operations Research 9, 1961), whose number explodes for nodes of 72 GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from planner.solving.solvers import Bools, Floats, Ints, Row
from profiles.errors import InputError

AGGREGATED, PREFILL, DECODE = range(3)

Piece = tuple[int, tuple[int, ...]]
"""(node index in the pool, GPU indices in that node)."""


@dataclass(frozen=True)
class NodePool:
    """Identical nodes of one GPU type that can be had.

    ``gpus`` is how many GPUs there are in all. Every node has ``gpus_per_node`` of them, except that the last
    may have fewer. ``usd_per_gpu_hour`` is None where the price is not known. Raises InputError naming the
    pool where these disagree.
    """

    name: str
    nodes: int
    gpus_per_node: int
    usd_per_gpu_hour: float | None
    gpus: int

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.gpus_per_node < 1:
            raise InputError(
                f"pool {self.name}: {self.nodes} nodes of {self.gpus_per_node} GPUs",
                "give at least one of each",
            )
        full = self.nodes * self.gpus_per_node
        if not full - self.gpus_per_node < self.gpus <= full:
            raise InputError(
                f"pool {self.name}: {self.gpus} GPUs do not make {self.nodes} nodes of {self.gpus_per_node}",
                f"only the last node may be partial: "
                f"give {full - self.gpus_per_node + 1} to {full} GPUs, or change nodes",
            )
        if self.usd_per_gpu_hour is not None and not 0 <= self.usd_per_gpu_hour < float("inf"):
            raise InputError(
                f"pool {self.name}: usd_per_gpu_hour {self.usd_per_gpu_hour} is not a price",
                "give USD per GPU-hour, 0 or more",
            )

    @property
    def last_node_gpus(self) -> int:
        return self.gpus - (self.nodes - 1) * self.gpus_per_node


@dataclass(frozen=True, eq=False)
class Candidates:
    """``n`` kinds of engine that meet the SLO, as arrays (n,).

    pool: index into the pools. gpus: GPUs of one engine. block: GPUs that must sit inside one node together
    (divides gpus). capacity_rps: the highest rate one engine carries within the SLO, > 0. latency_ms: what
    ``latency`` minimises, ≥ 0; of a role, its part of a request. For ``energy`` joules per output token, beside those
    that an engine takes in a second whatever it is sent (``standing``, ÷ the tokens of a request; None: none).
    watts: of one engine at its capacity, mean, where they are limited (None: they are not).
    role: :data:`AGGREGATED`, or :data:`PREFILL` and :data:`DECODE` (never one of these beside the first: a plan
    serves all its requests in one way); None: all aggregated. Raises InputError naming the first candidate and
    field that is wrong.
    """

    pool: Ints
    gpus: Ints
    block: Ints
    capacity_rps: Floats
    latency_ms: Floats
    role: Ints | None = None
    standing: Floats | None = None
    watts: Floats | None = None

    @property
    def stands(self) -> Floats:
        """(n,) standing of each candidate."""
        return np.zeros(len(self.pool)) if self.standing is None else self.standing

    @property
    def roles(self) -> Ints:
        """(n,) role of each candidate."""
        return np.zeros(len(self.pool), np.int64) if self.role is None else self.role

    @property
    def needed(self) -> tuple[int, ...]:
        """The roles that a fleet must have engines of."""
        return (AGGREGATED,) if (self.roles == AGGREGATED).all() else (PREFILL, DECODE)

    def take(self, index: Ints) -> Candidates:
        """The candidates ``index`` (k,)."""
        columns: Any = {name: getattr(self, name)[index] for name in self.COLUMNS}
        watts = None if self.watts is None else self.watts[index]
        return Candidates(**columns, role=self.roles[index], standing=self.stands[index], watts=watts)

    COLUMNS: ClassVar = ("pool", "gpus", "block", "capacity_rps", "latency_ms")

    def __post_init__(self) -> None:
        columns = {name: getattr(self, name) for name in self.COLUMNS} | {"role": self.roles}
        if len({column.shape for column in columns.values()}) != 1 or self.pool.ndim != 1:
            shapes = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
            raise InputError(f"candidates: {shapes}", "give one value per candidate in every column")
        with np.errstate(invalid="ignore", divide="ignore"):
            self.require("pool", self.pool >= 0, "give an index into the pools")
            self.require("gpus", self.gpus >= 1, "give the GPUs of one engine, at least 1")
            self.require("block", self.block >= 1, "give at least 1")
            self.require("block", self.gpus % np.maximum(self.block, 1) == 0, "give a divisor of the engine's gpus")
            self.require(
                "capacity_rps",
                np.isfinite(self.capacity_rps) & (self.capacity_rps > 0),
                "leave out engines that carry nothing",
            )
            self.require(
                "latency_ms",
                np.isfinite(self.latency_ms) & (self.latency_ms >= 0),
                "give milliseconds, 0 or more",
            )
        if self.role is not None:
            self.require("role", np.isin(self.role, (AGGREGATED, PREFILL, DECODE)), "0 to 2: see Candidates")
            if len(set((self.role == AGGREGATED).tolist())) > 1:
                raise InputError(
                    "candidates: some are aggregated, others prefill or decode",
                    "choose among the aggregated and among the others, and compare the two",
                )

    def require(self, column: str, good: Bools, hint: str) -> None:
        if not good.all():
            i = int(np.argmin(good))
            raise InputError(f"candidates[{i}].{column}: {getattr(self, column)[i]} is out of range", hint)

    def cut(self, pools: Sequence[NodePool], v: int) -> tuple[int, ...] | None:
        """The pieces of one engine of candidate ``v``, or None (:func:`pieces`)."""
        return pieces(int(self.gpus[v]), int(self.block[v]), pools[self.pool[v]].gpus_per_node)


def with_gpus(pool: NodePool, gpus: int) -> NodePool:
    """The same kind of pool with ``gpus`` (≥ 1) GPUs in as few nodes as hold them."""
    return replace(pool, nodes=-(-gpus // pool.gpus_per_node), gpus=gpus)


def pieces(gpus: int, block: int, gpus_per_node: int) -> tuple[int, ...] | None:
    """The GPUs of one engine on each node that it touches, largest first; None where a block does not fit
    into a node.

    An engine that fits into a node stays inside one. A larger one fills nodes with as many blocks as they
    hold (whole nodes where block divides gpus_per_node) and puts what remains, a whole number of blocks, on
    one more. ``block`` divides ``gpus``.
    """
    if block > gpus_per_node:
        return None
    if gpus <= gpus_per_node:
        return (gpus,)
    full = gpus_per_node // block * block
    return (full,) * (gpus // full) + ((gpus % full,) if gpus % full else ())


def span(cut: tuple[int, ...], gpus_per_node: int) -> int:
    """The fewest GPUs of a pool that host one engine of these pieces: a pool of that many GPUs or more does,
    others do not."""
    return (len(cut) - 1) * gpus_per_node + cut[-1]


def hosted(pools: Sequence[NodePool], candidates: Candidates, unlimited: frozenset[int] = frozenset()) -> Ints:
    """The candidates (k,) of which at least one engine fits; ``unlimited`` pools have as many nodes as
    wanted."""
    cuts = [candidates.cut(pools, v) for v in range(len(candidates.pool))]
    fits = [
        v
        for v, (cut, p) in enumerate(zip(cuts, candidates.pool.tolist(), strict=True))
        if cut and (p in unlimited or span(cut, pools[p].gpus_per_node) <= pools[p].gpus)
    ]
    return np.array(fits, np.int64)


def undominated(pools: Sequence[NodePool], candidates: Candidates, among: Ints, by_latency: bool) -> Ints:
    """``among`` (k,) without those that another replaces one for one: same pool, pieces and role, no less
    capacity, no more latency, no more watts.

    Unless ``by_latency``, more capacity alone is enough; of equals the faster, then the first stays. Exact:
    the replacement changes no pool's packing and no price.
    """
    if candidates.watts is not None or (candidates.standing is not None and by_latency):
        return _unmatched(pools, candidates, among, by_latency)
    capacity, latency = candidates.capacity_rps[among], candidates.latency_ms[among]
    fastest: dict[tuple[int, int, tuple[int, ...] | None], float] = {}
    kept = []
    for v in among[np.lexsort((among, latency, -capacity))].tolist():
        key = (int(candidates.pool[v]), int(candidates.roles[v]), candidates.cut(pools, v))
        own = float(candidates.latency_ms[v])
        if key not in fastest or (by_latency and own < fastest[key]):
            fastest[key] = own
            kept.append(v)
    return np.sort(np.array(kept, np.int64))


def _unmatched(pools: Sequence[NodePool], c: Candidates, among: Ints, by_latency: bool) -> Ints:
    """The same where watts are limited, and where an engine takes ``standing`` and ``latency_ms`` for each request:
    another replaces it that takes no more at rest and none more at its full load, as both are straight in between."""
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for v in among[np.argsort(c.latency_ms[among], kind="stable")].tolist():
        kinds.setdefault((int(c.pool[v]), int(c.roles[v]), c.cut(pools, v)), []).append(v)
    kept: list[int] = []
    for same in (np.array(each) for each in kinds.values()):
        capacity, standing, each = c.capacity_rps[same], c.stands[same], c.latency_ms[same]
        better = capacity[:, None] >= capacity
        if by_latency:
            full = standing[:, None] + each[:, None] * capacity[None, :]  # of the first under the load of the second
            better &= (standing[:, None] <= standing) & (full <= standing + each * capacity)
        if c.watts is not None:
            better &= c.watts[same][:, None] <= c.watts[same]
        better &= ~better.T | (np.arange(len(same))[:, None] < np.arange(len(same)))  # of equals the first stays
        kept += same[~better.any(axis=0)].tolist()
    return np.sort(np.array(kept, np.int64))


@dataclass(frozen=True)
class Flow:
    """The graph of one pool: arcs (first GPU, GPUs of the piece), and how many nodes start their walk at
    which GPU.

    A partial last node starts to the right, as if its first GPUs were taken.
    """

    arcs: tuple[tuple[int, int], ...]
    starts: Mapping[int, int]


def flow(pool: NodePool, sizes: Iterable[int]) -> Flow:
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


def flow_rows(pool: NodePool, graph: Flow, first_arc: int, cuts: Mapping[int, tuple[int, ...]]) -> list[Row]:
    """The rows that make engines pack into the pool. ``cuts``: the pieces of one engine by its column; the
    arcs' columns start at ``first_arc``. For every size no more pieces than arcs; at every GPU no more nodes
    leave than come or start there.
    """
    rows = []
    for size in sorted({size for _, size in graph.arcs}, reverse=True):
        terms = {column: float(cut.count(size)) for column, cut in cuts.items() if size in cut}
        terms |= {first_arc + k: -1.0 for k, (_, s) in enumerate(graph.arcs) if s == size}
        rows.append(_row(f"GPUs of pool {pool.name}, pieces of {size}", terms, 0.0))
    for gpu in sorted({first for first, _ in graph.arcs}):
        terms = {first_arc + k: 1.0 for k, (first, _) in enumerate(graph.arcs) if first == gpu}
        terms |= {first_arc + k: -1.0 for k, (first, s) in enumerate(graph.arcs) if first + s == gpu}
        rows.append(_row(f"GPU {gpu} of pool {pool.name}", terms, float(graph.starts.get(gpu, 0))))
    return rows


def _row(name: str, terms: Mapping[int, float], rhs: float) -> Row:
    return Row(name, np.array(list(terms), np.int64), np.array(list(terms.values())), "<=", rhs)


def walk(pool: NodePool, graph: Flow, counts: Iterable[int]) -> dict[int, list[Piece]]:
    """The places that a flow makes for pieces, by size, each in order of node and GPU. ``counts``: nodes per
    arc, (arcs,).

    At every GPU at most as many nodes leave as have come (the flow's rows), so the arcs can be handed out
    from left to right.
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
