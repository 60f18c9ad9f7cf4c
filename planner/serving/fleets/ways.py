"""The ways to serve: each service by engines that do all, or by engines that prefill beside engines that decode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.serving.fleets.apart import Partners
from planner.serving.fleets.decision import Fleet, ServiceLoad, with_engines
from planner.serving.fleets.supplies import usd_per_engine
from profiles.errors import Infeasible
from profiles.values import shown


def aggregated_alone(fleet: Fleet) -> Fleet:
    """``fleet`` of engines that serve requests from beginning to end. Raises as :func:`with_engines`."""
    return with_engines(fleet, [_of(service, None) for service in fleet.services])


def apart(fleet: Fleet) -> Fleet | None:
    """``fleet`` with every service whose requests cost less so served by engines that prefill and engines that decode,
    among the partners with which they cost least, if engines could be had in parts; None: none do. Where disaggregation
    is asked for always, every service is.

    Raises:
        Infeasible: a service of which no engines can prefill and decode apart, where that is asked for.
    """
    always = fleet.request.disaggregation == "always"
    services: list[ServiceLoad] = []
    for service in fleet.services:
        sets = sorted({e.partners for e in service.engines if e.partners is not None}, key=repr)
        if not sets and always:
            raise Infeasible(
                f"services {shown(service.asked.name)}: no engines of these pools prefill and decode apart",
                "leave disaggregation out, or offer GPUs on which two layouts share the roles",
                binding="disaggregation",
            )
        ways: list[Partners | None] = [*([] if always else [None]), *sets]
        services.append(_of(service, min(ways, key=lambda way: _in_parts(fleet, _of(service, way)))))
    return with_engines(fleet, services) if any(service.apart for service in services) else None


def _of(service: ServiceLoad, partners: Partners | None) -> ServiceLoad:
    kept = [i for i, engine in enumerate(service.engines) if engine.partners == partners]
    strict = None if service.strict is None else service.strict[:, kept]
    return replace(
        service, engines=tuple(service.engines[i] for i in kept), capacity=service.capacity[:, kept], strict=strict
    )


def least_cost(fleet: Fleet) -> float:
    """What no fleet of these engines costs less than, of all steps on average: engines in parts, limits aside."""
    return sum(_in_parts(fleet, service) for service in fleet.services)


def _in_parts(fleet: Fleet, service: ServiceLoad) -> float:
    """The least that a service costs if engines could be had in parts and without limit; classes that it does not serve
    cost more than any."""
    if not service.engines:
        return np.inf
    seconds = np.array([step.end_s - step.start_s for step in fleet.steps])
    rate = np.average(np.array(service.rates), axis=0, weights=seconds)
    each = np.array([_price(fleet, engine.pool_index, engine.gpus) for engine in service.engines])
    with np.errstate(divide="ignore"):
        cost = np.where(service.capacity > 0, each / np.maximum(service.capacity, 1e-300), np.inf)
    roles = sorted({engine.role for engine in service.engines})
    of_role = [[i for i, engine in enumerate(service.engines) if engine.role == role] for role in roles]
    least = sum(cost[:, mine].min(axis=1) for mine in of_role)
    return float((rate * np.minimum(least, 1e12)).sum())


def _price(fleet: Fleet, pool: int, gpus: int) -> float:
    mine = [offer for offer in fleet.offers if offer.pool_index == pool]
    return min((usd_per_engine(offer, gpus, fleet.request.objective) for offer in mine), default=np.inf)
