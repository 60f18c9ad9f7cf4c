"""The ways to serve that a request allows, each solved: aggregated or disaggregated engines, in each precision.

All ways are judged by the same SLO, load, pools and objective, so their objectives can be compared. One precision
holds for all engines of a plan: whatever engine answers, it is the same model that does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from costmodels.arrays import concatenate_rows
from costmodels.estimates import Floats
from costmodels.models.precision import Precision
from costmodels.operations.layouts import DEGREES, Layouts
from planner.contract.clusters import Cluster
from planner.serving.engines.aggregated import AggregatedCandidate
from planner.serving.engines.decode import DecodeCandidate
from planner.serving.engines.disaggregated import (
    FEW,
    MANY,
    NONE,
    DisaggregatedEngines,
    PairingLimits,
    candidates,
    find_disaggregated_engines,
    pairing_limits,
    scale_up_link,
    slowest_decode,
)
from planner.serving.engines.energy import decode_watts, lines, points_lines, points_watts, prefill_watts
from planner.serving.engines.pairing import cannot_pair, partners
from planner.serving.engines.prefill import PrefillCandidate
from planner.serving.engines.protocol import EngineCandidate
from planner.serving.engines.ties import TIE, coolest, simplest
from planner.serving.fleet import fleet
from planner.serving.fleet.fleet import Candidates, FleetChoice
from planner.serving.fleet.infeasible import highest_rps, nearest
from planner.serving.fleet.programme import BY_REQUEST
from planner.serving.layouts import Rejected
from planner.serving.operating_points import MORE, Job, LayoutSearch, OperatingPoints, rate_at_confidence
from planner.serving.request import PlanRequest
from planner.solving.packing import AGGREGATED, DECODE, PREFILL
from planner.solving.solvers import SOLVERS
from profiles.errors import Infeasible, LimitReached

Serving = Literal["aggregated", "disaggregated"]


@dataclass(frozen=True)
class ServingOption:
    """One way to serve, at its best. ``choice`` is None where there is no plan this way, and ``reason`` says why;
    ``origin``: what each of the ``candidates`` is."""

    serving: Serving
    precision: Precision
    searches: list[LayoutSearch]
    refused: list[Rejected]
    candidates: Candidates | None = None
    origin: tuple[EngineCandidate, ...] = ()
    choice: FleetChoice | None = None
    reason: str | None = None
    error: Infeasible | LimitReached | None = None

    @property
    def objective(self) -> float:
        """Of its choice."""
        assert self.choice is not None
        assert self.choice.solution.objective is not None
        return self.choice.solution.objective

    @property
    def carries(self) -> float:
        """The highest rate that is known to be carried where the rate asked for is not, requests/s."""
        return highest_rps(self.error)

    def allowed(self, request: PlanRequest) -> bool:
        """Whether the request may be answered with it, and not only compared to it."""
        return self.serving == "disaggregated" or request.disaggregation != "always"

    def better_than(self, other: ServingOption, goal: str) -> bool:
        """Whether its objective is better by more than rounding; any plan is better than none."""
        if self.choice is None or other.choice is None:
            return self.choice is not None
        mine, its = self.objective, other.objective
        return mine > its * (1 + 1e-9) if goal == "throughput" else mine < its * (1 - 1e-9)

    def ties_with(self, better: ServingOption, goal: str) -> bool:
        """Whether it has a plan so near to a ``better`` one that nobody could tell."""
        if self.choice is None or goal in ("cost", "gpus"):
            return False
        mine, its = self.objective, better.objective
        return mine >= its * (1 - TIE) if goal == "throughput" else mine <= its * (1 + TIE)


def best_of(request: PlanRequest, options: list[ServingOption]) -> ServingOption | None:
    """The best option that is allowed; of equals (:data:`TIE`) the first: aggregated engines, and the precision asked
    for first."""
    best: ServingOption | None = None
    for option in options:
        if (
            option.allowed(request)
            and option.choice is not None
            and (best is None or option.better_than(best, request.goal))
        ):
            best = option
    if best is None:
        return None
    return next((each for each in options if each.allowed(request) and each.ties_with(best, request.goal)), best)


def served_rps(request: PlanRequest, option: ServingOption) -> float:
    """The load of a solved option: what is offered, or as much as fits."""
    if request.goal != "throughput" and request.workload.rate_rps is not None:
        return request.workload.rate_rps
    assert option.choice is not None
    assert option.candidates is not None
    capacity, roles = option.candidates.capacity_rps * option.choice.engines, option.candidates.roles
    return min(float(capacity[roles == role].sum()) for role in option.candidates.needed)


def fleet_pools(cluster: Cluster) -> list[fleet.NodePool]:
    return [
        fleet.NodePool(pool.name, pool.nodes, pool.gpus_per_node, pool.usd_per_gpu_hour, pool.gpus)
        for pool in cluster.pools
    ]


def _choose(request: PlanRequest, offered: Candidates) -> FleetChoice:
    rate = request.workload.rate_rps if request.goal != "throughput" else None
    return fleet.choose_fleet(
        fleet_pools(request.cluster),
        offered,
        request.goal,
        rate,
        time_limit_s=request.time_limit_s,
        solver=SOLVERS[request.solver](),
        budget_watts=request.budget_watts,
    )


# ------------------------------------------------------------------ aggregated engines


def aggregated(
    request: PlanRequest,
    precision: Precision,
    searches: list[LayoutSearch],
    refused: list[Rejected],
    also: Sequence[LayoutSearch] = (),
) -> ServingOption:
    """The best fleet of aggregated engines; ``also``: what of the same layouts is to be simulated beside."""
    bare = ServingOption("aggregated", precision, searches, refused)
    tables: list[Candidates] = []
    origin: list[EngineCandidate] = []
    for points in (s.fine for s in (*searches, *also) if s.fine is not None):
        rate, e2e_ms = rate_at_confidence(points.steady.rate_rps, request.confidence), points.steady.e2e_us.value / 1e3
        rate *= MORE if points.job.lenient else 1.0
        energy = points_lines(points, rate) if request.goal == "energy" else None
        limited = request.budget_watts is not None
        chosen = _finalists(points, every=limited or request.goal in BY_REQUEST)
        each = points_watts(points) if limited else None
        tables.append(_table(points.job, points.layouts, rate, e2e_ms, AGGREGATED, chosen, energy, each))
        origin += [AggregatedCandidate(points, i) for i in chosen]
    if not origin:
        return _without(bare, "no layout meets the SLO" if request.slo.bounds else "no layout can be run")
    return _solved(request, bare, concatenate_rows(tables), tuple(origin))


def _without(option: ServingOption, reason: str, error: Infeasible | LimitReached | None = None) -> ServingOption:
    return replace(option, reason=reason, error=error)


def _solved(
    request: PlanRequest,
    bare: ServingOption,
    offered: Candidates,
    origin: tuple[EngineCandidate, ...],
) -> ServingOption:
    try:
        choice = _choose(request, offered)
    except (Infeasible, LimitReached) as error:
        return _without(replace(bare, candidates=offered, origin=origin), error.message, error)
    choice = simplest(request, offered, origin, choice, lambda some: _choose(request, some))
    if request.goal in ("cost", "gpus") and any(each.job.state_key for each in origin):
        choice = coolest(request, offered, origin, choice)
    return replace(bare, candidates=offered, origin=origin, choice=choice)


MISSES = "no engine meets the SLO when it is simulated"
UNTRIED = "none was simulated before the choice was narrowed to engines that were"


def solved_again(
    request: PlanRequest, option: ServingOption, capacity_rps: Floats, none_left: str = MISSES
) -> ServingOption:
    """``option`` with candidates of other capacities [n]; those that carry nothing are left out. ``none_left``: why,
    where a role has none left."""
    assert option.candidates is not None
    kept, roles = np.flatnonzero(capacity_rps > 0), option.candidates.roles
    bare = replace(option, candidates=None, origin=(), choice=None, reason=None, error=None)
    if set(roles[kept].tolist()) != set(roles.tolist()):
        return _without(bare, none_left)
    offered = replace(option.candidates.take(kept), capacity_rps=capacity_rps[kept])
    return _solved(request, bare, offered, tuple(option.origin[v] for v in kept.tolist()))


Energy = tuple[Floats, Floats]
"""(standing, joules) of :func:`planner.serving.engines.energy.lines`."""


def _table(
    job: Job,
    layouts: Layouts,
    rate_rps: Floats,
    latency_ms: Floats,
    role: int,
    chosen: Sequence[int],
    energy: Energy | None,
    watts: Floats | None,
) -> Candidates:
    """The ``chosen`` engines of one pool; ``energy``: what they take, where that is the objective; ``watts``: of a GPU
    of each, where they are limited."""
    standing, weight = (np.zeros(len(rate_rps)), latency_ms) if energy is None else energy
    index = np.array(chosen, np.int64)
    return Candidates(
        np.full(len(index), job.pool_index, np.int64),
        layouts.gpus[index],
        # A tensor-parallel group stays inside a node, or (--tp-across-nodes) fills whole ones.
        np.minimum(layouts.tp[index], job.pool.gpus_per_node),
        rate_rps[index],
        weight[index],
        np.full(len(index), role, np.int64),
        None if energy is None else standing[index],
        None if watts is None else watts[index] * layouts.gpus[index],
    )


def _finalists(points: OperatingPoints, *, every: bool) -> list[int]:
    """Per layout and batch limit the point of highest rate; ``every``: all points."""
    inside = np.flatnonzero(points.within)
    if every:
        return [int(i) for i in inside]
    rate = points.steady.rate_rps.value
    best: dict[tuple[int, ...], int] = {}
    for i in inside[np.argsort(rate[inside], kind="stable")]:
        best[(*points.key(int(i)), int(points.budget[i]))] = int(i)
    return sorted(best.values())


# ------------------------------------------------------------------ disaggregated engines


def in_either_role(searches: list[LayoutSearch]) -> list[DisaggregatedEngines]:
    """The engines that prefill or decode, of each pool that has both."""
    if cannot_pair(searches[0].job.served) is not None:
        return []
    return [roles for roles in (find_disaggregated_engines(search) for search in searches) if roles is not None]


def disaggregated(
    request: PlanRequest,
    precision: Precision,
    searches: list[LayoutSearch],
    offers: Sequence[Offer],
    refused: list[Rejected],
) -> ServingOption:
    """The best fleet of prefill and decode engines, of all that are on offer."""
    bare = ServingOption("disaggregated", precision, searches, refused)
    refused_by_connector = cannot_pair(searches[0].job.served)
    if refused_by_connector is not None:
        return _without(bare, refused_by_connector)
    best = _without(bare, "no pair of layouts can share the roles within the SLO")
    for offered, origin in offers:
        if best.choice is not None and not _may_beat(request, offered, best):
            continue
        option = _solved(request, bare, offered, origin)
        if option.error is not None and best.error is not None:
            error = nearest([best.error, option.error], request.budget_watts, request.workload.rate_rps)
            best = replace(option if option.carries > best.carries else best, error=error, reason=error.message)
        elif option.better_than(best, request.goal) or (
            best.choice is None and (option.carries > best.carries or request.budget_watts is not None)
        ):
            best = option
    return best


Offer = tuple[Candidates, tuple[EngineCandidate, ...]]
"""Prefill and decode engines that can serve together on the same terms."""


def offers_of(request: PlanRequest, found: list[DisaggregatedEngines]) -> Iterator[Offer]:
    """The engines that were ``found``, on all terms that they may keep but those on which no fleet carries more: at any
    rate the same."""
    together = (pools for arrangement in _arrangements(found) for pools in partners(arrangement))
    for pools in filter(None, together):
        tried: list[Strength] = []
        for on in pairing_limits(pools):
            offered, origin = _offer(request, pools, on)
            if offered is None:
                continue
            strength = _strength(offered, request.goal in BY_REQUEST)
            if not any(_covers(before, strength) for before in tried):
                tried.append(strength)
                yield offered, origin


def _arrangements(found: list[DisaggregatedEngines]) -> Iterator[list[DisaggregatedEngines]]:
    """What may be joined by which link: all pools by their fabrics, a pool that is one node by its scale-up link."""
    pools = {roles.job.pool_index: roles.job.pool for roles in found}
    if len(pools) > 1 or any(pool.nodes > 1 for pool in pools.values()):
        yield found
    for index, pool in pools.items():
        if pool.nodes == 1:
            yield [roles.over(scale_up_link(roles.job)) for roles in found if roles.job.pool_index == index]


def _offer(
    request: PlanRequest, pools: list[DisaggregatedEngines], on: PairingLimits
) -> tuple[Candidates | None, tuple[EngineCandidate, ...]]:
    """The engines that keep the terms; None where a role has none."""
    slowest = slowest_decode(pools, on)
    if slowest is None:
        return None, ()
    energy, limited = request.goal == "energy", request.budget_watts is not None
    every = request.goal == "latency"
    also = MANY if limited else FEW if every else NONE  # at less load an engine draws less
    tables: list[Candidates] = []
    origin: list[EngineCandidate] = []
    for pool in pools:
        kept = candidates(pool, on, slowest, also)
        first, second = kept.prefill, kept.decode
        layouts, rate = first.steps.layouts, rate_at_confidence(first.rate_rps, request.confidence)
        chosen = range(len(rate)) if len(also) else _fastest(layouts, rate)
        first_ms = (first.done_us.value + kept.exposed_us) / 1e3
        joules = None
        if energy:
            joules = lines(pool.job, layouts, prefill_watts(pool.job, first), rate, list(range(len(rate))))
        each = prefill_watts(pool.job, first) if limited else None
        tables.append(_table(pool.job, layouts, rate, first_ms, PREFILL, chosen, joules, each))
        origin += [PrefillCandidate(pool, first, i, int(kept.prefill_rows[i])) for i in chosen]
        layouts, rate = second.layouts, rate_at_confidence(second.rate_rps, request.confidence)
        chosen = range(len(rate)) if every or energy or limited else _fastest(layouts, rate)
        decode_ms = second.cycle_us.value * pool.decode_cycles(layouts) / 1e3
        joules = None
        if energy:
            chains = [layouts.row(i) for i in range(len(rate))]
            joules = lines(pool.job, layouts, decode_watts(pool.job, second), rate, chains)
        each = decode_watts(pool.job, second) if limited else None
        tables.append(_table(pool.job, layouts, rate, decode_ms, DECODE, chosen, joules, each))
        origin += [DecodeCandidate(pool, second, i, int(kept.decode_rows[i])) for i in chosen]
    if {each.role for each in origin} != {"prefill", "decode"}:
        return None, ()
    return concatenate_rows(tables), tuple(origin)


def _fastest(layouts: Layouts, rate: Floats) -> list[int]:
    """Of every layout the engine of the highest ``rate``; what is said of experts is chosen so, too."""
    keys = np.column_stack([layouts.rows[:, : len(DEGREES)], layouts.wide])
    order = np.argsort(rate, kind="stable")
    best = dict(zip(map(tuple, keys[order].tolist()), order.tolist(), strict=True))
    return sorted(best.values())


Strength = dict[tuple[int, ...], float]


def _strength(offered: Candidates, weighed: bool) -> Strength:
    """The highest capacity of each kind of engine; where what it does to a request is ``weighed``, of each weight."""
    best: Strength = {}
    for v in range(len(offered.pool)):
        kind = (int(offered.pool[v]), int(offered.gpus[v]), int(offered.block[v]), int(offered.roles[v]))
        drawn = 0 if offered.watts is None else round(float(offered.watts[v]) * 1e3)
        key = (*kind, round(float(offered.latency_ms[v]) * 1e6) if weighed else 0, drawn)
        best[key] = max(best.get(key, 0.0), float(offered.capacity_rps[v]))
    return best


def _covers(first: Strength, second: Strength) -> bool:
    """Whether every fleet of the ``second`` can be had of the ``first``, at no lower capacity."""
    return all(first.get(key, 0.0) >= capacity * (1 - 1e-12) for key, capacity in second.items())


def _may_beat(request: PlanRequest, offered: Candidates, best: ServingOption) -> bool:
    """Whether a fleet whose GPUs could be divided at will would beat ``best``: none of whole engines does better."""
    assert best.choice is not None
    value = best.choice.solution.objective
    assert value is not None
    if request.goal == "latency":
        return True
    if request.goal == "energy":
        least_joules = offered.latency_ms + offered.stands / offered.capacity_rps
        return sum(float(least_joules[offered.roles == role].min()) for role in (PREFILL, DECODE)) < value * (1 - 1e-9)
    pools = request.cluster.pools
    price = np.array([(pool.usd_per_gpu_hour or 0.0) if request.goal == "cost" else 1.0 for pool in pools])
    each = offered.gpus / offered.capacity_rps * price[offered.pool]
    least = sum(float(each[offered.roles == role].min()) for role in (PREFILL, DECODE))
    if request.goal == "throughput":
        return sum(pool.gpus for pool in pools) / least > value * (1 + 1e-9)
    assert request.workload.rate_rps is not None
    return request.workload.rate_rps * least < value * (1 - 1e-9)
