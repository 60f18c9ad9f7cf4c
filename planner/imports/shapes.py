"""Engines by their shape, ``prefill=4xTP1,decode=1xTP4`` → the deployment: what nobody says of how they are started is
the release's default."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from costmodels.models.architecture import Architecture
from costmodels.operations.layouts import Layouts
from costmodels.serving.frameworks.framework import Framework, find_framework
from costmodels.serving.recipe import Recipe
from planner.contract.deployment import DeploymentDocument
from planner.contract.engine import Limits, Role
from planner.contract.models import architecture_of
from planner.contract.words import precision_on
from planner.imports.assembling import document_of
from planner.imports.engine_read import Beside, EngineRead
from planner.imports.said import EngineSaid
from planner.launchers import EngineSpec, launch
from planner.serving.configuration import EngineAsked
from planner.serving.engines.pairing import must_have_equal_tp, not_handed_over
from planner.serving.layouts import completed, degrees_of, refused_on_nodes
from profiles.errors import InputError, Unsupported
from profiles.hardware import SHIPPED, Catalogue
from profiles.values import shown

SHAPES_HELP = "write for example 2xTP4, 4xTP2 PP2, or prefill=4xTP1,decode=1xTP4 (engines x degrees)"

EXPERTS_HELP = "a shape has degrees alone: ask an engine with --redundant, --exchange and --overlap, or give a plan"

_SHAPE = re.compile(
    r"(?:(?P<role>[a-z]+)\s*=\s*)?(?:(?P<count>[0-9]{1,5})\s*[x×*]\s*)?(?P<layout>[a-z].*)", re.ASCII | re.IGNORECASE
)
_DEGREE = re.compile(r"[\s·.+-]*(?P<name>moe_?tp|tp|pp|dp|ep)\s*(?P<degree>[0-9]{1,4})", re.ASCII | re.IGNORECASE)
_EXPERTS = re.compile(r"[\s+-]*(?:[0-9]+\b|(?:low|high|nvlink|two|single)[-_])", re.ASCII | re.IGNORECASE)
"""What an engine's name says of its experts beside the degrees: copies, exchange, overlap."""

_ROLES: dict[str, Role] = {"aggregated": "aggregated", "prefill": "prefill", "decode": "decode"}

DEGREES = ("tp", "pp", "dp", "ep", "moe_tp", "num_gpus")
"""Fields of an engine that its shape says."""


@dataclass(frozen=True)
class Shape:
    """So many engines of a layout."""

    role: Role
    count: int
    degrees: dict[str, int]


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """The short form: shapes joined by commas, each with its role, the number of engines and their degrees.

    Raises:
        InputError: what is not understood, roles without their partners, or a degree that is given twice.
    """
    shapes = tuple(_shape(part.strip()) for part in text.split(","))
    roles = {shape.role for shape in shapes}
    if roles & {"prefill", "decode"} and roles != {"prefill", "decode"}:
        missing = "engines that do both beside" if "aggregated" in roles else "no partner of"
        raise InputError(f"engines: {shown(text)} has {missing} prefill or decode engines", SHAPES_HELP)
    return shapes


def _shape(part: str) -> Shape:
    found = _SHAPE.fullmatch(part)
    role = _ROLES.get((found["role"] or "aggregated").casefold()) if found else None
    if found is None or role is None:
        raise InputError(f"engines: {shown(part)} is not understood", SHAPES_HELP)
    degrees: dict[str, int] = {}
    at, layout = 0, found["layout"].strip("() ")
    while at < len(layout):
        each = _DEGREE.match(layout, at)
        if each is None:
            said = _EXPERTS.match(layout, at)
            raise InputError(
                f"engines: {shown(layout[at:])} in {shown(part)} is no degree", EXPERTS_HELP if said else SHAPES_HELP
            )
        name = each["name"].casefold().replace("moetp", "moe_tp")
        if name in degrees:
            raise InputError(f"engines: {name} is given twice in {shown(part)}", "keep one of them")
        degrees[name] = int(each["degree"])
        at = each.end()
    count = int(found["count"] or 1)
    if not count or not all(degrees.values()):
        raise InputError(f"engines: {shown(part)} has none", "give numbers of at least 1")
    return Shape(role, count, degrees)


def deployment_of_shapes(text: str, asked: EngineAsked, catalogue: Catalogue = SHIPPED) -> DeploymentDocument:
    """The deployment of engines of the shapes in ``text``, each started as ``asked`` says.

    Raises:
        InputError, UnknownName, Unsupported: what :func:`parse_shapes` raises, a layout that the model or the framework
            refuses, and roles that the framework's connector cannot join.
    """
    shapes = parse_shapes(text)
    model, gpu = architecture_of(asked.model), catalogue.find_gpu(asked.gpu)
    framework = find_framework(asked.framework)
    precision, _ = precision_on(framework, gpu, model, asked.precision, asked.kv_precision)
    framework.check_runs(precision, gpu)
    started = Recipe(**asked.recipe).started(framework, gpu, model)
    limits = Limits(
        max_sequences=started.max_num_seqs,
        max_tokens_per_step=started.max_num_batched_tokens,
        max_model_len=started.max_model_len,
        memory_fraction=started.gpu_memory_utilization,
    )
    node = catalogue.default_node(gpu)
    layouts = [completed(model, shape.degrees) for shape in shapes]
    rows = Layouts.of([degrees_of(layout) for layout in layouts])
    for shape, why in zip(shapes, refused_on_nodes(model, precision, framework, rows, node.gpus), strict=True):
        if why is not None:
            told = ", ".join(f"{name} {degree}" for name, degree in shape.degrees.items())
            raise InputError(f"engines: {why} ({told})", "choose other degrees (plan lists the legal ones)")
    if any(shape.role == "prefill" for shape in shapes):
        _check_pairs(framework, model, shapes)
    said = EngineSaid(
        framework,
        model.name,
        chunked_prefill=asked.chunked_prefill,
        quantize=None if asked.precision is None else precision.weights,
        kv=None if asked.kv_precision is None else precision.kv,
    )
    engines = []
    for shape, layout in zip(shapes, layouts, strict=True):
        spec = EngineSpec.of(framework, model, precision, layout, limits, node.gpus, shape.role)
        command = launch(spec).command
        engines.append(
            EngineRead(
                replace(said, role=shape.role),
                shape.role,
                gpu,
                layout,
                limits,
                precision.weights,
                precision.kv,
                started,
                command,
                shape.count,
            )
        )
    beside = Beside(asked.model, gpu, None, catalogue)
    return document_of(asked.model, model, framework, engines, 0, f"the shape {text}", beside)


def _check_pairs(framework: Framework, model: Architecture, shapes: tuple[Shape, ...]) -> None:
    """Raises where the framework's connector does not join such engines."""
    if (why := not_handed_over(framework, model)) is not None:
        raise Unsupported(f"engines: {why}", "give engines that prefill and decode: 2xTP4")
    tps = sorted({shape.degrees.get("tp", 1) for shape in shapes})
    if len(tps) > 1 and must_have_equal_tp(framework.kv_connector, model):
        raise InputError(
            f"engines: {framework.kv_connector.name} hands over layers that keep a state between engines of equal tp "
            f"alone, and these have tp {' and '.join(map(str, tps))}",
            "give prefill and decode engines one tensor-parallel degree",
        )
