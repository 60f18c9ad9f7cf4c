"""From the solver's choice to the plan document."""

from __future__ import annotations

import math

import numpy as np

from costmodels.architecture import Architecture
from costmodels.precision import Precision
from planner import plans
from planner.alternatives import alternatives
from planner.evaluation import Points, Search, at_load, residents
from planner.fleet import Candidates, FleetChoice
from planner.launchers import EngineSpec, launch
from planner.layouts import Rejected
from planner.prediction import Group, predicted_by
from planner.proof import proof_of, provenance_of
from planner.requests import PlanRequest

Origin = list[tuple[Points, int]]


def assemble(
    request: PlanRequest,
    model: Architecture,
    precision: Precision,
    searches: list[Search],
    refused: list[Rejected],
    candidates: Candidates,
    origin: Origin,
    choice: FleetChoice,
) -> plans.Plan:
    """The document of ``choice``."""
    served = request.workload.rate_rps
    if request.goal == "throughput" or served is None:
        served = float(choice.engines @ candidates.capacity_rps)
    groups = [
        _group(f"engine-{k}", origin[int(v)], int(v), int(choice.engines[v]), served * float(choice.shares[v]))
        for k, v in enumerate(np.flatnonzero(choice.engines))
    ]
    decision = _decision(request, model, precision, groups, choice)
    return plans.Plan(
        request=_understood(request, model, precision),
        decision=decision,
        prediction=predicted_by(request, groups, decision, served),
        proof=proof_of(request, searches, refused, candidates, choice),
        alternatives=alternatives(request, searches, choice, {group.chosen.key(group.index) for group in groups}),
        provenance=provenance_of(request, precision, searches, groups),
    )


def _group(name: str, origin: tuple[Points, int], candidate: int, engines: int, load_rps: float) -> Group:
    points, index = origin
    loaded = at_load(points, index, load_rps / engines)
    return Group(name, points, index, loaded, candidate, engines, load_rps / engines)


def _understood(request: PlanRequest, model: Architecture, precision: Precision) -> plans.RequestUnderstood:
    return plans.RequestUnderstood(
        model=model.name,
        parameters=model.parameters,
        active_parameters=model.active_parameters,
        not_modelled=model.excluded,
        cluster=request.cluster,
        slo=request.slo,
        workload=request.workload,
        objective=request.goal,
        framework=request.framework,
        weights_precision=precision.weights,
        kv_precision=precision.kv,
        precision_converted=precision.converted,
        confidence=request.confidence,
        max_tp=request.max_tp,
        max_pp=request.max_pp,
        max_engine_gpus=request.max_engine_gpus,
        tp_across_nodes=request.tp_across_nodes,
        time_limit_s=request.time_limit_s,
    )


# ------------------------------------------------------------------ decision


def _decision(
    request: PlanRequest, model: Architecture, precision: Precision, groups: list[Group], choice: FleetChoice
) -> plans.Decision:
    used = sum(group.gpus for group in groups)
    offered = sum(pool.gpus for pool in request.cluster.pools)
    prices = [group.chosen.job.pool.usd_per_gpu_hour for group in groups]
    cost = None
    if all(price is not None for price in prices):
        cost = sum(group.gpus * price for group, price in zip(groups, prices, strict=True) if price is not None)
    return plans.Decision(
        engines=tuple(_engine_group(request, model, precision, group, choice) for group in groups),
        gpus_used=used,
        gpus_idle=offered - used,
        usd_per_hour=cost,
    )


def _loadable(asked: str, name: str) -> str:
    """What a framework can load: the model's name, in whatever case and with or without its organisation it was asked
    for, or else the path that was given."""
    known = name.casefold()
    return name if asked.casefold() in (known, known.rpartition("/")[2]) else asked


def _engine_group(
    request: PlanRequest, model: Architecture, precision: Precision, group: Group, choice: FleetChoice
) -> plans.EngineGroup:
    points, i = group.chosen, group.index
    layout = points.layout(i)
    workload = request.workload
    most = int(
        min(
            points.most[i],
            math.ceil(float(residents(points.concurrency[i])) + math.sqrt(points.concurrency[i])),
        )
    )
    longest = min(model.max_context_tokens, -(-(workload.isl + workload.osl) // 256) * 256)
    limits = plans.Limits(
        max_sequences=most,
        max_tokens_per_step=int(points.budget[i]),
        max_model_len=longest,
        memory_fraction=points.job.framework.memory_fraction,
    )
    placed = [engine for engine in choice.placement if engine.candidate == group.candidate]
    weight = float(choice.shares[group.candidate]) / group.engines
    replicas = tuple(
        plans.Replica(
            id=f"{group.id}-{number}",
            weight=weight,
            ranks=tuple(
                plans.Rank(rank=rank, node=node, gpu=gpu)
                for rank, (node, gpu) in enumerate(
                    (int(node), int(gpu)) for node, gpus in engine.pieces for gpu in gpus
                )
            ),
        )
        for number, engine in enumerate(placed)
    )
    spec = EngineSpec(
        framework=request.framework,
        model=_loadable(request.model, model.name),
        layout=layout,
        limits=limits,
        weights_precision=precision.weights,
        kv_precision=precision.kv,
        precision_converted=precision.converted,
        published_precision=model.weight_precision,
        gpus_per_node=points.job.network.gpus_per_node,
        is_moe=model.is_moe,
    )
    return plans.EngineGroup(
        id=group.id,
        role="aggregated",
        pool=points.job.pool.name,
        gpu=points.job.pool.gpu,
        layout=layout,
        gpus_per_engine=layout.gpus,
        weights_precision=precision.weights,
        kv_precision=precision.kv,
        limits=limits,
        replicas=replicas,
        launch=launch(spec),
    )
