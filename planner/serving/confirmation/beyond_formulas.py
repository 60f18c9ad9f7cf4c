"""Engines that the formulas exclude, though not by much: they err in percentiles, and only a simulation can tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from costmodels.serving.simulator.arrivals import open_loop
from costmodels.serving.simulator.capacity import WARM_UP
from costmodels.serving.simulator.events import simulate
from planner.serving.confirmation.simulated_engine import simulated_engines
from planner.serving.engines.aggregated import AggregatedEngine
from planner.serving.engines.groups import Group, LoadedFleet, pairs_of
from planner.serving.engines.options import ServingOption, aggregated
from planner.serving.request import PlanRequest


def with_lenient(request: PlanRequest, option: ServingOption) -> ServingOption:
    """An ``option`` of aggregated engines with all that are within :data:`~planner.serving.operating_points.LENIENT` of
    the SLO beside its own, which hold fewer sequences; others as they are. What was searched stays what the formulas
    promise."""
    if option.serving != "aggregated" or not option.searches:
        return option
    also = [each.lenient for each in option.searches]
    return aggregated(request, option.precision, option.searches, option.refused, also)


REQUESTS = 2000
"""Simulated ones that tell how long requests wait before the engine."""


def fleet_under_load(request: PlanRequest, option: ServingOption) -> LoadedFleet:
    """A solved option at its load. What requests wait before engines that the formulas exclude, which comes from their
    number in flight and their steps, is then the simulation's."""
    fleet = LoadedFleet.of(request, option)
    if not any(group.job.lenient for group in fleet.groups):
        return fleet
    groups = [_with_front(group) if group.job.lenient else group for group in fleet.groups]
    return replace(fleet, groups=groups, pairs=pairs_of(groups))


def _with_front(group: Group) -> Group:
    job, shape, point = group.job, group.job.shape, group.engine
    assert isinstance(point, AggregatedEngine)
    engine = simulated_engines(job, group.layouts, group.limits, "aggregated", 0.0, ["value"])["value"]
    isl, osl = job.workload.drawn(REQUESTS, 0)
    outcome = simulate(engine, open_loop(isl, osl, group.load_rps, seed=0)).trimmed(WARM_UP)
    if not len(outcome):
        return group
    front = job.served.calibration.front_us(
        np.array([float(shape.isl)]),
        np.array([group.load_rps * outcome.mean_us("e2e") / 1e6]),
        np.array([outcome.mean_us("tpot") if shape.osl > 1 else 0.0]),
        group.layouts.dp,
        float(shape.osl),
        job.served.framework.scheduler.polling > 1,
        np.array([group.load_rps / 1e6]),
    )
    steady = point.steady.with_front(front)
    return replace(group, engine=AggregatedEngine(replace(point.point, steady=steady)))
