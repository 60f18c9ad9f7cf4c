"""What else there was: the best layouts beside the chosen ones, and the frontier of speed per user against
throughput per GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from costmodels.estimates import Floats, Ints
from planner.contract.clusters import Pool
from planner.contract.workload.slo import Bound
from planner.serving.confirmation.confirmation import Confirmed
from planner.serving.document import plan as plans
from planner.serving.engines.energy import joules_per_token, points_lines, points_watts
from planner.serving.engines.options import ServingOption
from planner.serving.operating_points import LayoutSearch, OperatingPoints, percentile_ms, rate_at_confidence
from planner.serving.request import PlanRequest

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
    request: PlanRequest, best: ServingOption, chosen: set[tuple[int, ...]], found: Confirmed
) -> plans.Alternatives:
    """Ranked alternatives in the precision of the ``best`` option, aggregated engines all of them, and the Pareto
    frontier. Layouts of aggregated engines that are ``chosen`` are left out, and engines that were simulated carry no
    more than they did there."""
    searches, choice = best.searches, best.choice
    assert choice is not None
    assert choice.solution.objective is not None
    objective = choice.solution.objective
    ranked = [
        (loss / objective, points, int(i), int(engines[i]), float(scores[i]), float(rate[i]))
        for points in (s.fine for s in searches)
        if points is not None
        for rate in [found.carried_rps(best, points)]
        for engines, scores in [_scores(request, points, rate)]
        for losses in [objective - scores if request.goal == "throughput" else scores - objective]
        for i, loss in _best_by_layout(points, losses, chosen)
    ]
    ranked.sort(key=lambda a: (a[0], a[1].layouts.gpus[a[2]] * a[3], a[1].layout(a[2]).label))
    return plans.Alternatives(
        ranked=tuple(_alternative(request, *other) for other in ranked[:RANKED]),
        pareto=tuple(_pareto(request, searches)),
        energy=tuple(_energy(request, searches)) if asks_energy(request) else (),
    )


def _scores(request: PlanRequest, points: OperatingPoints, rate: Floats) -> tuple[Ints, Floats]:
    """Engines that each operating point takes, alone on its pool, and the objective they reach when each carries
    ``rate`` at most; shape [n] each, NaN where they cannot carry the load or have no price."""
    pool, gpus = points.job.pool, points.layouts.gpus
    sizes, back = np.unique(gpus, return_inverse=True)
    room = np.array([engines_that_fit(pool, size) for size in sizes.tolist()], dtype=np.int64)[back]
    if request.budget_watts is not None:
        room = np.minimum(room, (request.budget_watts / (points_watts(points) * gpus)).astype(np.int64))
    wanted = request.workload.rate_rps
    engines = room
    if wanted is not None and request.goal != "throughput":
        carries = rate > 0  # a simulation may have found that it keeps the SLO at no load
        needed = np.ceil(wanted / np.where(carries, rate, wanted) - 1e-9).astype(np.int64)
        engines = np.where(carries, needed, 0)
    price = np.nan if pool.usd_per_gpu_hour is None else pool.usd_per_gpu_hour
    score = {
        "throughput": engines * rate,
        "cost": engines * gpus * price,
        "gpus": (engines * gpus).astype(np.float64),
        "latency": points.steady.e2e_us.value / 1e3,
        "energy": _joules(request, points, engines) if request.goal == "energy" else engines,
    }[request.goal]
    return engines, np.where((engines >= 1) & (engines <= room), score, np.nan)


def _joules(request: PlanRequest, points: OperatingPoints, engines: Ints) -> Floats:
    """By output token, of so many engines that share the offered rate as the choice counts it, [n]: at the load that is
    there, not at the most that they carry."""
    wanted = request.workload.rate_rps
    if wanted is None:
        return joules_per_token(points)
    standing, each = points_lines(points, rate_at_confidence(points.steady.rate_rps, request.confidence))
    return np.asarray(engines * standing / wanted + each)


def _best_by_layout(points: OperatingPoints, losses: Floats, chosen: set[tuple[int, ...]]) -> list[tuple[int, float]]:
    """(index, loss) of the least loss of every layout that is not ``chosen``; of equals, the highest rate."""
    usable = np.flatnonzero(points.within & ~np.isnan(losses))
    best: dict[tuple[int, ...], tuple[int, float]] = {}
    for i in usable[np.lexsort((-points.steady.rate_rps.value[usable], losses[usable]))].tolist():
        key = points.key(i)
        if key not in chosen:
            best.setdefault(key, (i, float(losses[i])))
    return list(best.values())


def _alternative(
    request: PlanRequest, loses_by: float, points: OperatingPoints, i: int, engines: int, score: float, rate: float
) -> plans.Alternative:
    pool, gpus = points.job.pool, engines * int(points.layouts.gpus[i])
    point = _point(request, points, i)
    less = rate / point["engine_rate_rps"]
    for field in ("engine_rate_rps", "output_tokens_per_s_per_gpu"):
        point[field] *= less
    return plans.Alternative(
        **point,
        simulated=less < 1,
        engines=engines,
        gpus=gpus,
        usd_per_hour=None if pool.usd_per_gpu_hour is None else gpus * pool.usd_per_gpu_hour,
        score=score,
        loses_by=loses_by,
    )


def _point(request: PlanRequest, points: OperatingPoints, i: int) -> dict[str, Any]:
    """The fields of :class:`planner.serving.document.plan.OperatingPoint`."""
    concurrency, several = float(points.concurrency[i]), request.workload.osl > 1
    return {
        "pool": points.job.pool.name,
        "layout": points.layout(i),
        "gpus_per_engine": int(points.layouts.gpus[i]),
        "max_tokens_per_step": int(points.budget[i]),
        "concurrency": int(concurrency) if concurrency.is_integer() else concurrency,
        "engine_rate_rps": float(points.steady.rate_rps.value[i]),
        "output_tokens_per_s_per_gpu": float(points.output_tokens_per_gpu_s[i]),
        "output_tokens_per_s_per_user": 1e6 / float(points.steady.tpot_us.value[i]) if several else None,
        "ttft_ms": float(percentile_ms(points.steady, _bound(request, "ttft"))[i]),
        "tpot_ms": float(percentile_ms(points.steady, _bound(request, "tpot"))[i]) if several else None,
        "meets_slo": bool(points.within[i]),
        **(_energy_fields(points, i) if asks_energy(request) else {}),
    }


def asks_energy(request: PlanRequest) -> bool:
    """Whether clocks, limits or energy are asked about."""
    return request.goal == "energy" or request.clock is not None or request.power_cap is not None


def _energy_fields(points: OperatingPoints, i: int) -> dict[str, Any]:
    state = points.job.served.state
    return {
        "joules_per_output_token": float(joules_per_token(points.take(np.array([i])))[0]),
        "clock_mhz": None if state is None else state.clock_mhz,
        "power_cap_watts": None if state is None else state.cap_watts,
    }


def _energy(request: PlanRequest, searches: list[LayoutSearch]) -> list[plans.OperatingPoint]:
    """Operating points that no other beats in both speed per user and joules per output token, over all pools and
    states."""
    return _frontier(request, searches, lambda points: -joules_per_token(points))


def _bound(request: PlanRequest, metric: str) -> Bound:
    for bound in request.slo.bounds:
        if bound.metric == metric:
            return bound
    return Bound(metric=metric, limit_ms=1e12)  # type: ignore[arg-type]


def _pareto(request: PlanRequest, searches: list[LayoutSearch]) -> list[plans.OperatingPoint]:
    """Operating points that no other beats in both speed per user and throughput per GPU, over all pools."""
    return _frontier(request, searches, lambda points: points.output_tokens_per_gpu_s)


def _frontier(
    request: PlanRequest, searches: list[LayoutSearch], merit: Callable[[OperatingPoints], Floats]
) -> list[plans.OperatingPoint]:
    """Of speed per user against ``merit`` (the higher the better)."""
    every: list[tuple[float, float, OperatingPoints, int]] = []
    for points in (s.coarse for s in searches):
        if points is not None:
            # Where one token is all there is, its speed is what a user sees.
            time = points.steady.tpot_us if request.workload.osl > 1 else points.steady.ttft_us
            speed, other = 1e6 / time.value, merit(points)
            # Engines below one sequence are as fast as one that is hardly busier: the frontier is those that work.
            shown = points.steady.stable & (points.concurrency >= 1)
            shown = shown if shown.any() else points.steady.stable
            every += [(float(speed[i]), float(other[i]), points, i) for i in np.flatnonzero(shown).tolist()]
    frontier: list[tuple[float, float, OperatingPoints, int]] = []
    for point in sorted(every, key=lambda p: (-p[0], -p[1])):
        if not frontier or point[1] > frontier[-1][1]:
            frontier.append(point)
    if len(frontier) > PARETO:  # evenly spread, both ends kept
        frontier = [frontier[round(j * (len(frontier) - 1) / (PARETO - 1))] for j in range(PARETO)]
    return [plans.OperatingPoint(**_point(request, points, i)) for _, _, points, i in frontier]
