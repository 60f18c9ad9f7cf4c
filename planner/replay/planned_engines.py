"""A plan's engines, rebuilt for the simulator; a plan that was tampered with is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.kernels.cost_model import CostModel
from costmodels.models.architecture import Architecture
from costmodels.models.precision import Precision, choose_precision
from costmodels.operations.layouts import Layouts
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.simulator.events import Engine
from costmodels.serving.simulator.step_table import End
from planner.contract.clusters import Pool
from planner.contract.engine import EngineGroup, Layout
from planner.contract.models import ModelConfig, architecture_of
from planner.serving.confirmation.simulated_engine import cache_tokens, simulated_engines
from planner.serving.document.contradictions import WAY_OUT, check_plan, pool_of
from planner.serving.document.plan import Plan
from planner.serving.layouts import Restrictions, degrees_of, legal_layouts
from planner.serving.operating_points import Job, served_on
from profiles.descriptions import catalogue_with
from profiles.errors import InputError
from profiles.store import ProfileStore


@dataclass(frozen=True)
class PlannedEngine:
    """One engine group: the engine to simulate at each end of the step times' interval."""

    group: EngineGroup
    engines: dict[End, Engine]
    cost: CostModel


def planned_engines(
    plan: Plan,
    *,
    model: str | ModelConfig | None = None,
    store: ProfileStore | None = None,
    measured: Sequence[ProfileStore] = (),
    progress: Callable[[str], None] | None = None,
) -> tuple[list[PlannedEngine], list[str]]:
    """(engines of the plan's groups, warnings).

    Args:
        model: the plan's model, where it is neither a bundled one nor in the plan (of a schema before 1.3).

    Raises:
        InputError: the plan contradicts itself or what is known of its model and GPUs.
    """
    check_plan(plan)
    architecture = _architecture(plan, model)
    catalogue = catalogue_with(each.path for each in (*([store] if store else ()), *measured))
    costs: dict[str, CostModel] = {}
    framework = find_framework(plan.request.framework).name
    engines = []
    for group in plan.decision.engines:
        if group.gpu not in costs:
            costs[group.gpu] = CostModel(catalogue.find_gpu(group.gpu), framework, store, progress, measured)
        engines.append(_planned(plan, group, architecture, costs[group.gpu]))
    return engines, _provenance_warnings(plan, next(iter(costs.values())))


def _architecture(plan: Plan, model: str | ModelConfig | None) -> Architecture:
    """Of the plan's model: from its own config.json, or from ``model``, or a bundled one."""
    asked = plan.request
    if model is None:
        return architecture_of(
            asked.model if asked.config is None else ModelConfig(name=asked.model, config=asked.config)
        )
    architecture = architecture_of(model)
    if architecture.name != asked.model:
        raise InputError(
            f"model: {architecture.name} is given, and the plan is for {asked.model}",
            "give the config.json that the plan was made from",
        )
    return architecture


def front_end_us(plan: Plan) -> float | None:
    """What a request waits outside the engines (tokeniser, HTTP), as the plan predicts it; None: the plan is older than
    that."""
    ms = (plan.prediction.ttft_ms_by_part or {}).get("front end")
    return None if ms is None else ms * 1e3


def _planned(plan: Plan, group: EngineGroup, model: Architecture, cost: CostModel) -> PlannedEngine:
    pool, asked = pool_of(plan, group), plan.request
    precision = choose_precision(model, group.weights_precision, group.kv_precision)
    _check_layout(plan, group, model, precision, pool)
    served = served_on(pool, model, precision, find_framework(asked.framework), cost, asked.workload)
    job = Job(asked.cluster.pools.index(pool), pool, served, asked.workload, asked.slo, asked.confidence)
    layouts = Layouts.of([degrees_of(group.layout)])
    _check_memory(group, job, layouts)
    engines = simulated_engines(job, layouts, group.limits, group.role, front_end_us(plan) or 0.0)
    return PlannedEngine(group, engines, cost)


def _check_layout(plan: Plan, group: EngineGroup, model: Architecture, precision: Precision, pool: Pool) -> None:
    """The layout must be one that the planner could have chosen."""
    allowed = Restrictions(
        group.layout.gpus if group.layout.gpus <= pool.gpus_per_node else pool.gpus,
        pool.gpus_per_node,
        max_tp=group.layout.tp,
        max_pp=group.layout.pp,
        max_engine_gpus=group.layout.gpus,
        tp_across_nodes=plan.request.tp_across_nodes,
    )
    legal, _, _ = legal_layouts(model, precision, find_framework(plan.request.framework), allowed)
    if not (legal.rows == np.array(degrees_of(group.layout))).all(axis=1).any():
        raise InputError(
            f"plan: the layout {_described(group.layout)} of {group.id} is not legal for {model.name}", WAY_OUT
        )


def _described(layout: Layout) -> str:
    return ", ".join(f"{name} {value}" for name, value in layout.model_dump().items())


def _check_memory(group: EngineGroup, job: Job, layouts: Layouts) -> None:
    tokens = job.workload.longest_tokens
    if cache_tokens(job, layouts, group.limits) < tokens:
        raise InputError(
            f"plan: {group.id} ({group.layout.label}) does not fit into the memory of {group.gpu} with one request of "
            f"{tokens} tokens",
            WAY_OUT,
        )


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
