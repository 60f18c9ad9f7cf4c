"""What engines carry within promises, and what requests see of them at a load: the replay of all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import numpy as np

from costmodels.estimates import SIGMAS, Estimates, Ints
from costmodels.serving.simulator.arrivals import open_loop
from costmodels.serving.simulator.capacity import capacity_rps, meets, requests_needed
from costmodels.serving.simulator.events import Limit
from costmodels.serving.simulator.step_table import End
from planner.contract.quantities import Interval
from planner.contract.workload.slo import Slo
from planner.replay.gateway import FleetOutcome, replay, warm_up
from planner.replay.planned_engines import PlannedEngine
from planner.replay.power import fleet_watts
from planner.replay.report import transfer_us
from planner.replay.running import Running
from planner.serving.confirmation.simulated_engine import ENDS
from planner.serving.engines.aggregated import AggregatedCandidate
from planner.serving.engines.energy import gpu_watts
from planner.serving.operating_points import IDLE, predict

REQUESTS, MOST_REQUESTS = 2000, 10_000
"""Simulated at the load, by one engine and by all: more where there are more engines."""

BEYOND = 100
"""Requests of a run that looks for what an engine carries, beyond the highest percentile."""

TOLERANCE = 0.02
FEWEST = 1000
ROUNDS = 12
"""Rates that are tried where an engine alone does not tell what all carry."""

DRAWS, ERRORS = 4, 2.0
"""Draws from which the error of one is judged, and how many such errors are left to the edge."""

CLOSE = 1.01
USERS_ROUNDS = 8
FIRST_TOKEN_S, NEXT_TOKENS_S = 1.0, 0.025
"""Of a request, for the first rate at which so many users may be in flight."""


@dataclass(frozen=True, eq=False)
class PromisedPart:
    """Requests that keep promises together: of which service of several (None: there is one), and which they are."""

    service: str | None
    slo: Slo
    rows: Ints


@dataclass(frozen=True)
class ReplayedFleet:
    """A document's engines, ready to be replayed."""

    running: Running
    engines: list[PlannedEngine]
    seed: int

    @property
    def slo(self) -> Slo:
        return self.running.slo

    @property
    def usd_per_hour(self) -> float | None:
        """What they cost while they carry what is asked here."""
        return self.running.deployment.usd_per_hour

    @property
    def disaggregated(self) -> bool:
        return any(each.group.role == "decode" for each in self.engines)

    @property
    def replicas(self) -> int:
        return sum(len(each.group.replicas) for each in self.engines if each.group.role != "decode")

    # -------------------------------------------------------------- at a load

    def at(self, rate_rps: float, ends: Sequence[End] = ENDS, requests: int | None = None) -> dict[End, FleetOutcome]:
        """What requests see at a rate, those aside that come while the engines fill."""
        n = requests or min(REQUESTS * self.replicas, MOST_REQUESTS)
        load = open_loop(*self.running.workload.drawn(n, self.seed), rate_rps, seed=self.seed)
        return replay(self.engines, load, self.seed, transfer_us(self.running, self.engines, load), ends=ends)

    def for_users(self, users: int) -> float:
        """The rate at which so many requests are in flight (Little's law); the highest that keeps up where none has as
        many."""
        rate = users / (FIRST_TOKEN_S + NEXT_TOKENS_S * self.running.workload.mean_osl)
        low, high = 0.0, math.inf
        for _ in range(USERS_ROUNDS):
            fleet = self.at(rate, ("value",))["value"]
            falls_behind = not _keeps_up(fleet)
            outcome = fleet.requests.take(warm_up(fleet.requests))
            flying = math.inf if falls_behind else rate * outcome.mean_us("e2e") / 1e6
            if users / CLOSE <= flying <= users * CLOSE:
                break
            low, high = (rate, high) if flying < users else (low, rate)
            aimed = rate * users / flying if flying < math.inf else rate / 2
            rate = aimed if low < aimed < high else (low + high) / 2
        return rate

    # -------------------------------------------------------------- at most

    def carries(self) -> Interval:
        """The highest rate at which every promise is kept, with steps as predicted and at the ends of their
        interval."""
        found = {end: self._carries(end) for end in ENDS}
        low, high = min(found.values()), max(found.values())
        return Interval(value=found["value"], low=low, high=high)

    def _carries(self, end: End) -> float:
        if self.disaggregated:
            return self._carries_together(end)
        # The gateway's shares are fixed: all carry what the engine does that is the first to be at its limit.
        return min(
            self._alone(planned, end) / max(replica.weight for replica in planned.group.replicas)
            for planned in self.engines
        )

    def _alone(self, planned: PlannedEngine, end: End) -> float:
        """What one engine carries."""
        limits = [Limit(b.metric, b.percentile / 100, b.limit_ms * 1e3) for b in self.slo.bounds]
        highest = max([0.9, *(limit.percentile for limit in limits)])
        n = min(max(requests_needed(highest, 0.0, BEYOND), FEWEST), MOST_REQUESTS)
        isl, osl = self.running.workload.drawn(n, self.seed)
        return capacity_rps(planned.engines[end], isl, osl, limits, seed=self.seed, tolerance=TOLERANCE)

    def _carries_together(self, end: End) -> float:
        """What prefill and decode engines carry together, by halving."""
        free = replace(self, running=replace(self.running, slo=Slo()))
        fast = [each for each in self.engines if each.group.role == "prefill"]
        most = min(free._alone(each, end) / max(r.weight for r in each.group.replicas) for each in fast)
        if most <= 0 or self._kept(most, end):  # none: prompts come that the engines do not admit
            return most
        low, high = 0.0, most
        for _ in range(ROUNDS):
            middle = (low + high) / 2
            if self._kept(middle, end):
                low = middle
            else:
                high = middle
            if low and high / low <= 1 + TOLERANCE:
                break
        return low

    def agreed(self, most: Interval, rate_rps: float, kept: bool) -> Interval:
        """``most``, what it carries, corrected where the longer run at a rate says otherwise: that promises are kept
        beyond it, or break below."""
        value = most.value
        if kept and value < rate_rps:
            value = rate_rps
        elif not kept and value >= rate_rps:
            low, high, below = 0.0, rate_rps, 1 + 2 * TOLERANCE
            for _ in range(ROUNDS):
                middle = (low + high) / 2 if low else high / below
                below *= below  # it is mostly near, and may be far
                low, high = (middle, high) if self._kept(middle, "value", None) else (low, middle)
                if low and high / low <= 1 + TOLERANCE:
                    break
            value = low
        return Interval(value=value, low=min(most.low, value), high=max(most.high, value))

    def parts(self, requests: int) -> list[PromisedPart]:
        """Of so many requests, what promises which keep together."""
        return [PromisedPart(None, self.slo, np.arange(requests))]

    def _kept(self, rate_rps: float, end: End, requests: int | None = FEWEST) -> bool:
        fleet = self.at(rate_rps, (end,), requests)[end]
        counted = warm_up(fleet.requests)
        return _keeps_up(fleet) and all(
            meets(
                fleet.requests.take(np.intersect1d(part.rows, counted)),
                [Limit(b.metric, b.percentile / 100, b.limit_ms * 1e3) for b in part.slo.bounds],
            )
            for part in self.parts(len(fleet.requests))
        )

    def within(self, most_rps: float) -> float:
        """A rate at which what carries ``most_rps`` keeps its promises in another draw, too: below it by the error of
        one, as far as draws of other seeds differ, and by what the search leaves open."""
        others = [replace(self, seed=self.seed + draw)._carries("value") for draw in range(1, DRAWS)]
        logs = [math.log(rate) for rate in (most_rps, *others) if rate > 0]
        error = stdev(logs) if len(logs) > 1 else 0.0
        middle = math.exp(fmean(logs)) if logs else most_rps
        return min(most_rps, middle) * math.exp(-ERRORS * error - TOLERANCE)

    # -------------------------------------------------------------- power

    def watts(self, rate_rps: float, seen: Mapping[End, FleetOutcome]) -> Interval:
        """Of all GPUs at a rate; of engines that prefill and decode apart over what was ``seen`` of them there."""
        if self.disaggregated:
            return fleet_watts(self.engines, seen)
        total = np.zeros(3)
        for planned in self.engines:
            job = replace(planned.job, slo=Slo())
            limits = planned.group.limits
            most = np.array([float(limits.max_sequences)])
            budget = np.array([limits.max_tokens_per_step])
            points = predict(job, planned.layouts, budget, np.maximum(most - 1, IDLE), most.astype(np.int64))
            count = len(planned.group.replicas)
            share = sum(replica.weight for replica in planned.group.replicas) / count
            engine = AggregatedCandidate(points, 0).at(rate_rps * share)
            each: Estimates = gpu_watts(job.served.gpu, [(step, np.array([share])) for step, share in engine.steps])
            gpus = count * planned.group.gpus_per_engine
            total += gpus * np.array([each.value[0], each.low[0], each.high[0]])
        return Interval(value=float(total[0]), low=float(total[1]), high=float(total[2]))


def _keeps_up(fleet: FleetOutcome) -> bool:
    return all(each.keeps_up for each in fleet.replays)


def falls_behind(fleet: FleetOutcome) -> bool:
    """Whether the queue of some engine grows all the time."""
    return not _keeps_up(fleet)


def log_spread(interval: Interval) -> float:
    """Standard deviation of the logarithm, of a quantity with an 80 % interval."""
    z = 2 * SIGMAS
    return math.log(max(interval.high, 1e-12) / max(interval.low, 1e-12)) / z if interval.low > 0 else math.inf
