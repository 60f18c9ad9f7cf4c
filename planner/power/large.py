"""Large rows as smaller ones of the same shape: servers of one kind and priority are exchangeable, so that of very many
as large a share is simulated of each, under as large a share of every budget, and each stands for several.

What single servers do by chance then counts for more than it does (of 200 by the root of 50 more than of 10,000):
under the same bursts a row is said to hold fewer servers for it, not more. Reference traffic is scaled to what is
simulated: of 800 servers its bursts are larger than of 200 until a row rises as published, and it peaks 1 % higher."""

from __future__ import annotations

from collections.abc import Callable

from planner.power.request import PowerRequest, RowServers, SupplyNode, leaves
from profiles.errors import Unsupported

SIMULATED = 200
"""Servers that are simulated of a row, at least; one of twice as many and more has several stand for each other."""

OF_A_NODE = 40
"""Of each lowest node, at least: on fewer, chance would decide what a node holds."""

MOST_SIMULATED = 800
"""With whatever nodes: some ten minutes on two cores."""


def smaller(request: PowerRequest) -> tuple[PowerRequest, float]:
    """The row that is simulated in the place of ``request``'s, without its load, and how many servers each of its
    stands for (1: it is the row itself).

    Raises:
        Unsupported: its lowest nodes are so small, and so many, or a priority is of so few servers, that more would
            have to be simulated than can be.
    """
    today, lowest = request.today, leaves(request.supply)
    places = [each.servers if each.servers is not None else today / len(lowest) for each in lowest]
    few = min(places) // OF_A_NODE if len(lowest) > 1 else today
    rarest = min((share for each in request.priorities if (share := each.share) * today >= 1), default=1.0)
    several = max(int(min(today // SIMULATED, few, rarest * today)), 1)
    if today / several > MOST_SIMULATED:
        _refuse(request, places, few <= rarest * today)
    if several <= 1:
        return request, 1.0
    servers = tuple(_part(each, several) for each in request.servers)
    block = today / sum(each.today for each in servers)
    update = {"servers": servers, "supply": _tree(request.supply, lambda node: _places(node, block), block)}
    if request.training is not None:
        update["training"] = request.training.model_copy(update={"watts": request.training.watts / block})
    return request.model_copy(update=update), block


def _refuse(request: PowerRequest, places: list[float], for_nodes: bool) -> None:
    if not for_nodes:
        raise Unsupported(
            f"priorities: one is of so few of today's {request.today:,} servers that of the {MOST_SIMULATED:,} that "
            "are simulated at most none would have it",
            f"give each a share of {1 / MOST_SIMULATED:.3%} and more, or take it together with another",
        )
    enough = OF_A_NODE * -(-request.today // MOST_SIMULATED)
    raise Unsupported(
        f"servers: today's {request.today:,} on {len(places):,} lowest nodes, the least of {min(places):,.0f} servers: "
        f"so many are simulated where every lowest node has {enough} and more",
        f"ask for each part of the tree of {MOST_SIMULATED} servers and fewer by itself, with its part of the load; "
        "or for the whole without its lowest nodes, whose budgets then are not looked at",
    )


def _part(each: RowServers, several: int) -> RowServers:
    return each.model_copy(update={"today": max(round(each.today / several), min(each.today, 1))})


def _places(leaf: SupplyNode, block: float) -> int | None:
    return None if leaf.servers is None else round(leaf.servers / block)


def _tree(node: SupplyNode, places: Callable[[SupplyNode], int | None], block: float) -> SupplyNode:
    """Every budget by what is left of the servers below it."""
    own = [(leaf.servers, places(leaf)) for leaf in leaves(node)]
    before, after = (sum(each or 0 for each in column) for column in zip(*own, strict=True))
    share = after / before if before and after else 1 / block
    return node.model_copy(
        update={
            "budget_watts": node.budget_watts * share,
            "servers": places(node),
            "children": tuple(_tree(child, places, block) for child in node.children),
        }
    )
