"""Why there is no plan, and the nearest thing that works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Floats
from costmodels.models.architecture import Architecture
from costmodels.models.precision import Precision
from costmodels.operations.roofline import WEIGHT_BYTES
from costmodels.serving.steady.disaggregated import (
    joint,
    prefilling,
)
from planner.serving.engines.disaggregated import UTILISATIONS, DisaggregatedEngines, find_disaggregated_engines
from planner.serving.engines.groups import slower
from planner.serving.engines.pairing import cannot_pair, partners
from planner.serving.layouts import layout_at, legal_layouts, restrictions
from planner.serving.operating_points import (
    IDLE,
    Job,
    LayoutSearch,
    OperatingPoints,
    Served,
    percentile_ms,
    sequences_that_fit,
)
from planner.serving.request import PlanRequest
from planner.serving.ways_out import relaxed_to
from profiles.errors import Infeasible, InputError, Unsupported

MOST_GPUS_TRIED = 1024
"""Where the search for "how many GPUs would fit" ends."""


@dataclass(frozen=True)
class _Tried:
    """What was predicted on one pool, or on a pair of pools: where it runs at all, and how a point is put in words."""

    served: Served
    works: np.ndarray
    described: Callable[[int], str]


def no_plan(
    request: PlanRequest, model: Architecture, searched: dict[Precision, list[LayoutSearch]]
) -> InputError | Infeasible:
    """Why there is no plan in any of the precisions: nothing fits, nothing keeps up, or nothing is fast enough."""
    grids = [s.coarse for searches in searched.values() for s in searches if s.coarse is not None]
    if not grids:
        precision, searches = min(searched.items(), key=lambda item: WEIGHT_BYTES[item[0].dense])
        return _does_not_fit(request, model, precision, searches)
    where = f"{model.name} on {request.cluster.name} with {request.framework}"
    tried: list[_Tried] = []
    if request.disaggregation != "always":
        tried += [_Tried(points.steady, points.steady.stable, _describe(points)) for points in grids]
    if request.disaggregation != "never":
        tried += [pair for searches in searched.values() for pair in _pairs(searches)]
    tried = [each for each in tried if each.works.any()]
    if not tried:  # an aggregated engine runs at some load, if any does
        served = next(search.job.served for searches in searched.values() for search in searches)
        if (refused := cannot_pair(served)) is not None:
            return Unsupported(
                f"disaggregation: {refused}", "leave --disaggregation at auto, or choose another --framework"
            )
        return Unsupported(
            f"disaggregation: no layout of {where} can take the prefill role and another the decode role",
            "allow more GPUs, or leave --disaggregation at auto",
        )
    bounds = request.slo.bounds
    if not bounds:
        return Infeasible(
            f"cluster: no fleet of {where} fits its nodes", "offer more GPUs, or allow smaller engines", binding="nodes"
        )
    limits = np.array([[bound.limit_ms] for bound in bounds])
    # Of every bound at every operating point, [bounds, n]; and by what factor the worst of them exceeds its limit, [n].
    latencies = [
        np.where(each.works, [percentile_ms(each.served, b, request.confidence) for b in bounds], np.inf)
        for each in tried
    ]
    excess = [np.max(ms / limits, axis=0) for ms in latencies]
    nearest, i = _least(excess)
    values = {bound.label: float(latencies[nearest][j, i]) for j, bound in enumerate(bounds)}
    exceeded = {bound.label: values[bound.label] for bound in bounds if values[bound.label] > bound.limit_ms}
    relax = relaxed_to(exceeded)
    reachable = np.min([ms.min(axis=1) for ms in latencies], axis=0)  # by each bound alone
    j = int(np.argmax(reachable / limits[:, 0]))
    if reachable[j] > bounds[j].limit_ms:
        best, at = _least([ms[j] for ms in latencies])
        return Infeasible(
            f"slo: {bounds[j].label} ≤ {bounds[j].limit_ms:g} ms binds: no layout of {where} reaches it; the best is "
            f"{reachable[j]:.4g} ms ({tried[best].described(at)})",
            f"relax {relax} or more, or use faster GPUs",
            binding=bounds[j].label,
            best_reachable_ms=float(reachable[j]),
            nearest=values,
            relax_ms=exceeded,
        )
    reached = ", ".join(f"{name}={value:.4g} ms" for name, value in values.items())
    return Infeasible(
        f"slo: each bound can be met alone, but no layout of {where} meets all of "
        f"{', '.join(bound.label for bound in bounds)} together",
        f"the nearest reaches {reached} ({tried[nearest].described(i)}); "
        + (f"relax {relax} or more" if relax else "it needs more GPUs than one pool has"),
        binding="slo",
        nearest=values,
        relax_ms=exceeded,
    )


def _describe(points: OperatingPoints) -> Callable[[int], str]:
    def described(i: int) -> str:
        return f"{points.layout(i).label}, {_sequences(points.concurrency[i])}, {points.budget[i]} tokens a step"

    return described


def _sequences(concurrency: float) -> str:
    if concurrency == IDLE:
        return "at hardly any load"
    return f"{concurrency:g} sequence{'s' if concurrency > 1 else ''}"


def _pairs(searches: list[LayoutSearch]) -> list[_Tried]:
    """Every prefill engine at its lowest load beside every decode engine, over a free link."""
    found = [
        roles
        for roles in (find_disaggregated_engines(search, within=False) for search in searches)
        if roles is not None
    ]
    if not found or cannot_pair(found[0].job.served) is not None:
        return []
    return [_pair(first, second) for pools in partners(found) for first in pools for second in pools]


def _pair(first: DisaggregatedEngines, second: DisaggregatedEngines) -> _Tried:
    k, m = len(first.layouts), len(second.decode)
    p, d = np.repeat(np.arange(k), m), np.tile(np.arange(m), k)
    prefill = prefilling(first.steps, np.full(k, UTILISATIONS[0])).take(p)
    decode = second.decode.take(d)
    send = first.send_us(prefill.steps.layouts, second.copies(decode.layouts))
    transfer = np.maximum(send, second.receive_us(decode.layouts))
    link = slower(first.link, second.link)
    job = first.job
    pairs = joint(job.served, job.shape.isl, prefill, decode, transfer, link, first.kv_connector)

    def described(i: int) -> str:
        prefills, decodes = layout_at(first.layouts, int(p[i])), layout_at(decode.layouts, i)
        return f"prefill {prefills.label}, decode {decodes.label}, {_sequences(decode.concurrency[i])}"

    # Of one pool, they must find room beside each other.
    room = prefill.steps.layouts.gpus + decode.layouts.gpus <= first.job.pool.gpus
    return _Tried(pairs, room | (first.job.pool != second.job.pool), described)


def _least(values: list[Floats]) -> tuple[int, int]:
    """(array, index in it) of the least value."""
    k = int(np.argmin([each.min() for each in values]))
    return k, int(np.argmin(values[k]))


def _does_not_fit(
    request: PlanRequest, model: Architecture, precision: Precision, searches: list[LayoutSearch]
) -> Infeasible:
    rejected = [r for s in searches for r in s.rejected]
    of_memory = [r for r in rejected if r.of_memory]
    reason = max(of_memory or rejected, key=lambda r: r.count).reason
    tokens = request.workload.longest_tokens
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
    """The fewest GPUs of the pool's type on which some layout holds a sequence of the workload; None where not
    even :data:`MOST_GPUS_TRIED` do."""
    gpus = job.pool.gpus
    while gpus < MOST_GPUS_TRIED:
        gpus = min(2 * gpus, MOST_GPUS_TRIED)
        wide = job.pool.model_copy(update={"gpus": gpus})
        served = job.served
        allowed = restrictions(request, wide)
        layouts, _, _ = legal_layouts(served.model, served.precision, served.framework, allowed)
        budget = np.full(len(layouts), min(served.framework.limits.token_budgets))
        enough = sequences_that_fit(job, layouts, budget) >= 1
        if enough.any():
            # An engine is legal on a pool of its own size if it is on a larger one.
            return int(layouts.gpus[enough].min())
    return None
