"""Collectives within a node (measured) and across nodes (hierarchical over a latency–bandwidth model of the
fabric)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from costmodels.estimates import Estimates, Floats, Ints, combine
from costmodels.facts import read_numbers
from costmodels.kernels.cost_model import CostModel
from costmodels.operations.collective import COLLECTIVE
from costmodels.operations.questions import Exchange
from costmodels.operations.roofline import Columns, code
from costmodels.origins import ROOFLINE
from profiles.hardware import Fabric, Gpu, Topology, topologies

FABRIC_SPREAD = 0.5
"""Half-width (log) of the interval of anything that crosses nodes: the pack has no multi-node rows; NCCL
reaches 60–95 % of line rate on InfiniBand and RoCE depending on topology and tuning."""

RING_SPREAD = 0.32
"""Half-width (log) of the 80 % interval of a ring's time over PCIe: that of the pack's 459 RTX-PRO-6000 rows against
it, in-sample (``start_us_per_rank`` and ``bus_share`` are read off their ends)."""

_DTYPE = code("dtype", "bf16")


@dataclass(frozen=True)
class CollectiveFacts:
    """See ``communication.yaml``, which has the sources."""

    pass_start_us: float
    pass_start_spread: float


@cache
def collective_facts() -> CollectiveFacts:
    return read_numbers(Path(__file__).parent / "communication.yaml", CollectiveFacts)


@dataclass(frozen=True)
class Network:
    """What engines of one pool communicate over. ``topology`` joins the GPUs of a node; None: what usually does."""

    gpus_per_node: int
    fabric: Fabric
    topology: Topology | None = None


def exchange_times(model: CostModel, network: Network, exchanges: Sequence[Exchange], candidates: int) -> Estimates:
    """Time of all exchanges of each candidate, µs, shape [candidates].

    An exchange among ``ranks`` GPUs that fit into a node is what was measured. A larger one (NCCL's and
    every engine's hierarchical scheme): the part within the node on the full buffer, and between nodes each
    GPU with its peers of the same position, on its share of the buffer, once the collective has started
    (``communication.yaml``).
    """
    local: list[tuple[Ints, Floats, Ints, Ints, Floats]] = []
    remote: list[tuple[Ints, Floats, Floats]] = []
    for exchange in exchanges:
        inside = np.minimum(exchange.ranks, network.gpus_per_node)
        nodes = -(-exchange.ranks // network.gpus_per_node)
        for kind in _local_kinds(exchange.kind, crossing=False):
            plain = nodes == 1
            local.append(_part(exchange, plain, kind, inside))
        for kind in _local_kinds(exchange.kind, crossing=True):
            local.append(_part(exchange, nodes > 1, kind, inside))
        time = _between_nodes_us(exchange, inside, nodes, network.fabric)
        start = np.where(nodes > 1, _passes(exchange) * collective_facts().pass_start_us, 0.0)
        remote.append((exchange.candidate, time * exchange.count, start * exchange.count))
    parts = []
    if local:
        kinds = np.concatenate([part[0] for part in local])
        if len(kinds):
            questions: Columns = {
                "dtype": np.full(len(kinds), _DTYPE),
                "kind": kinds,
                "message_bytes": np.concatenate([part[1] for part in local]).astype(np.int64),
                "num_gpus": np.concatenate([part[2] for part in local]),
            }
            estimates = model.estimate(COLLECTIVE.name, questions)
            topology = network.topology or model.topology
            if topology is not None and not len(model.overlay(COLLECTIVE.name)):
                ranks = model.measured_ranks(COLLECTIVE.name)
                estimates = in_boxes_of(topology, model.gpu, questions, estimates, ranks)
            candidate = np.concatenate([part[3] for part in local])
            parts.append(estimates.summed(candidate, np.concatenate([part[4] for part in local]), candidates))
    if remote:
        where, time, start = (np.concatenate(each) for each in zip(*remote, strict=True))
        moving, starting = (
            np.bincount(where, weights=each, minlength=candidates).astype(np.float64) for each in (time, start)
        )
        parts += [across_nodes(moving, network.fabric), _starting(starting)]
    return combine(parts) if parts else Estimates.exact(np.zeros(candidates))


def in_boxes_of(
    topology: Topology, gpu: Gpu, q: Columns, predicted: Estimates, measured_ranks: Collection[int] = ()
) -> Estimates:
    """``predicted``, the times of the collectives ``q`` within a node, in a node that ``topology`` joins.

    Rows of switches say nothing of PCIe: among so many GPUs as no row of this type was measured with, a ring's time
    answers, start·ranks + bytes ÷ bandwidth (Hockney's α + βn; Thakur et al., IJHPCA 19, 2005, §4). Where there are
    rows, they go by the ratio of that time here and in the boxes that PCIe rows are of. Boxes of one kind differ, so
    the interval grows by the topology's spread.
    """
    if topology.bus_share is None:
        return predicted.widened(topology.spread)
    ranks = np.asarray(q["num_gpus"], dtype=np.float64)
    passes = np.where(np.asarray(q["kind"]) == code("kind", "all_reduce"), 2.0, 1.0)
    wire_us = passes * (ranks - 1) / ranks * np.asarray(q["message_bytes"], dtype=np.float64) * 1e6  # at 1 byte/s
    ring = topology.start_us_per_rank * ranks + wire_us / _ring_bytes_per_s(topology, gpu, ranks)
    usual = topologies()["pcie"]
    as_measured = usual.start_us_per_rank * ranks + wire_us / _ring_bytes_per_s(usual, gpu, ranks)
    scaled = predicted.scaled(ring / as_measured)
    known = np.isin(ranks, list(measured_ranks))
    out = Estimates(
        np.where(known, scaled.value, ring),
        np.where(known, scaled.low, ring),
        np.where(known, scaled.high, ring),
        np.where(known, predicted.how, ROOFLINE).astype(np.int8),
        predicted.inside & known & (ring == as_measured),
    )
    return out.widened(np.where(known, topology.spread, np.hypot(topology.spread, RING_SPREAD)))


def _ring_bytes_per_s(topology: Topology, gpu: Gpu, ranks: Floats) -> Floats:
    assert topology.bus_share is not None
    sizes = sorted(topology.bus_share)
    share = np.interp(np.log2(ranks), np.log2(sizes), [topology.bus_share[size] for size in sizes])
    over_pcie: Floats = share * gpu.pcie_bytes_per_s
    if topology.bridged_share is None or gpu.bridge_bytes_per_s is None:
        return over_pcie
    return np.where(ranks == 2, topology.bridged_share * gpu.bridge_bytes_per_s, over_pcie)


def across_nodes(time_us: Floats, fabric: Fabric) -> Estimates:
    """A fabric time from the latency–bandwidth model, with its interval; zero where nothing crosses."""
    used = time_us > 0
    return Estimates(
        time_us,
        # The model is line rate, so nothing is faster; a GPU that sends alone has the whole of a shared NIC.
        time_us / fabric.shared_by_gpus,
        time_us * np.exp(FABRIC_SPREAD),
        np.where(used, ROOFLINE, 0).astype(np.int8),
        ~used,
    )


def _starting(time_us: Floats) -> Estimates:
    """What starting collectives takes between nodes, with its interval; zero where nothing crosses."""
    factor = np.exp(collective_facts().pass_start_spread)
    used = time_us > 0
    return Estimates(time_us, time_us / factor, time_us * factor, np.where(used, ROOFLINE, 0).astype(np.int8), ~used)


def point_to_point_us(fabric: Fabric, message_bytes: Floats) -> Floats:
    """One message from one GPU to one of another node."""
    return np.where(message_bytes > 0, fabric.latency_us + message_bytes / fabric.bytes_per_s_per_gpu * 1e6, 0.0)


def _local_kinds(kind: int, *, crossing: bool) -> tuple[int, ...]:
    if crossing and kind == code("kind", "all_reduce"):
        return code("kind", "reduce_scatter"), code("kind", "all_gather")
    return (kind,)


def _part(exchange: Exchange, chosen: np.ndarray, kind: int, inside: Ints) -> tuple[Ints, Floats, Ints, Ints, Floats]:
    chosen = chosen & (inside > 1)
    count = int(chosen.sum())
    return (
        np.full(count, kind, np.int64),
        np.maximum(exchange.message_bytes[chosen], 1.0),
        inside[chosen],
        exchange.candidate[chosen],
        exchange.count[chosen],
    )


def _passes(exchange: Exchange) -> float:
    """How often the data crosses between the nodes: an all-reduce scatters sums and gathers them."""
    return 2.0 if exchange.kind == code("kind", "all_reduce") else 1.0


def _between_nodes_us(exchange: Exchange, inside: Ints, nodes: Ints, fabric: Fabric) -> Floats:
    """Hockney's α + βn (Parallel Computing 20, 1994): the bytes of a ring between the nodes, the latencies of
    a tree."""
    passes = _passes(exchange)
    share = exchange.message_bytes / np.where(exchange.kind == code("kind", "all_to_all"), 1, inside)
    steps = np.ceil(np.log2(np.maximum(nodes, 1)))
    time = passes * (steps * fabric.latency_us + share * (nodes - 1) / nodes / fabric.bytes_per_s_per_gpu * 1e6)
    return np.where(nodes > 1, time, 0.0)
