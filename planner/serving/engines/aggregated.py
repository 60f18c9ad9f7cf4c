"""Engines that prefill and decode."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from costmodels.estimates import Estimates
from costmodels.operations.layouts import Layouts
from costmodels.serving.simulator.outcome import Metric
from costmodels.serving.steady.kv_transfer import Link
from costmodels.serving.steady.steady_state import Steady
from costmodels.serving.step import StepTimes
from planner.contract.engine import Role
from planner.contract.workload.workload import Workload
from planner.serving.engines.protocol import most_sequences
from planner.serving.engines.under_load import at_load, share_of_less
from planner.serving.operating_points import Job, OperatingPoints, Served, predict


@dataclass(frozen=True)
class AggregatedCandidate:
    """One operating point."""

    role: ClassVar[Role] = "aggregated"
    points: OperatingPoints
    index: int

    @property
    def job(self) -> Job:
        return self.points.job

    @property
    def layouts(self) -> Layouts:
        return self.points.layouts.take(np.array([self.index]))

    @property
    def key(self) -> tuple[int, ...]:
        return self.points.key(self.index)

    @property
    def kind(self) -> tuple[int, ...]:
        return (*self.key, int(self.points.budget[self.index]))

    @property
    def batch_limits(self) -> tuple[int, int]:
        points, i = self.points, self.index
        return int(points.budget[i]), most_sequences(float(points.concurrency[i]), int(points.most[i]))

    @property
    def rate_rps(self) -> Estimates:
        return self.points.steady.rate_rps.take(np.array([self.index]))

    @property
    def link(self) -> Link | None:
        return None

    @property
    def link_busy(self) -> float:
        return 0.0

    def at(self, load_rps: float) -> AggregatedEngine:
        return AggregatedEngine(*at_load(self.points, self.index, load_rps), load_rps)


@dataclass(frozen=True)
class AggregatedEngine:
    """An engine at one operating point. ``fewer``: the next lower concurrency, which does not carry ``load_rps``; None:
    there is none, or the point is the load's."""

    role: ClassVar[Role] = "aggregated"
    point: OperatingPoints
    fewer: OperatingPoints | None = None
    load_rps: float = 0.0

    @property
    def steady(self) -> Steady:
        return self.point.steady

    @property
    def alone(self) -> Served:
        return self.steady

    @property
    def means_us(self) -> dict[Metric, Estimates]:
        steady = self.steady
        if self.point.job.workload.osl > 1:
            return {"ttft": steady.ttft_us, "tpot": steady.tpot_us, "e2e": steady.e2e_us}
        return {"ttft": steady.ttft_us, "e2e": steady.e2e_us}

    def own_us(self, metric: Metric, p: float | None) -> float:
        if p is None:
            return float(getattr(self.steady, f"{metric}_us").value[0])
        return float(getattr(self.steady, f"{metric}_percentile_us")(p)[0])

    @property
    def steps(self) -> list[tuple[StepTimes, float]]:
        mixed = float(self.steady.mixed_share[0])
        return [(self.steady.decode, 1 - mixed), (self.steady.mixed, mixed)]

    @property
    def origin(self) -> Estimates:
        return self.steady.tpot_us if self.point.job.workload.osl > 1 else self.steady.ttft_us

    @property
    def concurrency(self) -> float:
        return float(self.point.concurrency[0])

    @property
    def less(self) -> tuple[AggregatedEngine, float] | None:
        if self.fewer is None:
            return None
        rates = (float(point.steady.rate_rps.value[0]) for point in (self.fewer, self.point))
        return AggregatedEngine(self.fewer), share_of_less(self.load_rps, *rates)

    @property
    def prefill_busy(self) -> float:
        return float(self.steady.queue_busy[0])

    @property
    def stay_us(self) -> float:
        return float(self.steady.e2e_us.value[0])

    @property
    def longest_tokens(self) -> int:
        return self.point.job.shape.tokens

    def serving(self, workload: Workload) -> AggregatedEngine | None:
        x = self.point
        point = predict(replace(x.job, workload=workload), x.layouts, x.budget, x.concurrency, x.most)
        return AggregatedEngine(point) if bool(point.steady.stable[0]) else None
