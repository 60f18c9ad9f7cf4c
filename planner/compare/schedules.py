"""A fleet with a schedule among what is compared: its busiest step, with its routing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from costmodels.estimates import Ints
from costmodels.kernels.cost_model import CostModel
from costmodels.serving.simulator.arrivals import open_loop
from costmodels.serving.simulator.step_table import End
from planner.compare.carrying import FEWEST, MOST_REQUESTS, REQUESTS, PromisedPart, ReplayedFleet
from planner.contract.fleet import ScheduledStep, ServiceUnderstood
from planner.contract.quantities import Interval
from planner.contract.workload.classes import LoadStep
from planner.contract.workload.slo import Slo
from planner.contract.workload.workload import Workload
from planner.replay.gateway import FleetOutcome
from planner.replay.planned_engines import PlannedEngine, planned_engines
from planner.replay.power import fleet_watts
from planner.replay.running import Running
from planner.replay.schedule import ScheduledLoad, ScheduleReplay
from planner.replay.scheduled import exposed_transfers, service_running
from planner.serving.confirmation.simulated_engine import ENDS
from planner.serving.document.plan import Plan
from planner.serving.document.schedules import check_schedule
from planner.serving.fleets.mixtures import drawn_from
from profiles.errors import InputError
from profiles.store import ProfileStore


@dataclass(frozen=True)
class ComparedLoad:
    """What all are sent and promise. ``services``: of fleets of several, each with its load at its busiest step and its
    promises; empty: ``work`` and ``slo`` are of all requests."""

    work: Workload
    slo: Slo
    seed: int
    services: tuple[ServiceUnderstood, ...] = ()

    @property
    def busiest(self) -> list[LoadStep]:
        """Of each of the services, when all together have most requests."""
        loads = [service.load.steps for service in self.services]
        times = sorted({step.start_s for steps in loads for step in steps})
        then = ([next(step for step in reversed(steps) if step.start_s <= at) for steps in loads] for at in times)
        return max(then, key=lambda steps: sum(step.rate_rps for step in steps))


@dataclass(frozen=True)
class ReplayedSchedule(ReplayedFleet):
    """The engines of a fleet in its busiest step; ``runnings``: of each of its services."""

    plan: Plan
    load: ComparedLoad
    runnings: tuple[Running, ...]

    @property
    def usd_per_hour(self) -> float | None:
        return self._step.usd_per_hour

    @property
    def _step(self) -> ScheduledStep:
        return max(self.plan.decision.schedule, key=lambda each: each.rate_rps)

    @property
    def _replay(self) -> ScheduleReplay:
        now = self._step.model_copy(update={"start_s": 0.0, "end_s": math.inf})
        names = [service.name for service in self.plan.request.services]
        return ScheduleReplay(self.engines, [now], names, (), exposed_transfers(self.runnings, self.engines))

    def at(self, rate_rps: float, ends: Sequence[End] = ENDS, requests: int | None = None) -> dict[End, FleetOutcome]:
        """What requests see at a rate, routed by their lengths."""
        n = requests or min(REQUESTS * self.replicas, MOST_REQUESTS)
        service = self._services(n)
        load = open_loop(*self._lengths(service), rate_rps, seed=self.seed)
        replay, sent = self._replay, ScheduledLoad(load, service)
        return {end: replay.run(sent, self.seed, end) for end in ends}

    def _services(self, n: int) -> Ints:
        """(n,) whose each request is, of the plan's services."""
        if not self.load.services:
            return np.zeros(n, np.int64)
        rates = np.array([step.rate_rps for step in self.load.busiest])
        names = [service.name for service in self.plan.request.services]
        its = np.array([names.index(service.name) for service in self.load.services])
        drawn: Ints = its[np.random.default_rng(self.seed).choice(len(rates), n, p=rates / rates.sum())]
        return drawn

    def _lengths(self, service: Ints) -> tuple[Ints, Ints]:
        if not self.load.services:
            return self.running.workload.drawn(len(service), self.seed)
        isl, osl = np.ones(len(service), np.int64), np.ones(len(service), np.int64)
        names = [each.name for each in self.plan.request.services]
        for each, step in zip(self.load.services, self.load.busiest, strict=True):
            mine = np.flatnonzero(service == names.index(each.name))
            if len(mine):
                rates = np.array([one.rate_rps for one in step.classes])
                isl[mine], osl[mine] = drawn_from(step.classes, rates, len(mine), self.seed)
        return isl, osl

    def parts(self, requests: int) -> list[PromisedPart]:
        if not self.load.services:
            return super().parts(requests)
        service, names = self._services(requests), [each.name for each in self.plan.request.services]
        return [
            PromisedPart(each.name, each.slo, np.flatnonzero(service == names.index(each.name)))
            for each in self.load.services
        ]

    def watts(self, rate_rps: float, seen: Mapping[End, FleetOutcome]) -> Interval:
        return fleet_watts(self.engines, seen) if self.load.services else super().watts(rate_rps, seen)

    def _carries(self, end: End) -> float:
        """By doubling and halving: engines are routed to by length, none of them carries a share of all. Each engine
        gets so many requests that it fills."""
        requests = min(FEWEST * self.replicas, MOST_REQUESTS)
        rate = self.running.workload.rate_rps or self.plan.request.workload.rate_rps or 1.0
        low, high = 0.0, math.inf
        for _ in range(10):
            if self._kept(rate, end, requests):
                low = rate
            else:
                high = rate
            if low and high / low < 1.02:
                break
            rate = low * 1.3 if high == math.inf else (low + high) / 2 if low else high / 2
        return low


def replayed_schedule(
    plan: Plan, load: ComparedLoad, measured: Sequence[ProfileStore], costs: dict[tuple[str, str], CostModel]
) -> ReplayedSchedule:
    """A fleet, ready to be replayed under a load.

    Raises:
        InputError: of other services than the load, of measured tables, or contradicting itself.
    """
    check_schedule(plan)
    services = plan.request.services
    ours, asked = (sorted(each.name for each in some) for some in (services, load.services))
    if (load.services or len(services) > 1) and ours != asked:
        raise InputError(
            f"documents: serves {', '.join(ours)}, and the load is of {', '.join(asked)}",
            "compare fleets of the same services",
        )
    step = max(plan.decision.schedule, key=lambda each: each.rate_rps)
    runnings = []
    for service in services:
        running = service_running(plan, service)
        groups = tuple(
            group.model_copy(update={"replicas": group.replicas[: step.engines[group.id]]})
            for group in running.deployment.engines
            if step.engines.get(group.id)
        )
        deployment = running.deployment.model_copy(update={"engines": groups})
        one = replace(running, deployment=deployment)
        runnings.append(one if load.services else replace(one, workload=load.work, slo=load.slo))
    engines: list[PlannedEngine] = [
        each for running in runnings for each in planned_engines(running, measured=measured, costs=costs)
    ]
    groups = tuple(group for running in runnings for group in running.deployment.engines)
    together = plan.decision.model_copy(update={"engines": groups})
    whole = replace(runnings[0], deployment=together, workload=load.work, slo=load.slo)
    return ReplayedSchedule(whole, engines, load.seed, plan, load, tuple(runnings))
