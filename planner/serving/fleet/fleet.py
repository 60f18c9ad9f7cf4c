"""How many engines of which kind to run, and on which GPUs: one integer programme over all pools
(:mod:`planner.serving.fleet.programme`), its answer laid out on nodes, and what keeps it from being better."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from planner.serving.fleet.infeasible import gpus_of, infeasible
from planner.serving.fleet.programme import BY_REQUEST, Objective, Programme, Question, programme
from planner.solving.packing import Candidates, NodePool, Piece, hosted, walk
from planner.solving.solvers import TOLERANCE, Floats, Highs, Ints, Solution, Solver
from profiles.errors import InputError, LimitReached
from profiles.values import shown

__all__ = ["Candidates", "Engine", "FleetChoice", "NodePool", "Objective", "choose_fleet"]

_IDLE = 1e-6
"""Share of an engine's capacity below which a programme leaves it idle: solvers are no more exact."""


@dataclass(frozen=True)
class Engine:
    """One engine on its GPUs. ``pieces``: (node index in the pool, GPU indices in the node), in the order of
    the ranks."""

    candidate: int
    pool: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, eq=False)
class FleetChoice:
    """The fleet. ``engines`` int64 (n,): how many of each candidate. ``shares`` float64 (n,): each
    candidate's part of the traffic over all its engines, sums to 1 in every role, and at the asked rate loads no
    engine above its capacity. ``placement``: every engine, by candidate. ``solution``: objective and bound in the
    objective's unit (requests/s, USD/h, GPUs, ms); its values are the engines. ``binding``: what keeps the
    objective from being better. ``simplest``: it was preferred to a better one for being simpler.
    """

    engines: Ints
    shares: Floats
    placement: tuple[Engine, ...]
    solution: Solution
    binding: str
    simplest: bool = False

    def among(self, index: Ints, candidates: int, best: Solution) -> FleetChoice:
        """The same fleet among more candidates, of which its own were those at ``index``; ``best``: of all of them,
        whose bound is its bound."""
        engines, shares = np.zeros(candidates, np.int64), np.zeros(candidates)
        engines[index], shares[index] = self.engines, self.shares
        found, values = self.solution, engines.astype(np.float64)
        objective, bound = found.objective, best.bound
        if objective is not None and bound is not None and abs(objective - bound) > TOLERANCE * abs(bound):
            gap = abs(objective - bound) / max(abs(objective), abs(bound))
            found = replace(found, status="feasible", bound=bound, gap=gap)
        return replace(
            self,
            engines=engines,
            shares=shares,
            placement=tuple(replace(engine, candidate=int(index[engine.candidate])) for engine in self.placement),
            solution=replace(found, values=values),
        )


def choose_fleet(
    pools: Sequence[NodePool],
    candidates: Candidates,
    objective: Objective,
    rate_rps: float | None = None,
    time_limit_s: float = 60.0,
    solver: Solver | None = None,
    budget_watts: float | None = None,
) -> FleetChoice:
    """The best fleet for ``objective``; ``rate_rps`` is the load offered (needed for cost and gpus, not for
    throughput); ``budget_watts`` what all engines may draw at their capacity.

    Raises InputError for a request that contradicts itself or a missing price, Infeasible where no candidate
    fits or no fleet carries the rate (naming what binds and what would work), LimitReached where time ends
    before any fleet is found.
    """
    _check(pools, candidates, objective, rate_rps)
    if not time_limit_s > 0:
        raise InputError(f"time_limit_s: {time_limit_s} is not positive", "give a number of seconds above 0")
    deadline = time.perf_counter() + time_limit_s
    ask = Question(
        tuple(pools), candidates, objective, rate_rps, solver or Highs(), deadline, budget_watts=budget_watts
    )
    if objective == "energy" and rate_rps is None:
        return _most_frugal(ask, time_limit_s)
    if objective == "latency" and rate_rps is None and len(candidates.needed) > 1:
        return _fastest_pair(ask, time_limit_s)
    return _chosen(ask, time_limit_s)


def _most_frugal(ask: Question, time_limit_s: float) -> FleetChoice:
    """Without a rate, the fleet that takes fewest joules for a token, what its engines take at rest included, and of
    those the one that carries most."""
    c = ask.candidates
    found = _chosen(ask, time_limit_s)
    joules = _joules(c, found)
    while True:
        tried = _chosen(replace(ask, joules=joules), time_limit_s)
        fewer = _joules(c, tried)
        if fewer >= joules * (1 - TOLERANCE):
            break
        found, joules = tried, fewer
    most = _chosen(replace(ask, joules=joules * (1 + 10 * TOLERANCE), filling=True), time_limit_s)
    shares = _shares(c, most.engines, _carried(c, most))
    done = most.solution.status == "optimal"
    solution = replace(most.solution, objective=_joules(c, most), bound=joules if done else 0.0, gap=0.0)
    return replace(most, shares=shares, solution=solution)


def _carried(c: Candidates, found: FleetChoice) -> float:
    capacity = c.capacity_rps * found.engines
    return min(float(capacity[c.roles == role].sum()) for role in c.needed)


def _joules(c: Candidates, found: FleetChoice) -> float:
    """Per output token of all that the fleet carries."""
    carried = _carried(c, found)
    return float(found.engines @ c.stands) / carried + float(_shares(c, found.engines, carried) @ c.latency_ms)


def _chosen(ask: Question, time_limit_s: float) -> FleetChoice:
    candidates, objective, rate_rps = ask.candidates, ask.objective, ask.rate_rps
    model = programme(ask)
    solution = ask.solve(model) if model else None
    if model is None or solution is None or solution.status == "infeasible":
        raise infeasible(ask)
    if solution.values is None:
        raise LimitReached(
            f"fleet: {solution.engine} found no fleet in {time_limit_s:g} s",
            "raise time_limit_s, or offer fewer candidates",
        )
    counts = np.rint(solution.values).astype(np.int64)
    if objective == "energy" and rate_rps is None:
        counts[: len(model.kept)] = _working(candidates.capacity_rps[model.kept], counts, solution.values)
    engines = np.zeros(len(candidates.pool), np.int64)
    engines[model.kept] = counts[: len(model.kept)]
    if not engines.any():  # the budget of power has room for none
        raise infeasible(ask)
    shares = _shares(candidates, engines, rate_rps if objective in BY_REQUEST else None)
    if objective == "latency" and rate_rps is None:
        # The latency itself is certain; with time up, only the number of engines is not proved the largest.
        run = engines > 0
        roles, latency = candidates.roles[run], candidates.latency_ms[run]
        least = float(sum(latency[roles == role].min() for role in candidates.needed))
        solution = replace(solution, objective=least, bound=least, gap=0.0)
    return FleetChoice(
        engines,
        shares,
        _placement(ask, model, counts),
        replace(solution, values=engines.astype(np.float64)),
        _binding(ask, solution, engines, shares),
    )


def _working(capacity: Floats, counts: Ints, values: Floats) -> Ints:
    """Engines that carry something, shape [m]: others cost the programme nothing where nothing stands, and would be
    counted as filled. ``values``: the programme's, of which the second m are rates, in the highest ``capacity``."""
    m = len(capacity)
    filled = values[m : 2 * m] * capacity.max() / capacity
    return np.asarray(np.minimum(counts[:m], np.ceil(filled - _IDLE).astype(np.int64)))


def _fastest_pair(ask: Question, time_limit_s: float) -> FleetChoice:
    """Without a rate, the fastest engine of each role need not fit beside the other: the pair of least latency that
    fits is found at a load that any of them carries, then as many of its kinds as fit."""
    c = ask.candidates
    pair = _chosen(replace(ask, rate_rps=float(c.capacity_rps.min())), time_limit_s)
    used = {role: float(c.latency_ms[(pair.shares > 0) & (c.roles == role)].max()) for role in c.needed}
    kept = np.flatnonzero(c.latency_ms >= np.array([used[role] for role in c.roles.tolist()]))
    most = _chosen(replace(ask, candidates=c.take(kept)), time_limit_s)
    return most.among(kept, len(c.pool), most.solution)


def _check(pools: Sequence[NodePool], candidates: Candidates, objective: str, rate_rps: float | None) -> None:
    names = [pool.name for pool in pools]
    if len(set(names)) < len(names):
        raise InputError(f"pools: {', '.join(names)}: a name occurs twice", "give every pool its own name")
    candidates.require("pool", candidates.pool < len(pools), f"there are {len(pools)} pools, counted from 0")
    if objective not in get_args(Objective):
        raise InputError(f"objective: {shown(objective)} is not known", f"one of {', '.join(get_args(Objective))}")
    if rate_rps is None and objective in ("cost", "gpus"):
        raise InputError(f"rate_rps: the objective {objective} needs the rate to serve", "give requests per second")
    if rate_rps is not None and objective == "throughput":
        raise InputError(
            f"rate_rps: {rate_rps:g} with the objective throughput", "leave it out, or ask for cost or gpus"
        )
    if rate_rps is not None and not 0 < rate_rps < float("inf"):
        raise InputError(f"rate_rps: {rate_rps} is not a rate", "give requests per second, above 0")
    for p in sorted(set(candidates.pool.tolist())) if objective == "cost" else ():
        if pools[p].usd_per_gpu_hour is None:
            raise InputError(
                f"pool {pools[p].name}: its price is not known, so its cost cannot be minimised",
                "give usd_per_gpu_hour for it in the cluster file, or use the objective gpus",
            )


def _differs(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return False
    return abs(first - second) > 10 * TOLERANCE * max(abs(first), abs(second))


def _shares(c: Candidates, engines: Ints, rate_rps: float | None) -> Floats:
    """(n,) shares of the traffic, of every role for itself: in proportion to capacity, or with a rate, the fastest
    filled first (least mean latency)."""
    shares = np.zeros(len(engines))
    for role in c.needed:
        mine = np.flatnonzero(c.roles == role)
        room = c.capacity_rps[mine] * engines[mine]
        served = room
        if rate_rps is not None:
            order = np.lexsort((mine, c.latency_ms[mine]))
            before = np.cumsum(room[order]) - room[order]
            served = np.zeros(len(room))
            served[order] = np.clip(rate_rps - before, 0.0, room[order])
        # What is missing to 1 is the tolerance of the rate row, at most.
        shares[mine] = served / served.sum()
    return shares


def _placement(ask: Question, model: Programme, counts: Ints) -> tuple[Engine, ...]:
    """Every engine on GPUs of its own: the flows lay out places of each size, engines take them in order."""
    places = {p: walk(ask.pools[p], graph, counts[columns].tolist()) for p, (graph, columns) in model.flows.items()}
    placement = []
    for v, count in zip(model.kept.tolist(), counts.tolist(), strict=False):
        p = int(ask.candidates.pool[v])
        for _ in range(count):
            placement.append(
                Engine(v, p, tuple(places[p][size].pop(0) for size in ask.candidates.cut(ask.pools, v) or ()))
            )
    return tuple(placement)


def _binding(ask: Question, solution: Solution, engines: Ints, shares: Floats) -> str:
    """What would have to give way for the objective to improve: the power budget, pools, the rate or the candidates."""
    c = ask.candidates
    hostable = hosted(ask.pools, c, frozenset(range(len(ask.pools))))
    if ask.budget_watts is not None and c.watts is not None:
        wider = replace(ask, budget_watts=None)
        model = programme(wider)
        found = wider.solve(model, ties=False) if model else None
        if found is not None and _differs(found.objective, solution.objective):
            drawn = float(engines @ c.watts)
            return f"power budget ({drawn:,.0f} of {ask.budget_watts:,.0f} W)"
    if ask.objective == "throughput":
        return gpus_of(ask, c.pool[hostable].tolist(), engines)
    if ask.objective == "energy":
        return "energy of the candidates: any other takes more joules for a token"
    if ask.objective == "latency":
        # Traffic moves to any faster candidate as soon as its pool has room: those pools bind, no others.
        slowest = np.array([c.latency_ms[(shares > 0) & (c.roles == role)].max() for role in c.roles])
        faster = c.pool[hostable[(c.latency_ms < slowest)[hostable]]].tolist()
        return gpus_of(ask, faster, engines) if faster else "latency of the fastest candidate"
    assert solution.objective is not None
    better = solution.objective - 10 * TOLERANCE * abs(solution.objective)

    def improves(unlimited: frozenset[int]) -> bool:
        wider = replace(ask, unlimited=unlimited)
        model = programme(wider)
        found = wider.solve(model, ties=False) if model else None
        return found is not None and found.objective is not None and found.objective < better

    everything = frozenset(c.pool[hostable].tolist())
    if not improves(everything):
        return "offered rate"
    alone = [p for p in sorted(everything) if improves(frozenset({p}))]
    return f"offered rate; {gpus_of(ask, alone or sorted(everything), engines)}"
