"""The whole job: request → operating points → fleet → plan document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from costmodels.architecture import Architecture
from costmodels.communication import Network
from costmodels.library import CostModel
from costmodels.precision import Precision, choose_precision, missing_hardware, require_latent_widths
from costmodels.registry import find_architecture
from costmodels.serving.frameworks import find_framework
from planner import fleet
from planner.evaluation import Job, Points, Search, percentile_ms, residents, search, sequences_that_fit
from planner.layouts import Rejected, Restrictions, legal_layouts
from planner.plans import Plan, validated
from planner.report import assemble
from planner.requests import Cluster, PlanRequest, Pool, parse_request
from profiles.errors import Infeasible, InputError, Unsupported
from profiles.hardware import find_fabric, find_gpu
from profiles.store import ProfileStore

MOST_GPUS_TRIED = 1024
"""Where the search for "how many GPUs would fit" ends."""


def plan(
    request: PlanRequest | Mapping[str, Any],
    *,
    store: ProfileStore | None = None,
    progress: Callable[[str], None] | None = None,
    allow_paths: bool = True,
) -> Plan:
    """The best deployment for ``request``, with its prediction and proof.

    Args:
        request: a :class:`PlanRequest`, or a mapping that :func:`planner.requests.parse_request` accepts.
        store: measurements to predict from; default the pack that ships.
        progress: called with a line of text before each slow step.
        allow_paths: whether ``model`` may be a path of a config.json.

    Raises:
        InputError, UnknownName, Unsupported: the request cannot be understood or modelled.
        Infeasible: nothing satisfies it; names what binds and the nearest thing that works.
        LimitReached: the solver's time limit passed without any plan.
        DataError: the measurements cannot be read.
    """
    if not isinstance(request, PlanRequest):
        request = parse_request(request)
    model = find_architecture(request.model, allow_paths=allow_paths)
    _check_length(request, model)
    require_latent_widths(model)
    precision = choose_precision(model, request.precision, request.kv_precision)
    jobs, refused = _jobs(request, model, precision, store, progress)
    searches = [search(job, restrictions(request, job.pool)) for job in jobs]
    chosen_from = [(i, s.fine) for i, s in enumerate(searches) if s.fine is not None and s.fine.within.any()]
    if not chosen_from:
        raise _no_plan(request, model, precision, searches)
    candidates, origin = _candidates(request, [s for _, s in chosen_from])
    choice = fleet.choose_fleet(
        fleet_pools(request.cluster),
        candidates,
        request.goal,
        request.workload.rate_rps if request.goal != "throughput" else None,
        time_limit_s=request.time_limit_s,
    )
    return validated(assemble(request, model, precision, searches, refused, candidates, origin, choice))


def _check_length(request: PlanRequest, model: Architecture) -> None:
    tokens = request.workload.isl + request.workload.osl
    if tokens > model.max_context_tokens:
        raise InputError(
            f"workload: isl {request.workload.isl} + osl {request.workload.osl} = {tokens} tokens is longer than the "
            f"context of {model.name}, {model.max_context_tokens} tokens",
            "shorten the workload, or name a model (or a config.json) with a longer context",
        )


def restrictions(request: PlanRequest, pool: Pool) -> Restrictions:
    return Restrictions(
        pool.gpus,
        pool.gpus_per_node,
        request.max_tp,
        request.max_pp,
        request.max_engine_gpus,
        request.tp_across_nodes,
    )


def _jobs(
    request: PlanRequest,
    model: Architecture,
    precision: Precision,
    store: ProfileStore | None,
    progress: Callable[[str], None] | None,
) -> tuple[list[Job], list[Rejected]]:
    """One job per pool that can run the precision; the other pools as rejections."""
    framework = find_framework(request.framework)
    jobs, refused = [], []
    for index, pool in enumerate(request.cluster.pools):
        gpu = find_gpu(pool.gpu)
        why = missing_hardware(precision, gpu)
        if why is not None:
            refused.append(Rejected(why, 1, f"pool {pool.name}"))
            continue
        network = Network(min(pool.gpus_per_node, pool.gpus), find_fabric(pool.fabric))
        cost = CostModel(gpu, request.framework, store, progress)
        jobs.append(
            Job(
                index,
                pool,
                model,
                precision,
                framework,
                cost,
                network,
                request.workload,
                request.slo,
                request.confidence,
            )
        )
    if not jobs:
        raise Unsupported(
            f"precision: {refused[0].reason}",
            "choose another --precision (bf16 runs everywhere) or another GPU type",
        )
    return jobs, refused


def fleet_pools(cluster: Cluster) -> list[fleet.Pool]:
    return [
        fleet.Pool(pool.name, pool.nodes, pool.gpus_per_node, pool.usd_per_gpu_hour, pool.gpus)
        for pool in cluster.pools
    ]


def _candidates(request: PlanRequest, found: list[Points | None]) -> tuple[fleet.Candidates, list[tuple[Points, int]]]:
    """What the solver chooses from: per layout and batch limit the point of highest rate; for ``latency``, all
    points."""
    columns: dict[str, list[float]] = {"pool": [], "gpus": [], "block": [], "capacity": [], "latency": []}
    origin: list[tuple[Points, int]] = []
    for points in found:
        assert points is not None
        for i in _finalists(points, every=request.goal == "latency"):
            gpus = int(points.layouts.gpus[i])
            columns["pool"].append(points.job.pool_index)
            columns["gpus"].append(gpus)
            columns["block"].append(min(int(points.layouts.tp[i]), gpus))
            columns["capacity"].append(float(points.steady.rate_rps.value[i]))
            columns["latency"].append(float(points.steady.e2e_us.value[i]) / 1e3)
            origin.append((points, i))
    candidates = fleet.Candidates(
        np.array(columns["pool"], dtype=np.int64),
        np.array(columns["gpus"], dtype=np.int64),
        np.array(columns["block"], dtype=np.int64),
        np.array(columns["capacity"]),
        np.array(columns["latency"]),
    )
    return candidates, origin


def _finalists(points: Points, *, every: bool) -> list[int]:
    inside = np.flatnonzero(points.within)
    if every:
        return [int(i) for i in inside]
    rate = points.steady.rate_rps.value
    best: dict[tuple[int, ...], int] = {}
    for i in inside[np.argsort(rate[inside], kind="stable")]:
        best[(*points.key(int(i)), int(points.budget[i]))] = int(i)
    return sorted(best.values())


# ------------------------------------------------------------------ infeasible


def _no_plan(request: PlanRequest, model: Architecture, precision: Precision, searches: list[Search]) -> Infeasible:
    """Why there is no plan: nothing fits, or nothing is fast enough."""
    if all(s.coarse is None for s in searches):
        return _does_not_fit(request, model, precision, searches)
    grids = [s.coarse for s in searches if s.coarse is not None]
    reachable = {}
    for bound in request.slo.bounds:
        best = min(
            (
                (float(np.min(values)), points, int(np.argmin(values)))
                for points in grids
                for values in [
                    np.where(points.steady.stable, percentile_ms(points.steady, bound, request.confidence), np.inf)
                ]
            ),
            key=lambda item: item[0],
        )
        reachable[bound] = best
    impossible = {b: r for b, r in reachable.items() if r[0] > b.limit_ms}
    where = f"{model.name} on {request.cluster.name} with {request.framework}"
    if impossible:
        bound, (best_ms, points, i) = max(impossible.items(), key=lambda item: item[1][0] / item[0].limit_ms)
        at = f"{points.layout(i).label}, {points.concurrency[i]} sequences, {points.budget[i]} tokens a step"
        return Infeasible(
            f"slo: {bound.label} ≤ {bound.limit_ms:g} ms binds: no layout of {where} reaches it; the best is "
            f"{best_ms:.4g} ms ({at})",
            f"relax {bound.label} to {_round_up(best_ms):g} ms or more, or use faster GPUs",
            binding=bound.label,
            best_reachable_ms=best_ms,
        )
    excess, points, i = min(
        (
            (float(np.min(worst)), points, int(np.argmin(worst)))
            for points in grids
            for worst in [
                np.where(
                    points.steady.stable,
                    np.max(
                        [percentile_ms(points.steady, b, request.confidence) / b.limit_ms for b in request.slo.bounds],
                        axis=0,
                    ),
                    np.inf,
                )
            ]
        ),
        key=lambda item: item[0],
    )
    values = {b.label: float(percentile_ms(points.steady, b, request.confidence)[i]) for b in request.slo.bounds}
    reached = ", ".join(f"{name}={value:.4g} ms" for name, value in values.items())
    return Infeasible(
        f"slo: each bound can be met alone, but no layout of {where} meets all of "
        f"{', '.join(b.label for b in request.slo.bounds)} together",
        f"the nearest is {points.layout(i).label} at {points.concurrency[i]} sequences: {reached}; "
        f"relax all bounds by {100 * (excess - 1):.0f} %, or those that it misses",
        binding="slo",
        nearest=values,
    )


def _round_up(value: float) -> float:
    """Two significant digits, upwards."""
    digits = 10 ** (np.floor(np.log10(value)) - 1)
    return float(np.ceil(value / digits) * digits)


def _does_not_fit(
    request: PlanRequest, model: Architecture, precision: Precision, searches: list[Search]
) -> Infeasible:
    job = searches[0].job
    gpus = job.pool.gpus
    tokens = request.workload.isl + request.workload.osl
    needed = _gpus_that_fit(request, job)
    rejected = [r for s in searches for r in s.rejected]
    memory = next((r.reason for r in rejected if "fit" in r.reason or "KV" in r.reason), None)
    reason = memory or (max(rejected, key=lambda r: r.count).reason if rejected else "no legal layout")
    message = (
        f"cluster: {model.name} in {precision.weights} with sequences of {tokens} tokens fits no layout on "
        f"{request.cluster.name}: {reason}"
    )
    if needed is None:
        return Infeasible(
            message,
            "allow more (--max-tp, --max-pp, --tp-across-nodes), or choose a smaller precision",
            binding="memory",
        )
    return Infeasible(
        message,
        f"{needed} {job.pool.gpu} would do ({gpus} are offered)",
        binding="memory",
        gpus_needed=needed,
    )


def _gpus_that_fit(request: PlanRequest, job: Job) -> int | None:
    """The least GPUs of the pool's type on which some layout holds two sequences of the workload."""
    total = job.pool.gpus
    for gpus in sorted({total + i for i in range(1, 8)} | {total * 2**i for i in range(1, 11)}):
        if gpus > MOST_GPUS_TRIED:
            return None
        wide = Pool(**{**job.pool.model_dump(), "gpus": gpus})
        layouts, _, _ = legal_layouts(job.model, job.precision, job.framework, restrictions(request, wide))
        if not len(layouts):
            continue
        budget = np.full(len(layouts), min(job.framework.token_budgets))
        if (sequences_that_fit(job, layouts, budget) >= residents(1)).any():
            return gpus
    return None
