"""Large rows as smaller ones of the same shape: servers of one kind and priority are exchangeable, so that of very many
as large a share is simulated of each, under as large a share of every budget, and each stands for several. Lowest nodes
of few servers (racks) are simulated whole, some of them for all: :mod:`planner.power.racks`.

What single servers do by chance then counts for more than it does (of 200 by the root of 50 more than of 10,000):
under the same bursts a row is said to hold fewer servers for it, not more. Reference traffic is scaled to what is
simulated: of 800 servers its bursts are larger than of 200 until a row rises as published, and it peaks 1 % higher."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from planner.power.request import PowerRequest, RowServers, SupplyNode, leaves
from profiles.errors import Unsupported

SIMULATED = 200
"""Servers that are simulated of a row, at least; one of twice as many and more has several stand for each other."""

OF_A_NODE = 40
"""Of each lowest node, at least: on fewer, chance would decide what a node holds. One of fewer is simulated whole."""

MOST_SIMULATED = 800
"""With whatever nodes: some ten minutes on two cores."""


@dataclass(frozen=True)
class Smaller:
    """The row that is simulated in the place of another, without its load; ``block``: servers that each of its stands
    for; ``stand_for``: of nodes that are simulated whole, by name, how many there are of their depth, and in the row
    (empty: all servers of every node are simulated, or as large a share of each)."""

    request: PowerRequest
    block: float = 1.0
    stand_for: dict[str, tuple[int, int]] = field(default_factory=dict)


def smaller(request: PowerRequest) -> Smaller:
    """What is simulated of ``request``'s row: itself, where it is not large.

    Raises:
        Unsupported: a priority is of so few servers that more would have to be simulated than can be.
    """
    today, lowest = request.today, leaves(request.supply)
    rarest = min((share for each in request.priorities if (share := each.share) * today >= 1), default=1.0)
    if today / max(int(rarest * today), 1) > MOST_SIMULATED:
        raise Unsupported(
            f"priorities: one is of so few of today's {today:,} servers that of the {MOST_SIMULATED:,} that "
            "are simulated at most none would have it",
            f"give each a share of {1 / MOST_SIMULATED:.3%} and more, or take it together with another",
        )
    few = min(_places(each, today / len(lowest)) for each in lowest) // OF_A_NODE if len(lowest) > 1 else today
    several = max(int(min(today // SIMULATED, few, rarest * today)), 1)
    if today / several > MOST_SIMULATED:
        share = max(SIMULATED, 1 / rarest) / today
        return _smaller(request, _some_of(request.supply, share * sum(_places(each, 0) for each in lowest)))
    if several <= 1:
        return Smaller(request)
    servers = tuple(_part(each, 1 / several) for each in request.servers)
    block = today / sum(each.today for each in servers)
    return _smaller(request, _shrunk(request.supply, block), servers)


def flat(request: PowerRequest) -> PowerRequest:
    """The row without its lower nodes, of as many servers as are simulated at most."""
    root = request.supply.model_copy(update={"children": (), "servers": None})
    share = min(MOST_SIMULATED / request.today, 1.0)
    servers = tuple(_part(each, share) for each in request.servers)
    return _smaller(request, _shrunk(root, 1 / share), servers).request


def _smaller(request: PowerRequest, supply: SupplyNode, servers: tuple[RowServers, ...] | None = None) -> Smaller:
    whole, lowest = leaves(request.supply), leaves(supply)
    if servers is None:
        share = sum(_places(each, 0) for each in lowest) / sum(_places(each, 0) for each in whole)
        servers = tuple(_part(each, share) for each in request.servers)
    block = request.today / sum(each.today for each in servers)
    update = {"servers": servers, "supply": supply}
    if request.training is not None:
        update["training"] = request.training.model_copy(update={"watts": request.training.watts / block})
    return Smaller(request.model_copy(update=update), block, _stand_for(request.supply, supply))


def _stand_for(all_of_them: SupplyNode, some: SupplyNode) -> dict[str, tuple[int, int]]:
    """As of :class:`Smaller`; names are of one node each."""
    was = [*_by_depth(all_of_them)]
    return {
        node.name: (len(now), len(before))
        for before, now in zip(was, _by_depth(some), strict=False)
        for node in now
        if len(now) < len(before) and _below(node) == _below(next(each for each in before if each.name == node.name))
    }


def _by_depth(root: SupplyNode) -> Iterator[list[SupplyNode]]:
    nodes = [root]
    while nodes:
        yield nodes
        nodes = [child for node in nodes for child in node.children]


def _part(each: RowServers, share: float) -> RowServers:
    return each.model_copy(update={"today": max(round(each.today * share), min(each.today, 1))})


def _places(leaf: SupplyNode, unknown: float) -> float:
    return unknown if leaf.servers is None else leaf.servers


def _below(node: SupplyNode) -> int:
    return sum(each.servers or 0 for each in leaves(node))


def _shrunk(node: SupplyNode, block: float) -> SupplyNode:
    """Every lowest node with its share of servers."""
    if not node.children:
        servers = None if node.servers is None else round(node.servers / block)
        return _with(node, (), servers, 1 / block)
    return _with(node, tuple(_shrunk(each, block) for each in node.children), None, 1 / block)


def _some_of(node: SupplyNode, servers: float) -> SupplyNode:
    """Some of its children with about ``servers`` below them, each of :data:`OF_A_NODE` at least or whole: evenly among
    them by watts a server, the tightest first."""
    have = _below(node)
    if not node.children:
        return _with(node, (), have if have < 2 * OF_A_NODE else min(max(round(servers), OF_A_NODE), have), 1.0)
    order = sorted(node.children, key=lambda each: each.budget_watts / max(_below(each), 1))
    count = min(math.ceil(servers / min(have / len(order), OF_A_NODE)), len(order))
    step = (len(order) - 1) / max(count - 1, 1)
    kept = [order[round(i * step)] for i in range(count)]
    each = servers / max(sum(_below(child) for child in kept), 1)
    names = {child.name for child in kept}
    return _with(
        node,
        tuple(_some_of(child, each * _below(child)) for child in node.children if child.name in names),
        None,
        1.0,
    )


def _with(node: SupplyNode, children: tuple[SupplyNode, ...], servers: int | None, share: float) -> SupplyNode:
    """``node`` with the budget of what is left of its servers (``share``, where nothing is said of them)."""
    before = _below(node)
    after = sum(_below(each) for each in children) if children else servers or 0
    share = after / before if before and after else share
    update = {"budget_watts": node.budget_watts * share, "servers": servers, "children": children}
    return node.model_copy(update=update)
