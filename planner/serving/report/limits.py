"""What the chosen engines' limits are good for: how long a request and how many at once their memory allows, and what
other token budgets of a step would carry."""

from __future__ import annotations

import numpy as np

from costmodels.serving.steady.disaggregated import joint, prefilling
from costmodels.serving.steady.kv_transfer import with_queue
from planner.serving.document import plan as plans
from planner.serving.document.prediction import LargestServed
from planner.serving.engines.disaggregated import UTILISATIONS, DisaggregatedEngines
from planner.serving.engines.groups import CacheTransfer, Group, LoadedFleet
from planner.serving.engines.prefill import PrefillCandidate
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
    """What engines of the chosen layouts that prefill would carry with each token budget, by the formulas; those that
    do nothing else beside the decode engines of the plan, as these are loaded."""
    found: list[plans.TokenBudget] = []
    for group in fleet.groups:
        if group.role == "decode":
            continue
        if group.role == "prefill":
            found += _of_prefill(group, [pair.transfer for pair in fleet.pairs if pair.prefill.id == group.id])
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


def _of_prefill(group: Group, transfers: list[CacheTransfer | None]) -> list[plans.TokenBudget]:
    """Of a prefill engine, beside every partner that the plan has for it."""
    candidate = group.candidate
    assert isinstance(candidate, PrefillCandidate)
    pool, job = candidate.pool, group.job
    rows = np.flatnonzero((pool.layouts.rows == np.array(group.layouts.row(0))).all(axis=1))
    return [
        _prefill_budget(group, job, pool, row, [each for each in transfers if each is not None])
        for row in rows[np.argsort(pool.budget[rows])].tolist()
    ]


def _prefill_budget(
    group: Group, job: Job, pool: DisaggregatedEngines, row: int, transfers: list[CacheTransfer]
) -> plans.TokenBudget:
    n, budget = len(UTILISATIONS), int(pool.budget[row])
    loads = prefilling(pool.steps.take(np.full(n, row)), UTILISATIONS)
    per_us = loads.rate_rps.value / loads.steps.layouts.dp / 1e6
    excess, ttft, worst = np.zeros(n), np.zeros(n), np.full(n, "", object)
    for transfer in transfers:
        receiver = transfer.decode.candidate
        send, _ = with_queue(pool.send_us(loads.steps.layouts, receiver.pool.copies(receiver.layouts)), per_us)
        receive, _ = with_queue(receiver.pool.receive_us(receiver.layouts), np.array([transfer.decode.rate_per_us]))
        decode = transfer.decode.loaded.take(np.zeros(n, np.int64))
        moved = np.maximum(send, receive)
        both = joint(job.served, job.shape.isl, loads, decode, moved, transfer.link, pool.kv_connector)
        with np.errstate(invalid="ignore"):  # of a queue that never ends, ∞ − ∞ and ∞ ÷ ∞
            ttft = np.maximum(ttft, both.ttft_percentile_us(0.9) / 1e3)
            for bound in job.slo.bounds:
                if bound.metric != "tpot":
                    over = percentile_ms(both, bound, job.confidence) / bound.limit_ms
                    over = np.where(np.isnan(over), np.inf, over)
                    worst = np.where(over > excess, bound.label, worst)
                    excess = np.maximum(excess, over)
    inside = np.flatnonzero((excess <= 1) & np.isfinite(ttft))
    i = int(inside[-1]) if len(inside) else 0
    return plans.TokenBudget(
        engine=group.id,
        max_tokens_per_step=budget,
        chosen=budget == group.limits.max_tokens_per_step,
        engine_rate_rps=float(loads.rate_rps.value[i]) if len(inside) else None,
        ttft_p90_ms=float(ttft[i]) if np.isfinite(ttft[i]) else None,
        missed=None if len(inside) else str(worst[i]),
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
