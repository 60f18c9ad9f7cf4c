"""The whole job of a fleet: request → loads → engines → mix → plan document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from planner.contract.provenance import NOT_USED, PACKAGE, Provenance
from planner.contract.published import validated
from planner.serving.document.plan import Plan, parse_plan
from planner.serving.fleets.comparisons import compare
from planner.serving.fleets.decision import fleet_of, solved
from planner.serving.fleets.described import TableDescribed
from planner.serving.fleets.report import document
from planner.serving.fleets.request import FleetRequest, parse_fleet_request
from profiles.errors import Unsupported
from profiles.store import ProfileStore

Progress = Callable[[str], None]


def plan_fleet(
    request: FleetRequest | Mapping[str, Any],
    *,
    measured: Sequence[ProfileStore] = (),
    progress: Progress | None = None,
) -> Plan:
    """The fleet that serves every service's load at least cost, with its schedule, its routing and its proof.

    Raises:
        InputError, UnknownName, Unsupported: the request cannot be understood or modelled.
        Infeasible: nothing serves it; names what binds and the nearest thing that works.
        LimitReached: the time limit passed without any fleet.
    """
    if not isinstance(request, FleetRequest):
        request = parse_fleet_request(request)
    tell = progress or (lambda _: None)
    if all(service.model is None for service in request.services):
        fleet = fleet_of(request, _no_engines)
        tell("choosing engines")
        found = solved(fleet, progress=progress)
        tell("comparing with other fleets")
        comparisons = compare(found, request.time_limit_s / 2, progress)
        return validated(document(found, TableDescribed(), comparisons, _provenance()), parse_plan)
    raise Unsupported("services: fleets of models are not planned yet", "give measured tables")


def _no_engines(*_: Any) -> Any:
    raise Unsupported("services: a model beside tables", "give all services models, or all tables")


def _provenance() -> Provenance:
    from importlib.metadata import version

    return Provenance(
        package=PACKAGE,
        package_version=version(PACKAGE),
        cost_model_version=NOT_USED,
        pack=NOT_USED,
        pack_version=NOT_USED,
        pack_hash=NOT_USED,
        attribution="",
        notes=("engines are those of measured tables, which hold the promise that they were measured for",),
    )
