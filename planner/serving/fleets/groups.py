"""Classes → what a gateway can tell apart: groups of classes routed alike, and the steps that services share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from costmodels.estimates import Floats
from planner.contract.engine import Role
from planner.contract.fleet import RouteBy
from planner.contract.workload.classes import LengthClass, LoadStep, SteppedLoad
from profiles.errors import InputError
from profiles.values import shown


@dataclass(frozen=True)
class RoutedGroup:
    """Classes of one service that are routed alike in a step: ``classes`` index the step's. ``role``: of the engines
    that it is routed to; requests that are prefilled apart are routed twice."""

    service: int
    isl: tuple[float, float]
    osl: tuple[float, float] | None
    classes: tuple[int, ...]
    role: Role = "aggregated"


@dataclass(frozen=True)
class SharedStep:
    """A stretch of time in which no service's rates change: ``steps[s]`` is service s's."""

    start_s: float
    end_s: float
    steps: tuple[LoadStep, ...]


def shared_steps(names: Sequence[str], loads: Sequence[SteppedLoad]) -> list[SharedStep]:
    """The steps of all services together. A service of one step has it all the time.

    Raises:
        InputError: services of several steps that end at different times.
    """
    several = [(name, load) for name, load in zip(names, loads, strict=True) if len(load.steps) > 1]
    horizon = several[0][1].seconds if several else max(load.seconds for load in loads)
    for name, load in several:
        if abs(load.seconds - horizon) > 1e-6:
            raise InputError(
                f"services: the load of {shown(name)} ends at {load.seconds:g} s, that of {shown(several[0][0])} at "
                f"{horizon:g} s",
                "give loads of one length, or one step that holds all the time",
            )
    edges = sorted({0.0, horizon, *(step.start_s for _, load in several for step in load.steps)})
    found = []
    for start, end in pairwise(edges):
        now = tuple(
            load.steps[0] if len(load.steps) == 1 else next(s for s in load.steps if s.start_s <= start < s.end_s)
            for load in loads
        )
        found.append(SharedStep(start, end, now))
    return found


def distinct(
    load: SteppedLoad, steps: Sequence[SharedStep], service: int
) -> tuple[tuple[LengthClass, ...], list[Floats]]:
    """(classes of all steps, each once; their rates in every shared step)."""
    index: dict[tuple[float, ...], int] = {}
    found: list[LengthClass] = []

    def key(each: LengthClass) -> tuple[float, ...]:
        return (each.isl_from, each.isl_to, each.osl_from, each.osl_to, each.isl, each.osl, each.prefix_hit)

    for step in load.steps:
        for each in step.classes:
            if key(each) not in index:
                index[key(each)] = len(found)
                found.append(each)
    rates = []
    for shared in steps:
        rate = np.zeros(len(found))
        for each in shared.steps[service].classes:
            rate[index[key(each)]] += each.rate_rps
        rates.append(rate)
    return tuple(found), rates


def routed_groups(service: int, classes: Sequence[LengthClass], route_by: RouteBy) -> list[RoutedGroup]:
    """Classes by what the gateway knows. Prompt ranges that overlap are one: it could not tell them apart."""
    order = sorted(range(len(classes)), key=lambda i: (classes[i].isl_from, classes[i].osl_from))
    if route_by == "isl,osl":
        return [
            RoutedGroup(
                service, (classes[i].isl_from, classes[i].isl_to), (classes[i].osl_from, classes[i].osl_to), (i,)
            )
            for i in order
        ]
    groups: list[RoutedGroup] = []
    low = high = -1.0
    mine: list[int] = []
    for i in order:
        each = classes[i]
        if mine and each.isl_from < high:
            mine.append(i)
            high = max(high, each.isl_to)
            continue
        if mine:
            groups.append(RoutedGroup(service, (low, high), None, tuple(mine)))
        low, high, mine = each.isl_from, each.isl_to, [i]
    if mine:
        groups.append(RoutedGroup(service, (low, high), None, tuple(mine)))
    return groups


Capacity = Mapping[tuple[int, Role], Floats]
"""By service and role: requests per second of its classes on each kind of engine, (classes, kinds); 0: none."""


def work_of(groups: Sequence[RoutedGroup], rates: Sequence[Floats], capacity: Capacity) -> Floats:
    """(groups, kinds): engines of each kind that a whole group keeps busy; infinite where one of its classes is not
    served by that kind.

    Args:
        rates: of each service's classes in the step, (classes,).
    """
    rows = []
    for group in groups:
        mine = list(group.classes)
        rate, cells = rates[group.service][mine], capacity[group.service, group.role][mine]
        with np.errstate(divide="ignore"):
            work = np.where(cells > 0, rate[:, None] / np.maximum(cells, 1e-300), np.inf)
        work[rate == 0] = 0.0
        rows.append(work.sum(axis=0))
    return np.array(rows)
