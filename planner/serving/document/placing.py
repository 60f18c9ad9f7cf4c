"""A plan's engines on what starts them: a fleet's on nodes (`plan fleet` says how many run), a rack's on its hosts."""

from __future__ import annotations

from collections.abc import Sequence

from planner.contract.clusters import SuppliedPool, supplied
from planner.contract.engine import EngineGroup, Rank
from planner.contract.fleet import Route
from planner.serving.document.plan import Plan
from planner.serving.document.schedules import check_schedule
from planner.solving.spread import dealt, size_on
from profiles.errors import Unsupported
from profiles.hardware import gpus_per_host
from profiles.values import shown

_SAME = 1e-6


def placed(plan: Plan) -> Plan:
    """``plan`` with every engine on nodes of its pool, big ones first, each on the first node with room (of more GPUs
    than a node has: on empty ones); spread evenly over the nodes of its supply where the plan is to survive the loss of
    some. A plan whose engines have their places is given back as it is. What a fleet has on spot or reserved is counted
    among the GPUs of its pool. The digest stays that of the fleet.

    Raises:
        InputError: the schedule contradicts itself.
        Unsupported: a fleet that is not one set of engines behind one router, or that finds no room.
    """
    decision = plan.decision
    if not decision.schedule or all(replica.ranks for group in decision.engines for replica in group.replicas):
        return plan
    check_schedule(plan)
    _check_one(plan)
    (service,) = plan.request.services
    spread = plan.request.survive.nodes > 0
    pools = []
    places: dict[str, tuple[Rank, ...]] = {}
    for pool in supplied(plan.request.cluster).pools:
        mine = [group for group in decision.engines if group.pool == pool.name]
        found, gpus = _on_nodes(mine, pool, spread=spread)
        pools.append(pool.model_copy(update={"gpus": gpus, "as_needed": False}))
        places |= found
    engines = tuple(
        group.model_copy(
            update={
                "replicas": tuple(
                    replica.model_copy(update={"ranks": places.get(replica.id, ())}) for replica in group.replicas
                )
            }
        )
        for group in decision.engines
    )
    request = plan.request.model_copy(
        update={
            "cluster": plan.request.cluster.model_copy(update={"pools": tuple(pools)}),
            "framework": service.framework or plan.request.framework,
            "config": service.config or plan.request.config,
        }
    )
    return plan.model_copy(update={"request": request, "decision": decision.model_copy(update={"engines": engines})})


def on_hosts(plan: Plan) -> Plan:
    """``plan`` with hosts for nodes, where a node is a rack's NVLink domain: commands, addresses and pods are of hosts.
    GPU g of domain n is GPU g mod h of host n · ⌈GPUs of a domain ÷ h⌉ + g div h, of h GPUs each. The digest stays."""
    hosts = {
        pool.name: (pool.gpus_per_node, gpus_per_host(pool.gpu, pool.gpus_per_node))
        for pool in plan.request.cluster.pools
    }
    if all(domain == host for domain, host in hosts.values()):
        return plan

    def split(group: EngineGroup) -> EngineGroup:
        domain, host = hosts[group.pool]
        first = -(-domain // host)
        replicas = tuple(
            replica.model_copy(
                update={
                    "ranks": tuple(
                        Rank(rank=rank.rank, node=rank.node * first + rank.gpu // host, gpu=rank.gpu % host)
                        for rank in replica.ranks
                    )
                }
            )
            for replica in group.replicas
        )
        return group.model_copy(update={"replicas": replicas})

    cluster = plan.request.cluster
    pools = tuple(pool.model_copy(update={"gpus_per_node": hosts[pool.name][1]}) for pool in cluster.pools)
    request = plan.request.model_copy(update={"cluster": cluster.model_copy(update={"pools": pools})})
    decision = plan.decision.model_copy(update={"engines": tuple(map(split, plan.decision.engines))})
    return plan.model_copy(update={"request": request, "decision": decision})


def _check_one(plan: Plan) -> None:
    """Refuses what is not the same engines all the time behind one router that goes by load."""
    services, groups = plan.request.services, plan.decision.engines
    if any(group.table is not None for group in groups) or any(each.model is None for each in services):
        raise Unsupported(
            "fleet: measured tables stand for its engines, so how they are started is not known",
            "give its services a model in place of tables, and plan again",
        )
    if len(services) > 1:
        raise Unsupported(
            f"fleet: serves {', '.join(shown(each.name) for each in services)}, and files are of one service",
            "write a fleet file of each service alone, and plan and export each",
        )
    first, *others = plan.decision.schedule
    for number, step in enumerate(others, 1):
        if {**step.engines} != {**first.engines}:
            raise Unsupported(
                f"fleet: its engines change (schedule[{number}] has others than schedule[0]), and files start one set",
                "plan a fleet of the step that you start: its classes with rate_rps under load, and no hours",
            )
    routes = [route for step in plan.decision.schedule for route in step.routing]
    for route in routes:
        if any(abs(_sent(route, g.id) - _sent(routes[0], g.id)) > _SAME for g in groups):
            raise Unsupported(
                f"fleet: {' and '.join(group.id for group in groups[:4])} get prompts of different lengths, and no "
                "router that files start goes by length",
                _one_kind(plan),
            )


def _sent(route: Route, group: str) -> float:
    """The share of a route's requests that a group gets; no group has both roles."""
    return route.weights.get(group, 0.0) + route.decode_weights.get(group, 0.0)


def _one_kind(plan: Plan) -> str:
    if any(group.role != "aggregated" for group in plan.decision.engines):
        return "plan again with --disaggregation never, or with one pool in its cluster and one range of prompts"
    fleet = plan.proof.fleet
    alone = [each for each in fleet.compared if each.name == "one kind of engine for all"] if fleet else []
    if not alone or alone[0].usd_per_hour is None or not alone[0].engines:
        return "plan a fleet of one kind of engine: leave one pool in its cluster"
    name, count = next(iter(alone[0].engines.items()))
    gpu = name.rpartition(" on ")[2]
    return (
        f"plan again with {gpu} alone in the cluster: {count} × {name} serve it for "
        f"${alone[0].usd_per_hour:.2f} per hour"
    )


class _Board:
    """The nodes of a supply, on which engines are given GPUs. ``node``: GPUs of one; ``gpus``: of all, None: as many as
    are needed; ``first``: the number of the first node."""

    def __init__(self, pool: str, node: int, gpus: int | None, first: int = 0) -> None:
        self.pool, self.node, self.gpus, self.first = pool, node, gpus, first
        self.sizes = [] if gpus is None else [min(node, gpus - begins) for begins in range(0, gpus, node)]
        self.free = list(self.sizes)
        self.places: dict[str, tuple[Rank, ...]] = {}

    def put(self, replica: str, group: EngineGroup, nodes: Sequence[int], keeps: int = 0) -> None:
        """Its pieces on ``nodes``; each keeps at least ``keeps`` GPUs from others."""
        ranks: list[Rank] = []
        for node, count in zip(nodes, _pieces(group, self.node), strict=True):
            start = self.sizes[node] - self.free[node]
            ranks += [Rank(rank=len(ranks) + i, node=self.first + node, gpu=start + i) for i in range(count)]
            self.free[node] -= max(count, keeps)
        self.places[replica] = tuple(ranks)

    def fit(self, groups: Sequence[EngineGroup]) -> None:
        """Big ones first, each on the first node with room."""
        for group in sorted(groups, key=lambda each: -each.layout.gpus):
            for replica in group.replicas:
                left, nodes = list(self.free), list[int]()
                for count in _pieces(group, self.node):
                    node = next((at for at, free in enumerate(left) if free >= count), None)
                    if node is None:
                        if self.gpus is not None:
                            raise self._full(replica.id, group)
                        node = len(left)
                        for each in (self.sizes, self.free, left):
                            each.append(self.node)
                    left[node] -= count
                    nodes.append(node)
                self.put(replica.id, group, nodes)

    def spread(self, groups: Sequence[EngineGroup], *, bought: bool) -> None:
        """Evenly, as the programme took them to stand; of a supply without limit each on nodes of its own."""
        alone = self.gpus is None and not bought
        large = [group for group in groups if alone or group.layout.gpus >= self.node]
        small = [] if alone else [group for group in groups if group.layout.gpus < self.node]
        taken = 0
        for group in large:
            for replica in group.replicas:
                pieces = len(_pieces(group, self.node))
                if self.gpus is None:
                    self.sizes += [self.node] * pieces
                    self.free += [self.node] * pieces
                elif taken + pieces > self.gpus // self.node:
                    raise self._full(replica.id, group)
                self.put(replica.id, group, range(taken, taken + pieces), self.node)
                taken += pieces
        gpus, counts = [group.layout.gpus for group in small], [len(group.replicas) for group in small]
        room = sum(self.sizes[taken:])
        if bought:
            used = sum(size_on(self.node, each) * count for each, count in zip(gpus, counts, strict=True))
            room = -(-used // self.node) * self.node
            self.sizes += [self.node] * (taken + room // self.node - len(self.sizes))
            self.free += [self.node] * (len(self.sizes) - len(self.free))
        stand = dealt(gpus, counts, self.node, room)
        if stand is None:  # the fleet survives the loss of any pack then
            self.fit(small)
            return
        waiting = [list(group.replicas) for group in small]
        for node, holds in enumerate(stand, taken):
            for kind, count in sorted(holds.items()):
                for _ in range(count):
                    self.put(waiting[kind].pop(0).id, small[kind], [node], size_on(self.node, gpus[kind]))

    def _full(self, replica: str, group: EngineGroup) -> Unsupported:
        return Unsupported(
            f"fleet: {replica} of {group.layout.gpus} GPUs finds no room on the nodes of pool {self.pool} "
            f"({self.gpus} GPUs, {self.node} a node)",
            f"offer {self.node} GPUs of {self.pool} more, and plan again",
        )


def _on_nodes(
    groups: Sequence[EngineGroup], pool: SuppliedPool, *, spread: bool
) -> tuple[dict[str, tuple[Rank, ...]], int]:
    """(replica → its ranks, GPUs of the nodes that the pool is taken to have)."""
    more = {"spot": pool.spot_gpus or 0, "reserved": pool.reserved_gpus or 0}
    own = None if pool.as_needed else pool.gpus
    if not spread:
        board = _Board(pool.name, pool.gpus_per_node, None if own is None else own + sum(more.values()))
        board.fit(groups)
        return board.places, max(sum(board.sizes), pool.gpus)
    places: dict[str, tuple[Rank, ...]] = {}
    first = 0
    for supply in dict.fromkeys(group.supply for group in groups):
        board = _Board(pool.name, pool.gpus_per_node, more.get(supply or "", own), first)
        bought = pool.instance is not None and supply == "on_demand" and pool.gpus_per_node > 1
        board.spread([group for group in groups if group.supply == supply], bought=bought)
        places |= board.places
        first += len(board.sizes)
    return places, max(first * pool.gpus_per_node, pool.gpus)


def _pieces(group: EngineGroup, per_node: int) -> list[int]:
    """GPUs of an engine on each of its nodes: tensor groups are not cut where they fit into a node."""
    gpus, tp = group.layout.gpus, group.layout.tp
    most = per_node // tp * tp if tp <= per_node else per_node
    whole, rest = divmod(gpus, most)
    return [most] * whole + [rest] * (rest > 0)
