"""The whole job: statistics and a cluster → where every expert's copies live, what that is worth, and the proof."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from costmodels.kernels.cost_model import CostModel
from costmodels.models.architecture import Architecture
from costmodels.models.precision import Precision
from costmodels.serving.frameworks.facts import EngineRole
from costmodels.serving.frameworks.framework import find_framework
from planner.experts.affinity import LoadLimit, relabelled
from planner.experts.balance import Certificate, balance, check_room
from planner.experts.balance import Objective as OverWindows
from planner.experts.crossings import Crossings, Distance, crossings
from planner.experts.document import Objective
from planner.experts.layer_time import Dispatch, LayerClock, LayerTimes, usual_exchange
from planner.experts.model import MoeModel, copy_bytes
from planner.experts.placement import Floats, Ints, Loads, Placement, Topology
from planner.experts.ranks import Ranks
from planner.experts.repair import restored, without
from planner.experts.replan import Replanned, replan
from planner.experts.routes import RecordedRoutes
from planner.experts.traffic import Near, fewest
from profiles.errors import Infeasible
from profiles.store import ProfileStore

TOLERANCES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""How much fuller the fullest GPU may become for fewer crossings: what ``time`` chooses from, and no limit at all."""


@dataclass(frozen=True, eq=False)
class PlacementJob:
    """One request, everything read and checked.

    Attributes:
        slots: copies that fit on each GPU per layer, shape [gpus].
        tokens_per_gpu: batch sizes to predict, by the role of the engine; the first counts for ``time``.
        current: what runs now; None: the engine's default.
        max_moves: copies that may move from there, all layers together; None: any number.
        lost_gpus: ranks of ``current`` that are gone.
    """

    architecture: Architecture
    model: MoeModel
    precision: Precision
    framework: str
    ranks: Ranks
    slots: Ints
    loads: Loads
    routes: RecordedRoutes | None = None
    current: Placement | None = None
    max_moves: int | None = None
    lost_gpus: tuple[int, ...] = ()
    objective: Objective = "balance"
    over_windows: OverWindows = "mean"
    groups: int | None = None
    balance_tolerance: float = 0.01
    dispatch: Dispatch = "home"
    tokens_per_gpu: Mapping[EngineRole, int] = field(default_factory=lambda: {"decode": 128, "prefill": 4096})
    seed: int = 0
    time_limit_s: float = 60.0


@dataclass(frozen=True, eq=False)
class Decided:
    """Before any routes are looked at. ``ranks``: the GPUs that are left; ``replanned``: with a current placement, how
    it was changed; ``stopped``: the time limit ended the search."""

    ranks: Ranks
    before: Placement
    after: Placement
    certificate: Certificate
    stopped: bool
    replanned: Replanned | None = None


@dataclass(frozen=True, eq=False)
class Placed:
    """What was found. ``times``: before and after, by batch; ``heldout``: crossings before and after on the half of the
    routes that was not fitted on; ``costs``: of each GPU type; ``exchanges``: how tokens reach their experts, by batch
    (:func:`planner.experts.layer_time.usual_exchange`)."""

    job: PlacementJob
    decided: Decided
    after: Placement
    proven: bool
    distance: Distance
    crossed: tuple[Crossings, Crossings] | None
    heldout: tuple[Crossings, Crossings] | None
    times: Mapping[EngineRole, tuple[LayerTimes, LayerTimes]]
    costs: tuple[CostModel, ...]
    exchanges: Mapping[EngineRole, str | None]

    @property
    def before(self) -> Placement:
        return self.decided.before

    @property
    def topology(self) -> Topology:
        return self.after.topology


def default_placement(topology: Topology, model: MoeModel) -> Placement:
    """What engines start with: experts in order over the slots, and again from expert 0 on in slots that are left
    (SGLang's trivial map, vLLM's initial one)."""
    row = np.arange(topology.total_slots, dtype=np.int64) % model.experts
    return Placement(topology, np.tile(row, (len(model.moe_layers), 1)), model.experts, model.layer_index)


def place(
    job: PlacementJob,
    *,
    store: ProfileStore | None = None,
    measured: Sequence[ProfileStore] = (),
    progress: Callable[[str], None] | None = None,
) -> Placed:
    """The placement that ``job`` asks for, with times from ``store`` (default: the shipped pack) and the stores
    ``measured`` laid over it.

    Raises:
        Unsupported: the GPUs cannot run the precision, or options that do not go together.
        Infeasible: fewer slots than experts, more copies of an expert than GPUs, experts that do not fit the memory, or
            fewer moves than lost experts need.
        InputError: loads that contradict the topology.
    """
    check_room(job.model.experts, job.ranks.topology(job.slots))
    _check_memory(job)
    find_gpu = job.ranks.catalogue.find_gpu
    costs = {gpu: CostModel(find_gpu(gpu), job.framework, store, progress, measured) for gpu in _kinds(job)}
    decided = _decided(job, _clocks(job, job.ranks, costs))
    clocks = _clocks(job, decided.ranks, costs)
    first = next(iter(clocks.values()))
    before, near = decided.before, Near(decided.after, False)
    distance = decided.ranks.distances(near.placement.topology)
    crossed = heldout = None
    if job.routes is not None:

        def value(placement: Placement, transitions: Floats) -> float:
            passed = crossings(placement, transitions, distance)
            return float(first.times(placement, job.loads.counts, job.loads.weights, passed, job.dispatch).total[0])

        everything = job.routes.all.transitions
        near = _with_routes(job, decided, everything, distance, value)
        crossed = _both(before, near.placement, everything, distance)
        fitted_on, scored_on = (half.transitions for half in job.routes.halves)
        heldout = _both(before, _with_routes(job, decided, fitted_on, distance, value).placement, scored_on, distance)

    def times(clock: LayerClock) -> tuple[LayerTimes, LayerTimes]:
        passed = (None, None) if crossed is None else crossed
        counts, weights = job.loads.counts, job.loads.weights
        return (
            clock.times(before, counts, weights, passed[0], job.dispatch),
            clock.times(near.placement, counts, weights, passed[1], job.dispatch),
        )

    return Placed(
        job=job,
        decided=decided,
        after=near.placement,
        proven=near.proven,
        distance=distance,
        crossed=crossed,
        heldout=heldout,
        times={name: times(clock) for name, clock in clocks.items()},
        costs=tuple(costs.values()),
        exchanges=_exchanges(job, decided.ranks),
    )


def _clocks(job: PlacementJob, ranks: Ranks, costs: Mapping[str, CostModel]) -> dict[EngineRole, LayerClock]:
    kinds = {kind: costs[kind] for kind in dict.fromkeys(ranks.kinds)}
    sent = _exchanges(job, ranks)

    def clock(role: EngineRole, tokens: int) -> LayerClock:
        everyone = float(tokens * ranks.gpus)
        return LayerClock(job.architecture, job.precision, kinds, ranks.kinds, ranks.network, everyone, sent[role])

    return {role: clock(role, tokens) for role, tokens in job.tokens_per_gpu.items()}


def _exchanges(job: PlacementJob, ranks: Ranks) -> dict[EngineRole, str | None]:
    can, gpus = find_framework(job.framework).parallelism, [ranks.catalogue.find_gpu(kind) for kind in ranks.kinds]
    return {role: usual_exchange(can, role, gpus, ranks.network, job.architecture) for role in job.tokens_per_gpu}


def _decided(job: PlacementJob, clocks: Mapping[EngineRole, LayerClock]) -> Decided:
    first = next(iter(clocks.values()))
    mixed = len(set(job.ranks.kinds)) > 1
    topology = job.ranks.topology(job.slots, first.speeds(job.slots) if mixed else None)
    if job.current is not None:
        return _changed(job, replace(job.current, topology=topology))
    found = balance(
        job.loads,
        topology,
        groups=job.groups,
        objective=job.over_windows,
        seed=job.seed,
        time_limit_s=job.time_limit_s,
    )
    before = default_placement(topology, job.model)
    return Decided(job.ranks, before, found.placement, found.certificate, found.stopped)


def _changed(job: PlacementJob, current: Placement) -> Decided:
    """From the placement that runs now, and without the GPUs that are lost: what comes before is then the least change
    that gives every expert a copy again."""
    found = replan(
        job.loads,
        current,
        max_moves=job.max_moves,
        lost_gpus=job.lost_gpus,
        objective=job.over_windows,
        seed=job.seed,
        time_limit_s=job.time_limit_s,
    )
    if job.lost_gpus:
        current = restored(without(current, job.lost_gpus), np.tensordot(job.loads.weights, job.loads.counts, 1))
    stopped = found.seconds >= job.time_limit_s
    ranks = job.ranks.without(job.lost_gpus)
    return Decided(ranks, current, found.placement, found.certificate, stopped, found)


def _with_routes(
    job: PlacementJob,
    decided: Decided,
    transitions: Floats,
    distance: Distance,
    value: Callable[[Placement, Floats], float],
) -> Near:
    """The balanced placement brought nearer, by the objective: for ``balance`` by renaming GPUs only, which costs
    nothing; for ``traffic`` within the tolerance; for ``time`` within whichever tolerance takes least time. A current
    placement stays as it was changed: renaming its GPUs would move every expert."""
    balanced = decided.after
    if decided.replanned is not None:
        return Near(balanced, False)
    fence = None if job.groups is None else balanced.topology.node
    renamed = relabelled(balanced, transitions, distance, fence)
    if job.objective == "balance":
        return Near(renamed, False)
    if job.objective == "traffic":
        limit = LoadLimit.near(balanced, job.loads.counts, job.balance_tolerance)
        return fewest(balanced, transitions, distance, limit, fence)
    if job.dispatch == "home":  # the crossings do not enter the time; the fullest GPU does
        return Near(renamed, False)
    limits = [LoadLimit.near(balanced, job.loads.counts, tolerance) for tolerance in TOLERANCES]
    found = [fewest(balanced, transitions, distance, limit, fence) for limit in (*limits, None)]
    best = min(found, key=lambda each: value(each.placement, transitions))
    return Near(best.placement, False)


def _both(before: Placement, after: Placement, transitions: Floats, distance: Distance) -> tuple[Crossings, Crossings]:
    return crossings(before, transitions, distance), crossings(after, transitions, distance)


def _kinds(job: PlacementJob) -> tuple[str, ...]:
    """GPU types of the group; raises Unsupported where one cannot run the precision."""
    kinds = tuple(dict.fromkeys(job.ranks.kinds))
    for kind in kinds:
        find_framework(job.framework).check_runs(job.precision, job.ranks.catalogue.find_gpu(kind))
    return kinds


def _check_memory(job: PlacementJob) -> None:
    """Raises Infeasible where the experts alone fill a GPU."""
    one = copy_bytes(job.architecture, job.precision) * len(job.model.moe_layers)
    for rank, (kind, slots) in enumerate(zip(job.ranks.kinds, job.slots.tolist(), strict=True)):
        room = job.ranks.catalogue.find_gpu(kind).memory_bytes
        if slots * one > room:
            raise Infeasible(
                f"slots: {slots} experts in {len(job.model.moe_layers)} layers are {slots * one / 2**30:,.0f} GiB, "
                f"more than the {room / 2**30:,.0f} GiB of GPU {rank} ({kind})",
                f"use at most {int(room // one)} slots per GPU, more GPUs, or a smaller precision",
                binding="memory",
            )
