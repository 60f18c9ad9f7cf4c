"""Engines by their shape, ``prefill=4xTP1,decode=1xTP4`` → the deployment: what nobody says of how they are started is
the release's default."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from costmodels.models.architecture import Architecture
from costmodels.operations.exchanges import OVERLAPS, exchange_names
from costmodels.operations.layouts import Layouts
from costmodels.serving.frameworks.framework import Framework, find_framework
from costmodels.serving.recipe import Recipe
from planner.contract.deployment import DeploymentDocument
from planner.contract.engine import NOTHING, Layout, Limits, Role
from planner.contract.models import architecture_of
from planner.contract.words import folded, precision_on
from planner.imports.assembling import document_of
from planner.imports.engine_read import Beside, EngineRead
from planner.imports.said import EngineSaid
from planner.launchers import EngineSpec, launch
from planner.serving.configuration import EngineAsked
from planner.serving.engines.pairing import must_have_equal_tp, not_handed_over
from planner.serving.layouts import completed, degrees_of, refused_on_nodes
from planner.serving.wide_experts import OVERLAP_WORDS, EngineMachines, WideAsked, kin_told, with_experts
from profiles.errors import InputError, Unsupported
from profiles.hardware import SHIPPED, Catalogue
from profiles.values import shown

SHAPES_HELP = "write for example 2xTP4, 4xTP2 PP2, or prefill=4xTP1,decode=1xTP4 (engines x their labels)"

_SHAPE = re.compile(
    r"(?:(?P<role>[a-z]+)\s*=\s*)?(?:(?P<count>[0-9]{1,5})\s*[x×*]\s*)?(?P<layout>[a-z].*)", re.ASCII | re.IGNORECASE
)
_DEGREE = re.compile(r"[\s·.+-]*(?P<name>moe_?tp|tp|pp|dp|ep)\s*(?P<degree>[0-9]{1,4})", re.ASCII | re.IGNORECASE)
_COPIES = re.compile(r"(?:\s*\+\s*|[\s·,+-]*redundant\s*=\s*)(?P<copies>[0-9]{1,5})\b", re.ASCII | re.IGNORECASE)
_WORDS = {folded(word): word for word in (*exchange_names(), *OVERLAPS, *OVERLAP_WORDS)}
_WORD = re.compile(
    r"[\s·+-]*(?:(?P<field>exchange|overlap)\s*=\s*)?(?P<word>"
    + "|".join(word.replace("_", "[-_ ]?") for word in sorted(_WORDS, key=len, reverse=True))
    + r")(?![a-z0-9])",
    re.ASCII | re.IGNORECASE,
)
"""How experts are reached, as an engine's label says it beside the degrees: ``TP1 DP16 EP16+32 low-latency``."""

_ROLES: dict[str, Role] = {"aggregated": "aggregated", "prefill": "prefill", "decode": "decode"}

DEGREES = ("tp", "pp", "dp", "ep", "moe_tp", "num_gpus")
"""Fields of an engine that its shape says."""

IN_LABELS = ("role", "exchange", "redundant", "overlap")
"""Those that it says of its experts, and whose work it does."""


@dataclass(frozen=True)
class Shape:
    """So many engines of a layout; ``experts``: what it says of them, ``exchange``, ``redundant`` and ``overlap``."""

    role: Role
    count: int
    degrees: dict[str, int]
    experts: dict[str, Any] = field(default_factory=dict)


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
    experts: dict[str, Any] = {}
    at, layout = 0, found["layout"].strip("() ")
    while at < len(layout):
        into: dict[str, Any] = degrees
        name: str
        value: int | str
        if each := _DEGREE.match(layout, at):
            name, value = each["name"].casefold().replace("moetp", "moe_tp"), int(each["degree"])
        elif degrees and (each := _COPIES.match(layout, at)):
            into, name, value = experts, "redundant", int(each["copies"])
        elif degrees and (each := _WORD.match(layout, at)):
            into, (name, value) = experts, _of_experts(each)
        else:
            raise InputError(f"engines: {shown(layout[at:])} in {shown(part)} is not understood", SHAPES_HELP)
        if name in into:
            raise InputError(f"engines: {name} is given twice in {shown(part)}", "keep one of them")
        into[name] = value
        at = each.end()
    count = int(found["count"] or 1)
    if not count or not all(degrees.values()):
        raise InputError(f"engines: {shown(part)} has none", "give numbers of at least 1")
    return Shape(role, count, degrees, experts)


def _of_experts(found: re.Match[str]) -> tuple[str, str]:
    """(field, our word) of a word of a label."""
    word = _WORDS[folded(found["word"])]
    word = OVERLAP_WORDS.get(word, word)
    hides = word in OVERLAPS and word != NOTHING
    return (found["field"] or ("overlap" if hides else "exchange")).casefold(), word


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
    host = catalogue.gpus_per_host(gpu, node.gpus)
    on = EngineMachines(framework, gpu, node.gpus, catalogue.find_fabric(node.default_fabric))
    layouts, notes = zip(*(_laid_out(shape, model, asked, on) for shape in shapes), strict=True)
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
    for shape, layout, told in zip(shapes, layouts, notes, strict=True):
        layout, held = _with_buffers(layout, limits, framework, said="max_num_seqs" not in started.assumed)
        layout, held = _with_steps(layout, held, framework, decodes=shape.role == "decode")
        spec = EngineSpec.of(framework, model, precision, layout, held, host, shape.role)
        command = launch(spec).command
        engines.append(
            EngineRead(
                replace(said, role=shape.role, notes=tuple(told)),
                shape.role,
                gpu,
                layout,
                held,
                precision.weights,
                precision.kv,
                started,
                command,
                shape.count,
            )
        )
    beside = Beside(asked.model, gpu, None, catalogue)
    return document_of(asked.model, model, framework, engines, 0, f"the shape {text}", beside)


def _laid_out(shape: Shape, model: Architecture, asked: EngineAsked, on: EngineMachines) -> tuple[Layout, list[str]]:
    """(The layout with its experts as ``shape`` says, or as usual, as a prediction takes them; what was taken so)."""
    wide = WideAsked(shape.role, **shape.experts, eplb=asked.eplb)
    layout, taken = with_experts(completed(model, shape.degrees), wide, model, on)
    # Buffers are asked for all engines, and prefill engines beside those that have them have none.
    if asked.dispatch_tokens and (shape.role != "prefill" or _low_latency(layout)):
        layout, taken = with_experts(layout, replace(wide, dispatch_tokens=asked.dispatch_tokens), model, on)
    told = [f"{layout.label}: not given, so: {', '.join(taken)}"] if taken else []
    return layout, [*told, *kin_told(layout.exchange)]


def _low_latency(layout: Layout) -> bool:
    return bool(Layouts.of([degrees_of(layout)]).low_latency[0])


def _with_buffers(layout: Layout, limits: Limits, framework: Framework, *, said: bool) -> tuple[Layout, Limits]:
    """With the tokens that a low-latency exchange has buffers for, where there is one, and no more sequences than they
    hold.

    Args:
        said: whether somebody asked for so many sequences.

    Raises:
        InputError: buffers do not hold what was asked for.
    """
    if not _low_latency(layout):
        return layout, limits
    usual, most = framework.parallelism.dispatch_tokens
    needed = -(-limits.max_sequences // layout.tp)
    tokens = layout.dispatch_tokens or (min(max(2 ** (needed - 1).bit_length(), usual), most) if said else usual)
    if needed > tokens and said:
        raise InputError(
            f"max_num_seqs: {limits.max_sequences} sequences are more than the {tokens} tokens of a GPU that the "
            "exchange has buffers for",
            f"lower it to {tokens * layout.tp}" + (f", or give up to dispatch_tokens={most}" if tokens < most else ""),
        )
    held = limits.model_copy(update={"max_sequences": min(limits.max_sequences, tokens * layout.tp)})
    return layout.model_copy(update={"dispatch_tokens": tokens}), held


def _with_steps(layout: Layout, limits: Limits, framework: Framework, *, decodes: bool) -> tuple[Layout, Limits]:
    """With steps that hold no more tokens than a low-latency exchange has buffers for, where those are of whole steps.

    Raises:
        InputError: the engine's prompts need more.
    """
    held, step = layout.dispatch_tokens * layout.tp, limits.max_tokens_per_step
    if not _low_latency(layout) or not framework.buffers_of_step or (decodes and step <= held):
        return layout, limits
    if not decodes and step > (most := framework.parallelism.dispatch_tokens[1] * layout.tp):
        raise InputError(
            f"max_num_batched_tokens: {step} tokens of a step are more than the {most} that the exchange is to have "
            f"buffers for; {framework.title} makes them for whole steps",
            f"give max_num_batched_tokens={most} or less, or an exchange other than {layout.exchange}",
        )
    if decodes:
        return layout, limits.model_copy(update={"max_tokens_per_step": held})
    return layout.model_copy(update={"dispatch_tokens": -(-step // layout.tp)}), limits


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
