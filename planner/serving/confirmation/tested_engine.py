"""A kind of engine as it is simulated, whatever its load."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from statistics import NormalDist

from costmodels.estimates import SIGMAS, Ints
from costmodels.serving.simulator.capacity import saturated_rps
from costmodels.serving.simulator.events import Engine
from costmodels.serving.simulator.step_table import End
from planner.serving.confirmation.simulated_engine import simulated_engines
from planner.serving.engines.groups import Group

BEYOND_EDGE = 1.6
"""Of what an engine is said to carry: what it is sent to see how much it can do at most."""

NO_QUEUE = 0.97
"""An engine that answers this share of such a load is not at its edge there."""


class TestedEngine:
    """One engine of a group; what is learnt of it is kept.

    Attributes:
        front_us: what a request waits outside the engine's steps before it is queued.
    """

    __test__ = False  # not one of pytest's

    def __init__(self, group: Group, front_us: float) -> None:
        self._group, self.front_us = group, front_us
        self._edge: float | None = None

    @cached_property
    def _engines(self) -> dict[End, Engine]:
        group = self._group
        # Of a pair the formulas say all but what its engines do: its front end is theirs.
        front_us = self.front_us if group.role == "aggregated" else 0.0
        return simulated_engines(group.job, group.layouts, group.limits, group.role, front_us)

    def at(self, end: End) -> Engine:
        """The engine whose steps take as long as an end of their interval says."""
        return self._engines[end]

    @cached_property
    def sure(self) -> Engine:
        """The engine whose steps and front end are no slower with the confidence that was asked for."""
        confidence, origin = self._group.job.confidence, self._group.engine.origin
        if confidence == 0.5:
            return self._engines["value"]
        end: End = "high" if confidence > 0.5 else "low"
        beyond = abs(NormalDist().inv_cdf(confidence)) / SIGMAS - 1
        engine, factor = self._engines[end], float(getattr(origin, end)[0] / origin.value[0]) ** beyond
        front_us = engine.overheads.request_us * self._group.job.served.calibration.front_ends[end] ** beyond
        return replace(engine, overheads=replace(engine.overheads, step_factor=factor, request_us=front_us))

    def edge_rps(self, isl: Ints, osl: Ints, said_rps: float) -> float:
        """What it can do at most; infinite where that is far beyond what it is said to carry.

        Args:
            isl, osl: of the requests that fill it.
        """
        if self._edge is None:
            asked = BEYOND_EDGE * said_rps
            found = saturated_rps(self.sure, isl, osl, asked)
            self._edge = math.inf if found > asked * NO_QUEUE else found
        return self._edge
