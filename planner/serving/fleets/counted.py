"""Fleets whose engines are counted on for other than the formulas say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from costmodels.estimates import Floats
from planner.serving.fleets.decision import Fleet


def with_capacity(fleet: Fleet, capacity: Mapping[int, Floats]) -> Fleet:
    """``fleet`` with other capacities of some services."""
    services = tuple(
        replace(service, capacity=capacity.get(s, service.capacity)) for s, service in enumerate(fleet.services)
    )
    return replace(fleet, services=services)


def counted_for_less(fleet: Fleet, shares: Mapping[tuple[int, int], float]) -> Fleet:
    """``fleet`` with kinds, (service, engine), counted on for a share of what they carry."""
    services = []
    for s, service in enumerate(fleet.services):
        by = np.array([shares.get((s, e), 1.0) for e in range(service.capacity.shape[1])])
        strict = None if service.strict is None else service.strict * by
        services.append(replace(service, capacity=service.capacity * by, strict=strict))
    return replace(fleet, services=tuple(services))


def counted_in_steps(fleet: Fleet, counted: Mapping[int, Floats]) -> Fleet:
    """``fleet`` with services, by index, whose kinds are counted on for shares (steps, kinds) of what they carry."""
    return replace(
        fleet, services=tuple(replace(each, counted=counted.get(s)) for s, each in enumerate(fleet.services))
    )
