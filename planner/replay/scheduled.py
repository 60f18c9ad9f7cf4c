"""What is replayed of a plan with a schedule: its engines, service by service, and the requests of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.serving.simulator.arrivals import Requests
from costmodels.serving.simulator.step_table import End
from planner.contract.deployment import Deployment
from planner.contract.fleet import ServiceUnderstood
from planner.contract.workload.classes import LengthClass
from planner.contract.workload.workload import Workload
from planner.replay.cache_transfer import exposed_transfer_ms
from planner.replay.ends import Stretch
from planner.replay.gateway import FleetOutcome, simulating
from planner.replay.planned_engines import PlannedEngine, planned_engines
from planner.replay.request import SimulationRequest
from planner.replay.running import Running
from planner.replay.schedule import Failure, ScheduledLoad, ScheduleReplay
from planner.serving.confirmation.simulated_engine import ENDS
from planner.serving.document.plan import Plan
from planner.serving.document.schedules import check_schedule
from planner.serving.fleets.mixtures import drawn_from
from profiles.errors import InputError
from profiles.store import ProfileStore
from profiles.values import shown

MOST_DRAWN = 6_000_000
"""Requests of a load that is drawn."""

_FAILURE = re.compile(r"(?:(\d+)\*)?(spot:)?([^@*]+)@(\d+(?:\.\d+)?)(?:\+(\d+(?:\.\d+)?))?", re.ASCII)
FAILURE_HINT = (
    "write engine-0@3600 (all of a group, from second 3600 on), 2*engine-0@3600+600 (two of them, for 600 s) or "
    "spot:H100-SXM@7200 (a pool's spot GPUs), several joined by commas"
)


def failures_of(text: str, plan: Plan) -> list[Failure]:
    """What fails when, in the words of :data:`FAILURE_HINT`.

    Raises:
        InputError: not understood, or not of the plan.
    """
    out: list[Failure] = []
    for part in text.split(","):
        found = _FAILURE.fullmatch(part.strip())
        if found is None:
            raise InputError(f"fail: {shown(part)} is not understood", FAILURE_HINT)
        count, spot, name, at, length = found.groups()
        seconds = float(length) if length else np.inf
        if spot:
            mine = [group.id for group in plan.decision.engines if (group.pool, group.supply) == (name, "spot")]
            if not mine or count:
                why = "has no number of engines" if count else f"no engine runs on spot GPUs of {shown(name)}"
                raise InputError(f"fail: {shown(part)}: {why}", FAILURE_HINT)
            these = [Failure(float(at), group, None, seconds) for group in mine]
            _check_there(part.strip(), these, plan)
            out += these
            continue
        if name not in {group.id for group in plan.decision.engines}:
            known = ", ".join(group.id for group in plan.decision.engines)
            raise InputError(f"fail: {shown(name)} is no engine group of the plan", f"it has {known}")
        one = Failure(float(at), name, int(count) if count else None, seconds)
        _check_there(part.strip(), [one], plan)
        out.append(one)
    return out


def _check_there(part: str, mine: Sequence[Failure], plan: Plan) -> None:
    """That a failure takes something away: engines that are there in its time, and no more of them than there are."""
    schedule = plan.decision.schedule
    ends = [*(step.end_s for step in schedule[:-1]), np.inf]
    for each in mine:
        while_it_lasts = [
            step.engines.get(each.group, 0)
            for step, end_s in zip(schedule, ends, strict=True)
            if step.start_s < each.at_s + each.seconds and end_s > each.at_s
        ] or [0]  # before the first step, or for no time
        if each.engines is not None and not 1 <= each.engines <= max(while_it_lasts[0], 1):
            raise InputError(
                f"fail: {shown(part)}: {each.group} has {while_it_lasts[0]} engines at second {each.at_s:g}",
                f"write {each.group}@{each.at_s:g} for all",
            )
        if any(while_it_lasts):
            return
    raise InputError(
        f"fail: {shown(part)}: none of these engines runs then, so nothing fails",
        "name a second at which the plan's schedule has some",
    )


def _check_in_time(failures: Sequence[Failure], outcome: FleetOutcome) -> None:
    """That all failures come before the last request is served."""
    end_s = outcome.requests.end_us / 1e6
    late = next((each for each in failures if each.at_s >= end_s), None)
    if late is not None:
        raise InputError(
            f"fail: {late.group}@{late.at_s:g}: the last request is served at second {end_s:g}, so nothing fails",
            "name an earlier second, or send a longer load",
        )


def is_scheduled(plan: Plan) -> bool:
    """Whether a plan is replayed by its schedule. One whose engines prefill and decode apart and whose routes do not
    say who decodes has one step, and the weights of its engines hold."""
    decode = {group.id for group in plan.decision.engines if group.role != "aggregated"}
    routes = [route for step in plan.decision.schedule for route in step.routing]
    return bool(plan.decision.schedule) and all(
        route.decode_weights or not decode & route.weights.keys() for route in routes
    )


def exposed_transfers(runnings: Sequence[Running], engines: Sequence[PlannedEngine]) -> list[dict[End, float]]:
    """Of each service, what is left of a cache's transfer after the prefill, µs for each token of the prompt."""
    out = []
    for running in runnings:
        ids = {group.id for group in running.deployment.engines}
        exposed = exposed_transfer_ms([each for each in engines if each.group.id in ids])
        isl = float(running.workload.mean_isl)
        out.append({end: 0.0 if exposed is None else exposed[end] * 1e3 / isl for end in ENDS})
    return out


@dataclass(frozen=True)
class Scheduled:
    """What a schedule did under a load."""

    running: Running
    engines: list[PlannedEngine]
    load: ScheduledLoad
    source: str
    outcome: FleetOutcome
    stretches: tuple[Stretch, ...]


def service_running(plan: Plan, service: ServiceUnderstood) -> Running:
    """The engines of one service with its requests.

    Raises:
        InputError: measured tables stand for its engines.
    """
    if service.model is None:
        raise InputError(
            f"plan: measured tables stand for the engines of {shown(service.name)}, which say nothing of their steps",
            "a fleet of tables cannot be simulated; plan it with a model",
        )
    peak = max(service.load.steps, key=lambda step: step.rate_rps)
    rates = np.array([each.rate_rps for each in peak.classes])
    isl, osl = (
        float(np.average([getattr(each, name) for each in peak.classes], weights=rates)) for name in ("isl", "osl")
    )
    workload = Workload(
        isl=max(round(isl), 1),
        osl=max(round(osl), 1),
        rate_rps=peak.rate_rps,
        prefix_hit=service.prefix_hit,
        speculation=service.speculation,
    )
    mine = tuple(group for group in plan.decision.engines if group.service == service.name)
    asked = plan.request
    return Running(
        "plan",
        Deployment(engines=mine, gpus_used=0, gpus_idle=0, usd_per_hour=None),
        service.model,
        service.config,
        service.framework or asked.framework,
        asked.cluster,
        workload,
        service.slo,
        asked.confidence,
        asked.tp_across_nodes,
        plan.prediction,
        plan.provenance,
        plan.was_edited,
    )


def scheduled(
    request: SimulationRequest,
    plan: Plan,
    measured: Sequence[ProfileStore],
    progress: Callable[[str], None] | None,
    fine: bool = False,
) -> Scheduled:
    """The replay that ``request`` asks for of a plan with a schedule; ``fine``: timelines show quarters of a second.

    Raises:
        InputError: a plan that contradicts itself, or a load that is not its own.
    """
    check_schedule(plan)
    services = plan.request.services
    runnings = [service_running(plan, service) for service in services]
    if request.limits:
        runnings = [running.with_limits(request.limits) for running in runnings]
    engines = [each for running in runnings for each in planned_engines(running, measured=measured, progress=progress)]
    load, source = requested(request, plan)
    failures = failures_of(request.fail, plan) if request.fail else []
    names = [service.name for service in services]
    exposed = exposed_transfers(runnings, engines)
    replayed = ScheduleReplay(engines, plan.decision.schedule, names, failures, exposed, fine)
    spans = stretches_of(load, len(services))
    long = len(load.requests) > LONG
    asked: list[tuple[ScheduledLoad, End]] = [(load, "value")] if long else []
    asked += [(load.part(*span), end) for span in spans for end in ENDS]
    outcomes: list[FleetOutcome] = []
    for done, (each, end) in enumerate(asked):
        if progress is not None:
            progress(simulating(len(each.requests), end, done, len(asked)))
        outcomes.append(replayed.run(each, request.seed, end))
    rest = iter(outcomes[1:] if long else outcomes)
    stretches = tuple(Stretch(*span, {end: next(rest) for end in ENDS}) for span in spans)
    outcome = outcomes[0] if long else stretches[0].fleets["value"]
    if failures:
        _check_in_time(failures, outcome)
        source += f"; failures: {request.fail}"
    together = replace(runnings[0], deployment=plan.decision, model=plan.request.model, workload=plan.request.workload)
    return Scheduled(together, engines, load, source, outcome, stretches)


LONG = 100_000
"""Requests of which all are simulated at the ends of steps' intervals too; of longer loads so many, the busiest."""


TELLING = 1000
"""Requests of a service, or all that it has, without which a stretch says nothing of it."""


def stretches_of(load: ScheduledLoad, services: int) -> list[tuple[int, int]]:
    """(first, end) of the requests that come closest together, as many as ``LONG``; where hardly any of a service's are
    among them, also of as many in a row that have most of its own."""
    n, arrival_us = len(load.requests), load.requests.arrival_us
    if n <= LONG:
        return [(0, n)]
    firsts = [int(np.argmin(arrival_us[LONG:] - arrival_us[:-LONG]))]
    for service in range(services):
        before = np.concatenate([[0], np.cumsum(load.service == service)])
        within = before[LONG:] - before[:-LONG]
        if max(within[first] for first in firsts) < min(TELLING, before[-1]):
            firsts.append(int(np.argmax(within)))
    return [(first, first + LONG) for first in firsts]


def requested(request: SimulationRequest, plan: Plan) -> tuple[ScheduledLoad, str]:
    """(the requests of all services, in words where they come from)."""
    services, seed = plan.request.services, request.seed
    names = [service.name for service in services]
    parts: list[tuple[Floats, Ints, Ints, int]] = []
    said = []
    traced: int | None = None
    if request.service is not None and request.service not in names:
        raise InputError(f"service: {shown(request.service)} is none of the plan's", f"it has {', '.join(names)}")
    if request.trace is not None:
        if request.service is None and len(services) > 1:
            raise InputError(
                f"service: the plan has several ({', '.join(names)}), and a trace is of one", "name it with --service"
            )
        name = request.service or names[0]
        traced = names.index(name)
        trace, first = request.trace, slice(request.requests)
        speed = request.speed or 1.0
        seconds = (np.array(trace.arrival_s[first]) + trace.begins_s) / speed
        parts.append((seconds, np.array(trace.isl[first], np.int64), np.array(trace.osl[first], np.int64), traced))
        said.append(trace.name if speed == 1 else f"{trace.name} at {speed:g} times its speed")
    factor = _factor(request, plan)
    for s, service in enumerate(services):
        if s == traced:
            continue
        parts.append((*_drawn(service, factor, seed + 7919 * s, request.requests, request.cv), s))
        said.append(f"{service.name}'s load at random" if len(services) > 1 else "the planned load at random")
    seconds, isl, osl = (np.concatenate([part[i] for part in parts]) for i in range(3))
    service_of = np.concatenate([np.full(len(part[0]), part[3], np.int64) for part in parts])
    order = np.argsort(seconds, kind="stable")
    requests = Requests(isl[order], osl[order], seconds[order] * 1e6)
    return ScheduledLoad(requests, service_of[order]), "; ".join(said)


def _factor(request: SimulationRequest, plan: Plan) -> float:
    """By how much the drawn load is more than the planned one."""
    if request.rate is None:
        return 1.0
    planned = max(step.rate_rps for step in plan.decision.schedule)
    return request.rate / planned


def _drawn(
    service: ServiceUnderstood, factor: float, seed: int, most: int | None, cv: float
) -> tuple[Floats, Ints, Ints]:
    """(seconds, isl, osl) of requests at random, step by step."""
    rng = np.random.default_rng(seed)
    seconds, isl, osl = [], [], []
    left = MOST_DRAWN if most is None else most
    expected = factor * sum(step.rate_rps * (step.end_s - step.start_s) for step in service.load.steps)
    if most is None and expected > MOST_DRAWN:
        raise InputError(
            f"load: {shown(service.name)} has about {expected:,.0f} requests, more than {MOST_DRAWN:,}",
            "say how many, from the start on: --requests 500000",
        )
    for number, step in enumerate(service.load.steps):
        classes: tuple[LengthClass, ...] = step.classes
        rates = np.array([each.rate_rps for each in classes]) * factor
        length, rate = step.end_s - step.start_s, float(rates.sum())
        if rate <= 0 or left <= 0:
            continue
        gaps = rng.standard_gamma(1 / cv**2, max(round(rate * length * 1.05) + 50, 1)) * cv**2 / rate
        times = np.cumsum(gaps)
        times = times[times < length][:left]
        prompts, outputs = drawn_from(classes, rates, max(len(times), 1), seed + number)
        seconds.append(step.start_s + times)
        isl.append(prompts[: len(times)])
        osl.append(outputs[: len(times)])
        left -= len(times)
    return np.concatenate(seconds), np.concatenate(isl), np.concatenate(osl)
