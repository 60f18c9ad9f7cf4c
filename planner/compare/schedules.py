"""A fleet with a schedule among what is compared: its busiest step, with its routing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.kernels.cost_model import CostModel
from costmodels.serving.simulator.arrivals import open_loop
from costmodels.serving.simulator.step_table import End
from planner.compare.carrying import MOST_REQUESTS, REQUESTS, ReplayedFleet
from planner.contract.workload.slo import Slo
from planner.contract.workload.workload import Workload
from planner.replay.gateway import FleetOutcome
from planner.replay.planned_engines import planned_engines
from planner.replay.schedule import ScheduledLoad, ScheduleReplay
from planner.replay.scheduled import exposed_transfers, service_running
from planner.serving.confirmation.simulated_engine import ENDS
from planner.serving.document.opening import check_one_load
from planner.serving.document.plan import Plan
from planner.serving.document.schedules import check_schedule
from profiles.store import ProfileStore

FEW = 2
"""Of what is sent, beyond which a rate is not looked for."""


@dataclass(frozen=True)
class ReplayedSchedule(ReplayedFleet):
    """The engines of a fleet in its busiest step."""

    plan: Plan

    @property
    def _replay(self) -> ScheduleReplay:
        step = max(self.plan.decision.schedule, key=lambda each: each.rate_rps)
        now = step.model_copy(update={"start_s": 0.0, "end_s": math.inf})
        names = [service.name for service in self.plan.request.services]
        return ScheduleReplay(self.engines, [now], names, (), exposed_transfers([self.running], self.engines))

    def at(self, rate_rps: float, ends: Sequence[End] = ENDS, requests: int | None = None) -> dict[End, FleetOutcome]:
        """What requests see at a rate, routed by their lengths."""
        n = requests or min(REQUESTS * self.replicas, MOST_REQUESTS)
        load = open_loop(*self.running.workload.drawn(n, self.seed), rate_rps, seed=self.seed)
        replay, sent = self._replay, ScheduledLoad(load, np.zeros(n, np.int64))
        return {end: replay.run(sent, self.seed, end) for end in ends}

    def _carries(self, end: End) -> float:
        """By doubling and halving: engines are routed to by length, none of them carries a share of all."""
        rate = self.running.workload.rate_rps or self.plan.request.workload.rate_rps or 1.0
        low, high = 0.0, math.inf
        for _ in range(10):
            if self._kept(rate, end):
                low = rate
            else:
                high = rate
            if low and high / low < 1.02:
                break
            rate = low * 1.3 if high == math.inf else (low + high) / 2 if low else high / 2
        return low


def replayed_schedule(
    plan: Plan,
    work: Workload,
    slo: Slo,
    seed: int,
    measured: Sequence[ProfileStore],
    costs: dict[tuple[str, str], CostModel],
) -> ReplayedSchedule:
    """A fleet of one service, ready to be replayed under a load.

    Raises:
        InputError: of several services, of measured tables, or contradicting itself.
    """
    check_schedule(plan)
    check_one_load(plan, "documents", "compare fleets of one")
    from dataclasses import replace

    running = service_running(plan, plan.request.services[0])
    step = max(plan.decision.schedule, key=lambda each: each.rate_rps)
    groups = tuple(
        group.model_copy(update={"replicas": group.replicas[: step.engines[group.id]]})
        for group in plan.decision.engines
        if step.engines.get(group.id)
    )
    deployment = plan.decision.model_copy(update={"engines": groups})
    asked = replace(running, deployment=deployment, workload=work, slo=slo)
    engines = planned_engines(asked, measured=measured, costs=costs)
    return ReplayedSchedule(asked, engines, seed, plan)
