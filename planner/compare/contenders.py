"""What is compared: a document with its engines, ready to be replayed, and a new plan on the same GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from costmodels.kernels.cost_model import CostModel
from planner.compare.carrying import ReplayedFleet
from planner.compare.document import EngineStarts
from planner.compare.schedules import ComparedLoad, replayed_schedule
from planner.contract.clusters import Cluster
from planner.contract.deployment import DeploymentDocument
from planner.contract.workload.slo import Slo
from planner.contract.workload.workload import Workload
from planner.replay.planned_engines import planned_engines
from planner.replay.running import Running
from planner.replay.scheduled import is_scheduled
from planner.serving.document.opening import drafts, engine_fields, framework_of, model_of, running_of
from planner.serving.document.plan import Plan
from planner.serving.memory import memory
from planner.serving.memory_document import parse_memory_request
from planner.serving.request import PlanRequest
from profiles.errors import ShardwrightError
from profiles.hardware import Catalogue
from profiles.store import ProfileStore

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Contender:
    """A document with its engines; ``problem``: why they are not replayed."""

    name: str
    document: Plan | DeploymentDocument
    memory: tuple[EngineStarts, ...]
    fleet: ReplayedFleet | None
    problem: str | None

    @property
    def starts(self) -> bool:
        return all(each.starts for each in self.memory)


def plan_instead(
    document: Plan | DeploymentDocument,
    work: Workload,
    slo: Slo,
    measured: Sequence[ProfileStore],
    progress: Progress | None,
) -> Plan:
    """A new plan on the GPUs of a document, for as much load as fits. Raises as
    :func:`planner.serving.planning.plan`."""
    from planner.serving.planning import plan

    running = running_of(document)
    cluster = document.request.cluster if isinstance(document, Plan) else document.cluster
    used = {
        pool.name: sum(g.gpus_per_engine * len(g.replicas) for g in running.engines if g.pool == pool.name)
        for pool in cluster.pools
    }
    pools = tuple(
        pool.model_copy(update={"gpus": max(used[pool.name], 1), "as_needed": False})
        for pool in cluster.pools
        if used[pool.name]
    )
    first = running.engines[0]
    asked = PlanRequest(
        model=model_of(document),
        cluster=Cluster(name="+".join(f"{pool.gpus}x{pool.gpu}" for pool in pools), pools=pools),
        slo=slo,
        workload=work.model_copy(update={"rate_rps": None, "concurrency": None, "requests": None}),
        framework=framework_of(document),
        precision=(first.weights_precision,),  # type: ignore[arg-type]
        kv_precision=(first.kv_precision,),  # type: ignore[arg-type]
        objective="throughput",
    )
    return plan(asked, measured=measured, progress=progress)


def contender(
    name: str,
    document: Plan | DeploymentDocument,
    load: ComparedLoad,
    catalogue: Catalogue,
    measured: Sequence[ProfileStore],
    costs: dict[tuple[str, str], CostModel],
) -> Contender:
    """A document, its engines' memory, and its engines ready to be replayed, where they start; ``costs`` grows."""
    scheduled = isinstance(document, Plan) and is_scheduled(document)
    running = None if scheduled else Running.of(document, load.work, load.slo)
    starts = memory_of(document, catalogue)
    lacking = next((each for each in starts if not each.starts), None)
    if lacking is not None:
        return Contender(name, document, starts, None, f"{lacking.engine} does not start: {lacking.reasons[0]}")
    try:
        if running is None:
            assert isinstance(document, Plan)
            fleet = replayed_schedule(document, load, measured, costs)
            return Contender(name, document, starts, fleet, None)
        engines = planned_engines(running, measured=measured, costs=costs)
    except ShardwrightError as error:
        return Contender(name, document, starts, None, error.message)
    return Contender(name, document, starts, ReplayedFleet(running, engines, load.seed), None)


def memory_of(document: Plan | DeploymentDocument, catalogue: Catalogue) -> tuple[EngineStarts, ...]:
    """Whether each group of engines starts, as `plan memory` says it."""
    found = []
    for group in running_of(document).engines:
        draft = drafts(document) and group.role != "prefill"
        made = memory(parse_memory_request({**engine_fields(document, group), "draft": draft}), catalogue)
        found.append(
            EngineStarts(
                engine=group.id,
                starts=made.starts,
                reasons=made.reasons,
                ways_out=made.notes,
                kv_cache_bytes=made.memory.kv_cache_bytes,
                kv_cache_tokens=made.memory.kv_cache_tokens,
                longest_at_once=made.largest.concurrency,
            )
        )
    return tuple(found)
