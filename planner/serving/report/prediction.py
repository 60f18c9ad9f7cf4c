"""The prediction of a plan: each engine group under its load, the pairs that serve requests, the fleet as a whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from costmodels.estimates import SIGMAS, Estimates
from costmodels.origins import HOW
from costmodels.serving.simulator.step_table import End
from costmodels.serving.steady.kv_transfer import (
    cache_bytes,
)
from costmodels.serving.step import EXCHANGE_PARTS
from planner.contract.deployment import Deployment
from planner.contract.quantities import Interval, Latency
from planner.contract.workload.slo import Bound, Metric
from planner.serving.confirmation.trial import SEED
from planner.serving.document.prediction import (
    EngineSimulation,
    GroupPrediction,
    KvTransfer,
    MemoryParts,
    Prediction,
    SloCheck,
)
from planner.serving.engines.energy import engine_watts
from planner.serving.engines.groups import Group, LoadedFleet, Pair
from planner.serving.engines.latency import Check, Checks, Us, all_us, group_us, pair_us, weights_of
from planner.serving.report.effects import effects_of
from planner.serving.report.limits import largest_of
from planner.serving.request import PlanRequest

PERCENTILES = (50, 90, 95, 99)

EVEN = 0.5
"""Confidence of the prediction itself; plans that ask for less hold with steps that are quicker."""


def _interval(estimate: Estimates, factor: float = 1.0) -> Interval:
    return Interval(
        value=float(estimate.value[0]) * factor,
        low=float(estimate.low[0]) * factor,
        high=float(estimate.high[0]) * factor,
    )


def _inverse(interval: Interval, numerator: float) -> Interval:
    return Interval(value=numerator / interval.value, low=numerator / interval.high, high=numerator / interval.low)


def _alike(mean: Interval, value: float) -> Interval:
    """``value`` with the relative uncertainty of ``mean``: both come from the same kernels."""
    ratio = value / mean.value
    return Interval(value=value, low=mean.low * ratio, high=mean.high * ratio)


def _latency(mean: Estimates, us: Us, *, simulated: bool) -> Latency:
    """One metric of one point; where it was not ``simulated``, its uncertainty is that of its ``mean``."""
    at = {f"p{p}": _uncertain(mean, us, p / 100, simulated=simulated) for p in PERCENTILES}
    return Latency(mean=_uncertain(mean, us, None, simulated=simulated), **at)


def _uncertain(mean: Estimates, us: Us, p: float | None, *, simulated: bool) -> Interval:
    """The engine run again with slow and with fast steps, or else with the formulas' relative uncertainty, ms."""
    value = us(p, "value") / 1e3
    if not simulated:
        return _alike(_interval(mean, 1e-3), value)
    return Interval(value=value, low=min(us(p, "low") / 1e3, value), high=max(us(p, "high") / 1e3, value))


def served_latency(pairs: Sequence[Pair], checks: Checks, metric: Metric) -> Latency:
    """What all requests of the pairs see; where nothing was simulated, with the slowest's uncertainty."""
    mean = getattr(_slowest(pairs, checks, metric).served, f"{metric}_us")
    return _latency(mean, all_us(pairs, checks, metric), simulated=_simulated(pairs, checks))


# ------------------------------------------------------------------ one group


def group_prediction(group: Group, checks: Checks) -> GroupPrediction:
    engine, check = group.engine, checks.get(group.id)

    def latency(metric: Metric, mean: Estimates) -> Latency:
        def us(p: float | None, end: End) -> float:
            found = group_us(group, checks, metric, p, end)
            assert found is not None
            return found

        return _latency(mean, us, simulated=check is not None)

    latencies: dict[str, Latency | None] = {"ttft_ms": None, "tpot_ms": None, "e2e_ms": None}
    latencies |= {f"{metric}_ms": latency(metric, mean) for metric, mean in engine.means_us.items()}
    concurrency, origin = engine.concurrency, engine.origin
    return GroupPrediction(
        engine=group.id,
        rate_rps=_interval(group.capacity_rps),
        load_rps=group.load_rps,
        concurrency=int(concurrency) if concurrency.is_integer() else concurrency,
        **latencies,
        step_ms_by_part={
            part: float(values[0]) / 1e3
            for part, values in engine.steps[0][0].parts.items()
            if part not in EXCHANGE_PARTS or values[0] != 0
        },
        prefill_busy=engine.prefill_busy,
        memory=_memory(group),
        largest=largest_of(group),
        power_watts=_interval(engine_watts(group.job.served.gpu, engine, group.layouts)),
        how=HOW[int(origin.how[0])],
        inside_measured_range=bool(origin.inside[0]),
        simulation=None
        if check is None
        else EngineSimulation(
            requests=check.requests,
            seed=SEED,
            standard_errors_ms=_standard_errors_ms(group, check),
            formula_rps=check.formula_rps,
        ),
    )


def _standard_errors_ms(group: Group, check: Check) -> dict[str, float]:
    errors = {
        bound.label: check.standard_error_us(bound.metric, bound.percentile / 100) / 1e3
        for bound in group.job.slo.bounds
        if group.engine.own_us(bound.metric, bound.percentile / 100) is not None
    }
    return {label: error for label, error in errors.items() if math.isfinite(error)}


def _memory(group: Group) -> MemoryParts:
    served, tokens = group.job.served, group.engine.longest_tokens
    limits = group.limits
    parts = served.memory(group.layouts, np.array([limits.max_tokens_per_step]), sequences=limits.max_sequences)
    per_token = float(served.kv_bytes_per_token(group.layouts, tokens)[0])
    return MemoryParts(
        weights_bytes=float(parts.weights_bytes[0]),
        kv_cache_bytes=float(parts.kv_bytes[0]),
        activation_bytes=float(parts.activation_bytes[0]),
        cuda_graph_bytes=float(parts.graph_bytes[0]),
        communication_bytes=float(parts.other_bytes[0]),
        context_bytes=float(parts.context_bytes[0]),
        unused_bytes=float(parts.unused_bytes[0]),
        total_bytes=float(served.gpu.memory_bytes),
        kv_tokens=int(parts.kv_bytes[0] // per_token),
        kv_sequences=int(parts.kv_bytes[0] // state) if (state := served.state_bytes(group.layouts)) else None,
    )


# ------------------------------------------------------------------ the plan


def predicted_by(request: PlanRequest, fleet: LoadedFleet, decision: Deployment, checks: Checks) -> Prediction:
    """What the plan does at the load it serves. ``checks``: simulations of the groups."""
    groups, pairs, served_rps = fleet.groups, fleet.pairs, fleet.served_rps
    each = tuple(group_prediction(group, checks) for group in groups)
    # The fleet carries what its engines do, of the weaker role; their errors come from the same forests, so
    # intervals add up.
    value, low, high = (
        min(
            sum(g.engines * getattr(p.rate_rps, end) for g, p in zip(groups, each, strict=True) if g.role == role)
            for role in {group.role for group in groups}
        )
        for end in _ENDS
    )
    rate = Interval(value=served_rps, low=min(served_rps, low), high=min(served_rps, high))
    if request.goal == "throughput" or request.workload.rate_rps is None:
        rate = Interval(value=value, low=low, high=high)
    output = rate.times(float(request.workload.mean_osl))
    metrics: tuple[Metric, ...] = ("ttft", "tpot", "e2e") if request.workload.osl > 1 else ("ttft", "e2e")
    latencies = {m: served_latency(pairs, checks, m) for m in metrics}
    tpot = latencies.get("tpot")
    watts = [sum(g.gpus * getattr(p.power_watts, end) for g, p in zip(groups, each, strict=True)) for end in _ENDS]
    power = Interval(value=watts[0], low=watts[1], high=watts[2])
    joules = Interval(
        value=power.value / output.value,
        low=power.low / output.high,
        high=power.high / max(output.low, 1e-12),
    )
    cost, price = decision.usd_per_hour, request.usd_per_kwh
    electricity = None if price is None else power.times(price / 1e3)
    parts: dict[str, float] = {}
    for weight, pair in zip(weights_of(pairs), pairs, strict=True):
        for part, us in pair.served.ttft_parts_us.items():
            parts[part] = parts.get(part, 0.0) + float(weight * us[0]) / 1e3
    return Prediction(
        ttft_ms=latencies["ttft"],
        tpot_ms=tpot,
        e2e_ms=latencies["e2e"],
        ttft_ms_by_part=parts,
        kv_transfer=kv_transfer(pairs),
        effects=effects_of(pairs[0]),
        request_rate_rps=rate,
        output_tokens_per_s=output,
        output_tokens_per_s_per_gpu=output.times(1 / decision.gpus_used),
        output_tokens_per_s_per_user=None if tpot is None else _inverse(tpot.mean, 1e3),
        utilisation=min(served_rps / value, 1.0),
        power_watts=power,
        joules_per_input_token=joules.times(request.workload.mean_osl / request.workload.mean_isl),
        joules_per_output_token=joules,
        electricity_usd_per_hour=electricity,
        usd_per_million_output_tokens=_usd_per_million(output, cost, electricity),
        slo=tuple(slo_check(bound, pairs, checks) for bound in request.slo.bounds),
        engines=each,
    )


_ENDS = ("value", "low", "high")


def _usd_per_million(output: Interval, usd_per_hour: float | None, electricity: Interval | None) -> Interval | None:
    """Of tokens of ``output`` a second."""
    if usd_per_hour is None:
        return None
    if electricity is None:
        return _inverse(output, usd_per_hour / 3600 * 1e6)
    value, low, high = (usd_per_hour + getattr(electricity, end) for end in _ENDS)
    million = 1e6 / 3600
    return Interval(
        value=value / output.value * million,
        low=low / output.high * million,
        high=high / max(output.low, 1e-12) * million,
    )


def _simulated(pairs: Sequence[Pair], checks: Checks) -> bool:
    return all(pair.prefill.id in checks for pair in pairs)


def _slowest(pairs: Sequence[Pair], checks: Checks, metric: Metric) -> Pair:
    return max(pairs, key=lambda pair: pair_us(pair, checks, metric, 0.9))


def kv_transfer(pairs: list[Pair]) -> KvTransfer | None:
    transfers = [pair.transfer for pair in pairs if pair.transfer is not None]
    if not transfers:
        return None
    slowest = max(transfers, key=lambda each: float(each.joint.transfer_us.value[0]))
    job = slowest.prefill.candidate.job
    return KvTransfer(
        bytes_per_request=cache_bytes(job.served, job.shape.isl),
        link=slowest.link.name,
        time_ms=_interval(slowest.joint.transfer_us, 1e-3),
        exposed_ms=_interval(slowest.joint.exposed_us, 1e-3),
        overlap=slowest.joint.kv_connector.overlap,
        sender_busy=max(each.sender_busy for each in transfers),
        receiver_busy=max(each.receiver_busy for each in transfers),
    )


def slo_check(bound: Bound, pairs: Sequence[Pair], checks: Checks) -> SloCheck:
    p, simulated = bound.percentile / 100, _simulated(pairs, checks)
    mean = getattr(_slowest(pairs, checks, bound.metric).served, f"{bound.metric}_us")
    predicted = _uncertain(mean, all_us(pairs, checks, bound.metric), p, simulated=simulated)
    # What was simulated with steps as slow as the confidence asks for is at least so sure.
    asked = pairs[0].prefill.job.confidence
    if not simulated or (predicted.value > bound.limit_ms and asked >= EVEN):
        asked = 0.0
    return SloCheck(
        metric=bound.metric,
        percentile=bound.percentile,
        limit_ms=bound.limit_ms,
        predicted=predicted,
        formula_ms=all_us(pairs, {}, bound.metric)(p, "value") / 1e3 if checks else None,
        margin=(bound.limit_ms - predicted.value) / bound.limit_ms,
        confidence=max(confidence(predicted, bound.limit_ms), asked),
    )


def confidence(predicted: Interval, limit: float) -> float:
    """Probability that the true value is at most ``limit``, taking the prediction as lognormal with its 80 %
    interval."""
    above = math.log(max(predicted.high / predicted.value, 1 + 1e-9)) / SIGMAS
    below = math.log(max(predicted.value / max(predicted.low, 1e-12), 1 + 1e-9)) / SIGMAS
    distance = math.log(limit / predicted.value)
    return NormalDist().cdf(distance / (above if distance > 0 else below))
