"""Whether a schedule is one that can be replayed: it covers its time, counts its own engines, and sends every request
somewhere."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence

from planner.contract.engine import EngineGroup
from planner.contract.fleet import Route
from planner.serving.document.contradictions import WAY_OUT
from planner.serving.document.plan import Plan
from profiles.errors import InputError
from profiles.values import shown

_ROUNDING = 1e-6


def check_schedule(plan: Plan) -> None:
    """Refuses a plan whose schedule contradicts itself.

    Raises:
        InputError: naming the step and the value.
    """
    groups = {group.id: group for group in plan.decision.engines}
    services = {service.name for service in plan.request.services}
    at = 0.0
    for number, step in enumerate(plan.decision.schedule):
        where = f"plan: schedule[{number}]"
        if abs(step.start_s - at) > _ROUNDING or step.end_s <= step.start_s:
            raise InputError(f"{where}: is from {step.start_s:g} to {step.end_s:g} s, after {at:g} s", WAY_OUT)
        at = step.end_s
        for name, count in step.engines.items():
            if name not in groups or count < 0:
                raise InputError(f"{where}: {count} engines of {shown(name)}, which the plan does not have", WAY_OUT)
        _check_routes(where, step.engines, step.routing, groups, services)
        for each in step.after_losses:
            for name, count in each.lost.items():
                if not 0 <= count <= step.engines.get(name, 0):
                    raise InputError(f"{where}: loses {count} of {shown(name)}, of which fewer run", WAY_OUT)
            left = {name: count - each.lost.get(name, 0) for name, count in step.engines.items()}
            _check_routes(f"{where} after losses", left, each.routing, groups, services)
    for group in plan.decision.engines:
        most = max((step.engines.get(group.id, 0) for step in plan.decision.schedule), default=0)
        if len(group.replicas) != most:
            raise InputError(f"plan: {group.id} has {len(group.replicas)} replicas, and {most} run at most", WAY_OUT)


def _check_routes(
    where: str, engines: Mapping[str, int], routes: Sequence[Route], groups: Mapping[str, EngineGroup],
    services: Container[str],
) -> None:  # fmt: skip
    for route in routes:
        if route.service not in services:
            raise InputError(f"{where}: routes {shown(route.service)}, which is no service of the plan", WAY_OUT)
        _check_weights(where, engines, route, groups)


def _check_weights(where: str, engines: Mapping[str, int], route: Route, groups: Mapping[str, EngineGroup]) -> None:
    """Weights sum to 1, and send requests to engines that run and do what is asked there."""
    for decodes, weights in ((False, route.weights), (True, route.decode_weights)):
        if decodes and not weights:
            continue
        total = math.fsum(weights.values())
        if abs(total - 1) > _ROUNDING or any(weight < 0 for weight in weights.values()):
            raise InputError(f"{where}: weights of {shown(route.service)} sum to {total:.6g}, not to 1", WAY_OUT)
        for name, weight in weights.items():
            if name not in groups or (weight > 0 and not engines.get(name)):
                raise InputError(f"{where}: sends requests to {shown(name)}, of which none runs", WAY_OUT)
            if groups[name].service not in (None, route.service):
                raise InputError(f"{where}: sends {shown(route.service)} to engines of another service", WAY_OUT)
            if (groups[name].role == "decode") is not decodes:
                what = "what is prefilled" if decodes else "prompts"
                raise InputError(f"{where}: sends {what} to {shown(name)}, whose role is {groups[name].role}", WAY_OUT)
    if route.decode_weights and not any(groups[name].role == "prefill" for name in route.weights):
        raise InputError(f"{where}: hands requests of {shown(route.service)} on that nothing prefills", WAY_OUT)
