"""What else there was: the best layouts beside the chosen ones, and the frontier of speed per user against
throughput per GPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from planner import plans
from planner.evaluation import Points, Search, percentile_ms
from planner.fleet import FleetChoice
from planner.requests import Bound, PlanRequest, Pool

RANKED = 8
PARETO = 16


def engines_that_fit(pool: Pool, gpus: int) -> int:
    """How many engines of ``gpus`` GPUs the pool holds: small ones inside nodes, large ones on whole nodes and one
    rest."""
    sizes = [pool.gpus_per_node] * (pool.gpus // pool.gpus_per_node)
    if pool.gpus % pool.gpus_per_node:
        sizes.append(pool.gpus % pool.gpus_per_node)
    if gpus <= pool.gpus_per_node:
        return sum(size // gpus for size in sizes)
    whole, rest = divmod(gpus, pool.gpus_per_node)
    full = pool.gpus // pool.gpus_per_node
    partial = pool.gpus % pool.gpus_per_node
    for count in range(full // whole, 0, -1):
        spare = full - count * whole
        hosts = spare * (pool.gpus_per_node // rest) + partial // rest if rest else count
        if hosts >= count:
            return count
    return 0


def alternatives(
    request: PlanRequest, searches: list[Search], choice: FleetChoice, chosen: set[tuple[int, ...]]
) -> plans.Alternatives:
    """Ranked alternatives (chosen layouts left out) and the Pareto frontier."""
    assert choice.solution.objective is not None
    ranked = []
    for found in (s.fine for s in searches):
        if found is not None:
            ranked += _best_by_layout(request, found, choice.solution.objective, chosen)
    ranked.sort(key=lambda a: (a.loses_by, a.gpus, a.layout.label))
    return plans.Alternatives(ranked=tuple(ranked[:RANKED]), pareto=tuple(_pareto(request, searches)))


def _best_by_layout(
    request: PlanRequest, points: Points, objective: float, chosen: set[tuple[int, ...]]
) -> list[plans.Alternative]:
    best: dict[tuple[int, ...], plans.Alternative] = {}
    for i in np.flatnonzero(points.within):
        key = points.key(int(i))
        if key in chosen:
            continue
        # Building the document for each point would be slow: only a better score is worth it.
        alternative = _alternative(request, points, int(i), objective)
        if alternative is not None and (key not in best or alternative.loses_by < best[key].loses_by):
            best[key] = alternative
    return list(best.values())


def _alternative(request: PlanRequest, points: Points, i: int, objective: float) -> plans.Alternative | None:
    """Operating point ``i`` alone on its pool; None where it cannot carry the rate."""
    pool = points.job.pool
    gpus = int(points.layouts.gpus[i])
    room = engines_that_fit(pool, gpus)
    rate = float(points.steady.rate_rps.value[i])
    wanted = request.workload.rate_rps
    engines = room if wanted is None or request.goal == "throughput" else math.ceil(wanted / rate - 1e-9)
    if engines > room or engines < 1:
        return None
    price = pool.usd_per_gpu_hour
    cost = None if price is None else engines * gpus * price
    score = {
        "throughput": engines * rate,
        "cost": cost,
        "gpus": float(engines * gpus),
        "latency": float(points.steady.e2e_us.value[i]) / 1e3,
    }[request.goal]
    if score is None:
        return None
    loss = objective - score if request.goal == "throughput" else score - objective
    return plans.Alternative(
        **_point(request, points, i),
        engines=engines,
        gpus=engines * gpus,
        usd_per_hour=cost,
        score=score,
        loses_by=loss / objective,
    )


def _point(request: PlanRequest, points: Points, i: int) -> dict[str, Any]:
    """The fields of :class:`planner.plans.OperatingPoint`."""
    return {
        "pool": points.job.pool.name,
        "layout": points.layout(i),
        "gpus_per_engine": int(points.layouts.gpus[i]),
        "max_tokens_per_step": int(points.budget[i]),
        "concurrency": int(points.concurrency[i]),
        "engine_rate_rps": float(points.steady.rate_rps.value[i]),
        "output_tokens_per_s_per_gpu": float(points.output_tokens_per_gpu_s[i]),
        "output_tokens_per_s_per_user": 1e6 / float(points.steady.tpot_us.value[i]),
        "ttft_ms": float(percentile_ms(points.steady, _bound(request, "ttft"))[i]),
        "tpot_ms": float(percentile_ms(points.steady, _bound(request, "tpot"))[i]),
        "meets_slo": bool(points.within[i]),
    }


def _bound(request: PlanRequest, metric: str) -> Bound:
    for bound in request.slo.bounds:
        if bound.metric == metric:
            return bound
    return Bound(metric=metric, limit_ms=1e12)  # type: ignore[arg-type]


def _pareto(request: PlanRequest, searches: list[Search]) -> list[plans.OperatingPoint]:
    """Operating points that no other beats in both speed per user and throughput per GPU, over all pools."""
    every = [
        (
            1e6 / float(points.steady.tpot_us.value[i]),
            float(points.output_tokens_per_gpu_s[i]),
            points,
            int(i),
        )
        for points in (s.coarse for s in searches)
        if points is not None
        for i in np.flatnonzero(points.steady.stable)
    ]
    frontier: list[tuple[float, float, Points, int]] = []
    for point in sorted(every, key=lambda p: (-p[0], -p[1])):
        if not frontier or point[1] > frontier[-1][1]:
            frontier.append(point)
    if len(frontier) > PARETO:  # evenly spread, both ends kept
        frontier = [frontier[round(j * (len(frontier) - 1) / (PARETO - 1))] for j in range(PARETO)]
    return [plans.OperatingPoint(**_point(request, points, i)) for _, _, points, i in frontier]
