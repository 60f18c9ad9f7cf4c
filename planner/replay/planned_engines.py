"""Engines of a plan or a deployment, rebuilt for the simulator; what was tampered with is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from costmodels.kernels.cost_model import CostModel
from costmodels.models.architecture import Architecture
from costmodels.models.precision import Precision, choose_precision
from costmodels.operations.layouts import Layouts
from costmodels.power.state import OperatingState
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.simulator.events import Engine
from costmodels.serving.simulator.step_table import End
from planner.contract.clusters import Pool
from planner.contract.engine import EngineGroup, Layout
from planner.contract.models import ModelConfig, architecture_of
from planner.contract.provenance import NOT_USED
from planner.replay.front_end import decode_tpot_us, front_end_of, front_end_of_prefill, front_end_of_users
from planner.replay.running import Running
from planner.serving.confirmation.simulated_engine import cache_tokens, simulated_engines
from planner.serving.document.contradictions import WAY_OUT, pool_of
from planner.serving.layouts import Restrictions, degrees_of, refusals
from planner.serving.operating_points import Job, served_on
from profiles.descriptions import catalogue_with
from profiles.errors import InputError
from profiles.store import ProfileStore


@dataclass(frozen=True)
class PlannedEngine:
    """One engine group: the engine to simulate at each end of the step times' interval; ``layouts``: its one."""

    group: EngineGroup
    engines: dict[End, Engine]
    cost: CostModel
    job: Job
    layouts: Layouts

    def tpot_us(self, running: Running) -> float:
        """Mean time per output token of the engine at what the workload sends it, by the formulas."""
        return decode_tpot_us(self.job, self.layouts, running.rate_of(self.group) or 0.0)


def planned_engines(
    running: Running,
    *,
    model: str | ModelConfig | None = None,
    store: ProfileStore | None = None,
    measured: Sequence[ProfileStore] = (),
    progress: Callable[[str], None] | None = None,
    costs: dict[tuple[str, str], CostModel] | None = None,
) -> list[PlannedEngine]:
    """The engines of the document's groups.

    Args:
        model: the document's model, where it is neither a bundled one nor in it (plans of a schema before 1.3).
        costs: cost models by GPU type and framework that were made before; grows.

    Raises:
        InputError: the document contradicts itself or what is known of its model and GPUs.
    """
    architecture = _architecture(running, model)
    catalogue = catalogue_with(each.path for each in (*([store] if store else ()), *measured))
    costs = {} if costs is None else costs
    framework = find_framework(running.framework).name
    engines: list[PlannedEngine] = []
    # Engines that decode come first: what they take for a token is in the front end of those that prefill for them.
    for group in sorted(running.deployment.engines, key=lambda group: group.role == "prefill"):
        key = (group.gpu, framework)
        if key not in costs:
            costs[key] = CostModel(catalogue.find_gpu(group.gpu), framework, store, progress, measured)
        engines.append(_planned(running, group, architecture, costs[key], engines))
    places = {group.id: at for at, group in enumerate(running.deployment.engines)}
    return sorted(engines, key=lambda each: places[each.group.id])


def _architecture(running: Running, model: str | ModelConfig | None) -> Architecture:
    """Of the document's model: from its own config.json, or from ``model``, or a bundled one."""
    if model is None:
        return architecture_of(running.asked_model)
    architecture = architecture_of(model)
    if architecture.name != running.model:
        raise InputError(
            f"model: {architecture.name} is given, and the {running.what} is for {running.model}",
            "give the config.json that it was made from",
        )
    return architecture


def front_end_us(running: Running) -> float | None:
    """What a request waits outside the engines (tokeniser, HTTP), as the plan predicts it; None: nothing says it."""
    parts = {} if running.prediction is None else running.prediction.ttft_ms_by_part or {}
    ms = parts.get("front end")
    return None if ms is None else ms * 1e3


def _planned(
    running: Running, group: EngineGroup, model: Architecture, cost: CostModel, before: Sequence[PlannedEngine]
) -> PlannedEngine:
    pool, work = pool_of(running.what, running.cluster, group), running.workload
    precision = choose_precision(model, group.weights_precision, group.kv_precision)
    _check_layout(running, group, model, precision, pool)
    state = OperatingState.of(group.clock_mhz, group.power_cap_watts)
    served = served_on(pool, model, precision, running.started(group), cost, work, state)
    job = Job(running.cluster.pools.index(pool), pool, served, work, running.slo, running.confidence)
    layouts = Layouts.of([degrees_of(group.layout)])
    _check_memory(running, group, job, layouts)
    front = front_end_us(running)
    rate = running.rate_of(group)
    tpots = [each.tpot_us(running) for each in before if each.group.role == "decode"]
    if (users := running.users_of(group)) is not None:
        front = front_end_of_users(job, layouts, group.limits, users)
    elif running.prediction is None and group.role == "prefill" and rate is not None and tpots:
        front = front_end_of_prefill(job, layouts, group.limits, rate, max(tpots))
    elif running.prediction is None:
        alone = None if group.role != "aggregated" else rate
        front = front_end_of(job, layouts, group.limits.max_tokens_per_step, alone)
    engines = simulated_engines(job, layouts, group.limits, group.role, front or 0.0)
    return PlannedEngine(group, engines, cost, job, layouts)


def _check_layout(running: Running, group: EngineGroup, model: Architecture, precision: Precision, pool: Pool) -> None:
    """The layout must be one that an engine can have."""
    allowed = Restrictions(
        group.layout.gpus if group.layout.gpus <= pool.gpus_per_node else pool.gpus,
        pool.gpus_per_node,
        tp_across_nodes=running.tp_across_nodes,
    )
    layouts = Layouts.of([degrees_of(group.layout)])
    refused = refusals(model, precision, find_framework(running.framework), layouts, allowed)
    if refused:
        raise InputError(
            f"{running.what}: the layout {_described(group.layout)} of {group.id} is not legal for {model.name}: "
            f"{refused[0][0]}",
            WAY_OUT if running.prediction else "give it degrees that this allows",
        )


def _described(layout: Layout) -> str:
    return ", ".join(f"{name} {value}" for name, value in layout.model_dump().items())


def _check_memory(running: Running, group: EngineGroup, job: Job, layouts: Layouts) -> None:
    tokens = job.workload.longest_tokens
    if cache_tokens(job, layouts, group.limits) < tokens:
        raise InputError(
            f"{running.what}: {group.id} ({group.layout.label}) does not fit into the memory of {group.gpu} with one "
            f"request of {tokens} tokens",
            WAY_OUT if running.prediction else "`plan memory` of the same engines says what fills it",
        )


def provenance_warnings(running: Running, cost: CostModel) -> list[str]:
    """What has changed since the document was made."""
    made, store = running.provenance, cost.store.manifest
    if made.pack_hash == NOT_USED:
        return []
    if made.pack_hash != store.content_hash:
        return [
            f"the {running.what} was made from other measurements ({made.pack} {made.pack_version}, "
            f"{made.pack_hash[:12]}) than are simulated ({store.content_hash[:12]})"
        ]
    there = {each.content_hash for each in cost.measured}
    missing = [f"{each.name} {each.version}" for each in made.measured if each.hash not in there]
    if missing:
        return [
            f"the {running.what} was made with measurements that are not given here (--profiles): {', '.join(missing)}"
        ]
    if made.cost_model_version != cost.version:
        return [f"the {running.what} was made by cost model {made.cost_model_version}; this is {cost.version}"]
    return []
