"""Where a plan says one thing here and another there: it was changed by hand, and must not be replayed or started."""

from __future__ import annotations

import math
from collections import Counter

from planner.contract.clusters import Pool
from planner.contract.engine import EngineGroup
from planner.launchers import find_launcher
from planner.serving.document.plan import Plan
from profiles.errors import InputError

WAY_OUT = "use the plan as `plan --output` wrote it, or plan again"

_ROUNDING = 1e-6


def check_plan(plan: Plan) -> None:
    """Refuses a plan that contradicts itself: sizes that are none, weights that send requests nowhere, ranks that are
    not the pool's GPUs or not the layout's, one GPU given twice, limits that the launch command does not say, another
    price than the GPUs'.

    Raises:
        InputError: naming the engine and both values.
    """
    for group in plan.decision.engines:
        if not group.replicas:
            raise InputError(f"plan: {group.id} has no replicas", WAY_OUT)
    _check_weights(plan)
    taken: Counter[tuple[str, int, int]] = Counter()
    for group in plan.decision.engines:
        pool = pool_of(plan, group)
        _check_sizes(group, pool)
        _check_ranks(group, pool, taken)
        _check_command(group)
    _check_sums(plan)


def pool_of(plan: Plan, group: EngineGroup) -> Pool:
    """The pool of the plan's cluster that an engine group is on.

    Raises:
        InputError: there is none, or it has other GPUs.
    """
    for pool in plan.request.cluster.pools:
        if pool.name == group.pool:
            if pool.gpu != group.gpu:
                raise InputError(f"plan: {group.id} has {group.gpu}, and its pool has {pool.gpu}", WAY_OUT)
            return pool
    raise InputError(f"plan: the pool {group.pool!r} of {group.id} is not one of its cluster", WAY_OUT)


def _check_weights(plan: Plan) -> None:
    """The gateway's weights must send every request somewhere: those of the engines that take requests in (and
    those of the decode engines behind them) each sum to 1."""
    entry, behind = (
        [(group, replica) for group in plan.decision.engines if (group.role == "decode") is decode
         for replica in group.replicas]
        for decode in (False, True)
    )  # fmt: skip
    if not entry:
        raise InputError("plan: decision.engines has no engine that takes requests", WAY_OUT)
    for replicas in (entry, behind):
        for _, replica in replicas:
            if not (math.isfinite(replica.weight) and replica.weight >= 0):
                raise InputError(f"plan: the weight {replica.weight} of {replica.id} is not a share", WAY_OUT)
        total = math.fsum(replica.weight for _, replica in replicas)
        if replicas and abs(total - 1) > _ROUNDING:
            role = replicas[0][0].role
            raise InputError(f"plan: the weights of its {role} engines sum to {total:.6g}, not to 1", WAY_OUT)
    if behind and not any(group.role == "prefill" for group, _ in entry):
        raise InputError("plan: has decode engines and no prefill engine before them", WAY_OUT)
    if not behind and any(group.role == "prefill" for group, _ in entry):
        raise InputError("plan: has prefill engines and no decode engine behind them", WAY_OUT)
    if behind and plan.prediction.kv_transfer is None:
        raise InputError("plan: prediction.kv_transfer is missing, with engines that prefill and decode", WAY_OUT)
    _check_pairs(plan)
    if behind and any(group.role == "aggregated" for group, _ in entry):
        raise InputError("plan: has aggregated engines beside prefill and decode engines", WAY_OUT)


def _check_pairs(plan: Plan) -> None:
    """Requests are routed by weights that hold for all engines of a role, so all must go together."""
    if not plan.decision.pairs:
        return
    engines = plan.decision.engines
    first, second = ([group.id for group in engines if group.role == role] for role in ("prefill", "decode"))
    pairs = set(plan.decision.pairs)
    for ids, known in ((pair, (first, second)) for pair in plan.decision.pairs):
        for name, group in zip(ids, known, strict=True):
            if name not in group:
                raise InputError(f"plan: decision.pairs names {name!r}, which is no engine of that role", WAY_OUT)
    for one in first:
        for other in second:
            if (one, other) not in pairs:
                raise InputError(
                    f"plan: decision.pairs leaves {one} with {other} out; only fleets of all pairs are simulated",
                    WAY_OUT,
                )


def _check_sizes(group: EngineGroup, pool: Pool) -> None:
    counts = {**group.layout.model_dump(), **group.limits.model_dump(exclude={"memory_fraction"})}
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"plan: {name} {count} of {group.id} is not at least 1", WAY_OUT)
    if group.layout.gpus > pool.gpus:
        raise InputError(f"plan: {group.id} takes {group.layout.gpus} GPUs, and its pool has {pool.gpus}", WAY_OUT)
    if not 0 < group.limits.memory_fraction <= 1:
        raise InputError(f"plan: memory_fraction {group.limits.memory_fraction} of {group.id} is no share", WAY_OUT)


def _check_ranks(group: EngineGroup, pool: Pool, taken: Counter[tuple[str, int, int]]) -> None:
    """Each rank of the layout once, on a GPU of the pool that no other rank has; ``taken`` grows."""
    gpus = group.layout.gpus
    if group.gpus_per_engine != gpus:
        raise InputError(
            f"plan: gpus_per_engine {group.gpus_per_engine} of {group.id}, and its layout takes {gpus}", WAY_OUT
        )
    for replica in group.replicas:
        if sorted(rank.rank for rank in replica.ranks) != list(range(gpus)):
            raise InputError(
                f"plan: {replica.id} has {len(replica.ranks)} ranks, not ranks 0 to {gpus - 1} of its layout", WAY_OUT
            )
        for rank in replica.ranks:
            if not (0 <= rank.node < pool.nodes and 0 <= rank.gpu < pool.gpus_per_node):
                raise InputError(
                    f"plan: {replica.id} is on GPU {rank.gpu} of node {rank.node}, and pool {pool.name} has "
                    f"{pool.nodes} nodes of {pool.gpus_per_node}",
                    WAY_OUT,
                )
            taken[place := (pool.name, rank.node, rank.gpu)] += 1
            if taken[place] > 1:
                raise InputError(
                    f"plan: GPU {rank.gpu} of node {rank.node} in pool {pool.name} is given twice, the second time to "
                    f"{replica.id}",
                    WAY_OUT,
                )


def _check_command(group: EngineGroup) -> None:
    other = find_launcher(group.launch.framework).other_limits(group.launch.command, group.limits, group.layout)
    if other is not None:
        raise InputError(f"plan: the launch command of {group.id} has {other}", WAY_OUT)


def _check_sums(plan: Plan) -> None:
    """GPUs and price are those of the engines."""
    used = {group.id: len(group.replicas) * group.layout.gpus for group in plan.decision.engines}
    if plan.decision.gpus_used != sum(used.values()):
        raise InputError(
            f"plan: decision.gpus_used is {plan.decision.gpus_used}, and its engines take {sum(used.values())}", WAY_OUT
        )
    prices = [pool_of(plan, group).usd_per_gpu_hour for group in plan.decision.engines]
    cost = plan.decision.usd_per_hour
    if cost is None or None in prices:
        return
    total = math.fsum(
        used[group.id] * (price or 0.0) for group, price in zip(plan.decision.engines, prices, strict=True)
    )
    if not math.isclose(cost, total, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        raise InputError(
            f"plan: decision.usd_per_hour is {cost:g}, and its GPUs cost {total:g} at the cluster's prices", WAY_OUT
        )
