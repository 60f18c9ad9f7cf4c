"""The load of a replay: recorded requests, or requests at random."""

from __future__ import annotations

import numpy as np

from costmodels.serving.simulator.arrivals import Requests, closed_loop, open_loop
from planner.contract.deployment import DeploymentDocument
from planner.contract.workload.traces import sent
from planner.contract.workload.workload import Workload
from planner.replay.request import REQUESTS, SimulationRequest
from planner.replay.running import Running
from planner.serving.document.plan import Plan
from profiles.errors import InputError

A_USER = 10
"""Requests of each of the users at once, as the public harnesses send them."""


def drawn_load(
    plan: Plan | DeploymentDocument,
    rate_rps: float,
    requests: int,
    *,
    cv: float = 1.0,
    seed: int = 0,
    workload: Workload | None = None,
) -> Requests:
    """Requests of the plan's own lengths, those that it refuses left out, at random arrivals.

    Args:
        cv: coefficient of variation of the gaps: 1 is Poisson.
        workload: of other lengths.
    """
    if requests < 1:
        raise InputError(f"requests: {requests} is not at least 1", "give the number of requests to send")
    if workload is None:
        workload = Running.of(plan).workload
    return open_loop(*workload.drawn(requests, seed), rate_rps, cv=cv, seed=seed)


def requested_load(request: SimulationRequest) -> tuple[Requests, str]:
    """(the requests, in words where they come from)."""
    trace = request.trace
    if trace is None and request.users is not None:
        assert request.workload is not None
        users, asking = request.users, request.workload
        asked = request.requests or asking.requests or max(REQUESTS, A_USER * users)
        if asked < users:
            raise InputError(f"requests: {asked} are fewer than the {users} users at once", "send ten a user or more")
        kind = f"{users:,} users at once, each of whom asks again when it is answered, {asking.told()}"
        return closed_loop(*asking.drawn(asked, request.seed), users), kind
    if trace is None:
        assert request.rate_rps is not None
        cv, work = request.cv, request.workload
        kind = "Poisson arrivals" if cv == 1 else f"gamma arrivals (coefficient of variation {cv:g})"
        if request.is_own_load:
            kind += ", as the plan is for"
        if work is not None:
            kind += f" of {work.told()}"
        asked = request.requests or (None if work is None else work.requests) or REQUESTS
        load = drawn_load(request.plan, request.rate_rps, asked, cv=cv, seed=request.seed, workload=work)
        return load, kind
    first = slice(request.requests)
    factor = 1.0 if request.speed is None else request.speed
    load = sent(np.array(trace.arrival_s[first]), np.array(trace.isl[first]), np.array(trace.osl[first]), factor)
    source = trace.name if factor == 1 else f"{trace.name} at {factor:g} times its speed"
    return load, source + (f", {trace.skipped:,} requests without output left out" if trace.skipped else "")
