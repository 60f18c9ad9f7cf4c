"""What commands say, with what they leave to their framework → the deployment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from costmodels.models.architecture import Architecture
from costmodels.models.registry import bundled_config
from costmodels.serving.frameworks.framework import Framework
from costmodels.serving.recipe import Recipe, Started
from planner.contract.clusters import Pool
from planner.contract.deployment import Assumed, DeploymentDocument, Kept, parse_deployment
from planner.contract.engine import EngineGroup, Launch, Layout, Limits, Rank, Replica, Role
from planner.contract.models import ModelConfig, architecture_of
from planner.contract.provenance import NOT_USED, PACKAGE, Provenance
from planner.contract.published import validated
from planner.imports.dialects import Said
from planner.imports.options import meanings
from planner.imports.programs import Start
from planner.serving.configuration import MemoryRequest
from planner.serving.memory import memory
from profiles.errors import InputError, Unsupported
from profiles.hardware import Catalogue, Gpu, on_demand_price
from profiles.values import shown

SIXTEEN_BITS = ("bf16", "fp16", "fp32")
_PLACE = re.compile(r"[~./]|[A-Za-z]:\\|.*(?:/.*){2,}|(?:s3|gs|hf|pvc|https?)://")


@dataclass(frozen=True)
class Found:
    """One command that starts an engine, understood.

    Attributes:
        said: what its arguments say. ``start``: the command.
        replicas: how often it is started.
        gpu: the type that what stands around it says; None: nothing does.
        gpus: that each start is given; None: nothing says it.
        where: what messages call it.
    """

    said: Said
    start: Start
    replicas: int = 1
    gpu: Gpu | None = None
    gpus: int | None = None
    where: str = "command"


@dataclass(frozen=True)
class Beside:
    """What the user says beside the text."""

    model: str | ModelConfig | None
    gpu: Gpu | None
    gpus_per_node: int | None
    catalogue: Catalogue


@dataclass(frozen=True)
class _Engine:
    """Engines that are alike, before they are placed."""

    said: Said
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


def assembled(found: Sequence[Found], beside: Beside, read_as: str, notes: Sequence[str] = ()) -> DeploymentDocument:
    """The deployment of all commands ``found``.

    Args:
        read_as: what they were read from, in words.

    Raises:
        InputError, UnknownName, Unsupported: what they do not say and nobody else does, what contradicts itself, and
            what is not modelled.
    """
    found = _whole_engines(found)
    framework = found[0].said.framework
    asked, model = _model(found, beside)
    engines = [_engine(each, model, beside) for each in found]
    drafts = {each.said.draft_tokens for each in found if each.said.role != "prefill"} or {0}
    if len(drafts) > 1:
        raise Unsupported(
            f"engines: some draft {max(drafts)} tokens a step and others {min(drafts)}", "import them one by one"
        )
    return _document(asked, model, framework, _merged(engines), max(drafts), read_as, beside, notes)


def _whole_engines(found: Sequence[Found]) -> list[Found]:
    """Without commands that only start further nodes or ranks of engines that another one begins."""
    first = [each for each in found if not each.said.secondary]
    kept = first or list(found)[:1]
    names = {each.said.framework.spec for each in kept}
    if len(names) > 1:
        raise Unsupported(
            f"engines: several frameworks are started: {', '.join(sorted(names))}", "import the commands one by one"
        )
    return kept


# ------------------------------------------------------------------ the model


def _model(found: Sequence[Found], beside: Beside) -> tuple[str | ModelConfig, Architecture]:
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


def overridden(asked: str | ModelConfig, overrides: Mapping[str, Any]) -> ModelConfig:
    """The model with fields of its config.json replaced, as ``--hf-overrides`` does."""
    if isinstance(asked, ModelConfig):
        return asked.model_copy(update={"config": {**asked.config, **overrides}})
    name = architecture_of(asked).name
    return ModelConfig(name=name, config={**bundled_config(asked), **overrides}, checkpoint=name)


# ------------------------------------------------------------------ one engine


def _engine(found: Found, model: Architecture, beside: Beside) -> _Engine:
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
    weights, kv = weights_of(said, model), kv_of(said)
    if said.longest_that_fits:
        started = replace(started, max_model_len=_longest(said, model, gpu, layout, started, (weights, kv), beside))
    limits = Limits(
        max_sequences=started.max_num_seqs,
        max_tokens_per_step=started.max_num_batched_tokens,
        max_model_len=started.max_model_len,
        memory_fraction=started.gpu_memory_utilization,
    )
    command = (*found.start.program, *(word.text or word.unknown for word in found.start.arguments))
    return _Engine(said, said.role, gpu, layout, limits, weights, kv, started, command, found.replicas * copies)


def _longest(
    said: Said,
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


def layout_of(said: Said, model: Architecture) -> tuple[Layout, int]:
    """(the layout of one engine, how many engines the command starts).

    Attention replicas of a dense model share nothing: each is an engine of its own."""
    dp, copies = said.dp, said.copies
    tp = said.tp if said.framework.name == "vllm" or not said.attention_dp else said.tp // dp
    if not model.is_moe:
        if said.framework.name == "vllm":
            return Layout(tp=tp, pp=said.pp, dp=1, ep=1, moe_tp=1), copies * dp
        return Layout(tp=tp, pp=said.pp, dp=dp, ep=1, moe_tp=1), copies
    group = tp * dp
    ep = group if said.ep_all else said.ep or (group // said.moe_tp if said.moe_tp else 1)
    if group % ep:
        raise InputError(f"expert parallel: {ep} does not divide the {group} GPUs of a stage", "give a divisor of it")
    moe_tp = said.moe_tp or group // ep
    if ep * moe_tp != group:
        raise InputError(
            f"experts: ep {ep} × moe_tp {moe_tp} is not the {group} GPUs of a stage", "correct one of them"
        )
    return Layout(tp=tp, pp=said.pp, dp=dp, ep=ep, moe_tp=moe_tp), copies


def _check_gpus(found: Found, layout: Layout, copies: int, node: int) -> None:
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


def weights_of(said: Said, model: Architecture) -> str:
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


def kv_of(said: Said) -> str:
    """Our name of the precision of the cache. Raises Unsupported where it is not modelled."""
    if said.kv in (None, "auto"):
        return "bf16"
    known = meanings(said.framework.name).kv
    if said.kv not in known:
        raise Unsupported(
            f"--kv-cache-dtype {shown(str(said.kv))}: is not modelled", f"modelled are {', '.join(known)} and auto"
        )
    return known[said.kv]


# ------------------------------------------------------------------ the document


def _merged(engines: Sequence[_Engine]) -> list[_Engine]:
    """Engines that are alike as one, prefill engines first."""
    out: dict[tuple[object, ...], _Engine] = {}
    for each in engines:
        before = out.get(each.alike)
        out[each.alike] = each if before is None else replace(before, replicas=before.replicas + each.replicas)
    order = {"aggregated": 0, "prefill": 1, "decode": 2}
    return sorted(out.values(), key=lambda each: order[each.role])


def _document(
    asked: str | ModelConfig,
    model: Architecture,
    framework: Framework,
    engines: Sequence[_Engine],
    draft_tokens: int,
    read_as: str,
    beside: Beside,
    notes: Sequence[str],
) -> DeploymentDocument:
    groups, pools, usd = _placed(engines, beside)
    ids = [(group.id, each) for group, each in zip(groups, engines, strict=True)]
    used = sum(group.gpus_per_engine * len(group.replicas) for group in groups)
    told = [note for each in engines for note in each.said.notes]
    told += [*notes, *model.notes]
    roles = {role: [group.id for group in groups if group.role == role] for role in ("prefill", "decode")}
    document = DeploymentDocument(
        engines=tuple(groups),
        gpus_used=used,
        gpus_idle=0,
        usd_per_hour=usd,
        pairs=tuple((first, second) for first in roles["prefill"] for second in roles["decode"]),
        model=model.name,
        config=None if isinstance(asked, str) else asked.config,
        framework=framework.spec,
        cluster={"name": "+".join(f"{pool.gpus}x{pool.gpu}" for pool in pools), "pools": pools},  # type: ignore[arg-type]
        draft_tokens=draft_tokens,
        whole_prompts=tuple(id_ for id_, each in ids if not each.started.chunked_prefill),
        read_as=read_as,
        assumed=tuple(assumed for id_, each in ids for assumed in _assumed(id_, each, model)),
        kept=tuple(Kept(engine=id_, flag=flag, value=value) for id_, each in ids for flag, value in each.said.kept),
        provenance=Provenance(
            package=PACKAGE,
            package_version=version(PACKAGE),
            cost_model_version=NOT_USED,
            pack=NOT_USED,
            pack_version=NOT_USED,
            pack_hash=NOT_USED,
            attribution="",
            notes=tuple(dict.fromkeys(filter(None, told))),
        ),
    )
    return validated(document, parse_deployment)


def _assumed(id_: str, engine: _Engine, model: Architecture) -> list[Assumed]:
    """What nobody said, and the framework takes."""
    framework = engine.said.framework
    source = f"{framework.title}, facts as of {framework.basis('defaults').release}"
    fields: dict[str, tuple[str, int | float | str]] = {
        "max_num_seqs": ("limits.max_sequences", engine.limits.max_sequences),
        "max_num_batched_tokens": ("limits.max_tokens_per_step", engine.limits.max_tokens_per_step),
        "max_model_len": ("limits.max_model_len", engine.limits.max_model_len),
        "gpu_memory_utilization": ("limits.memory_fraction", engine.limits.memory_fraction),
        "chunked_prefill": ("chunked_prefill", str(engine.started.chunked_prefill).lower()),
    }
    own = f"config.json of {model.name}"
    out = [
        Assumed(engine=id_, field=field, value=value, source=own if name == "max_model_len" else source)
        for name, (field, value) in fields.items()
        if name in engine.started.assumed
    ]
    if not engine.said.quantize:
        out.append(Assumed(engine=id_, field="weights_precision", value=engine.weights, source=own))
    if engine.said.kv in (None, "auto"):
        out.append(Assumed(engine=id_, field="kv_precision", value=engine.kv, source=source))
    return out


def _placed(engines: Sequence[_Engine], beside: Beside) -> tuple[list[EngineGroup], list[Pool], float | None]:
    """(groups with their ranks on the GPUs of as many nodes as they take, the pools, what they cost an hour)."""
    catalogue = beside.catalogue
    free: dict[str, list[int]] = {}
    entry = sum(each.replicas for each in engines if each.role != "decode")
    behind = sum(each.replicas for each in engines if each.role == "decode")
    groups, used = [], dict.fromkeys((each.gpu.name for each in engines), 0)
    for number, each in enumerate(engines):
        node = beside.gpus_per_node or catalogue.default_node(each.gpu).gpus
        name = f"engine-{number}"
        replicas = []
        for index in range(each.replicas):
            places = _take(free.setdefault(each.gpu.name, []), each.layout.gpus, node)
            replicas.append(
                Replica(
                    id=f"{name}-{index}",
                    weight=1 / (behind if each.role == "decode" else entry),
                    ranks=tuple(Rank(rank=rank, node=at, gpu=gpu) for rank, (at, gpu) in enumerate(places)),
                )
            )
        used[each.gpu.name] += each.replicas * each.layout.gpus
        groups.append(
            EngineGroup(
                id=name,
                role=each.role,
                pool=each.gpu.name,
                gpu=each.gpu.name,
                layout=each.layout,
                gpus_per_engine=each.layout.gpus,
                weights_precision=each.weights,
                kv_precision=each.kv,
                limits=each.limits,
                replicas=tuple(replicas),
                launch=Launch(framework=each.said.framework.spec, command=each.command, notes=()),
            )
        )
    pools, usd = [], 0.0
    for name in used:
        gpu = catalogue.find_gpu(name)
        usual = catalogue.default_node(gpu)
        offer = on_demand_price(gpu, None)
        per_node = beside.gpus_per_node or usual.gpus
        held = len(free[name]) * per_node if len(free[name]) > 1 else used[name]
        pools.append(
            Pool(
                name=name,
                gpu=name,
                gpus=max(held, used[name]),
                gpus_per_node=per_node,
                fabric=catalogue.find_fabric(usual.default_fabric).name,
                usd_per_gpu_hour=None if offer is None else offer.usd_per_gpu_hour,
                price_source=None if offer is None else f"{offer.provider}, {offer.date.isoformat()} (on demand)",
            )
        )
        usd += used[name] * (offer.usd_per_gpu_hour if offer else float("nan"))
    return groups, pools, None if usd != usd else usd


def _take(free: list[int], gpus: int, node: int) -> list[tuple[int, int]]:
    """(node, GPU) of each rank of an engine: on the first node with room, or on whole ones; ``free``: GPUs left of
    each node, grows."""
    if gpus <= node:
        at = next((index for index, left in enumerate(free) if left >= gpus), len(free))
        if at == len(free):
            free.append(node)
        begins = node - free[at]
        free[at] -= gpus
        return [(at, begins + gpu) for gpu in range(gpus)]
    places = []
    while gpus > 0:
        taken = min(gpus, node)
        places += [(len(free), gpu) for gpu in range(taken)]
        free.append(node - taken)
        gpus -= taken
    return places
