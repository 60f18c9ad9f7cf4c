"""From the solver's choice to the plan document."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as package_version
from statistics import NormalDist

import numpy as np

from costmodels.architecture import Architecture
from costmodels.estimates import COVERAGE, HOW, Estimates
from costmodels.memory import kv_bytes_per_sequence
from costmodels.power import board_power
from costmodels.precision import Precision
from planner import plans
from planner.alternatives import alternatives
from planner.evaluation import Points, Search, at_load, layout_memory, percentile_ms, residents
from planner.fleet import Candidates, FleetChoice
from planner.launchers import EngineSpec, launch
from planner.layouts import Rejected
from planner.requests import Bound, PlanRequest

PACKAGE = "shardwright"
UNITS = {"throughput": "requests/s", "cost": "USD/h", "gpus": "GPUs", "latency": "ms"}

Origin = list[tuple[Points, int]]


@dataclass(frozen=True)
class Group:
    """Engines of one candidate, at the load the plan gives them."""

    id: str
    chosen: Points  # the search's points, of which ``index`` is the capacity point
    index: int
    loaded: Points  # one point: this engine under its load
    candidate: int
    engines: int
    load_rps: float

    @property
    def gpus(self) -> int:
        return self.engines * int(self.chosen.layouts.gpus[self.index])


def assemble(
    request: PlanRequest,
    model: Architecture,
    precision: Precision,
    searches: list[Search],
    refused: list[Rejected],
    candidates: Candidates,
    origin: Origin,
    choice: FleetChoice,
) -> plans.Plan:
    """The document of ``choice``."""
    served = request.workload.rate_rps
    if request.goal == "throughput" or served is None:
        served = float(choice.engines @ candidates.capacity_rps)
    groups = [
        _group(f"engine-{k}", origin[int(v)], int(v), int(choice.engines[v]), served * float(choice.shares[v]))
        for k, v in enumerate(np.flatnonzero(choice.engines))
    ]
    decision = _decision(request, model, precision, groups, choice)
    return plans.Plan(
        request=_understood(request, model, precision),
        decision=decision,
        prediction=_prediction(request, groups, decision, served),
        proof=_proof(request, searches, refused, candidates, choice),
        alternatives=alternatives(request, searches, choice, {group.chosen.key(group.index) for group in groups}),
        provenance=_provenance(request, precision, searches, groups),
    )


def _group(name: str, origin: tuple[Points, int], candidate: int, engines: int, load_rps: float) -> Group:
    points, index = origin
    loaded = at_load(points, index, load_rps / engines)
    return Group(name, points, index, loaded, candidate, engines, load_rps / engines)


def _understood(request: PlanRequest, model: Architecture, precision: Precision) -> plans.RequestUnderstood:
    return plans.RequestUnderstood(
        model=model.name,
        parameters=model.parameters,
        active_parameters=model.active_parameters,
        not_modelled=model.excluded,
        cluster=request.cluster,
        slo=request.slo,
        workload=request.workload,
        objective=request.goal,
        framework=request.framework,
        weights_precision=precision.weights,
        kv_precision=precision.kv,
        precision_converted=precision.converted,
        max_tp=request.max_tp,
        max_pp=request.max_pp,
        max_engine_gpus=request.max_engine_gpus,
        tp_across_nodes=request.tp_across_nodes,
        time_limit_s=request.time_limit_s,
    )


# ------------------------------------------------------------------ decision


def _decision(
    request: PlanRequest, model: Architecture, precision: Precision, groups: list[Group], choice: FleetChoice
) -> plans.Decision:
    used = sum(group.gpus for group in groups)
    offered = sum(pool.gpus for pool in request.cluster.pools)
    prices = [group.chosen.job.pool.usd_per_gpu_hour for group in groups]
    cost = None
    if all(price is not None for price in prices):
        cost = sum(group.gpus * price for group, price in zip(groups, prices, strict=True) if price is not None)
    return plans.Decision(
        engines=tuple(_engine_group(request, model, precision, group, choice) for group in groups),
        gpus_used=used,
        gpus_idle=offered - used,
        usd_per_hour=cost,
    )


def _engine_group(
    request: PlanRequest, model: Architecture, precision: Precision, group: Group, choice: FleetChoice
) -> plans.EngineGroup:
    points, i = group.chosen, group.index
    layout = points.layout(i)
    workload = request.workload
    most = int(min(points.most[i], math.ceil(float(residents(points.concurrency[i])) + math.sqrt(points.concurrency[i]))))
    longest = min(model.max_context_tokens, -(-(workload.isl + workload.osl) // 256) * 256)
    limits = plans.Limits(
        max_sequences=most,
        max_tokens_per_step=int(points.budget[i]),
        max_model_len=longest,
        memory_fraction=points.job.framework.memory_fraction,
    )
    placed = [engine for engine in choice.placement if engine.candidate == group.candidate]
    weight = float(choice.shares[group.candidate]) / group.engines
    replicas = tuple(
        plans.Replica(
            id=f"{group.id}-{number}",
            weight=weight,
            ranks=tuple(
                plans.Rank(rank=rank, node=node, gpu=gpu)
                for rank, (node, gpu) in enumerate(
                    (int(node), int(gpu)) for node, gpus in engine.pieces for gpu in gpus
                )
            ),
        )
        for number, engine in enumerate(placed)
    )
    spec = EngineSpec(
        framework=request.framework,
        model=request.model if request.model != model.name and "/" in request.model else model.name,
        layout=layout,
        limits=limits,
        weights_precision=precision.weights,
        kv_precision=precision.kv,
        precision_converted=precision.converted,
        published_precision=model.weight_precision,
        gpus_per_node=points.job.network.gpus_per_node,
        is_moe=model.is_moe,
    )
    return plans.EngineGroup(
        id=group.id,
        role="aggregated",
        pool=points.job.pool.name,
        gpu=points.job.pool.gpu,
        layout=layout,
        gpus_per_engine=layout.gpus,
        weights_precision=precision.weights,
        kv_precision=precision.kv,
        limits=limits,
        replicas=replicas,
        launch=launch(spec),
    )


# ------------------------------------------------------------------ prediction


def _interval(estimate: Estimates, i: int = 0, factor: float = 1.0) -> plans.Interval:
    return plans.Interval(
        value=float(estimate.value[i]) * factor,
        low=float(estimate.low[i]) * factor,
        high=float(estimate.high[i]) * factor,
    )


def _scaled(interval: plans.Interval, factor: float) -> plans.Interval:
    return plans.Interval(
        value=interval.value * factor, low=interval.low * factor, high=interval.high * factor
    )


def _inverse(interval: plans.Interval, numerator: float) -> plans.Interval:
    return plans.Interval(
        value=numerator / interval.value, low=numerator / interval.high, high=numerator / interval.low
    )


def _latency(mean: plans.Interval, quantile_ms: Callable[[float], float]) -> plans.Latency:
    """Percentiles carry the mean's relative uncertainty: both come from the same kernels."""

    def at(p: float) -> plans.Interval:
        value = quantile_ms(p)
        ratio = value / mean.value
        return plans.Interval(value=value, low=mean.low * ratio, high=mean.high * ratio)

    return plans.Latency(mean=mean, p50=at(0.50), p90=at(0.90), p99=at(0.99))


def _latencies(points: Points) -> dict[str, plans.Latency]:
    steady = points.steady
    out = {}
    for name, mean, quantile in (
        ("ttft_ms", steady.ttft_us, steady.ttft_percentile_us),
        ("tpot_ms", steady.tpot_us, steady.tpot_percentile_us),
        ("e2e_ms", steady.e2e_us, steady.e2e_percentile_us),
    ):
        out[name] = _latency(_interval(mean, 0, 1e-3), partial(_quantile_ms, quantile))
    return out


def _quantile_ms(quantile: Callable[[float], np.ndarray], p: float) -> float:
    return float(quantile(p)[0]) / 1e3


def _group_prediction(group: Group) -> plans.GroupPrediction:
    points = group.loaded
    steady = points.steady
    mixed, decode = steady.mixed_share[0], 1 - steady.mixed_share[0]
    busy = decode * steady.decode.latency.value[0] + mixed * steady.mixed.latency.value[0]
    shares = [
        np.array([(decode * getattr(steady.decode, kind)[0] + mixed * getattr(steady.mixed, kind)[0]) / busy])
        for kind in ("compute_us", "memory_us")
    ]
    latencies = _latencies(points)
    return plans.GroupPrediction(
        engine=group.id,
        rate_rps=_interval(group.chosen.steady.rate_rps, group.index),
        load_rps=group.load_rps,
        concurrency=int(points.concurrency[0]),
        ttft_ms=latencies["ttft_ms"],
        tpot_ms=latencies["tpot_ms"],
        e2e_ms=latencies["e2e_ms"],
        step_ms_by_part={part: float(values[0]) / 1e3 for part, values in steady.decode.parts.items()},
        prefill_busy=float(steady.queue_busy[0]),
        memory=_memory(points),
        power_watts=_interval(board_power(points.job.cost.gpu, *shares)),
        how=HOW[int(steady.tpot_us.how[0])],
        inside_measured_range=bool(steady.tpot_us.inside[0]),
    )


def _memory(points: Points) -> plans.MemoryParts:
    job = points.job
    parts = layout_memory(job, points.layouts, points.budget)
    tokens = job.workload.isl + job.workload.osl
    per_token = float(kv_bytes_per_sequence(job.model, job.precision, points.layouts, tokens)[0]) / tokens
    total = float(job.cost.gpu.memory_bytes)
    return plans.MemoryParts(
        weights_bytes=float(parts.weights_bytes[0]),
        kv_cache_bytes=float(parts.kv_bytes[0]),
        activation_bytes=float(parts.activation_bytes[0]),
        cuda_graph_bytes=float(parts.cuda_graph_bytes[0]),
        communication_bytes=float(parts.communication_bytes[0]),
        context_bytes=float(parts.context_bytes[0]),
        reserve_bytes=float(parts.reserve_bytes[0]),
        unused_bytes=total * (1 - job.framework.memory_fraction),
        total_bytes=total,
        kv_tokens=int(parts.kv_bytes[0] // per_token),
    )


def _prediction(
    request: PlanRequest, groups: list[Group], decision: plans.Decision, served_rps: float
) -> plans.Prediction:
    each = tuple(_group_prediction(group) for group in groups)
    # What the fleet can carry is the sum of its engines; their errors come from the same forests, so intervals add up.
    capacity = [sum(g.engines * getattr(p.rate_rps, end) for g, p in zip(groups, each, strict=True)) for end in _ENDS]
    value, low, high = capacity
    rate = plans.Interval(value=served_rps, low=min(served_rps, low), high=min(served_rps, high))
    if request.goal == "throughput" or request.workload.rate_rps is None:
        rate = plans.Interval(value=value, low=low, high=high)
    osl = request.workload.osl
    output = _scaled(rate, float(osl))
    worst = {name: _slowest([getattr(p, name) for p in each]) for name in ("ttft_ms", "tpot_ms", "e2e_ms")}
    watts = [sum(g.gpus * getattr(p.power_watts, end) for g, p in zip(groups, each, strict=True)) for end in _ENDS]
    power = plans.Interval(value=watts[0], low=watts[1], high=watts[2])
    joules = plans.Interval(
        value=power.value / output.value, low=power.low / output.high, high=power.high / max(output.low, 1e-12)
    )
    cost = decision.usd_per_hour
    return plans.Prediction(
        **worst,
        request_rate_rps=rate,
        output_tokens_per_s=output,
        output_tokens_per_s_per_gpu=_scaled(output, 1 / decision.gpus_used),
        output_tokens_per_s_per_user=_inverse(worst["tpot_ms"].mean, 1e3),
        utilisation=min(served_rps / value, 1.0),
        power_watts=power,
        joules_per_output_token=joules,
        usd_per_million_output_tokens=None if cost is None else _inverse(output, cost / 3600 * 1e6),
        slo=tuple(_check(bound, groups, each) for bound in request.slo.bounds),
        engines=each,
    )


_ENDS = ("value", "low", "high")


def _slowest(latencies: list[plans.Latency]) -> plans.Latency:
    return max(latencies, key=lambda latency: latency.p90.value)


def _check(bound: Bound, groups: list[Group], each: tuple[plans.GroupPrediction, ...]) -> plans.SloCheck:
    worst: plans.Interval | None = None
    for group, prediction in zip(groups, each, strict=True):
        value = float(percentile_ms(group.loaded.steady, bound)[0])
        mean: plans.Interval = getattr(prediction, f"{bound.metric}_ms").mean
        ratio = value / mean.value
        interval = plans.Interval(value=value, low=mean.low * ratio, high=mean.high * ratio)
        if worst is None or interval.value > worst.value:
            worst = interval
    assert worst is not None
    return plans.SloCheck(
        metric=bound.metric,
        percentile=bound.percentile,
        limit_ms=bound.limit_ms,
        predicted=worst,
        margin=(bound.limit_ms - worst.value) / bound.limit_ms,
        confidence=confidence(worst, bound.limit_ms),
    )


def confidence(predicted: plans.Interval, limit: float) -> float:
    """Probability that the true value is at most ``limit``, taking the prediction as lognormal with its 80 % interval."""
    z = NormalDist().inv_cdf(0.5 + COVERAGE / 2)
    above = math.log(max(predicted.high / predicted.value, 1 + 1e-9)) / z
    below = math.log(max(predicted.value / max(predicted.low, 1e-12), 1 + 1e-9)) / z
    distance = math.log(limit / predicted.value)
    return NormalDist().cdf(distance / (above if distance > 0 else below))


# ------------------------------------------------------------------ proof and provenance


def _proof(
    request: PlanRequest,
    searches: list[Search],
    refused: list[Rejected],
    candidates: Candidates,
    choice: FleetChoice,
) -> plans.Proof:
    solution = choice.solution
    assert solution.objective is not None
    assert solution.bound is not None
    rejected = [*refused, *(r for s in searches for r in s.rejected)]
    points = [s.coarse for s in searches if s.coarse is not None]
    outside = sum(int((~p.within).sum()) for p in points)
    if outside:
        rejected.append(Rejected("operating points outside the SLO, or where prefill cannot keep up", outside, "—"))
    status = "optimal" if solution.status == "optimal" else "feasible"
    return plans.Proof(
        engine=solution.engine,
        status=status,
        objective=request.goal,
        objective_value=solution.objective,
        objective_unit=UNITS[request.goal],
        bound=solution.bound,
        gap=solution.gap or 0.0,
        layouts_considered=sum(s.considered for s in searches),
        layouts_legal=sum(s.legal for s in searches),
        operating_points=sum(len(p) for p in points),
        operating_points_within_slo=sum(int(p.within.sum()) for p in points),
        candidates=len(candidates.pool),
        rejected=tuple(
            plans.Rejection(reason=r.reason, count=r.count, example=r.example)
            for r in sorted(rejected, key=lambda r: (-r.count, r.reason))
        ),
        binding_constraint=choice.binding,
    )


def _provenance(
    request: PlanRequest, precision: Precision, searches: list[Search], groups: list[Group]
) -> plans.Provenance:
    manifest = searches[0].job.cost.store.manifest
    return plans.Provenance(
        package=PACKAGE,
        package_version=package_version(PACKAGE),
        cost_model_version=searches[0].job.cost.version,
        pack=manifest.name,
        pack_version=manifest.version,
        pack_hash=manifest.content_hash,
        attribution=manifest.attribution,
        notes=tuple(_notes(request, precision, searches, groups)),
    )


def _notes(request: PlanRequest, precision: Precision, searches: list[Search], groups: list[Group]) -> list[str]:
    notes = [note for search in searches for note in search.job.cost.notes]
    framework = searches[0].job.framework
    model = searches[0].job.model
    if framework.fitted_on == "none":
        notes.append(
            f"{framework.full_name}'s overhead per step ({framework.step_overhead_us / 1e3:g} ms) is not calibrated against "
            "end-to-end runs; TTFT excludes network, HTTP and tokenisation"
        )
    notes.append(
        "arrivals are taken as Poisson and lengths as equal; percentiles come from queueing formulas, not from a simulation"
    )
    if any(not bool(group.loaded.steady.tpot_us.inside[0]) for group in groups):
        notes.append(
            "some operations of the chosen layout lie outside what was measured (long prefixes, unseen shapes, traffic "
            "between nodes); their intervals are wide"
        )
    if model.is_moe:
        notes.append(f"tokens are spread over experts as {request.workload.routing}; give routing=… in the workload to change it")
    if precision.converted:
        notes.append(f"weights are run in {precision.weights}, not as published ({model.weight_precision}); check accuracy")
    if model.excluded:
        notes.append(f"not modelled: {', '.join(model.excluded)}")
    for group in groups:
        pool = group.chosen.job.pool
        if pool.price_source is not None:
            notes.append(f"price of {pool.gpu}: {pool.usd_per_gpu_hour} USD per GPU-hour, {pool.price_source}")
    return list(dict.fromkeys(notes))
