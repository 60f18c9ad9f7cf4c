"""Where a plan or a deployment says one thing here and another there: it was changed by hand, and must not be replayed
or started."""

from __future__ import annotations

import math
from collections import Counter

from costmodels.operations.layouts import DEGREES
from planner.contract.clusters import Cluster, Pool
from planner.contract.deployment import Deployment
from planner.contract.engine import EngineGroup
from planner.launchers import find_launcher
from planner.serving.document.plan import Plan
from profiles.errors import InputError

WAY_OUT = "use the plan as `plan --output` wrote it, or plan again"

_ROUNDING = 1e-6


def check_plan(plan: Plan) -> None:
    """Refuses a plan that contradicts itself: as :func:`check_deployment`, and limits that the launch command does not
    say.

    Raises:
        InputError: naming the engine and both values.
    """
    if plan.decision.schedule and not any(rep.ranks for group in plan.decision.engines for rep in group.replicas):
        raise InputError(
            "plan: is a fleet's, which says how many engines run, not on which GPUs",
            "a fleet goes to `plan simulate`, to `plan export`, and to `plan compare` beside other fleets",
        )
    check_deployment("plan", plan.decision, plan.request.cluster)
    if plan.prediction.kv_transfer is None and any(group.role == "decode" for group in plan.decision.engines):
        raise InputError("plan: prediction.kv_transfer is missing, with engines that prefill and decode", WAY_OUT)
    for group in plan.decision.engines:
        _check_command(group)


def check_deployment(what: str, deployment: Deployment, cluster: Cluster) -> None:
    """Refuses engines that contradict themselves or their pools: sizes that are none, weights that send requests
    nowhere, ranks that are not the pool's GPUs or not the layout's, one GPU given twice, another price than the GPUs'.

    Args:
        what: the document, as messages call it.

    Raises:
        InputError: naming the engine and both values.
    """
    for group in deployment.engines:
        if not group.replicas:
            raise InputError(f"{what}: {group.id} has no replicas", WAY_OUT)
    _check_weights(what, deployment)
    taken: Counter[tuple[str, int, int]] = Counter()
    for group in deployment.engines:
        pool = pool_of(what, cluster, group)
        _check_sizes(what, group, pool)
        _check_ranks(what, group, pool, taken)
    _check_sums(what, deployment, cluster)


def pool_of(what: str, cluster: Cluster, group: EngineGroup) -> Pool:
    """The pool of the document's cluster that an engine group is on.

    Raises:
        InputError: there is none, or it has other GPUs.
    """
    for pool in cluster.pools:
        if pool.name == group.pool:
            if pool.gpu != group.gpu:
                raise InputError(f"{what}: {group.id} has {group.gpu}, and its pool has {pool.gpu}", WAY_OUT)
            return pool
    raise InputError(f"{what}: the pool {group.pool!r} of {group.id} is not one of its cluster", WAY_OUT)


def _check_weights(what: str, deployment: Deployment) -> None:
    """The gateway's weights must send every request somewhere: those of the engines that take requests in (and
    those of the decode engines behind them) each sum to 1."""
    entry, behind = (
        [(group, replica) for group in deployment.engines if (group.role == "decode") is decode
         for replica in group.replicas]
        for decode in (False, True)
    )  # fmt: skip
    if not entry and not behind:
        raise InputError(f"{what}: decision.engines has no engine that takes requests", WAY_OUT)
    if not entry:
        raise InputError(
            f"{what}: has decode engines alone; nothing hands them prompts",
            "import the prefill engines with them (one script, one folder); `plan predict` tells what they do alone, "
            "at a batch: --workload …,concurrency=N",
        )
    for replicas in (entry, behind):
        for _, replica in replicas:
            if not (math.isfinite(replica.weight) and replica.weight >= 0):
                raise InputError(f"{what}: the weight {replica.weight} of {replica.id} is not a share", WAY_OUT)
        total = math.fsum(replica.weight for _, replica in replicas)
        if replicas and abs(total - 1) > _ROUNDING:
            role = replicas[0][0].role
            raise InputError(f"{what}: the weights of its {role} engines sum to {total:.6g}, not to 1", WAY_OUT)
    if behind and not any(group.role == "prefill" for group, _ in entry):
        raise InputError(f"{what}: has decode engines and no prefill engine before them", WAY_OUT)
    if not behind and any(group.role == "prefill" for group, _ in entry):
        raise InputError(
            f"{what}: has prefill engines and no decode engine behind them",
            "import the decode engines with them (one script, one folder); `plan predict` tells what they do alone, "
            "at a batch: --workload …,concurrency=N",
        )
    _check_pairs(what, deployment)
    if behind and any(group.role == "aggregated" for group, _ in entry):
        raise InputError(f"{what}: has aggregated engines beside prefill and decode engines", WAY_OUT)


def _check_pairs(what: str, deployment: Deployment) -> None:
    """Requests are routed by weights that hold for all engines of a role, so all must go together."""
    if not deployment.pairs:
        return
    engines = deployment.engines
    first, second = ([group.id for group in engines if group.role == role] for role in ("prefill", "decode"))
    pairs = set(deployment.pairs)
    for ids, known in ((pair, (first, second)) for pair in deployment.pairs):
        for name, group in zip(ids, known, strict=True):
            if name not in group:
                raise InputError(f"{what}: decision.pairs names {name!r}, which is no engine of that role", WAY_OUT)
    for one in first:
        for other in second:
            if (one, other) not in pairs:
                raise InputError(
                    f"{what}: decision.pairs leaves {one} with {other} out; only fleets of all pairs are simulated",
                    WAY_OUT,
                )


def _check_sizes(what: str, group: EngineGroup, pool: Pool) -> None:
    degrees = {name: getattr(group.layout, name) for name in DEGREES}
    counts = {**degrees, **group.limits.model_dump(exclude={"memory_fraction"})}
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{what}: {name} {count} of {group.id} is not at least 1", WAY_OUT)
    if group.layout.gpus > pool.gpus:
        raise InputError(f"{what}: {group.id} takes {group.layout.gpus} GPUs, and its pool has {pool.gpus}", WAY_OUT)
    if not 0 < group.limits.memory_fraction <= 1:
        raise InputError(f"{what}: memory_fraction {group.limits.memory_fraction} of {group.id} is no share", WAY_OUT)


def _check_ranks(what: str, group: EngineGroup, pool: Pool, taken: Counter[tuple[str, int, int]]) -> None:
    """Each rank of the layout once, on a GPU of the pool that no other rank has; ``taken`` grows."""
    gpus = group.layout.gpus
    if group.gpus_per_engine != gpus:
        raise InputError(
            f"{what}: gpus_per_engine {group.gpus_per_engine} of {group.id}, and its layout takes {gpus}", WAY_OUT
        )
    for replica in group.replicas:
        if sorted(rank.rank for rank in replica.ranks) != list(range(gpus)):
            raise InputError(
                f"{what}: {replica.id} has {len(replica.ranks)} ranks, not ranks 0 to {gpus - 1} of its layout", WAY_OUT
            )
        for rank in replica.ranks:
            if not (0 <= rank.node < pool.nodes and 0 <= rank.gpu < pool.gpus_per_node):
                raise InputError(
                    f"{what}: {replica.id} is on GPU {rank.gpu} of node {rank.node}, and pool {pool.name} has "
                    f"{pool.nodes} nodes of {pool.gpus_per_node}",
                    WAY_OUT,
                )
            taken[place := (pool.name, rank.node, rank.gpu)] += 1
            if taken[place] > 1:
                raise InputError(
                    f"{what}: GPU {rank.gpu} of node {rank.node} in pool {pool.name} is given twice, the second time "
                    f"to {replica.id}",
                    WAY_OUT,
                )


def _check_sums(what: str, deployment: Deployment, cluster: Cluster) -> None:
    """GPUs and price are those of the engines."""
    used = {group.id: len(group.replicas) * group.layout.gpus for group in deployment.engines}
    if deployment.gpus_used != sum(used.values()):
        raise InputError(
            f"{what}: decision.gpus_used is {deployment.gpus_used}, and its engines take {sum(used.values())}", WAY_OUT
        )
    prices = [pool_of(what, cluster, group).usd_per_gpu_hour for group in deployment.engines]
    cost = deployment.usd_per_hour
    if cost is None or None in prices or deployment.schedule:  # a fleet pays by supply, instance and hour
        return
    total = math.fsum(used[group.id] * (price or 0.0) for group, price in zip(deployment.engines, prices, strict=True))
    if not math.isclose(cost, total, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        raise InputError(
            f"{what}: decision.usd_per_hour is {cost:g}, and its GPUs cost {total:g} at the cluster's prices", WAY_OUT
        )


def _check_command(group: EngineGroup) -> None:
    other = find_launcher(group.launch.framework).other_limits(group.launch.command, group.limits, group.layout)
    if other is not None:
        raise InputError(f"plan: the launch command of {group.id} has {other}", WAY_OUT)
