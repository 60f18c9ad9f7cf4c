"""Engines under the mixture that they get: as the simulation and the documents take them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from costmodels.serving.steady.disaggregated import prefilling
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
from planner.serving.engines.protocol import EngineCandidate
from planner.serving.fleets.capacities import ModelEngine
from planner.serving.layouts import Restrictions
from planner.serving.operating_points import Job, OperatingPoints, peak_sequences, search

BUSY = 0.9
"""Share of what a prefill engine can do at which it is looked at where the formulas see no load that keeps the promise
beside its partners: what it carries is then the simulation's to say."""


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
    node = job.pool.gpus_per_node
    most = max(engine.gpus, min(node, job.pool.gpus))
    tp, pp = engine.layout[0], engine.layout[1]
    one = search(job, Restrictions(most, node, max_tp=tp, max_pp=pp, max_engine_gpus=engine.gpus))
    for points in (one.fine, one.coarse):
        if points is None:
            continue
        mine = np.flatnonzero(
            (points.layouts.rows == np.array(engine.layout)).all(axis=1) & (points.budget == engine.budget)
            & points.steady.stable
        )  # fmt: skip
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
    one = search(job, Restrictions(most, node, max_tp=tp, max_pp=pp, max_engine_gpus=engine.gpus))
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
