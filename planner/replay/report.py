"""A load replayed against a plan → the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.serving.simulator.arrivals import Requests
from costmodels.serving.simulator.capacity import standard_error_us
from costmodels.serving.simulator.outcome import LOST, NOBODY, REFUSALS, Metric, Outcome
from costmodels.serving.simulator.step_table import End
from planner.contract.engine import LIMITS, EngineGroup
from planner.contract.models import ModelConfig
from planner.contract.provenance import Provenance, provenance_fields
from planner.contract.quantities import SLOW_END, Latency
from planner.contract.workload.slo import Bound, Slo
from planner.replay import document as simulated
from planner.replay.bursts import burst_notes
from planner.replay.cache_transfer import exposed_transfer_ms
from planner.replay.ends import Seen, Stretch, interval, most_of, stretch_notes
from planner.replay.gateway import FleetOutcome, capacity_seen_rps, limits_us, replay, warm_up
from planner.replay.loads import drawn_load, requested_load
from planner.replay.planned_engines import PlannedEngine, front_end_us, planned_engines, provenance_warnings
from planner.replay.power import watts_over, windows
from planner.replay.request import SimulationRequest
from planner.replay.running import Running
from planner.replay.scheduled import is_scheduled, scheduled
from planner.serving.confirmation.simulated_engine import ENDS
from planner.serving.document.plan import Plan
from planner.serving.document.prediction import Prediction
from profiles.errors import InputError
from profiles.store import ProfileStore

Keep = Callable[[Outcome], None]

MOMENTS = 60
"""Stretches of the timeline."""

UNSURE = 0.1
"""Standard error of the upper end of a p90, as a share of it, from which it is told."""

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def simulate(
    request: SimulationRequest,
    *,
    model: str | ModelConfig | None = None,
    measured: Sequence[ProfileStore] = (),
    progress: Callable[[str], None] | None = None,
    keep: Keep | None = None,
    keep_watts: Callable[[Floats], None] | None = None,
) -> simulated.SimulationReport:
    """The report that ``request`` asks for. Arguments and errors as of :func:`simulate_plan`; ``keep`` is given every
    request's times, steps as predicted (of a service named, its own), ``keep_watts`` what ``power.windows`` says."""
    if isinstance(request.plan, Plan) and is_scheduled(request.plan):
        found = scheduled(request, request.plan, measured, progress, keep_watts is not None)
        one = len(request.plan.decision.schedule) == 1 and request.trace is None and not request.fail
        replayed = _Replayed(
            found.running,
            found.engines,
            found.load.requests,
            found.source,
            found.outcome,
            found.stretches,
            Sending(request.seed, one, None, keep_watts),
            tuple(
                (service.name, request.slo or service.slo, np.flatnonzero(found.load.service == s))
                for s, service in enumerate(request.plan.request.services)
            ),
        )
        if keep is not None:
            mine = [rows for name, _, rows in replayed.services if request.service in (None, name)]
            keep(found.outcome.requests.take(np.sort(np.concatenate(mine))))
        return _reported(replayed)
    load, source = requested_load(request)
    if said := [f"{name}={value:g}" for name in LIMITS if (value := getattr(request, name)) is not None]:
        source += f"; engines with {', '.join(said)}"
    for name, value in (("chunked_prefill", request.chunked_prefill), ("polling_interval", request.polling_interval)):
        source += "" if value is None else f"; {name}={str(value).lower()}"
    running = replace(Running.of(request.plan, request.workload_of(load), request.slo), users=request.users)
    running = running.with_limits(request.limits) if request.limits else running
    return simulate_plan(
        running.with_prompts(request.chunked_prefill, request.polling_interval),
        load,
        source,
        sending=Sending(request.seed, request.trace is None, keep, keep_watts),
        model=model,
        measured=measured,
        progress=progress,
    )


@dataclass(frozen=True)
class Sending:
    """How a load is sent: ``seed`` of the gateway's draws; ``warm``: requests that come while the engines fill are left
    out of what is reported (those of a recorded trace all count); ``keep``, ``keep_watts``: given what was seen."""

    seed: int = 0
    warm: bool = False
    keep: Keep | None = None
    keep_watts: Callable[[Floats], None] | None = None


def simulate_plan(
    plan: Plan | Running,
    load: Requests,
    source: str,
    *,
    sending: Sending = Sending(),
    model: str | ModelConfig | None = None,
    store: ProfileStore | None = None,
    measured: Sequence[ProfileStore] = (),
    progress: Callable[[str], None] | None = None,
) -> simulated.SimulationReport:
    """What a plan, or the engines of a deployment, do under ``load``.

    Args:
        source: the load in words.
        model: the plan's model, where it is neither a bundled one nor in the plan.
        store, measured: as :func:`planner.serving.planning.plan` was given them.

    Raises:
        InputError: a document that contradicts itself, or a load of which every request is refused.
    """
    running = plan if isinstance(plan, Running) else Running.of(plan)
    engines = planned_engines(running, model=model, store=store, measured=measured, progress=progress)
    fine = sending.keep_watts is not None
    fleets = replay(engines, load, sending.seed, transfer_us(running, engines, load), progress, fine=fine)
    everything = ((None, running.slo, np.arange(len(load))),)
    whole = (Stretch(0, len(load), fleets),)
    return _reported(_Replayed(running, engines, load, source, fleets["value"], whole, sending, everything))


@dataclass(frozen=True, eq=False)
class _Replayed:
    """A load and what became of it, steps as predicted; ``stretches``: those of it that were replayed at the ends of
    their interval too, the busiest first. ``services``: name (None: there is one), promises, which requests are its."""

    running: Running
    engines: Sequence[PlannedEngine]
    load: Requests
    source: str
    outcome: FleetOutcome
    stretches: Sequence[Stretch]
    sending: Sending
    services: Sequence[tuple[str | None, Slo, Ints]]


def _reported(replayed: _Replayed) -> simulated.SimulationReport:
    """The report of a replay. Raises InputError where every request was refused."""
    running, engines, load, source = replayed.running, replayed.engines, replayed.load, replayed.source
    sending, value, stretches = replayed.sending, replayed.outcome, replayed.stretches
    if sending.keep is not None:
        sending.keep(value.requests)
    if sending.keep_watts is not None:
        sending.keep_watts(windows(engines, value))
    served = int(value.requests.served.sum())
    if not served:
        why = int(value.requests.refused[0])
        raise InputError(
            f"load: every request is refused: {REFUSALS[why]}",
            "plan for longer requests (--workload isl=…,osl=…), or send shorter ones"
            if why not in (NOBODY, LOST)
            else "let fewer engines fail, or for a shorter time",
        )
    described = _load(load, value.requests.arrival_us, source)
    schedule = running.deployment.schedule
    # A day's rates rise and fall: a queue that grows in its second half says nothing.
    steady = len(schedule) <= 1 and load.concurrency is None
    capacity = None if not steady else capacity_seen_rps(value, described.rate_rps)
    watts = watts_over(engines, value.replays, np.linspace(0.0, value.requests.end_us, MOMENTS + 1))
    joules = float(watts.mean()) / value.requests.output_tokens_per_s
    counted = warm_up(value.requests) if sending.warm else np.arange(len(load))
    parts = [
        (name, slo, mine, most_of(stretches, mine).seen(value.requests, mine))
        for name, slo, rows in replayed.services
        for mine in [np.intersect1d(rows, counted)]
        if len(mine)
    ]
    checks = tuple(
        _attained(bound, part, running.prediction, name) for name, slo, _, part in parts for bound in slo.bounds
    )
    busiest = stretches[0]
    every = busiest.seen(value.requests, counted)
    kept = sum(_kept(part.value, slo) for _, slo, _, part in parts)
    at = {
        end: sum(_kept(fleet.requests.take(busiest.of(mine)), slo) for _, slo, mine, _ in parts)
        for end, fleet in busiest.fleets.items() if every.ends
    }  # fmt: skip
    # What a plan of several services says of all requests is the slowest engines': nothing to compare these with.
    said = running.prediction if len(replayed.services) == 1 else None
    cost = engines[0].cost
    report = simulated.SimulationReport(
        model=running.model,
        engines=tuple(
            f"{len(group.replicas)} × {group.layout.label} on {group.gpu}"
            + ("" if group.role == "aggregated" else f" ({group.role})")
            + ("" if group.supply == "on_demand" else f", {group.supply}")
            for group in running.deployment.engines
        ),
        edited=running.edited,
        planned_rps=None if running.prediction is None else running.prediction.request_rate_rps.value,
        load=described,
        warm_up_requests=len(load) - len(counted),
        served=served,
        refused=_refused(value.requests),
        slo=checks,
        attainment=interval(kept / len(counted), {end: n / len(every.ends[end]) for end, n in at.items()}, 1.0),
        goodput_rps=interval(kept / every.value.span_s, {end: n / every.ends[end].span_s for end, n in at.items()}),
        ttft_ms=_percentiles("ttft", every, said),
        tpot_ms=_percentiles("tpot", every, said),
        e2e_ms=_percentiles("e2e", every, said),
        output_tokens_per_s=value.requests.output_tokens_per_s,
        preemptions=int(value.requests.preemptions.sum()),
        falls_behind=capacity is not None,
        capacity_rps=capacity,
        groups=tuple(_group(group, value) for group in running.deployment.engines),
        power_watts=float(watts.mean()),
        joules_per_input_token=joules * described.osl_mean / described.isl_mean,
        joules_per_output_token=joules,
        timeline=_timeline(value, watts),
        warnings=(
            *provenance_warnings(running, cost),
            *_load_warnings(running, described, len(counted)),
            *burst_notes(value.requests, load, len(load) - len(counted)),
            *_slow_end_warnings(busiest.fleets),
            *stretch_notes(stretches, len(load)),
        ),
        cost_model_version=cost.version,
        pack_hash=cost.store.manifest.content_hash,
        seed=sending.seed,
        provenance=Provenance(
            **provenance_fields(
                cost.store, cost.measured, {each.cost.gpu.name for each in engines}, cost.version, notes_of(engines)
            )
        ),
    )
    return report.sealed()


def _kept(requests: Outcome, slo: Slo) -> int:
    return int(requests.within(_limits(slo)).sum())


def _limits(slo: Slo) -> dict[Metric, float]:
    return limits_us([(bound.metric, bound.limit_ms) for bound in slo.bounds])


def notes_of(engines: Sequence[PlannedEngine]) -> list[str]:
    """What the cost models say of their measurements, each once."""
    return list(dict.fromkeys(note for each in engines for note in each.cost.notes))


def transfer_us(running: Running, engines: Sequence[PlannedEngine], load: Requests) -> dict[End, Floats] | None:
    """What is left of each request's KV transfer after its prefill: the plan's, or what the formulas say of a
    deployment's engines, in proportion to the prompt."""
    if running.prediction is None:
        exposed = exposed_transfer_ms(engines)
    else:
        said = running.prediction.kv_transfer
        exposed = None if said is None else {end: getattr(said.exposed_ms, end) for end in ENDS}
    if exposed is None:
        return None
    share = load.isl / running.workload.mean_isl
    return {end: share * exposed[end] * 1e3 for end in ENDS}


def _load(load: Requests, sent_us: Floats, source: str) -> simulated.Load:
    seconds = float(sent_us.max() - sent_us.min()) / 1e6
    n = len(load)
    return simulated.Load(
        source=source,
        requests=n,
        seconds=seconds,
        rate_rps=(n - 1) / seconds if seconds > 0 else float(n),
        isl_mean=float(load.isl.mean()),
        osl_mean=float(load.osl.mean()),
        isl_longest=int(load.isl.max()),
        osl_longest=int(load.osl.max()),
    )


def _load_warnings(running: Running, load: simulated.Load, counted: int) -> list[str]:
    workload = running.workload
    unsaid = running.prediction is not None and front_end_us(running) is None
    out = ["the plan does not say what tokenisation and HTTP take: they are not in the TTFT"] if unsaid else []
    if load.isl_mean > 1.02 * workload.mean_isl or load.osl_mean > 1.02 * workload.mean_osl:
        out.append(
            f"requests are longer than the plan was made for: isl {load.isl_mean:.0f}, osl {load.osl_mean:.0f} on "
            f"average, planned {workload.mean_isl} and {workload.mean_osl}"
        )
    if load.requests < 1000:
        out.append(f"{load.requests} requests say little about p99; take 1,000 or more")
    if counted <= load.requests - load.requests // 2 < load.requests:
        out.append("the load is hardly longer than it takes the engines to fill: send more requests")
    if load.seconds == 0:
        out.append("all requests come at the same moment: there is no rate to keep up with")
    return out


def _slow_end_warnings(fleets: Mapping[End, FleetOutcome]) -> list[str]:
    """Where the load is carried as predicted, but not with every step at the slow end of its interval."""
    if _behind(fleets["value"]):
        return []
    if not (behind := _behind(fleets["high"])):
        slow = fleets["high"].requests
        error = standard_error_us(slow, "ttft", 0.9) / slow.percentile_us("ttft", 0.9)
        if not error > UNSURE:
            return []
        return [
            f"with other arrivals (--seed) the upper end of TTFT p90 may be {error:.0%} more or less: at the slow end "
            "of the prediction the engines are nearly full"
        ]
    engines = "an engine does" if behind == 1 else f"{behind} engines do"
    return [
        f"{SLOW_END}, {engines} not keep up with the load: the upper ends of TTFT and E2E are what these requests "
        "see, and grow with more"
    ]


def _behind(fleet: FleetOutcome) -> int:
    """Engines whose queue grows all the time."""
    return sum(not each.keeps_up for each in fleet.replays)


def _percentiles(metric: Metric, seen: Seen, predicted: Prediction | None) -> simulated.Percentiles | None:
    if not len(seen.value.of(metric)):
        return None
    at = {name: seen.at(metric, p) for name, p in QUANTILES.items()}
    said: Latency | None = None if predicted is None else getattr(predicted, f"{metric}_ms")
    return simulated.Percentiles(mean=seen.at(metric, None), **at, planned=_planned(said))


def _planned(said: Latency | None) -> simulated.PlannedLatency | None:
    if said is None:
        return None
    p95 = None if said.p95 is None else said.p95.value
    return simulated.PlannedLatency(
        mean=said.mean.value, p50=said.p50.value, p90=said.p90.value, p95=p95, p99=said.p99.value
    )


def _attained(
    bound: Bound, seen: Seen, prediction: Prediction | None, service: str | None = None
) -> simulated.Attained:
    limit = {bound.metric: bound.limit_ms * 1e3}
    share = seen.interval(lambda each: each.attainment(limit), 1.0)
    at = seen.at(bound.metric, bound.percentile / 100) if len(seen.value.of(bound.metric)) else None
    asked = (bound.metric, bound.percentile, bound.limit_ms)
    said = [
        each
        for each in (() if prediction is None else prediction.slo)
        if (each.metric, each.percentile, each.limit_ms) == asked
    ]
    return simulated.Attained(
        service=service,
        metric=bound.metric,
        percentile=bound.percentile,
        limit_ms=bound.limit_ms,
        simulated=at,
        planned_ms=said[0].predicted.value if said else None,
        confidence=seen.confidence(bound),
        share=share,
        holds=share.value >= bound.percentile / 100,
    )


def _refused(requests: Outcome) -> tuple[simulated.Refused, ...]:
    out = []
    for why in range(1, len(REFUSALS)):
        which = np.flatnonzero(requests.refused == why)
        if len(which):
            first = which[0]
            example = f"request {first + 1}: {requests.isl[first]} + {requests.osl[first]} tokens"
            out.append(simulated.Refused(reason=REFUSALS[why], requests=len(which), example=example))
    return tuple(out)


def _group(group: EngineGroup, fleet: FleetOutcome) -> simulated.GroupLoad:
    mine = [each for each in fleet.replays if each.group.id == group.id]
    span_us = fleet.requests.span_s * 1e6
    busy = [each.outcome.busy_us / span_us for each in mine]
    timelines = [each.outcome.timeline for each in mine]
    return simulated.GroupLoad(
        engine=group.id,
        role=group.role,
        replicas=len(group.replicas),
        requests=sum(len(each.rows) for each in mine),
        utilisation=sum(busy) / len(group.replicas),
        busiest=max(busy, default=0.0),
        running_mean=float(np.mean([_time_mean(t, 2) for t in timelines])) if timelines else 0.0,
        waiting_most=int(max((t[:, 3].max() for t in timelines), default=0)),
        kv_peak=float(max((t[:, 4].max() for t in timelines), default=0.0)),
        preemptions=sum(int(each.outcome.preemptions.sum()) for each in mine),
        falls_behind=sum(not each.keeps_up for each in mine),
    )


def _time_mean(timeline: Floats, column: int) -> float:
    """Mean over time of a sampled level."""
    time, level = timeline[:, 0], timeline[:, column]
    if len(time) < 2 or time[-1] == time[0]:
        return float(level.mean())
    return float(np.average((level[:-1] + level[1:]) / 2, weights=np.diff(time)))


def _timeline(fleet: FleetOutcome, watts: Floats) -> tuple[simulated.Moment, ...]:
    requests = fleet.requests
    end = requests.end_us
    edges = np.linspace(0.0, end, MOMENTS + 1)
    width_s = end / MOMENTS / 1e6
    running, waiting, busy, kv = (np.zeros(MOMENTS) for _ in range(4))
    for each in fleet.replays:
        time, busy_us, runs, waits, share = each.outcome.timeline.T[:5]
        running += np.interp(edges[1:], time, runs)
        waiting += np.interp(edges[1:], time, waits)
        busy += np.diff(np.interp(edges, time, busy_us)) / (width_s * 1e6) / len(fleet.replays)
        kv = np.maximum(kv, np.interp(edges[1:], time, share))
    place = np.minimum((requests.arrival_us / (end / MOMENTS)).astype(np.int64), MOMENTS - 1)
    arrivals = np.bincount(place, minlength=MOMENTS)
    ttft = requests.ttft_us / 1e3
    moments = []
    for i in range(MOMENTS):
        here = ttft[(place == i) & requests.served]
        moments.append(
            simulated.Moment(
                time_s=float(edges[i + 1]) / 1e6,
                arrivals_rps=float(arrivals[i]) / width_s,
                running=float(running[i]),
                waiting=float(waiting[i]),
                busy=float(busy[i]),
                kv_share=float(kv[i]),
                ttft_p90_ms=float(np.quantile(here, 0.9)) if len(here) else None,
                power_watts=float(watts[i]),
            )
        )
    return tuple(moments)


__all__ = ["drawn_load", "simulate", "simulate_plan"]
