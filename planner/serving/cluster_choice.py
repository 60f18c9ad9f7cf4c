"""Clusters that a request leaves open: pools of which as many GPUs can be had as are needed, and pools to choose from.

The fewest GPUs: the request is planned on a node of the pool, and where that is not enough on as many as the refusal
names, until it holds; then on as many as that plan uses, until none is idle. Whatever engine could do with fewer fits
into the pool that was planned on, so no smaller number does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from planner.contract.clusters import Cluster, Pool
from planner.contract.progress import Step, Tell
from planner.serving.document.plan import ClusterTried, Plan
from planner.serving.request import PlanRequest
from profiles.errors import Infeasible, InputError, LimitReached, ShardwrightError, Unsupported

MOST_GPUS = 1024
"""Of one pool where the search for the fewest ends."""

NODES_FOR_SPEED = 4
"""Nodes up to which engines may grow where a latency, not the load, is too much for fewer."""

SAME = 0.02
"""Share by which pools together must be better than the best of them alone: less is within the predictions' noise."""

Planned = Callable[[PlanRequest], Plan]


def planned_on_open_cluster(request: PlanRequest, planned: Planned, progress: Tell) -> Plan:
    """The plan on the fewest GPUs of the request's open pools, or on the best of the pools to choose from.

    Args:
        planned: the plan on a cluster that is not open.

    Raises:
        InputError, Infeasible, LimitReached, Unsupported: what ``planned`` raises; of pools to choose from, with the
            reason of each.
    """
    request = request.model_copy(update={"objective": request.goal})
    if not request.cluster.choose:
        return _fewest(request, request.cluster.pools, planned)
    alone = []
    ways = len(request.cluster.pools) + 1
    for done, pool in enumerate(request.cluster.pools):
        progress(Step(f"planning on {pool.name} alone", done, ways))
        alone.append(_tried(request, (pool,), planned))
    together = None
    if request.workload.rate_rps is not None and len(alone) > 1 and any(each.plan for each in alone):
        progress(Step("planning on all of them together", ways - 1, ways))
        together = _together(request, alone, planned)
    return _chosen(request, alone, together)


@dataclass(frozen=True)
class _Attempt:
    """What came of ``pools``: a plan, or why there is none."""

    pools: tuple[Pool, ...]
    plan: Plan | None = None
    error: ShardwrightError | None = None

    @property
    def name(self) -> str:
        return " + ".join(pool.name for pool in self.pools)


def _tried(request: PlanRequest, pools: tuple[Pool, ...], planned: Planned) -> _Attempt:
    try:
        return _Attempt(pools, _fewest(request, pools, planned))
    except (Infeasible, InputError, LimitReached, Unsupported) as error:
        return _Attempt(pools, error=error)


def _fewest(request: PlanRequest, pools: Iterable[Pool], planned: Planned) -> Plan:
    """The plan on ``pools``, of which those that are open have no GPU more than it uses."""
    sized = tuple(pools)
    best: Plan | None = None
    while True:
        try:
            plan = planned(_on(request, sized))
        except Infeasible as error:
            if best is not None:  # fewer GPUs do not fall into nodes as they fell into more of them
                return best
            sized = _grown(sized, error)
            continue
        used = _used(plan, sized)
        if used == sized:
            return plan
        best, sized = plan, used


def _on(request: PlanRequest, pools: tuple[Pool, ...]) -> PlanRequest:
    name = "+".join(f"{pool.gpus}x{pool.name}" for pool in pools)
    return request.model_copy(update={"cluster": Cluster(name=name, pools=pools)})


def _grown(pools: tuple[Pool, ...], error: Infeasible) -> tuple[Pool, ...]:
    """``pools`` with more GPUs in the open ones. Raises ``error`` where more would not help."""
    needed = error.details.get("gpus_needed")
    grown = []
    for pool in pools:
        more = pool.gpus
        if pool.as_needed:
            asked = needed.get(pool.name) if isinstance(needed, dict) else None
            more = asked if isinstance(asked, int) and asked > pool.gpus else 2 * pool.gpus
            most = MOST_GPUS if isinstance(needed, dict) else NODES_FOR_SPEED * pool.gpus_per_node
            more = max(min(more, most), pool.gpus)
        grown.append(pool.model_copy(update={"gpus": more}))
    if tuple(grown) == pools:
        raise error
    return tuple(grown)


def _used(plan: Plan, pools: tuple[Pool, ...]) -> tuple[Pool, ...]:
    """``pools`` with what the plan uses of the open ones; those it does not use are left out."""
    used = dict.fromkeys((pool.name for pool in pools), 0)
    for group in plan.decision.engines:
        used[group.pool] += group.gpus_per_engine * len(group.replicas)
    return tuple(
        pool.model_copy(update={"gpus": used[pool.name]}) if pool.as_needed else pool
        for pool in pools
        if used[pool.name] or not pool.as_needed
    )


def _together(request: PlanRequest, alone: list[_Attempt], planned: Planned) -> _Attempt:
    """All pools at once, of the open ones as many GPUs as they need alone (one that does not serve alone may still take
    a role beside others)."""
    sizes = [each.plan.decision.gpus_used for each in alone if each.plan is not None]
    pools = []
    for each in alone:
        (pool,) = each.pools
        if pool.as_needed:
            gpus = each.plan.decision.gpus_used if each.plan is not None else max(sizes)
            pool = pool.model_copy(update={"gpus": gpus})
        pools.append(pool)
    found = _tried(request, tuple(pools), planned)
    if found.plan is None:
        return found
    used = {group.pool for group in found.plan.decision.engines}
    return _Attempt(tuple(pool for pool in pools if pool.name in used), found.plan)


def _chosen(request: PlanRequest, alone: list[_Attempt], together: _Attempt | None) -> Plan:
    """The best of them, with what came of the others; of equals within :data:`SAME` the simpler."""
    serving = [each for each in alone if each.plan is not None]
    if not serving:
        raise _none(alone)
    sign = -1.0 if request.goal == "throughput" else 1.0

    def value(each: _Attempt) -> float:
        assert each.plan is not None
        return sign * each.plan.proof.objective_value

    best = min(serving, key=value)
    mixed = together if together is not None and len(together.pools) > 1 else None
    if mixed is not None and mixed.plan is not None and value(mixed) < value(best) - SAME * abs(value(best)):
        best = mixed
    assert best.plan is not None
    rows = [_row(each, best, value) for each in (*alone, *([mixed] if mixed is not None else []))]
    alternatives = best.plan.alternatives.model_copy(update={"clusters": tuple(rows)})
    return best.plan.model_copy(update={"alternatives": alternatives}).sealed()


def _row(each: _Attempt, best: _Attempt, value: Callable[[_Attempt], float]) -> ClusterTried:
    plan = each.plan
    if plan is None:
        assert each.error is not None
        return ClusterTried(name=each.name, chosen=False, reason=each.error.message)
    of_best = value(best)
    return ClusterTried(
        name=each.name,
        chosen=each is best,
        gpus=plan.decision.gpus_used,
        usd_per_hour=plan.decision.usd_per_hour,
        objective_value=plan.proof.objective_value,
        loses_by=(value(each) - of_best) / abs(of_best),
    )


def _none(alone: list[_Attempt]) -> ShardwrightError:
    """The error of pools of which none serves: the first that says what would, with the reason of each."""
    errors = [each.error for each in alone if each.error is not None]
    first = next((error for error in errors if isinstance(error, Infeasible)), errors[0])
    reasons = "; ".join(f"{each.name}: {each.error.message}" for each in alone if each.error is not None)
    kind = next((kind for kind in (Infeasible, LimitReached) if isinstance(first, kind)), Unsupported)
    return kind(f"cluster: none of the pools serves it: {reasons}", first.hint, **first.details)
