"""How many engines of which kind to run, and on which GPUs: one integer programme over all pools.

For every candidate v a whole number of engines y_v, and where latency matters its share x_v of the traffic:

* ``throughput``  max Σ capacity_v·y_v
* ``cost``        min Σ usd_per_hour_v·y_v   subject to Σ capacity_v·y_v ≥ rate
* ``gpus``        min Σ gpus_v·y_v           subject to the same
* ``latency``     min Σ latency_v·x_v        subject to Σ x_v = 1, rate·x_v ≤ capacity_v·y_v; without a rate, the candidates
  of least latency, as many as fit

and in each pool the pieces of the engines must pack into its nodes (:mod:`planner.packing`). Where x has no price, shares with
rate·x_v ≤ capacity_v·y_v and Σ x_v = 1 exist exactly when Σ capacity_v·y_v ≥ rate, so x is left out and set afterwards.
Engines of a candidate are counted, GPUs never named, so nothing in the model can be swapped for its equal.

Ties are broken by further solves with the optimum held (:func:`planner.solvers.lexicographic`): fewer GPUs, then more
capacity, then lower latency, then fewer nodes, as far as the objective leaves them open.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from planner.packing import Flow, Piece, Pool, flow, pieces, span, walk, with_gpus
from planner.solvers import TOLERANCE, Bools, Floats, Highs, Ints, Problem, Row, Solution, Solver, lexicographic
from profiles.errors import Infeasible, InputError, LimitReached

__all__ = ["Candidates", "Engine", "FleetChoice", "Objective", "Pool", "choose_fleet"]

Objective = Literal["throughput", "cost", "gpus", "latency"]


@dataclass(frozen=True, eq=False)
class Candidates:
    """``n`` kinds of engine that meet the SLO, as arrays (n,). Later: a role and a load class per candidate.

    pool: index into the pools. gpus: GPUs of one engine. block: GPUs that must sit inside one node together (divides gpus).
    capacity_rps: the highest rate one engine carries within the SLO, > 0. latency_ms: what ``latency`` minimises, ≥ 0.
    Raises InputError naming the first candidate and field that is wrong.
    """

    pool: Ints
    gpus: Ints
    block: Ints
    capacity_rps: Floats
    latency_ms: Floats

    def __post_init__(self) -> None:
        columns = {name: getattr(self, name) for name in ("pool", "gpus", "block", "capacity_rps", "latency_ms")}
        if len({column.shape for column in columns.values()}) != 1 or self.pool.ndim != 1:
            shapes = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
            raise InputError(f"candidates: {shapes}", "give one value per candidate in every column")
        with np.errstate(invalid="ignore", divide="ignore"):
            self._require("pool", self.pool >= 0, "give an index into the pools")
            self._require("gpus", self.gpus >= 1, "give the GPUs of one engine, at least 1")
            self._require("block", self.block >= 1, "give at least 1")
            self._require("block", self.gpus % np.maximum(self.block, 1) == 0, "give a divisor of the engine's gpus")
            self._require(
                "capacity_rps", np.isfinite(self.capacity_rps) & (self.capacity_rps > 0), "leave out engines that carry nothing"
            )
            self._require("latency_ms", np.isfinite(self.latency_ms) & (self.latency_ms >= 0), "give milliseconds, 0 or more")

    def _require(self, column: str, good: Bools, hint: str) -> None:
        if not good.all():
            i = int(np.argmin(good))
            raise InputError(f"candidates[{i}].{column}: {getattr(self, column)[i]} is out of range", hint)


@dataclass(frozen=True)
class Engine:
    """One engine on its GPUs. ``pieces``: (node index in the pool, GPU indices in the node), in the order of the ranks."""

    candidate: int
    pool: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, eq=False)
class FleetChoice:
    """The fleet. ``engines`` int64 (n,): how many of each candidate. ``shares`` float64 (n,): each candidate's part of the
    traffic over all its engines, sums to 1, and at the asked rate loads no engine above its capacity. ``placement``: every
    engine, by candidate. ``solution``: objective and bound in the objective's unit (requests/s, USD/h, GPUs, ms); its values are
    the engines. ``binding``: what keeps the objective from being better.
    """

    engines: Ints
    shares: Floats
    placement: tuple[Engine, ...]
    solution: Solution
    binding: str


def choose_fleet(
    pools: Sequence[Pool],
    candidates: Candidates,
    objective: Objective,
    rate_rps: float | None = None,
    time_limit_s: float = 60.0,
    solver: Solver | None = None,
) -> FleetChoice:
    """The best fleet for ``objective``; ``rate_rps`` is the load offered (needed for cost and gpus, not for throughput).

    Raises InputError for a request that contradicts itself or a missing price, Infeasible where no candidate fits or no
    fleet carries the rate (naming what binds and what would work), LimitReached where time ends before any fleet is found.
    """
    _check(pools, candidates, objective, rate_rps)
    ask = _Question(tuple(pools), candidates, objective, rate_rps, solver or Highs(), time.perf_counter() + time_limit_s)
    kept = _undominated(ask, _hosted(ask))
    if objective == "latency" and rate_rps is None and len(kept):
        # Only engines of the least latency may serve; the question left is how many fit.
        fastest = candidates.latency_ms[kept] == candidates.latency_ms[kept].min()
        kept, ask = kept[fastest], replace(ask, objective="throughput")
    model = _model(ask, kept)
    solution = ask.solve(model) if model else None
    if model is None or solution is None or solution.status == "infeasible":
        raise _infeasible(ask)
    if solution.values is None:
        raise LimitReached(
            f"fleet: {solution.engine} found no fleet in {time_limit_s:g} s", "raise time_limit_s, or offer fewer candidates"
        )
    counts = np.rint(solution.values).astype(np.int64)
    engines = np.zeros(len(candidates.pool), np.int64)
    engines[kept] = counts[model.engines]
    shares = _shares(candidates, engines, rate_rps if objective == "latency" else None)
    if objective == "latency" and rate_rps is None:
        least = float(candidates.latency_ms[kept[0]])
        optimal = solution.status == "optimal"
        # Its latency is beyond doubt; with time up, only the number of engines is not.
        solution = replace(solution, objective=least, bound=least, gap=0.0, status="optimal" if optimal else "feasible")
    return FleetChoice(
        engines,
        shares,
        _placement(ask, model, kept, counts),
        replace(solution, values=engines.astype(np.float64)),
        _binding(replace(ask, objective=objective), solution, engines, shares),
    )


@dataclass(frozen=True)
class _Question:
    pools: tuple[Pool, ...]
    candidates: Candidates
    objective: Objective
    rate_rps: float | None
    solver: Solver
    deadline: float
    unlimited: frozenset[int] = frozenset()
    """Pools taken to have as many nodes as wanted: how bounds and ways out are found."""

    def cut(self, v: int) -> tuple[int, ...] | None:
        pool = self.pools[self.candidates.pool[v]]
        return pieces(int(self.candidates.gpus[v]), int(self.candidates.block[v]), pool.gpus_per_node)

    def solve(self, model: _Model, ties: bool = True) -> Solution:
        left = max(self.deadline - time.perf_counter(), 1e-3)
        return lexicographic(self.solver, model.problem, model.ties if ties else (), left)


@dataclass(frozen=True)
class _Model:
    problem: Problem
    ties: list[tuple[Floats, bool]]
    engines: slice
    flows: dict[int, tuple[Flow, slice]]


def _check(pools: Sequence[Pool], candidates: Candidates, objective: str, rate_rps: float | None) -> None:
    names = [pool.name for pool in pools]
    if len(set(names)) < len(names):
        raise InputError(f"pools: {', '.join(names)}: a name occurs twice", "give every pool its own name")
    candidates._require("pool", candidates.pool < len(pools), f"there are {len(pools)} pools, counted from 0")
    if objective not in get_args(Objective):
        raise InputError(f"objective: {objective!r} is not known", f"one of {', '.join(get_args(Objective))}")
    if rate_rps is None and objective in ("cost", "gpus"):
        raise InputError(f"rate_rps: the objective {objective} needs the rate to serve", "give requests per second")
    if rate_rps is not None and objective == "throughput":
        raise InputError(f"rate_rps: {rate_rps:g} with the objective throughput", "leave it out, or ask for cost or gpus")
    if rate_rps is not None and not 0 < rate_rps < float("inf"):
        raise InputError(f"rate_rps: {rate_rps} is not a rate", "give requests per second, above 0")
    for p in sorted(set(candidates.pool.tolist())) if objective == "cost" else ():
        if pools[p].usd_per_gpu_hour is None:
            raise InputError(
                f"pool {pools[p].name}: its price is not known, so its cost cannot be minimised",
                "give usd_per_gpu_hour for it in the cluster file, or use the objective gpus",
            )


def _hosted(ask: _Question) -> Ints:
    """The candidates of which at least one engine fits, (k,)."""
    hosted = []
    for v, p in enumerate(ask.candidates.pool.tolist()):
        cut = ask.cut(v)
        if cut and (p in ask.unlimited or span(cut, ask.pools[p].gpus_per_node) <= ask.pools[p].gpus):
            hosted.append(v)
    return np.array(hosted, np.int64)


def _undominated(ask: _Question, among: Ints) -> Ints:
    """Drops every candidate that another can replace one for one: the same pool and pieces, no less capacity, no more latency.

    Where the objective is not latency, more capacity alone is enough; of equals the faster, then the first stays. Exact: the
    replacement changes no pool's packing and no price.
    """
    c = ask.candidates
    order = among[np.lexsort((among, c.latency_ms[among], -c.capacity_rps[among]))]
    fastest: dict[tuple[int, tuple[int, ...] | None], float] = {}
    kept = []
    for v in order.tolist():
        key, latency = (int(c.pool[v]), ask.cut(v)), float(c.latency_ms[v])
        if key not in fastest or (ask.objective == "latency" and latency < fastest[key]):
            fastest[key] = latency
            kept.append(v)
    return np.sort(np.array(kept, np.int64))


def _model(ask: _Question, kept: Ints) -> _Model | None:
    """The programme over the kept candidates (m,): columns y (m), x (m) where latency matters, then the flows of each pool.

    None where there is nothing to choose from.
    """
    m = len(kept)
    if m == 0:
        return None
    c, rate = ask.candidates, ask.rate_rps
    pool, gpus, capacity, latency = c.pool[kept], c.gpus[kept], c.capacity_rps[kept], c.latency_ms[kept]
    mixed = ask.objective == "latency" and rate is not None
    y, x = np.arange(m), np.arange(m, 2 * m)
    upper = np.full(m, np.inf)
    if rate is not None:
        upper = np.ceil(rate / capacity)  # more engines than carry the whole rate help nobody
    for p in set(pool.tolist()) - ask.unlimited:
        upper[pool == p] = np.minimum(upper[pool == p], ask.pools[p].gpus // gpus[pool == p])
    uppers, width = [upper, np.ones(m if mixed else 0)], 2 * m if mixed else m
    rows: list[Row] = []
    if mixed:
        rows.append(Row("all traffic served", x, np.ones(m), "==", 1.0))
        rows += [
            Row(f"capacity of candidate {kept[i]}", np.array([x[i], y[i]]), np.array([rate, -capacity[i]]), "<=", 0.0)
            for i in range(m)
        ]
    elif rate is not None:
        rows.append(Row("offered rate", y, capacity, ">=", rate))
    flows: dict[int, tuple[Flow, slice]] = {}
    started: list[int] = []
    for p in sorted(set(pool.tolist()) - ask.unlimited):
        mine = np.flatnonzero(pool == p)
        cuts = [ask.cut(v) or () for v in kept[mine].tolist()]
        sizes = sorted({size for cut in cuts for size in cut}, reverse=True)
        graph = flow(ask.pools[p], sizes)
        flows[p] = (graph, slice(width, width + len(graph.arcs)))
        arcs = list(enumerate(graph.arcs, width))
        width += len(arcs)
        uppers.append(np.full(len(arcs), float(ask.pools[p].nodes)))
        started += [k for k, (first, _) in arcs if first == 0]
        name = ask.pools[p].name
        for size in sizes:
            need = np.array([cut.count(size) for cut in cuts])
            room = [k for k, (_, s) in arcs if s == size]
            rows.append(_row(f"GPUs of pool {name}, pieces of {size}", (mine[need > 0], need[need > 0]), (room, -1.0), 0.0))
        for at in range(ask.pools[p].gpus_per_node):
            leave = [k for k, (first, _) in arcs if first == at]
            come = [k for k, (first, s) in arcs if first + s == at]
            if leave:
                rows.append(_row(f"GPU {at} of pool {name}", (leave, 1.0), (come, -1.0), float(graph.starts.get(at, 0))))

    def vector(columns: Ints | list[int], values: Floats | Ints | float) -> Floats:
        out = np.zeros(width)
        out[columns] = values
        return out

    prices = np.array([ask.pools[p].usd_per_gpu_hour or 0.0 for p in pool.tolist()])
    footprint, strength = (vector(y, gpus), False), (vector(y, capacity), True)
    first, ties = {
        "throughput": (strength, [footprint, (vector(y, capacity * latency), False)]),
        "cost": ((vector(y, prices * gpus), False), [footprint, strength]),
        "gpus": (footprint, [strength]),
        "latency": ((vector(x if mixed else y, latency), False), [footprint]),
    }[ask.objective]
    integer = np.ones(width, np.bool_)
    integer[m : 2 * m] = not mixed
    problem = Problem(first[0], integer, np.zeros(width), np.concatenate(uppers), tuple(rows), maximise=first[1])
    return _Model(problem, [*ties, (vector(started, 1.0), False)], slice(0, m), flows)


def _row(
    name: str, plus: tuple[Ints | list[int], Ints | float], minus: tuple[list[int], float], rhs: float
) -> Row:
    """Σ of the plus terms and the minus terms ≤ rhs; terms are (columns, one coefficient each or one for all)."""
    columns = [np.asarray(terms[0], np.int64) for terms in (plus, minus)]
    values = [np.broadcast_to(np.asarray(terms[1], np.float64), k.shape) for terms, k in zip((plus, minus), columns, strict=True)]
    return Row(name, np.concatenate(columns), np.concatenate(values), "<=", rhs)


def _shares(c: Candidates, engines: Ints, rate_rps: float | None) -> Floats:
    """(n,) shares of the traffic: in proportion to capacity, or with a rate, the fastest filled first (least mean latency)."""
    room = c.capacity_rps * engines
    if rate_rps is None:
        return room / room.sum()
    order = np.lexsort((np.arange(len(room)), c.latency_ms))
    before = np.cumsum(room[order]) - room[order]
    served = np.zeros(len(room))
    served[order] = np.clip(rate_rps - before, 0.0, room[order])
    # What is missing to 1 is the tolerance of the rate row, at most.
    return served / served.sum()


def _placement(ask: _Question, model: _Model, kept: Ints, counts: Ints) -> tuple[Engine, ...]:
    """Every engine on GPUs of its own: the flows lay out places of each size, engines take them in order."""
    places = {p: walk(ask.pools[p], graph, counts[columns].tolist()) for p, (graph, columns) in model.flows.items()}
    placement = []
    for v, count in zip(kept.tolist(), counts[model.engines].tolist(), strict=True):
        p = int(ask.candidates.pool[v])
        for _ in range(count):
            placement.append(Engine(v, p, tuple(places[p][size].pop(0) for size in ask.cut(v) or ())))
    return tuple(placement)


def _binding(ask: _Question, solution: Solution, engines: Ints, shares: Floats) -> str:
    """What would have to give way for the objective to improve, in words: pools by name, the offered rate, or the candidates."""
    c = ask.candidates
    hostable = _hosted(replace(ask, unlimited=frozenset(range(len(ask.pools)))))
    if ask.objective == "throughput":
        return _gpus_of(ask, c.pool[hostable].tolist(), engines)
    if ask.objective == "latency":
        # Traffic moves to any faster candidate as soon as its pool has room: pools with one bind, and no others.
        slowest = c.latency_ms[shares > 0].max()
        faster = c.pool[hostable[c.latency_ms[hostable] < slowest]].tolist()
        return _gpus_of(ask, faster, engines) if faster else "latency of the fastest candidate"
    assert solution.objective is not None
    better = solution.objective - 10 * TOLERANCE * abs(solution.objective)

    def improves(unlimited: frozenset[int]) -> bool:
        wider = replace(ask, unlimited=unlimited)
        model = _model(wider, _undominated(wider, _hosted(wider)))
        found = wider.solve(model, ties=False) if model else None
        return found is not None and found.objective is not None and found.objective < better

    everything = frozenset(c.pool[hostable].tolist())
    if not improves(everything):
        return "offered rate"
    alone = [p for p in sorted(everything) if improves(frozenset({p}))]
    return f"offered rate; {_gpus_of(ask, alone or sorted(everything), engines)}"


def _gpus_of(ask: _Question, which: Sequence[int], engines: Ints) -> str:
    c = ask.candidates
    parts = []
    for p in sorted(set(which)):
        idle = ask.pools[p].gpus - int((c.gpus * engines)[c.pool == p].sum())
        parts.append(f"pool {ask.pools[p].name}" + (f" ({idle} of {ask.pools[p].gpus} left over)" if idle else ""))
    return f"GPUs of {' and '.join(parts)}"
