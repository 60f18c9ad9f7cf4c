"""Tokens to their experts and back: measured within a scale-up domain, between nodes a law with the constants of a
library and a fabric (``expert_exchange.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Estimates, Floats, Ints, combine
from costmodels.kernels.cost_model import CostModel
from costmodels.operations.exchanges import HIGH_THROUGHPUT, LOW_LATENCY, ONE_SIDED, TWO_SIDED
from costmodels.operations.expert_exchange import EXPERT_EXCHANGE
from costmodels.operations.questions import ExpertExchange
from costmodels.operations.roofline import Columns, code
from costmodels.operations.wide_moe import between_powers, reached
from costmodels.origins import ROOFLINE
from costmodels.step.communication import Network
from profiles.hardware import Fabric, Gpu
from profiles.shipped import shipped

PHASES = ("dispatch", "combine")
DISPATCH_BYTES, COMBINE_BYTES = 7408 / 7168, 2.0
"""Of each element that is sent: 8 bits with a scale of 4 bytes for 128 (and 16 bytes of a token's own); 16 back."""

RDMA = ("infiniband", "roce", "efa")
"""Kinds of fabric over which GPUs reach each other's memory."""

_MODES = {LOW_LATENCY: "ll", HIGH_THROUGHPUT: "ht", ONE_SIDED: "one_sided", TWO_SIDED: "two_sided"}


@cache
def exchange_facts() -> dict[str, Any]:
    return shipped(Path(__file__).parent / "expert_exchange.yaml", lambda document: dict(document))


def fabric_kind(fabric: Fabric) -> str:
    """Which constants hold: ``infiniband``, ``roce``, ``efa``, or ``ethernet``, over which no library works."""
    return "efa" if fabric.name.startswith("efa-") else fabric.kind


@dataclass(frozen=True)
class SentExperts:
    """What the exchanges of ``n`` candidates take, µs, shape [n] each.

    Attributes:
        dispatch, combine: there and back.
        beside: of their time, what takes multiprocessors from the products beside them.
        slower: by how much those products are slower while an exchange runs.
    """

    dispatch: Estimates
    combine: Estimates
    beside: Floats
    slower: Floats


def expert_exchange_times(
    model: CostModel, network: Network, exchanges: Sequence[ExpertExchange], candidates: int
) -> SentExperts:
    """Times of all ``exchanges`` of each candidate."""
    parts: dict[str, list[Estimates]] = {phase: [] for phase in PHASES}
    beside, slower = np.zeros(candidates), np.ones(candidates)
    facts = exchange_facts()
    for exchange in exchanges:
        high = exchange.kind == HIGH_THROUGHPUT
        sms = model.gpu.sm_count
        slower[exchange.candidate[high]] = sms / (sms - facts["multiprocessors"])
        wide = min(model.gpu.scale_up_bytes_per_s / facts["within_node"]["wide_link_bytes_per_s"], 1.0)
        packing = np.where(exchange.ranks > network.gpus_per_node, wide, 1.0)
        for phase in PHASES:
            time, near = _one(model, network, exchange, phase)
            busy = exchange.count * exchange.busiest
            more = np.broadcast_to(exchange.more_us * exchange.count, busy.shape)
            parts[phase].append(time.summed(exchange.candidate, busy, candidates))
            parts[phase].append(Estimates.exact(np.bincount(exchange.candidate, more, candidates).astype(np.float64)))
            part = np.where(high, 0.0, np.minimum(near * packing, time.value) * busy)
            beside += np.bincount(exchange.candidate, weights=part, minlength=candidates)
    none = Estimates.exact(np.zeros(candidates))
    dispatch, back = (combine(parts[phase]) if parts[phase] else none for phase in PHASES)
    return SentExperts(dispatch, back, beside, slower)


def _one(model: CostModel, network: Network, e: ExpertExchange, phase: str) -> tuple[Estimates, Floats]:
    """(time of one exchange of each, what of it would be within a node), [e]."""
    domain = network.gpus_per_node
    inside = np.minimum(e.ranks, domain)
    largest_node = exchange_facts()["within_node"]["gpus"]
    near = within_node(model, e, phase, np.minimum(inside, largest_node))
    if domain > largest_node:  # a rack
        by_rack, over_nvlink = inside > largest_node, (e.kind == ONE_SIDED) | (e.kind == TWO_SIDED)
        law = exchange_facts()["nvlink_domain"]
        farther = 1 + law[phase]["per_mb_doubling"] / law[phase]["per_mb"] * np.log2(np.maximum(inside / 8, 1.0))
        near = _chosen(by_rack & over_nvlink, _in_rack(e, phase, inside), near.scaled(np.where(by_rack, farther, 1.0)))
    nodes = -(-e.ranks // domain)
    if not (nodes > 1).any():
        return near, near.value
    far = _between_nodes(model.gpu, network.fabric, e, phase, nodes, near.value)
    slower = near.value > far.value
    return _chosen((nodes > 1) & ~slower, far, near), near.value


def _chosen(which: NDArray[np.bool_], first: Estimates, second: Estimates) -> Estimates:
    """``first`` where ``which``, else ``second``."""

    def of(name: str) -> Any:
        return np.where(which, getattr(first, name), getattr(second, name))

    return Estimates(of("value"), of("low"), of("high"), of("how").astype(np.int8), of("inside"))


def within_node(model: CostModel, e: ExpertExchange, phase: str, ranks: Ints) -> Estimates:
    """What an exchange among ``ranks`` GPUs of a node takes, [e], between the powers of two of tokens that are
    measured."""
    names = np.array([code("kind", f"{_MODES.get(kind, 'll')}_{phase}") for kind in e.kind.tolist()], np.int64)
    n = len(names)
    corners = between_powers(e.tokens)
    questions: Columns = {
        "dtype": np.full(2 * n, code("dtype", "fp8" if phase == "dispatch" else "bf16")),
        "kind": np.tile(names, 2),
        "tokens": np.concatenate([tokens for tokens, _ in corners]),
        "hidden": np.full(2 * n, e.hidden),
        "top_k": np.full(2 * n, e.top_k),
        "experts": np.full(2 * n, e.experts),
        "num_gpus": np.tile(np.maximum(ranks, 2), 2),
    }
    weights = np.concatenate([np.where(ranks > 1, share, 0.0) for _, share in corners])
    return model.estimate(EXPERT_EXCHANGE.name, questions).summed(np.tile(np.arange(n), 2), weights, n)


def _in_rack(e: ExpertExchange, phase: str, ranks: Ints) -> Estimates:
    """Within an NVLink domain of many trays, by TensorRT-LLM's kernels, whose law is of 16-bit tokens there."""
    facts = exchange_facts()["nvlink_domain"]
    each = DISPATCH_BYTES if phase == "dispatch" else COMBINE_BYTES
    sent = e.tokens * e.top_k * e.hidden * each / 1e6
    law = facts[phase]
    rate = law["per_mb"] + law["per_mb_doubling"] * np.log2(np.maximum(ranks / 8, 1.0))
    return _by_law(law["start_us"] + sent * rate, facts["spread"])


def _between_nodes(gpu: Gpu, fabric: Fabric, e: ExpertExchange, phase: str, nodes: Ints, near_us: Floats) -> Estimates:
    """``near_us``: what the same tokens take within a node, [e]."""
    kind = fabric_kind(fabric)
    place = kind if kind in RDMA else "efa"
    slow = exchange_facts()["low_latency"]["amd" if gpu.vendor == "amd" else place]
    each = DISPATCH_BYTES if phase == "dispatch" else COMBINE_BYTES
    copies = e.tokens * e.top_k * e.hidden * each * (1 - 1 / nodes) / 1e6
    law = slow[phase]
    rate = (law["per_mb"] + law["per_mb_doubling"] * np.log2(nodes)) * slow["bytes_per_s"] / fabric.bytes_per_s_per_gpu
    low_latency = law["start_us"] + copies * rate
    fast = exchange_facts()["high_throughput"][place]
    handed_us = handed_out_us(e, nodes, near_us)
    throughput = high_throughput_us(fast, fabric.bytes_per_s_per_gpu, phase, e, nodes, handed_us)
    plain = e.kind == HIGH_THROUGHPUT
    return _by_law(np.where(plain, throughput, low_latency), np.where(plain, fast["spread"], slow["spread"]))


def high_throughput_us(
    law: Mapping[str, Any], bytes_per_s: float, phase: str, e: ExpertExchange, nodes: Ints, handed_us: Floats
) -> Floats:
    """By the ``law`` of a place (``expert_exchange.yaml``), [e]; ``bytes_per_s``: of a GPU's cards, ``handed_us``: what
    handing tokens out within nodes takes."""
    together = exchange_facts()["high_throughput"]["together"]
    each = DISPATCH_BYTES if phase == "dispatch" else COMBINE_BYTES
    counted = e.tokens * nodes_reached(nodes, e) * e.hidden * each * 1e6
    parts = [counted * (1 - 1 / nodes) / (law["cards"] * bytes_per_s), handed_us]
    if "posted" in law:
        parts.append(counted / (law["posted"][phase] * bytes_per_s / law["bytes_per_s"]))
    return np.asarray(sum(part**together for part in parts) ** (1 / together))


def handed_out_us(e: ExpertExchange, nodes: Ints, near_us: Floats) -> Floats:
    """What handing tokens out within nodes takes of an exchange among many, [e]: as within one (``near_us``), for as
    many copies as there are GPUs with a token's experts."""
    inside = reached(-(-e.ranks // nodes).astype(np.float64), np.full(len(nodes), float(e.top_k)))
    return near_us * nodes_reached(e.ranks, e) / inside


def nodes_reached(nodes: Ints, e: ExpertExchange) -> Floats:
    """Nodes on which a token has experts, its own among them, in expectation: all are as likely, but a router that is
    limited to ``top_groups`` of its groups of experts leaves out nodes without one of them."""
    count, top_k = np.asarray(nodes, np.float64), float(e.top_k)
    free = reached(count, np.full(len(count), top_k))
    if e.groups <= 1:
        return free
    used = float(reached(np.array([float(e.top_groups)]), np.array([top_k]))[0])
    each = np.maximum(e.groups / count, 1.0)  # groups of a node
    # None of the used groups is among the node's: Π (others − i) ÷ (all − i), between whole numbers of groups.
    low = int(np.floor(used))

    def missed(chosen: int) -> Floats:
        out = np.ones(len(count))
        for i in range(chosen):
            out *= np.maximum(e.groups - each - i, 0.0) / (e.groups - i)
        return out

    part = used - low
    limited = np.minimum(count, e.groups) * (1 - (missed(low) * (1 - part) + missed(low + 1) * part))
    # Groups that span nodes: the experts in one lie on several of them.
    spans = np.maximum(count / e.groups, 1.0)
    return np.asarray(np.where(spans > 1, limited * reached(spans, np.full(len(count), top_k / used)), limited))


def _by_law(time_us: Floats, spread: Floats | float) -> Estimates:
    n = len(time_us)
    factor = np.exp(spread)
    return Estimates(time_us, time_us / factor, time_us * factor, np.full(n, ROOFLINE, np.int8), np.zeros(n, np.bool_))
