"""What commands say, with what they leave to their framework → the deployment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from costmodels.models.architecture import Architecture
from costmodels.serving.frameworks.framework import Framework
from planner.contract.clusters import MOST_GPUS, Pool
from planner.contract.deployment import Assumed, DeploymentDocument, Kept, parse_deployment
from planner.contract.engine import EngineGroup, Launch, Rank, Replica
from planner.contract.exported import ExportedDeployment
from planner.contract.models import ModelConfig
from planner.contract.provenance import unmeasured
from planner.contract.published import validated
from planner.imports.engine_read import Beside, EngineRead, StartedEngine, cache_taken, engine_read, model_served
from planner.imports.exported import as_exported, gpu_of, role_of
from profiles.errors import InputError, Unsupported
from profiles.hardware import on_demand_price


def assembled(
    found: Sequence[StartedEngine], beside: Beside, read_as: str, exported: ExportedDeployment | None = None
) -> DeploymentDocument:
    """The deployment of all commands ``found``.

    Args:
        read_as: what they were read from, in words.
        exported: what the manifest of an exported folder says beside them.

    Raises:
        InputError, UnknownName, Unsupported: what they do not say and nobody else does, what contradicts itself, and
            what is not modelled.
    """
    found = _whole_engines(_running(found))
    if exported is not None:
        found = [_as_said(each, exported, beside) for each in found]
    framework = found[0].said.framework
    asked, model = model_served(found, beside)
    engines = [engine_read(each, model, beside) for each in found]
    gpus = sum(each.replicas * each.layout.gpus for each in engines)
    if gpus > MOST_GPUS:
        raise InputError(
            f"engines: their degrees and replicas take {gpus:,} GPUs, and a deployment has at most {MOST_GPUS:,}",
            "correct the degrees, or import a part of it",
        )
    drafts = {each.said.draft_tokens for each in found if each.said.role != "prefill"} or {0}
    if len(drafts) > 1:
        raise Unsupported(
            f"engines: some draft {max(drafts)} tokens a step and others {min(drafts)}", "import them one by one"
        )
    return document_of(asked, model, framework, _merged(engines), max(drafts), read_as, beside, exported)


def _running(found: Sequence[StartedEngine]) -> Sequence[StartedEngine]:
    """Without those that are scaled to nothing. Raises InputError where all are."""
    kept = [each for each in found if each.replicas]
    if not kept:
        names = ", ".join(dict.fromkeys(each.where for each in found))
        raise InputError(f"replicas: {names}: 0 of them, and nothing runs", "write how many replicas are to run")
    return kept


def _whole_engines(found: Sequence[StartedEngine]) -> list[StartedEngine]:
    """Without commands that only start further nodes or ranks of engines that another one begins."""
    first = [each for each in found if not each.said.secondary]
    kept = first or list(found)[:1]
    names = {each.said.framework.spec for each in kept}
    if len(names) > 1:
        raise Unsupported(
            f"engines: several frameworks are started: {', '.join(sorted(names))}", "import the commands one by one"
        )
    return kept


# ------------------------------------------------------------------ the document


def _merged(engines: Sequence[EngineRead]) -> list[EngineRead]:
    """Engines that are alike as one, prefill engines first."""
    out: dict[tuple[object, ...], EngineRead] = {}
    for each in engines:
        before = out.get(each.alike)
        out[each.alike] = each if before is None else replace(before, replicas=before.replicas + each.replicas)
    order = {"aggregated": 0, "prefill": 1, "decode": 2}
    return sorted(out.values(), key=lambda each: order[each.role])


def document_of(
    asked: str | ModelConfig,
    model: Architecture,
    framework: Framework,
    engines: Sequence[EngineRead],
    draft_tokens: int,
    read_as: str,
    beside: Beside,
    exported: ExportedDeployment | None = None,
) -> DeploymentDocument:
    groups, pools, usd = _placed(engines, beside)
    notes: list[str] = []
    if exported is not None:
        known = as_exported(engines, exported, groups)
        if known is None:
            notes.append("the files start other engines than were exported: they are placed anew")
        else:
            engines = [engines[_place_of(group, groups)] for group in known]
            groups, pools = known, list(exported.cluster.pools)
            usd = _cost(groups, pools)
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
        cluster={
            "name": "+".join(f"{pool.gpus}x{pool.gpu}" for pool in pools),
            "pools": [Pool(**dict(p)) for p in pools],
        },  # type: ignore[arg-type]
        draft_tokens=draft_tokens,
        whole_prompts=tuple(id_ for id_, each in ids if not each.started.chunked_prefill),
        read_as=read_as,
        assumed=tuple(assumed for id_, each in ids for assumed in _assumed(id_, each, model)),
        kept=tuple(Kept(engine=id_, flag=flag, value=value) for id_, each in ids for flag, value in each.said.kept),
        provenance=unmeasured(tuple(dict.fromkeys(filter(None, told)))),
    )
    return validated(document, parse_deployment)


def _as_said(found: StartedEngine, exported: ExportedDeployment, beside: Beside) -> StartedEngine:
    """With the GPU and the role that the manifest says, where the command does not."""
    name = gpu_of(exported, found.name)
    if found.gpu is None and beside.gpu is None and name is not None:
        found = replace(found, gpu=beside.catalogue.find_gpu(name))
    if found.said.role is None:
        found = replace(found, said=replace(found.said, role=role_of(exported, found.name)))
    return found


def _place_of(group: EngineGroup, groups: Sequence[EngineGroup]) -> int:
    """Which of ``groups`` a renamed one was."""
    return next(i for i, each in enumerate(groups) if each.launch == group.launch and each.layout == group.layout)


def _cost(groups: Sequence[EngineGroup], pools: Sequence[Pool]) -> float | None:
    """Of the GPUs used, an hour; None where a price is not known."""
    prices = {pool.name: pool.usd_per_gpu_hour for pool in pools}
    total = 0.0
    for group in groups:
        price = prices.get(group.pool)
        if price is None:
            return None
        total += group.gpus_per_engine * len(group.replicas) * price
    return total


def _assumed(id_: str, engine: EngineRead, model: Architecture) -> list[Assumed]:
    """What nobody said, and the framework takes."""
    framework = engine.said.framework
    source = f"{framework.title}, facts as of {framework.basis('defaults').release}"
    fields: dict[str, tuple[str, int | float | str]] = {
        "max_num_seqs": ("limits.max_sequences", engine.limits.max_sequences),
        "max_num_batched_tokens": ("limits.max_tokens_per_step", engine.limits.max_tokens_per_step),
        "max_model_len": ("limits.max_model_len", engine.limits.max_model_len),
        "gpu_memory_utilization": ("limits.memory_fraction", engine.limits.memory_fraction),
        "chunked_prefill": ("chunked_prefill", str(engine.started.mixes).lower()),
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
        why = cache_taken(engine.said, model, engine.gpu).why
        told = f"{source}; {why}" if why else source
        out.append(Assumed(engine=id_, field="kv_precision", value=engine.kv, source=told))
    return out


def _placed(engines: Sequence[EngineRead], beside: Beside) -> tuple[list[EngineGroup], list[Pool], float | None]:
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
        price = None if offer is None else offer.usd_per_gpu_hour
        usd += used[name] * (float("nan") if price is None else price)
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
