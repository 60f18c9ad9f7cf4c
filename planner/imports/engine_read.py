"""What one command says, with what it leaves to its framework → an engine: model, layout, limits, precision."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from costmodels.models.architecture import Architecture
from costmodels.models.precision import choose_precision
from costmodels.serving.frameworks.caches import CacheDefault, default_cache
from costmodels.serving.recipe import Recipe, Started
from planner.contract.engine import Layout, Limits, Role
from planner.contract.models import ModelConfig, architecture_of
from planner.experts.model import moe_model
from planner.imports.options import meanings
from planner.imports.programs import Start
from planner.imports.said import EngineSaid
from planner.serving.configuration import MemoryRequest
from planner.serving.memory import memory
from profiles.errors import InputError, Unsupported
from profiles.hardware import Catalogue, Gpu
from profiles.values import shown

SIXTEEN_BITS = ("bf16", "fp16", "fp32")
_PLACE = re.compile(r"[~./]|[A-Za-z]:\\|.*(?:/.*){2,}|(?:s3|gs|hf|pvc|https?)://")


@dataclass(frozen=True)
class StartedEngine:
    """One command that starts an engine, understood.

    Attributes:
        said: what its arguments say. ``start``: the command.
        replicas: how often it is started.
        gpu: the type that what stands around it says; None: nothing does.
        gpus: that each start is given; None: nothing says it.
        name: that it has there. ``where``: what messages call it.
    """

    said: EngineSaid
    start: Start
    replicas: int = 1
    gpu: Gpu | None = None
    gpus: int | None = None
    name: str = ""
    where: str = "command"


@dataclass(frozen=True)
class Beside:
    """What the user says beside the text."""

    model: str | ModelConfig | None
    gpu: Gpu | None
    gpus_per_node: int | None
    catalogue: Catalogue


@dataclass(frozen=True)
class EngineRead:
    """Engines that are alike, before they are placed."""

    said: EngineSaid
    role: Role
    gpu: Gpu
    layout: Layout
    limits: Limits
    weights: str
    kv: str
    started: Started
    command: tuple[str, ...]
    replicas: int

    @property
    def alike(self) -> tuple[object, ...]:
        return self.role, self.gpu.name, self.layout, self.limits, self.weights, self.kv, self.said.chunked_prefill


# ------------------------------------------------------------------ the model


def model_served(found: Sequence[StartedEngine], beside: Beside) -> tuple[str | ModelConfig, Architecture]:
    """(the model as requests name it, its architecture)."""
    said = {each.said.model for each in found if each.said.model}
    if len(said) > 1 and beside.model is None:
        names = ", ".join(sorted(shown(name) for name in said))
        raise Unsupported(f"model: several are served: {names}", "import the commands one by one")
    named = next(iter(said), None)
    asked: str | ModelConfig | None = beside.model
    if asked is None:
        if named is None:
            raise InputError("model: the text names none", "say which one it is: --model Qwen/Qwen3-32B")
        if _PLACE.match(named):
            last = named.rstrip("/").rpartition("/")[2]
            raise InputError(
                f"model: {shown(named)} is a place, and which model lies there is not said",
                f"say it: --model NAME ({shown(last)}?), or --model the path of its config.json",
            )
        asked = named
    elif isinstance(asked, ModelConfig) and asked.checkpoint is None and named:
        asked = asked.model_copy(update={"checkpoint": named})
    return asked, architecture_of(asked)


# ------------------------------------------------------------------ one engine


def engine_read(found: StartedEngine, model: Architecture, beside: Beside) -> EngineRead:
    said, gpu = found.said, found.gpu or beside.gpu
    if found.gpu is not None and beside.gpu is not None and found.gpu.name != beside.gpu.name:
        raise InputError(
            f"gpu: {beside.gpu.name} is given, and {found.where} asks for {found.gpu.name}", "leave --gpu out"
        )
    if gpu is None:
        raise InputError(
            f"gpu: {found.where} does not say which GPUs it runs on", "say it: --gpu H100 (`plan gpus` lists them)"
        )
    if said.role is None:
        raise InputError(
            f"role: {found.where} hands caches over, and does not say whether it prefills or decodes",
            "say it: --role prefill, or --role decode",
        )
    layout, copies = layout_of(said, model)
    _check_gpus(found, layout, copies, beside.gpus_per_node or beside.catalogue.default_node(gpu).gpus)
    ranks = layout.dp if said.limits_of_all else 1
    recipe = Recipe(
        max_num_seqs=said.max_sequences and max(said.max_sequences // ranks, 1),
        max_num_batched_tokens=said.max_tokens_per_step and max(said.max_tokens_per_step // ranks, 1),
        gpu_memory_utilization=said.memory_fraction,
        max_model_len=said.max_model_len,
        chunked_prefill=said.chunked_prefill,
    )
    started = recipe.started(said.framework, gpu, model)
    weights, kv = weights_of(said, model), kv_of(said, model, gpu)
    if said.longest_that_fits:
        started = replace(started, max_model_len=_longest(said, model, gpu, layout, started, (weights, kv), beside))
    limits = Limits(
        max_sequences=started.max_num_seqs,
        max_tokens_per_step=started.max_num_batched_tokens,
        max_model_len=started.max_model_len,
        memory_fraction=started.gpu_memory_utilization,
    )
    command = (*found.start.program, *(word.text or word.unknown for word in found.start.arguments))
    return EngineRead(said, said.role, gpu, layout, limits, weights, kv, started, command, found.replicas * copies)


def _longest(
    said: EngineSaid,
    model: Architecture,
    gpu: Gpu,
    layout: Layout,
    started: Started,
    precision: tuple[str, str],
    beside: Beside,
) -> int:
    """The longest sequence that the cache holds, as ``--max-model-len auto`` takes it."""
    asked = MemoryRequest(
        model=beside.model or model.name,
        gpu=gpu.name,
        framework=said.framework.spec,
        precision=precision[0],
        kv_precision=precision[1],
        **layout.model_dump(),
        max_num_seqs=started.max_num_seqs,
        max_num_batched_tokens=started.max_num_batched_tokens,
        gpu_memory_utilization=started.gpu_memory_utilization,
    )
    fits = memory(asked, beside.catalogue).largest.context_tokens
    return min(fits, model.max_context_tokens) if fits > 0 else model.max_context_tokens


def layout_of(said: EngineSaid, model: Architecture) -> tuple[Layout, int]:
    """(the layout of one engine, how many engines the command starts).

    Attention replicas of a dense model share nothing: each is an engine of its own."""
    tp, dp, copies = said.tp, said.dp, said.copies
    if not model.is_moe:
        if said.replicas_apart:
            return Layout(tp=tp, pp=said.pp, dp=1, ep=1, moe_tp=tp), copies * dp  # as plans have it
        return Layout(tp=tp, pp=said.pp, dp=dp, ep=1, moe_tp=tp * dp), copies
    group = tp * dp
    ep = group if said.ep_all else said.ep or (group // said.moe_tp if said.moe_tp else 1)
    if group % ep:
        raise InputError(f"expert parallel: {ep} does not divide the {group} GPUs of a stage", "give a divisor of it")
    moe_tp = said.moe_tp or group // ep
    if ep * moe_tp != group:
        raise InputError(
            f"experts: ep {ep} × moe_tp {moe_tp} is not the {group} GPUs of a stage", "correct one of them"
        )
    return Layout(tp=tp, pp=said.pp, dp=dp, ep=ep, moe_tp=moe_tp, **_exchanging(said, ep, model)), copies


def _exchanging(said: EngineSaid, ep: int, model: Architecture) -> dict[str, Any]:
    """How tokens reach experts, and what balances them, as layouts say it; nothing where all ranks gather all."""
    experts = said.experts
    if ep == 1:
        return {}
    ways = said.framework.parallelism.exchanges
    fitting = [name for name, way in ways.items() if way.backend == experts.backend]
    if len(fitting) > 1:
        fitting = (
            [name for name in fitting if ways[name].mode == experts.mode]
            or [name for name in fitting if said.role in ways[name].usual]
            or [name for name in fitting if said.role in ways[name].roles]
        )
    if not fitting:
        return {}
    return {
        "exchange": fitting[0],
        "redundant": experts.redundant if experts.slots is None else _copies(experts.slots, model),
        "overlap": experts.overlap,
        "eplb": experts.eplb,
        "dispatch_tokens": experts.dispatch_tokens,
    }


def _copies(slots: int, model: Architecture) -> int:
    """Slots beyond the model's experts. Raises InputError where they do not hold all of them."""
    known = moe_model(model).experts
    if slots < known:
        raise InputError(
            f"num_slots: {slots} do not hold the {known} experts of {model.name}: it does not start",
            f"give {known} or more",
        )
    return slots - known


def _check_gpus(found: StartedEngine, layout: Layout, copies: int, node: int) -> None:
    """Raises InputError where an engine is given other GPUs than its degrees take."""
    nodes = found.said.nodes or 1
    given = found.gpus if found.gpus is not None else found.start.gpus
    needed = layout.gpus * copies
    if given is None or nodes > 1 or needed > node:
        return
    if needed > given:
        raise InputError(
            f"gpus: {found.where} is given {given}, and its degrees take {needed} "
            f"(tp {layout.tp} × pp {layout.pp} × dp {layout.dp * copies}): it does not start",
            "lower the degrees, or give it more GPUs",
        )


def weights_of(said: EngineSaid, model: Architecture) -> str:
    """Our name of the precision of the weights.

    Raises:
        InputError, Unsupported: the checkpoint is of another kind than the command says, or it is not modelled.
    """
    table, published = meanings(said.framework.name), model.weight_precision
    if said.dtype in ("float32", "float"):
        raise Unsupported("--dtype float32: 32-bit weights are not modelled", "leave --dtype out")
    word = (said.quantize or "").casefold()
    if word in ("", "none", "auto"):
        return published
    if published in SIXTEEN_BITS:
        if word in table.quantize:
            return table.quantize[word]
        if word in table.repeats:
            raise InputError(
                f"--quantization {shown(word)}: reads a checkpoint that is quantised so, and {model.name} is in "
                f"{published}",
                "name the quantised checkpoint, or leave --quantization out",
            )
        raise Unsupported(
            f"--quantization {shown(word)}: is not modelled",
            f"modelled are {', '.join(sorted({*table.quantize, *table.repeats}))}",
        )
    if published not in table.repeats.get(word, ()) and table.quantize.get(word) != published:
        raise InputError(
            f"--quantization {shown(word)}: {model.name} is published in {published}", "leave --quantization out"
        )
    return published


def cache_taken(said: EngineSaid, model: Architecture, gpu: Gpu) -> CacheDefault:
    """What the framework takes where nobody says it."""
    weights = weights_of(said, model)
    precision = choose_precision(model, None if weights == model.weight_precision else weights)
    return default_cache(said.framework, model, gpu, precision)


def kv_of(said: EngineSaid, model: Architecture, gpu: Gpu) -> str:
    """Our name of the precision of the cache. Raises Unsupported where it is not modelled."""
    if said.kv in (None, "auto"):
        return cache_taken(said, model, gpu).precision
    known, kept = meanings(said.framework.name).kv, said.framework.capabilities.caches.get(model.model_type)
    if said.kv not in known:
        raise Unsupported(
            f"--kv-cache-dtype {shown(str(said.kv))}: is not modelled", f"modelled are {', '.join(known)} and auto"
        )
    if kept is not None and known[said.kv] not in kept:
        raise InputError(
            f"--kv-cache-dtype {shown(str(said.kv))}: {said.framework.title} keeps the cache of {model.name} in "
            f"{', '.join(kept)} alone: it does not start",
            "leave --kv-cache-dtype out",
        )
    return known[said.kv]
