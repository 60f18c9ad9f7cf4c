"""The whole job: request → operating points → fleet → plan document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import ROUND_UP, Decimal
from typing import Any

import numpy as np

from costmodels.architecture import Architecture
from costmodels.communication import Network
from costmodels.estimates import Floats
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
            "choose another --precision (bf16 asks least of the hardware) or another GPU type",
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
            # A tensor-parallel group stays inside a node, or (--tp-across-nodes) fills whole ones.
            columns["block"].append(min(int(points.layouts.tp[i]), points.job.pool.gpus_per_node))
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


def _no_plan(
    request: PlanRequest, model: Architecture, precision: Precision, searches: list[Search]
) -> InputError | Infeasible:
    """Why there is no plan: nothing fits, nothing can be modelled, or nothing is fast enough."""
    grids = [s.coarse for s in searches if s.coarse is not None]
    if not grids:
        return _does_not_fit(request, model, precision, searches)
    where = f"{model.name} on {request.cluster.name} with {request.framework}"
    if not any(points.steady.stable.any() for points in grids):
        isl, osl = request.workload.isl, request.workload.osl
        return Unsupported(
            f"workload: isl {isl} with osl {osl} keeps every layout of {where} in prefill: fewer than one sequence "
            "decodes at a time, which is not modelled",
            "give a larger osl or a smaller isl, or allow more pipeline stages",
        )
    unmodelled = sum(s.prefill_bound for s in searches)
    if unmodelled:
        where += f" ({unmodelled} layouts that prefill keeps busy are not modelled)"
    bounds = request.slo.bounds
    limits = np.array([[bound.limit_ms] for bound in bounds])
    # Of every bound at every operating point, [bounds, n]; and by what factor the worst of them exceeds its limit, [n].
    latencies = [
        np.where(points.steady.stable, [percentile_ms(points.steady, b, request.confidence) for b in bounds], np.inf)
        for points in grids
    ]
    excess = [np.max(ms / limits, axis=0) for ms in latencies]
    nearest, i = _least(excess)
    values = {bound.label: float(latencies[nearest][j, i]) for j, bound in enumerate(bounds)}
    relax = " and ".join(
        f"{bound.label} to {_round_up(values[bound.label])} ms"
        for bound in bounds
        if values[bound.label] > bound.limit_ms
    )
    reachable = np.min([ms.min(axis=1) for ms in latencies], axis=0)  # by each bound alone
    j = int(np.argmax(reachable / limits[:, 0]))
    if reachable[j] > bounds[j].limit_ms:
        best, at = _least([ms[j] for ms in latencies])
        return Infeasible(
            f"slo: {bounds[j].label} ≤ {bounds[j].limit_ms:g} ms binds: no layout of {where} reaches it; the best is "
            f"{reachable[j]:.4g} ms ({_described(grids[best], at)})",
            f"relax {relax} or more, or use faster GPUs",
            binding=bounds[j].label,
            best_reachable_ms=float(reachable[j]),
            nearest=values,
        )
    reached = ", ".join(f"{name}={value:.4g} ms" for name, value in values.items())
    return Infeasible(
        f"slo: each bound can be met alone, but no layout of {where} meets all of "
        f"{', '.join(bound.label for bound in bounds)} together",
        f"the nearest reaches {reached} ({_described(grids[nearest], i)}); relax {relax} or more",
        binding="slo",
        nearest=values,
    )


def _least(values: list[Floats]) -> tuple[int, int]:
    """(array, index in it) of the least value."""
    k = int(np.argmin([each.min() for each in values]))
    return k, int(np.argmin(values[k]))


def _described(points: Points, i: int) -> str:
    concurrency = int(points.concurrency[i])
    sequences = f"{concurrency} sequence{'s' if concurrency > 1 else ''}"
    return f"{points.layout(i).label}, {sequences}, {points.budget[i]} tokens a step"


def _round_up(value: float) -> str:
    """Two significant digits, upwards, without an exponent: what can be asked for."""
    exact = Decimal(value)
    step = Decimal(1).scaleb(exact.adjusted() - 1)
    return f"{exact.quantize(step, ROUND_UP):f}"


def _does_not_fit(
    request: PlanRequest, model: Architecture, precision: Precision, searches: list[Search]
) -> Infeasible:
    rejected = [r for s in searches for r in s.rejected]
    of_memory = [r for r in rejected if r.of_memory]
    reason = max(of_memory or rejected, key=lambda r: r.count).reason
    tokens = request.workload.isl + request.workload.osl
    message = (
        f"cluster: {model.name} in {precision.weights} with sequences of {tokens} tokens fits no layout on "
        f"{request.cluster.name}: {reason}"
    )
    needed = {s.job.pool.name: _gpus_that_fit(request, s.job) for s in searches}
    ways = [
        f"{needed[pool.name]} {pool.gpu} would do ({pool.gpus} are offered)"
        for pool in (s.job.pool for s in searches)
        if needed[pool.name] is not None
    ]
    limited = any((request.max_tp, request.max_pp, request.max_engine_gpus))
    more = "raise --max-tp, --max-pp or --max-engine-gpus, or " if limited else ""
    less = "choose a smaller precision, shorter sequences or larger GPUs"
    return Infeasible(
        message,
        " or ".join(ways) or more + (less if of_memory else "choose another --precision or --framework"),
        binding="memory" if of_memory else "layout rules",
        gpus_needed=needed,
    )


def _gpus_that_fit(request: PlanRequest, job: Job) -> int | None:
    """The fewest GPUs of the pool's type on which some layout holds enough sequences of the workload; None where not
    even :data:`MOST_GPUS_TRIED` do."""
    gpus = job.pool.gpus
    while gpus < MOST_GPUS_TRIED:
        gpus = min(2 * gpus, MOST_GPUS_TRIED)
        wide = job.pool.model_copy(update={"gpus": gpus})
        layouts, _, _ = legal_layouts(job.model, job.precision, job.framework, restrictions(request, wide))
        budget = np.full(len(layouts), min(job.framework.token_budgets))
        enough = sequences_that_fit(job, layouts, budget) >= residents(1)
        if enough.any():
            # An engine is legal on a pool of its own size if it is on a larger one.
            return int(layouts.gpus[enough].min())
    return None
