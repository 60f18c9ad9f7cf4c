"""The prediction of a plan: each engine group under its load, and the fleet as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from costmodels.estimates import COVERAGE, Estimates
from costmodels.memory import kv_bytes_per_sequence
from costmodels.origins import HOW
from costmodels.power import board_power
from planner import plans
from planner.evaluation import Points, layout_memory, percentile_ms
from planner.requests import Bound, Metric, PlanRequest


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


def _interval(estimate: Estimates, i: int = 0, factor: float = 1.0) -> plans.Interval:
    return plans.Interval(
        value=float(estimate.value[i]) * factor,
        low=float(estimate.low[i]) * factor,
        high=float(estimate.high[i]) * factor,
    )


def _scaled(interval: plans.Interval, factor: float) -> plans.Interval:
    return plans.Interval(value=interval.value * factor, low=interval.low * factor, high=interval.high * factor)


def _inverse(interval: plans.Interval, numerator: float) -> plans.Interval:
    return plans.Interval(
        value=numerator / interval.value, low=numerator / interval.high, high=numerator / interval.low
    )


def _alike(mean: plans.Interval, value: float) -> plans.Interval:
    """``value`` with the relative uncertainty of ``mean``: both come from the same kernels."""
    ratio = value / mean.value
    return plans.Interval(value=value, low=mean.low * ratio, high=mean.high * ratio)


def _latency(points: Points, metric: Metric, mean: Estimates) -> plans.Latency:
    """One metric of the single point of ``points``."""
    interval = _interval(mean, 0, 1e-3)
    at = {
        f"p{p}": _alike(
            interval, float(percentile_ms(points.steady, Bound(metric=metric, percentile=p, limit_ms=1.0))[0])
        )
        for p in (50, 90, 99)
    }
    return plans.Latency(mean=interval, **at)


def _group_prediction(group: Group) -> plans.GroupPrediction:
    points = group.loaded
    steady = points.steady
    mixed, decode = steady.mixed_share[0], 1 - steady.mixed_share[0]
    busy = decode * steady.decode.latency.value[0] + mixed * steady.mixed.latency.value[0]
    shares = [
        np.array([(decode * getattr(steady.decode, kind)[0] + mixed * getattr(steady.mixed, kind)[0]) / busy])
        for kind in ("compute_us", "memory_us")
    ]
    return plans.GroupPrediction(
        engine=group.id,
        rate_rps=_interval(group.chosen.steady.rate_rps, group.index),
        load_rps=group.load_rps,
        concurrency=int(points.concurrency[0]),
        ttft_ms=_latency(points, "ttft", steady.ttft_us),
        tpot_ms=_latency(points, "tpot", steady.tpot_us),
        e2e_ms=_latency(points, "e2e", steady.e2e_us),
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


def predicted_by(
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
        value=power.value / output.value,
        low=power.low / output.high,
        high=power.high / max(output.low, 1e-12),
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
        mean: plans.Interval = getattr(prediction, f"{bound.metric}_ms").mean
        interval = _alike(mean, float(percentile_ms(group.loaded.steady, bound)[0]))
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
    """Probability that the true value is at most ``limit``, taking the prediction as lognormal with its 80 %
    interval."""
    z = NormalDist().inv_cdf(0.5 + COVERAGE / 2)
    above = math.log(max(predicted.high / predicted.value, 1 + 1e-9)) / z
    below = math.log(max(predicted.value / max(predicted.low, 1e-12), 1 + 1e-9)) / z
    distance = math.log(limit / predicted.value)
    return NormalDist().cdf(distance / (above if distance > 0 else below))
