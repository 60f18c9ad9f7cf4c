"""Of fleets that predictions cannot tell apart the simplest; of states of GPUs that cost as much the coolest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np

from costmodels.estimates import Ints
from planner.serving.engines.energy import engine_watts
from planner.serving.engines.protocol import EngineCandidate
from planner.serving.fleet.fleet import Candidates, FleetChoice
from planner.serving.request import PlanRequest
from planner.solving.packing import DECODE, PREFILL
from planner.solving.solvers import TOLERANCE
from profiles.errors import Infeasible, LimitReached

TIE = 0.02
"""Plans whose throughput or latency differs by no more than this share are equals: predictions are not so sure. The
simplest is taken: fewer kinds of engine, fewer GPUs an engine, aggregated engines, the precision that is asked for
first. GPUs and their price are certain, and no ties."""


def simplest(
    request: PlanRequest,
    offered: Candidates,
    origin: tuple[EngineCandidate, ...],
    best: FleetChoice,
    choose: Callable[[Candidates], FleetChoice],
) -> FleetChoice:
    """Of every role one layout in each pool, the smallest, where the fleet ties with the ``best``; it keeps the bound
    of all candidates.

    Args:
        choose: the best fleet of some candidates.
    """
    keys = [each.key for each in origin]
    used = {keys[v] for v in np.flatnonzero(best.engines).tolist()}
    if request.goal != "throughput" or best.solution.status != "optimal":
        return best
    kept = (
        _one_layout_a_role(request, offered, keys, best)
        if len(offered.needed) > 1
        else _one_layout_a_pool(request, offered, origin, keys, used)
    )
    if not kept or used <= kept:
        return best
    some = np.array([v for v, key in enumerate(keys) if key in kept], np.int64)
    try:
        simple = choose(offered.take(some))
    except (Infeasible, LimitReached):
        return best
    goal, mine = best.solution.objective, simple.solution.objective
    assert goal is not None
    assert mine is not None
    if mine < goal * (1 - TIE):
        return best
    return replace(simple.among(some, len(keys), best.solution), simplest=mine < goal * (1 - TOLERANCE))


def _most_of(offered: Candidates, keys: list[tuple[int, ...]], among: Ints) -> dict[tuple[int, ...], tuple[int, float]]:
    """(GPUs, highest capacity) of each layout."""
    found: dict[tuple[int, ...], tuple[int, float]] = {}
    for v in among.tolist():
        before = found.get(keys[v], (0, 0.0))[1]
        found[keys[v]] = int(offered.gpus[v]), max(before, float(offered.capacity_rps[v]))
    return found


def _one_layout_a_pool(
    request: PlanRequest,
    offered: Candidates,
    origin: tuple[EngineCandidate, ...],
    keys: list[tuple[int, ...]],
    used: set[tuple[int, ...]],
) -> set[tuple[int, ...]]:
    states = any(each.job.state_key for each in origin)
    kept: set[tuple[int, ...]] = set()
    for pool in sorted({key[0] for key in used}):
        gpus = request.cluster.pools[pool].gpus
        of = _most_of(offered, keys, np.flatnonzero(offered.pool == pool))
        reach = {key: gpus // size * rps for key, (size, rps) in of.items()}
        near = [key for key, rps in reach.items() if rps >= max(reach.values()) * (1 - TIE)]
        near = [key for key in near if of[key][0] == min(of[other][0] for other in near)]
        # Alike but for their clocks: the one that takes the fewest joules for a request.
        coolest = {key: _joules_at_most(origin, offered, keys, key) for key in near} if states else {}
        kept.add(min(near, key=lambda key: (coolest.get(key, 0.0), -reach[key])))
    return kept


def _one_layout_a_role(
    request: PlanRequest, offered: Candidates, keys: list[tuple[int, ...]], best: FleetChoice
) -> set[tuple[int, ...]]:
    """The smallest prefill and decode layouts of one pool whose fleet, were its nodes one, would tie with the ``best``;
    empty: there are none, or it has engines in several pools."""
    pools = set(offered.pool[np.flatnonzero(best.engines)].tolist())
    assert best.solution.objective is not None
    if len(pools) > 1:
        return set()
    (pool,) = pools
    gpus = request.cluster.pools[pool].gpus
    first, second = (
        _most_of(offered, keys, np.flatnonzero((offered.pool == pool) & (offered.roles == role)))
        for role in (PREFILL, DECODE)
    )
    near = []
    for (prefill, (size, rps)), (decode, (other, its)) in product(first.items(), second.items()):
        engines = np.arange(1, gpus // size + 1)
        reach = float(np.minimum(engines * rps, (gpus - engines * size) // other * its).max(initial=0.0))
        if reach >= best.solution.objective * (1 - TIE):
            near.append((size + other, -reach, prefill, decode))
    return set(min(near)[2:]) if near else set()


def _joules_at_most(
    origin: tuple[EngineCandidate, ...], offered: Candidates, keys: list[tuple[int, ...]], key: tuple[int, ...]
) -> float:
    """Of a request, by the engine of a ``key`` that carries most, at that load."""
    v = max((v for v, other in enumerate(keys) if other == key), key=lambda v: float(offered.capacity_rps[v]))
    return _watts(origin[v], float(offered.capacity_rps[v])) / float(offered.capacity_rps[v])


def _watts(candidate: EngineCandidate, load_rps: float) -> float:
    """Of all GPUs of an engine."""
    layouts = candidate.layouts
    watts = engine_watts(candidate.job.served.gpu, candidate.at(load_rps), layouts)
    return float(watts.value[0]) * int(layouts.gpus[0])


def coolest(
    request: PlanRequest, offered: Candidates, origin: tuple[EngineCandidate, ...], choice: FleetChoice
) -> FleetChoice:
    """The same engines on the same GPUs, each kind in the state in which it carries its load with the fewest watts: it
    costs as much."""
    assert request.workload.rate_rps is not None
    rows = [tuple(each.layouts.row(0)) for each in origin]
    same = [(int(offered.pool[v]), int(offered.roles[v]), rows[v]) for v in range(len(rows))]
    moved: dict[int, int] = {}
    for v in np.flatnonzero(choice.engines).tolist():
        load = request.workload.rate_rps * float(choice.shares[v]) / int(choice.engines[v])
        able = [w for w, key in enumerate(same) if key == same[v] and offered.capacity_rps[w] >= load * (1 - 1e-9)]
        best: dict[tuple[int, ...], int] = {}
        for w in sorted(able, key=lambda w: float(offered.capacity_rps[w])):
            best[origin[w].job.state_key] = w
        moved[v] = min(best.values(), key=lambda w: _watts(origin[w], load))
    engines, shares = np.zeros_like(choice.engines), np.zeros_like(choice.shares)
    for v, w in moved.items():
        engines[w] += choice.engines[v]
        shares[w] += choice.shares[v]
    return replace(
        choice,
        engines=engines,
        shares=shares,
        placement=tuple(replace(each, candidate=moved[each.candidate]) for each in choice.placement),
        solution=replace(choice.solution, values=engines.astype(np.float64)),
    )
