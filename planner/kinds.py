"""The registry of decisions: name → what is asked, the document that answers, and the function that makes it.

Schemas, REST routes and the command line's ``plan schema`` are made from it; a new decision is one entry here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from planner.compare import check_document as checks
from planner.compare import document as comparisons
from planner.compare.check_request import CheckRequest
from planner.compare.request import ComparisonRequest
from planner.contract import deployment as deployments
from planner.contract.documents import checked
from planner.contract.kind import Kind, Make, from_catalogue, late
from planner.contract.progress import Tell
from planner.contract.published import Published, json_schema
from planner.experts import document as experts
from planner.experts.request import PlacementRequest
from planner.exports import document as exports
from planner.exports.request import ExportRequest
from planner.imports.request import ImportRequest
from planner.power import document as power
from planner.power.request import PowerRequest
from planner.replay import document as replay
from planner.replay.request import SimulationRequest
from planner.serving import memory_document as memories
from planner.serving import predictions as predicted
from planner.serving.configuration import MemoryRequest
from planner.serving.document import plan as serving
from planner.serving.fleets.request import FleetRequest
from planner.serving.predictions import PredictionRequest
from planner.serving.request import PlanRequest
from planner.training import asked_layouts
from planner.training import document as training
from planner.training import layouts as named
from planner.training.layouts import LayoutsRequest
from planner.training.request import TrainingRequest
from profiles.errors import UnknownName

if TYPE_CHECKING:
    from profiles.store import ProfileStore

FEW = 64
"""Configurations that are predicted in about a second."""


def _plan() -> Make:
    from planner.serving.planning import plan

    return plan


def _fleet() -> Make:
    from planner.serving.fleets.planning import plan_fleet

    return plan_fleet


def _place() -> Make:
    from planner.experts.decision import place_experts

    return lambda request, /, **beside: place_experts(request, **beside)[1]


def _predict() -> Make:
    from planner.replay.predicted import predictions

    return predictions


def _memory() -> Make:
    from planner.serving.memory import memory

    return from_catalogue(memory)


def _simulate() -> Make:
    from planner.replay.report import simulate

    return simulate


def _import() -> Make:
    from planner.imports.importing import deployment_of

    return from_catalogue(deployment_of)


def _compare() -> Make:
    from planner.compare.comparing import compare

    return compare


def _check() -> Make:
    from planner.compare.checking import check

    return check


def _export() -> Make:
    from planner.exports.exporting import export

    return lambda request, /, **_: export(request)


def _train() -> Make:
    from planner.training.planning import plan_training

    return plan_training


def _power() -> Make:
    from planner.power.assembly import power_plan

    return power_plan


_SERVING = Kind(
    name="serving",
    title="a plan: how one model is served",
    request=PlanRequest,
    document=serving.Plan,
    parse=serving.parse_plan,
    older=serving.OLDER,
    make=late(_plan),
    route="/v1/plans",
    command="",
)
_FLEET = replace(
    _SERVING,
    title="a fleet: which GPUs serve which requests of several services, and when",
    request=FleetRequest,
    make=late(_fleet),
    command="fleet",
    form="fleet",
    told_by="services",
)

_layouts = partial(Kind, request=LayoutsRequest, older=named.OLDER, quick=lambda request: len(request.layouts) <= FEW)

_ALL: tuple[Kind, ...] = (
    replace(_SERVING, forms=(_FLEET,)),
    Kind(
        name="experts",
        title="a placement: which GPU holds which expert, and which copies of it",
        request=PlacementRequest,
        document=experts.PlacementDocument,
        parse=experts.parse_placement,
        older=experts.OLDER,
        make=late(_place),
        route="/v1/expert-placements",
        command="experts",
    ),
    Kind(
        name="predictions",
        title="latency, throughput and memory of configurations",
        request=PredictionRequest,
        document=predicted.Predictions,
        parse=predicted.parse_predictions,
        older=predicted.OLDER,
        make=late(_predict),
        route="/v1/predictions",
        command="predict",
        quick=lambda request: request.plan is None and len(request.configurations) <= FEW,
    ),
    Kind(
        name="memory",
        title="whether an engine starts, and where the memory of its GPUs goes",
        request=MemoryRequest,
        document=memories.MemoryDocument,
        parse=memories.parse_memory,
        older=memories.OLDER,
        make=late(_memory),
        route="/v1/memory",
        command="memory",
        quick=lambda _: True,
    ),
    Kind(
        name="simulation",
        title="what a plan does under a load, request by request",
        request=SimulationRequest,
        document=replay.SimulationReport,
        parse=replay.parse_report,
        older=replay.OLDER,
        make=late(_simulate),
        route="/v1/simulations",
        command="simulate",
    ),
    Kind(
        name="deployment",
        title="what runs: engines read from the commands or files that start them",
        request=ImportRequest,
        document=deployments.DeploymentDocument,
        parse=deployments.parse_deployment,
        older=deployments.OLDER,
        make=late(_import),
        route="/v1/imports",
        command="import",
        quick=lambda _: True,
    ),
    Kind(
        name="comparison",
        title="plans and deployments side by side under one load",
        request=ComparisonRequest,
        document=comparisons.Comparison,
        parse=comparisons.parse_comparison,
        older=comparisons.OLDER,
        make=late(_compare),
        route="/v1/comparisons",
        command="compare",
    ),
    Kind(
        name="check",
        title="whether what runs starts and keeps its promises, and what would be better",
        request=CheckRequest,
        document=checks.CheckDocument,
        parse=checks.parse_check,
        older=checks.OLDER,
        make=late(_check),
        route="/v1/checks",
        command="check",
    ),
    Kind(
        name="export",
        title="what a launcher reads, made from a plan: scripts, manifests, a front",
        request=ExportRequest,
        document=exports.ExportDocument,
        parse=exports.parse_export,
        older=exports.OLDER,
        make=late(_export),
        route="/v1/exports",
        command="export",
        quick=lambda _: True,
        media_type="application/zip",
        written=exports.archive,
    ),
    Kind(
        name="training",
        title="a training plan: how a model is laid out to be trained",
        request=TrainingRequest,
        document=training.TrainingPlan,
        parse=training.parse_training_plan,
        older=training.OLDER,
        make=late(_train),
        route="/v1/training-plans",
        command="train",
    ),
    _layouts(
        name="training-predictions",
        title="time and memory of training layouts",
        document=named.TrainingPredictions,
        parse=named.parse_training_predictions,
        make=asked_layouts.training_predictions,
        route="/v1/training-predictions",
        command="train predict",
    ),
    _layouts(
        name="training-memory",
        title="whether training layouts fit, and where the memory of every stage goes",
        document=named.TrainingMemories,
        parse=named.parse_training_memories,
        make=from_catalogue(asked_layouts.training_memories),
        route="/v1/training-memory",
        command="train memory",
    ),
    Kind(
        name="power",
        title="a power plan: how many servers a row holds, and under which caps",
        request=PowerRequest,
        document=power.PowerPlan,
        parse=power.parse_power_plan,
        older=power.OLDER,
        make=late(_power),
        route="/v1/power-plans",
        command="power",
    ),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}

ALIASES = {"plan": "serving", "request": "serving-request"}
"""Names from before there were kinds; they stay."""


def questions() -> Iterator[Kind]:
    """Every kind, and every other form of its request."""
    for kind in KINDS.values():
        yield kind
        yield from kind.forms


def answer(
    name: str, fields: Mapping[str, Any], *, measured: Sequence[ProfileStore] = (), progress: Tell | None = None
) -> Published:
    """The document of kind ``name`` (or ``fleet``) that answers the request ``fields``, as its command and route do.

    Raises:
        ShardwrightError: no kind has that name; what is wrong with the request; that nothing satisfies it.
    """
    from profiles.descriptions import catalogue_with

    known = {kind.form or kind.name: kind for kind in questions()}
    if name not in known:
        raise UnknownName("kind", name, tuple(known))
    kind = known[name].asked_by(fields)
    catalogue = catalogue_with(store.path for store in measured)
    request = checked(kind.request, fields, "request", catalogue, kind.request_name)
    return kind.make(request, measured=measured, progress=progress)


def schema_names() -> tuple[str, ...]:
    """Everything that has a schema: documents, their requests, and the names from before."""
    return (*KINDS, *(asked.request_name for asked in questions()), *ALIASES)


def _found(name: str) -> tuple[Kind, bool]:
    """The kind, and whether its request is meant."""
    known = ALIASES.get(name, name)
    for kind in questions():
        if known in (kind.name, kind.request_name):
            return kind, known == kind.request_name
    raise UnknownName("schema", name, schema_names())


def schema(name: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a document or of a request.

    Raises:
        UnknownName: not one of :func:`schema_names`.
    """
    kind, of_request = _found(name)
    if of_request:
        return json_schema(kind.request, kind.request_name, kind.request_version)
    return json_schema(kind.document, kind.name, kind.version)


def example(name: str) -> dict[str, Any]:
    """A small valid document, or request. Raises as :func:`schema`."""
    kind, of_request = _found(name)
    return kind.request_example() if of_request else kind.example()
