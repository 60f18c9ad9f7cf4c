"""Engines under the mixture that they get: as the simulation and the documents take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats
from costmodels.models.architecture import Architecture
from costmodels.operations.layouts import Layouts
from costmodels.serving.steady.disaggregated import prefilling
from planner.contract.workload.classes import LengthClass
from planner.serving.engines.aggregated import AggregatedCandidate
from planner.serving.engines.decode import DecodeCandidate
from planner.serving.engines.disaggregated import (
    UTILISATIONS,
    DisaggregatedEngines,
    candidates,
    find_disaggregated_engines,
    pairing_limits,
    slowest_decode,
)
from planner.serving.engines.prefill import PrefillCandidate
from planner.serving.engines.protocol import EngineCandidate, LoadedEngine
from planner.serving.fleets.capacities import ModelEngine, service_request
from planner.serving.fleets.decision import Answered, Fleet
from planner.serving.fleets.mixtures import longest_of, workload_of
from planner.serving.fleets.tails import rates_on
from planner.serving.layouts import Restrictions
from planner.serving.operating_points import Job, OperatingPoints, peak_sequences, points_of, search
from planner.serving.planning import CostOf, jobs_of
from planner.serving.request import PlanRequest
from profiles.hardware import gpus_per_host

BUSY = 0.9
"""Share of what a prefill engine can do at which it is looked at where the formulas see no load that keeps the promise
beside its partners: what it carries is then the simulation's to say."""


@dataclass(frozen=True)
class UnderMixture:
    """An ``engine`` under a mixture of ``rps`` requests per second; ``candidate``: None where it keeps up with them at
    no load."""

    engine: ModelEngine
    request: PlanRequest
    candidate: EngineCandidate | None
    rps: float
    _at: dict[float, LoadedEngine] = field(default_factory=dict)

    def at(self, load_rps: float) -> LoadedEngine:
        """The candidate at a load: worked out once."""
        assert self.candidate is not None
        if load_rps not in self._at:
            self._at[load_rps] = self.candidate.at(load_rps)
        return self._at[load_rps]


class Mixtures:
    """The kinds of engine of fleets under what they get, each mixture worked out once."""

    def __init__(self, cost_of: Mapping[int, CostOf], models: Mapping[int, Architecture]) -> None:
        self._cost_of, self._models = cost_of, models
        self._known: dict[tuple[int, int, bytes, bytes], UnderMixture] = {}

    def of(self, found: Answered, variant: int, t: int) -> UnderMixture:
        """A kind of engine under what it gets in step ``t``: worked out once for each mixture."""
        fleet, engines = found.fleet, found.answer.engines
        assert engines is not None
        v = fleet.chosen.variants[variant]
        service = fleet.services[v.service]
        engine = service.engines[v.engine]
        assert isinstance(engine, ModelEngine)
        rates = rates_on(found, variant, t)
        if not rates.any():  # it stands by for a loss, and may then be sent whatever it carries
            rates = np.where(service.capacity[:, v.engine] > 0, service.rates[t], 0.0)
        # It admits what it is sent in other steps, and after a loss what the others no longer carry.
        also = np.any([rates, *(rates_on(found, variant, step) for step in range(len(engines)))], axis=0)
        if found.question.survive.any:
            also |= service.capacity[:, v.engine] > 0
        key = (v.service, id(engine), rates.tobytes(), also.tobytes())
        if key not in self._known:
            request, candidate = self._admitting(fleet, v.service, engine, rates, also)
            self._known[key] = UnderMixture(engine, request, candidate, float(rates.sum()))
        return self._known[key]

    def _admitting(
        self, fleet: Fleet, number: int, engine: ModelEngine, rates: Floats, also: NDArray[np.bool_]
    ) -> tuple[PlanRequest, EngineCandidate | None]:
        """An engine under a mixture, admitting all that the classes it may ``also`` get (classes,) may hold; where its
        memory does not hold that, what its own may, or all that the mixture's own requests are."""
        service = fleet.services[number]
        context = self._models[number].max_context_tokens
        for longest in (*(longest_of(_those(service.classes, those), context) for those in (also, rates > 0)), None):
            work = workload_of(
                service.classes, rates, speculation=service.asked.speculation, name="mixture", max_len=longest
            )
            request = service_request(fleet.request, service.asked, fleet.cluster, work)
            candidate = candidate_of(self._job(request, engine, number), engine)
            if candidate is not None:
                break
        return request, candidate

    def _job(self, request: PlanRequest, engine: ModelEngine, service: int) -> Job:
        jobs, _ = jobs_of(request, self._models[service], engine.precision, self._cost_of[service])
        return next(job for job in jobs if job.pool_index == engine.pool_index)


def _those(classes: Sequence[LengthClass], which: NDArray[np.bool_]) -> list[LengthClass]:
    return [classes[i] for i in np.flatnonzero(which).tolist()]


def candidate_of(job: Job, engine: ModelEngine) -> EngineCandidate | None:
    """The engine under the workload of ``job`` at the most that the formulas see it carry; None: memory does not hold
    its requests, or it keeps up with them at no load."""
    if engine.role != "aggregated":
        return _role_candidate(job, engine)
    points = _points_of(job, engine)
    return None if points is None else AggregatedCandidate(points, int(np.argmax(points.steady.rate_rps.value)))


def _points_of(job: Job, engine: ModelEngine) -> OperatingPoints | None:
    """The operating points of one layout with one token budget under a workload; those within the SLO where there are
    any."""
    for points in points_of(job, Layouts.of([engine.layout]), engine.budget):
        mine = np.flatnonzero(points.steady.stable)
        if len(mine):
            return points.take(mine)
    return None


def _role_candidate(job: Job, engine: ModelEngine) -> EngineCandidate | None:
    """The engine under the workload of ``job``, at the highest load within the SLO by the formulas; None: memory holds
    none of its requests."""
    roles = _of_layout(job, engine)
    return None if roles is None else _prefill(roles) if engine.role == "prefill" else _decode(roles)


def _of_layout(job: Job, engine: ModelEngine) -> DisaggregatedEngines | None:
    """One layout's engines in either role, with one token budget where they prefill."""
    node = job.pool.gpus_per_node
    most = max(engine.gpus, min(node, job.pool.gpus))
    tp, pp = engine.layout[0], engine.layout[1]
    host = gpus_per_host(job.pool.gpu, node)
    one = search(job, Restrictions(most, node, max_tp=tp, max_pp=pp, max_engine_gpus=engine.gpus, gpus_per_host=host))
    for within in (True, False):
        found = find_disaggregated_engines(one, within=within)
        if found is None:
            continue
        row = np.array(engine.layout)
        first = np.flatnonzero((found.layouts.rows == row).all(axis=1) & (found.budget == engine.budget))
        second = np.flatnonzero((found.decode.layouts.rows == row).all(axis=1))
        mine = first if engine.role == "prefill" else second
        if not len(mine):
            continue
        if engine.role == "decode":
            return replace(found, decode=found.decode.take(second), most=found.most[second])
        return replace(
            found, layouts=found.layouts.take(first), budget=found.budget[first], room=found.room[first],
            steps=found.steps.take(first),
        )  # fmt: skip
    return None


def _prefill(roles: DisaggregatedEngines) -> PrefillCandidate:
    kept = None
    for on in pairing_limits([roles]):
        slowest = slowest_decode([roles], on)
        each = None if slowest is None else candidates(roles, on, slowest)
        if each is not None and len(each.prefill_rows):
            rate = float(each.prefill.rate_rps.value[-1])
            if kept is None or rate > float(kept.rate_rps.value[-1]):
                kept = each.prefill
    if kept is not None:
        return PrefillCandidate(roles, kept, len(kept) - 1, 0)
    loads = prefilling(roles.steps.take(np.zeros(len(UTILISATIONS), np.int64)), UTILISATIONS)
    busy = int(np.argmin(np.abs(UTILISATIONS - BUSY)))
    return PrefillCandidate(roles, loads, busy, 0)


def _decode(roles: DisaggregatedEngines) -> DecodeCandidate:
    decode = roles.decode
    per_us = decode.rate_rps.value / decode.layouts.dp / 1e6
    held = peak_sequences(decode.concurrency + per_us * roles.receive_us(decode.layouts))
    fits = held <= roles.most
    rate = np.where(fits, decode.rate_rps.value, -decode.concurrency)
    i = int(np.argmax(rate))
    return DecodeCandidate(roles, decode, i, i)
