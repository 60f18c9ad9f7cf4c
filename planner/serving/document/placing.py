"""A plan's engines on what starts them: a fleet's on nodes (`plan fleet` says how many run), a rack's on its hosts."""

from __future__ import annotations

from collections.abc import Sequence

from planner.contract.clusters import SuppliedPool
from planner.contract.engine import EngineGroup, Rank
from planner.contract.fleet import Route
from planner.serving.document.plan import Plan
from planner.serving.document.schedules import check_schedule
from profiles.errors import Unsupported
from profiles.hardware import gpus_per_host
from profiles.values import shown

_SAME = 1e-6


def placed(plan: Plan) -> Plan:
    """``plan`` with every engine on nodes of its pool, big ones first, each on the first node with room (of more GPUs
    than a node has: on empty ones). A plan whose engines have their places is given back as it is. What a fleet has on
    spot or reserved is counted among the GPUs of its pool. The digest stays that of the fleet.

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
    pools = []
    places: dict[str, tuple[Rank, ...]] = {}
    for pool in plan.request.cluster.pools:
        whole = _whole(pool) if isinstance(pool, SuppliedPool) else pool
        pools.append(whole)
        mine = [group for group in decision.engines if group.pool == pool.name]
        places |= _fitted(mine, pool.name, whole.gpus, whole.gpus_per_node)
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


def _whole(pool: SuppliedPool) -> SuppliedPool:
    more = (pool.spot_gpus or 0) + (pool.reserved_gpus or 0)
    return pool.model_copy(update={"gpus": pool.gpus + more})


def _fitted(groups: Sequence[EngineGroup], pool: str, gpus: int, per_node: int) -> dict[str, tuple[Rank, ...]]:
    """Replica → its ranks."""
    sizes = [min(per_node, gpus - begins) for begins in range(0, gpus, per_node)]
    free = list(sizes)
    out: dict[str, tuple[Rank, ...]] = {}
    for group in sorted(groups, key=lambda each: -each.layout.gpus):
        for replica in group.replicas:
            ranks: list[Rank] = []
            for count in _pieces(group, per_node):
                node = next((at for at, left in enumerate(free) if left >= count), None)
                if node is None:
                    raise Unsupported(
                        f"fleet: {replica.id} of {group.layout.gpus} GPUs finds no room on the nodes of pool {pool} "
                        f"({gpus} GPUs, {per_node} a node)",
                        f"offer {per_node} GPUs of {pool} more, and plan again",
                    )
                start = sizes[node] - free[node]
                ranks += [Rank(rank=len(ranks) + i, node=node, gpu=start + i) for i in range(count)]
                free[node] -= count
            out[replica.id] = tuple(ranks)
    return out


def _pieces(group: EngineGroup, per_node: int) -> list[int]:
    """GPUs of an engine on each of its nodes: tensor groups are not cut where they fit into a node."""
    gpus, tp = group.layout.gpus, group.layout.tp
    most = per_node // tp * tp if tp <= per_node else per_node
    whole, rest = divmod(gpus, most)
    return [most] * whole + [rest] * (rest > 0)
