"""From the solver's choice to the plan document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from costmodels.power.state import OperatingState
from planner.contract.clusters import supplied
from planner.contract.deployment import Deployment
from planner.contract.engine import EngineGroup, Launch, Rank, Replica
from planner.contract.expert_placement import ExpertPlacement
from planner.contract.models import ModelConfig
from planner.launchers import EngineSpec, launch
from planner.serving.confirmation.confirmation import Confirmed
from planner.serving.document import plan as plans
from planner.serving.engines.groups import Group, LoadedFleet
from planner.serving.engines.options import ServingOption
from planner.serving.report.alternatives import alternatives
from planner.serving.report.limits import token_budgets
from planner.serving.report.prediction import predicted_by
from planner.serving.report.proof import proof_of, provenance_of
from planner.serving.request import PlanRequest
from profiles.hardware import Gpu
from profiles.settable import settable

if TYPE_CHECKING:
    from planner.experts.placement import Loads


def assemble(
    request: PlanRequest, found: Confirmed, fleet: LoadedFleet, expert_loads: Loads | None = None
) -> plans.Plan:
    """The document of the best ``fleet`` of those ``found``; with ``expert_loads``, also of where the experts of
    expert-parallel engines live."""
    options, best, groups = found.options, fleet.option, fleet.groups
    routing = request.workload.routing
    experts: dict[str, ExpertPlacement] = {}
    notes: tuple[str, ...] = ()
    if expert_loads is not None:
        from planner.serving.expert_placement import placements_of  # deferred: few plans place experts

        experts, notes = placements_of(groups, expert_loads, routing, request.time_limit_s)
    decision = _decision(request, fleet, experts)
    chosen = {group.candidate.key for group in groups}
    return plans.Plan(
        request=_understood(request, options, best),
        decision=decision,
        prediction=predicted_by(request, fleet, decision, found.checks),
        proof=proof_of(request, options, best),
        alternatives=alternatives(request, best, chosen, found).model_copy(
            update={"token_budgets": token_budgets(fleet)}
        ),
        provenance=provenance_of(request, fleet, found.checks, (*notes, *found.notes)),
    )


def _understood(request: PlanRequest, options: list[ServingOption], best: ServingOption) -> plans.RequestUnderstood:
    model, precision = best.searches[0].job.served.model, best.precision
    return plans.RequestUnderstood(
        model=model.name,
        parameters=model.parameters,
        active_parameters=model.active_parameters,
        not_modelled=model.excluded,
        cluster=supplied(request.cluster),
        slo=request.slo,
        workload=request.workload,
        objective=request.goal,
        framework=best.searches[0].job.served.framework.spec,
        weights_precision=precision.weights,
        kv_precision=precision.kv,
        precision_converted=precision.converted,
        confidence=request.confidence,
        headroom=request.headroom,
        chunked_prefill=request.chunked_prefill,
        polling_interval=request.polling_interval,
        sampling=request.sampling,
        max_tp=request.max_tp,
        max_pp=request.max_pp,
        max_engine_gpus=request.max_engine_gpus,
        tp_across_nodes=request.tp_across_nodes,
        time_limit_s=request.time_limit_s,
        disaggregation=request.disaggregation,
        simulation=request.simulation,
        weights_precisions=tuple(dict.fromkeys(option.precision.weights for option in options)),
        kv_precisions=tuple(dict.fromkeys(option.precision.kv for option in options)),
        config=None if isinstance(request.model, str) else request.model.config,
        clock=request.clock,
        power_cap=request.power_cap,
        budget_watts=request.budget_watts,
        usd_per_kwh=request.usd_per_kwh,
    )


def _decision(request: PlanRequest, fleet: LoadedFleet, experts: Mapping[str, ExpertPlacement]) -> Deployment:
    groups = fleet.groups
    used = sum(group.gpus for group in groups)
    offered = sum(pool.gpus for pool in request.cluster.pools)
    prices = [group.job.pool.usd_per_gpu_hour for group in groups]
    cost = None
    if all(price is not None for price in prices):
        cost = sum(group.gpus * price for group, price in zip(groups, prices, strict=True) if price is not None)
    return Deployment(
        engines=tuple(
            engine_group(request, group, _replicas(fleet, group), fleet.attention_backend, experts.get(group.id))
            for group in groups
        ),
        gpus_used=used,
        gpus_idle=offered - used,
        usd_per_hour=cost,
        pairs=tuple((pair.prefill.id, pair.decode.id) for pair in fleet.pairs if pair.transfer is not None),
    )


def _loadable(asked: str | ModelConfig, name: str) -> str:
    """What a framework can load: a bundled model's name, or what is said of another model's checkpoint."""
    return name if isinstance(asked, str) else asked.checkpoint or asked.name


def _started(spec: EngineSpec, asked: str | ModelConfig) -> Launch:
    start = launch(spec)
    if isinstance(asked, str) or asked.checkpoint is not None:
        return start
    note = f"{asked.name} stands for its checkpoint, of which only the config.json was given: name its folder there."
    return start.model_copy(update={"notes": (*start.notes, note)})


def _replicas(fleet: LoadedFleet, group: Group) -> tuple[Replica, ...]:
    choice = fleet.option.choice
    assert choice is not None
    placed = [engine for engine in choice.placement if engine.candidate in group.candidates]
    return tuple(
        Replica(
            id=f"{group.id}-{number}",
            weight=group.share / group.engines,
            ranks=tuple(
                Rank(rank=rank, node=node, gpu=gpu)
                for rank, (node, gpu) in enumerate(
                    (int(node), int(gpu)) for node, gpus in engine.pieces for gpu in gpus
                )
            ),
        )
        for number, engine in enumerate(placed)
    )


def set_first(state: OperatingState, gpu: Gpu) -> str:
    """What sets the GPUs of an engine into its state."""
    lock = (
        None if state.clock_mhz is None else f"nvidia-smi -i GPUS -lgc {settable(gpu).clock_mhz[0]},{state.clock_mhz}"
    )
    limit = None if state.cap_watts is None else f"nvidia-smi -i GPUS -pl {state.cap_watts:g}"
    return (
        f"Planned for GPUs of {state.told()}: before it starts, {' and '.join(filter(None, (lock, limit)))} as root "
        "(-rgc and the default limit undo it; a driver that is loaded anew forgets it)."
    )


def engine_group(
    request: PlanRequest,
    group: Group,
    replicas: tuple[Replica, ...],
    attention_backend: str = "",
    experts: ExpertPlacement | None = None,
) -> EngineGroup:
    """Engines that are alike, as a document says them."""
    served, workload, drafting = group.job.served, request.workload, group.job.shape.drafting
    model, precision = served.model, served.precision
    host = served.cost.catalogue.gpus_per_host(served.gpu, served.network.gpus_per_node)
    spec = replace(
        EngineSpec.of(served.framework, model, precision, group.layout, group.limits, host, group.role),
        model=_loadable(request.model, model.name),
        draft_tokens=drafting.draft_tokens if drafting else 0,
        prefix_hit=workload.prefix_hit,
        attention_backend=attention_backend,
        expert_backend=served.framework.capabilities.expert_backend(
            served.gpu, precision.of("experts"), served.framework.release, replicas=group.layout.dp > 1
        )
        if model.is_moe
        else "",
        early_launch=served.early_launch,
        vendor=served.gpu.vendor,
    )
    start = _started(spec, request.model)
    start = start.model_copy(update={"command": served.framework.with_prompt_flags(start.command)})
    if served.state is not None:
        start = start.model_copy(update={"notes": (*start.notes, set_first(served.state, served.gpu))})
    return EngineGroup(
        id=group.id,
        role=group.role,
        pool=group.job.pool.name,
        gpu=group.job.pool.gpu,
        layout=group.layout,
        gpus_per_engine=group.layout.gpus,
        weights_precision=precision.weights,
        kv_precision=precision.kv,
        limits=group.limits,
        replicas=replicas,
        launch=start,
        expert_placement=experts,
        clock_mhz=None if served.state is None else served.state.clock_mhz,
        power_cap_watts=None if served.state is None else served.state.cap_watts,
    )
