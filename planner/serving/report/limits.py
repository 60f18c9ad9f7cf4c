"""What the chosen engines' limits are good for: how long a request and how many at once their memory allows, and what
other token budgets of a step would carry."""

from __future__ import annotations

import numpy as np

from planner.serving.document import plan as plans
from planner.serving.document.prediction import LargestServed
from planner.serving.engines.groups import Group, LoadedFleet
from planner.serving.operating_points import Job, LayoutSearch, OperatingPoints, percentile_ms, sequences_that_fit


def largest_of(group: Group) -> LargestServed:
    """The longest request, and the most at once, that an engine of the group has memory for."""
    served, layouts = group.job.served, group.layouts
    budget = np.array([group.limits.max_tokens_per_step])
    cache = float(served.memory(layouts, budget, sequences=1).kv_bytes[0])
    low, high = 0, served.model.max_context_tokens
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if float(served.kv_bytes(layouts, middle)[0]) <= cache else (low, middle - 1)
    most = sequences_that_fit(group.job, layouts, budget, prompts=group.role == "prefill")
    return LargestServed(context_tokens=low, concurrency=int(most[0]))


def token_budgets(fleet: LoadedFleet) -> tuple[plans.TokenBudget, ...]:
    """What engines of the chosen layouts would carry with each token budget, by the formulas: of aggregated ones, as
    the roles of others are paired over all of theirs."""
    found = []
    for group in fleet.groups:
        if group.role != "aggregated":
            continue
        (search,) = [s for s in fleet.option.searches if _alike(s.job, group.job)]
        for budget in group.job.served.framework.limits.token_budgets:
            found.append(_budget(group, search, budget))
    return tuple(found)


def _alike(one: Job, other: Job) -> bool:
    return (one.pool_index, one.state_key) == (other.pool_index, other.state_key)


def _budget(group: Group, search: LayoutSearch, budget: int) -> plans.TokenBudget:
    best = plans.TokenBudget(
        engine=group.id,
        max_tokens_per_step=budget,
        chosen=budget == group.limits.max_tokens_per_step,
        missed="the cache has no room, or prompts come faster than they are computed",
    )
    points, missed = search.fine, None
    inside = _of(points, group, budget, within=True)
    if points is not None and inside:
        i = inside[int(np.argmax(points.steady.rate_rps.value[inside]))]
    else:
        points = search.coarse
        tried = _of(points, group, budget, within=False)
        if points is None or not tried:
            return best
        nearest = points
        i = min(tried, key=lambda i: _excess(nearest, i)[0])
        missed = _excess(nearest, i)[1]
    steady = points.steady
    tpot = float(steady.tpot_percentile_us(0.9)[i]) / 1e3 if group.job.shape.osl > 1 else None
    return best.model_copy(
        update={
            "engine_rate_rps": None if missed else float(steady.rate_rps.value[i]),
            "ttft_p90_ms": float(steady.ttft_percentile_us(0.9)[i]) / 1e3,
            "tpot_p90_ms": tpot,
            "missed": missed,
        }
    )


def _of(points: OperatingPoints | None, group: Group, budget: int, *, within: bool) -> list[int]:
    """The points of the group's layout with this budget in which prefill keeps up, or of these those within the SLO."""
    if points is None:
        return []
    same = (points.layouts.rows == np.array(group.layouts.row(0))).all(axis=1) & (points.budget == budget)
    return [int(i) for i in np.flatnonzero(same & (points.within if within else points.steady.stable))]


def _excess(points: OperatingPoints, i: int) -> tuple[float, str]:
    """(by what factor the worst bound is exceeded, which)."""
    job = points.job
    worst = [
        (float(percentile_ms(points.steady, bound, job.confidence)[i]) / bound.limit_ms, bound.label)
        for bound in job.slo.bounds
    ]
    return max(worst, default=(1.0, "nothing"))
