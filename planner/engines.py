"""A plan's engines, rebuilt for the simulator; a plan that was tampered with is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from costmodels.architecture import Architecture
from costmodels.communication import Network
from costmodels.layouts import Layouts
from costmodels.library import CostModel
from costmodels.memory import kv_bytes_per_sequence, memory
from costmodels.precision import Precision, choose_precision
from costmodels.registry import find_architecture
from costmodels.serving.drafting import Drafting
from costmodels.serving.frameworks import find_framework
from costmodels.serving.kv_transfer import hand_overs
from costmodels.serving.policies import find_policy
from costmodels.serving.simulator import Engine, Overheads
from costmodels.serving.step_table import End, step_tables_at
from planner.layouts import Restrictions, legal_layouts
from planner.plans import EngineGroup, Layout, Plan
from planner.requests import Pool, Workload
from profiles.errors import InputError
from profiles.hardware import find_fabric, find_gpu
from profiles.store import ProfileStore

ENDS: tuple[End, ...] = get_args(End)

_TAMPERED = "use the plan as `plan --output` wrote it, or plan again"


@dataclass(frozen=True)
class PlannedEngine:
    """One engine group: the engine to simulate at each end of the step times' interval."""

    group: EngineGroup
    engines: dict[End, Engine]
    cost: CostModel


def planned_engines(
    plan: Plan,
    *,
    model: str | None = None,
    store: ProfileStore | None = None,
    measured: Sequence[ProfileStore] = (),
    progress: Callable[[str], None] | None = None,
) -> tuple[list[PlannedEngine], list[str]]:
    """(engines of the plan's groups, warnings).

    Args:
        model: path of the config.json where the plan's model is not a bundled one.

    Raises:
        InputError: the plan contradicts itself or what is known of its model and GPUs.
    """
    check_weights(plan)
    architecture = find_architecture(model or plan.request.model)
    if architecture.name != plan.request.model:
        raise InputError(
            f"--model: {model} is {architecture.name}, and the plan is for {plan.request.model}",
            "give the config.json that the plan was made from",
        )
    costs: dict[str, CostModel] = {}
    engines = []
    for group in plan.decision.engines:
        if group.gpu not in costs:
            costs[group.gpu] = CostModel(find_gpu(group.gpu), plan.request.framework, store, progress, measured)
        engines.append(_planned(plan, group, architecture, costs[group.gpu]))
    return engines, _provenance_warnings(plan, next(iter(costs.values())))


def front_end_us(plan: Plan) -> float | None:
    """What a request waits outside the engines (tokeniser, HTTP), as the plan predicts it; None: the plan is older than
    that."""
    ms = (plan.prediction.ttft_ms_by_part or {}).get("front end")
    return None if ms is None else ms * 1e3


def check_weights(plan: Plan) -> None:
    """The gateway's weights must send every request somewhere: those of the engines that take requests in (and
    those of the decode engines behind them) each sum to 1."""
    for group in plan.decision.engines:
        if not group.replicas:
            raise InputError(f"plan: {group.id} has no replicas", _TAMPERED)
    entry, behind = (
        [(group, replica) for group in plan.decision.engines if (group.role == "decode") is decode
         for replica in group.replicas]
        for decode in (False, True)
    )  # fmt: skip
    if not entry:
        raise InputError("plan: decision.engines has no engine that takes requests", _TAMPERED)
    for replicas in (entry, behind):
        for _, replica in replicas:
            if not (math.isfinite(replica.weight) and replica.weight >= 0):
                raise InputError(f"plan: the weight {replica.weight} of {replica.id} is not a share", _TAMPERED)
        total = math.fsum(replica.weight for _, replica in replicas)
        if replicas and abs(total - 1) > 1e-6:
            role = replicas[0][0].role
            raise InputError(f"plan: the weights of its {role} engines sum to {total:.6g}, not to 1", _TAMPERED)
    if behind and not any(group.role == "prefill" for group, _ in entry):
        raise InputError("plan: has decode engines and no prefill engine before them", _TAMPERED)
    if not behind and any(group.role == "prefill" for group, _ in entry):
        raise InputError("plan: has prefill engines and no decode engine behind them", _TAMPERED)
    if behind and plan.prediction.kv_transfer is None:
        raise InputError("plan: prediction.kv_transfer is missing, with engines that prefill and decode", _TAMPERED)
    if behind and any(group.role == "aggregated" for group, _ in entry):
        raise InputError("plan: has aggregated engines beside prefill and decode engines", _TAMPERED)


def _planned(plan: Plan, group: EngineGroup, model: Architecture, cost: CostModel) -> PlannedEngine:
    pool = _pool(plan, group)
    framework = find_framework(plan.request.framework)
    precision = choose_precision(model, group.weights_precision, group.kv_precision)
    _check_layout(plan, group, model, precision, pool)
    x = group.layout
    layouts = Layouts.of([(x.tp, x.pp, x.dp, x.ep, x.moe_tp)])
    limits, workload = group.limits, plan.request.workload
    kv_tokens = _kv_tokens(group, model, precision, layouts, cost, workload)
    network = Network(min(pool.gpus_per_node, pool.gpus), find_fabric(pool.fabric))
    drafting = None
    if workload.speculation is not None:
        draft = workload.speculation
        drafting = Drafting(draft.draft_tokens, draft.acceptance, draft.draft_cost)
    engines = {}
    (tables,) = step_tables_at(
        ENDS,
        model,
        precision,
        cost,
        network,
        framework,
        layouts,
        workload.routing,
        most_tokens=limits.max_tokens_per_step,
        most_sequences=limits.max_sequences,
        longest_tokens=limits.max_model_len,
        queries=drafting.queries if drafting else 1,
    )
    for end, table in tables.items():
        engines[end] = Engine(
            table,
            find_policy(framework.name),
            kv_tokens=kv_tokens,
            token_budget=limits.max_tokens_per_step,
            max_sequences=limits.max_sequences,
            max_model_len=limits.max_model_len,
            cached_share=workload.prefix_hit,
            role=group.role,
            first_token_here=group.role == "decode" and hand_overs()[framework.name].first_token == "decode_step",
            tokens_per_step=drafting.tokens_per_step if drafting else 1.0,
            draft_share=drafting.share_of_step(model.layers) if drafting else 0.0,
            overheads=Overheads(request_us=0.0 if group.role == "decode" else front_end_us(plan) or 0.0),
        )
    return PlannedEngine(group, engines, cost)


def _pool(plan: Plan, group: EngineGroup) -> Pool:
    for pool in plan.request.cluster.pools:
        if pool.name == group.pool:
            if pool.gpu != group.gpu:
                raise InputError(f"plan: {group.id} has {group.gpu}, and its pool has {pool.gpu}", _TAMPERED)
            return pool
    raise InputError(f"plan: the pool {group.pool!r} of {group.id} is not one of its cluster", _TAMPERED)


def _check_layout(plan: Plan, group: EngineGroup, model: Architecture, precision: Precision, pool: Pool) -> None:
    """The layout must be one that the planner could have chosen."""
    degrees = ("tp", "pp", "dp", "ep", "moe_tp")
    for name in degrees:
        if getattr(group.layout, name) < 1:
            raise InputError(f"plan: {name} {getattr(group.layout, name)} of {group.id} is not at least 1", _TAMPERED)
    if group.layout.gpus > pool.gpus:
        raise InputError(f"plan: {group.id} takes {group.layout.gpus} GPUs, and its pool has {pool.gpus}", _TAMPERED)
    for name in ("max_sequences", "max_tokens_per_step", "max_model_len"):
        if getattr(group.limits, name) < 1:
            raise InputError(f"plan: {name} {getattr(group.limits, name)} of {group.id} is not at least 1", _TAMPERED)
    allowed = Restrictions(
        group.layout.gpus if group.layout.gpus <= pool.gpus_per_node else pool.gpus,
        pool.gpus_per_node,
        max_tp=group.layout.tp,
        max_pp=group.layout.pp,
        max_engine_gpus=group.layout.gpus,
        tp_across_nodes=plan.request.tp_across_nodes,
    )
    legal, _, _ = legal_layouts(model, precision, find_framework(plan.request.framework), allowed)
    mine = np.array([getattr(group.layout, name) for name in degrees])
    if not (np.stack([getattr(legal, name) for name in degrees]) == mine[:, None]).all(axis=0).any():
        raise InputError(
            f"plan: the layout {_described(group.layout)} of {group.id} is not legal for {model.name}", _TAMPERED
        )


def _described(layout: Layout) -> str:
    return ", ".join(f"{name} {value}" for name, value in layout.model_dump().items())


def _kv_tokens(
    group: EngineGroup,
    model: Architecture,
    precision: Precision,
    layouts: Layouts,
    cost: CostModel,
    workload: Workload,
) -> float:
    """Tokens of cache of one attention rank, at the workload's length (windows keep longer ones cheaper)."""
    if not 0 < group.limits.memory_fraction <= 1:
        raise InputError(f"plan: memory_fraction {group.limits.memory_fraction} of {group.id} is no share", _TAMPERED)
    parts = memory(
        model,
        precision,
        layouts,
        cost.gpu,
        memory_fraction=group.limits.memory_fraction,
        token_budget=np.array([group.limits.max_tokens_per_step]),
        sequences=256,  # as in planner.evaluation
    )
    tokens = workload.isl + workload.osl
    per_token = float(kv_bytes_per_sequence(model, precision, layouts, tokens)[0]) / tokens
    held = float(parts.kv_bytes[0]) / per_token
    if held < tokens:
        raise InputError(
            f"plan: {group.id} ({group.layout.label}) does not fit into the memory of {group.gpu} with one request of "
            f"{tokens} tokens",
            _TAMPERED,
        )
    return held


def _provenance_warnings(plan: Plan, cost: CostModel) -> list[str]:
    """What has changed since the plan was made."""
    warnings = []
    if plan.provenance.pack_hash != cost.store.manifest.content_hash:
        warnings.append(
            f"the plan was made from other measurements ({plan.provenance.pack} {plan.provenance.pack_version}, "
            f"{plan.provenance.pack_hash[:12]}) than are simulated ({cost.store.manifest.content_hash[:12]})"
        )
    elif plan.provenance.cost_model_version != cost.version:
        warnings.append(f"the plan was made by cost model {plan.provenance.cost_model_version}; this is {cost.version}")
    return warnings
