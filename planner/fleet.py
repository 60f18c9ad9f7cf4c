"""How many engines of which kind to run, and on which GPUs: one integer programme over all pools.

For every candidate v a whole number of engines y_v, and where latency matters its share x_v of the traffic:

* ``throughput``  max Σ capacity_v·y_v
* ``cost``        min Σ usd_per_hour_v·y_v   subject to Σ capacity_v·y_v ≥ rate
* ``gpus``        min Σ gpus_v·y_v           subject to the same
* ``latency``     min Σ latency_v·x_v        subject to Σ x_v = 1, rate·x_v ≤ capacity_v·y_v; without a rate,
  the candidates of least latency, as many as fit

and in each pool the pieces of the engines must pack into its nodes (:mod:`planner.packing`). Where x has no
price, shares with rate·x_v ≤ capacity_v·y_v and Σ x_v = 1 exist exactly when Σ capacity_v·y_v ≥ rate, so x is
left out and set afterwards. Engines of a candidate are counted, GPUs never named, so nothing in the model can
be swapped for its equal.

Ties are broken by further solves with the optimum held (:func:`planner.solvers.lexicographic`): fewer GPUs,
then more capacity, then lower latency, then fewer nodes, as far as the objective leaves them open.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from planner.packing import (
    Candidates,
    Flow,
    Piece,
    Pool,
    flow,
    flow_rows,
    hosted,
    span,
    undominated,
    walk,
    with_gpus,
)
from planner.solvers import TOLERANCE, Floats, Highs, Ints, Problem, Row, Solution, Solver, lexicographic
from profiles.errors import Infeasible, InputError, LimitReached

__all__ = ["Candidates", "Engine", "FleetChoice", "Objective", "Pool", "choose_fleet"]

Objective = Literal["throughput", "cost", "gpus", "latency"]


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
    candidate's part of the traffic over all its engines, sums to 1, and at the asked rate loads no engine
    above its capacity. ``placement``: every engine, by candidate. ``solution``: objective and bound in the
    objective's unit (requests/s, USD/h, GPUs, ms); its values are the engines. ``binding``: what keeps the
    objective from being better.
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
    """The best fleet for ``objective``; ``rate_rps`` is the load offered (needed for cost and gpus, not for
    throughput).

    Raises InputError for a request that contradicts itself or a missing price, Infeasible where no candidate
    fits or no fleet carries the rate (naming what binds and what would work), LimitReached where time ends
    before any fleet is found.
    """
    _check(pools, candidates, objective, rate_rps)
    if not time_limit_s > 0:
        raise InputError(f"time_limit_s: {time_limit_s} is not positive", "give a number of seconds above 0")
    ask = _Question(
        tuple(pools), candidates, objective, rate_rps, solver or Highs(), time.perf_counter() + time_limit_s
    )
    model = _model(ask)
    solution = ask.solve(model) if model else None
    if model is None or solution is None or solution.status == "infeasible":
        raise _infeasible(ask)
    if solution.values is None:
        raise LimitReached(
            f"fleet: {solution.engine} found no fleet in {time_limit_s:g} s",
            "raise time_limit_s, or offer fewer candidates",
        )
    counts = np.rint(solution.values).astype(np.int64)
    engines = np.zeros(len(candidates.pool), np.int64)
    engines[model.kept] = counts[: len(model.kept)]
    shares = _shares(candidates, engines, rate_rps if objective == "latency" else None)
    if objective == "latency" and rate_rps is None:
        # The latency itself is certain; with time up, only the number of engines is not proved the largest.
        least = float(candidates.latency_ms[model.kept[0]])
        solution = replace(solution, objective=least, bound=least, gap=0.0)
    return FleetChoice(
        engines,
        shares,
        _placement(ask, model, counts),
        replace(solution, values=engines.astype(np.float64)),
        _binding(ask, solution, engines, shares),
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

    def solve(self, model: _Model, ties: bool = True) -> Solution:
        left = max(self.deadline - time.perf_counter(), 1e-3)
        return lexicographic(self.solver, model.problem, model.ties if ties else (), left)


@dataclass(frozen=True, eq=False)
class _Model:
    """``kept`` (m,) are the candidates of the first m columns; ``flows``: each pool's graph and the columns
    of its arcs."""

    problem: Problem
    ties: list[tuple[Floats, bool]]
    kept: Ints
    flows: dict[int, tuple[Flow, slice]]


def _check(pools: Sequence[Pool], candidates: Candidates, objective: str, rate_rps: float | None) -> None:
    names = [pool.name for pool in pools]
    if len(set(names)) < len(names):
        raise InputError(f"pools: {', '.join(names)}: a name occurs twice", "give every pool its own name")
    candidates.require("pool", candidates.pool < len(pools), f"there are {len(pools)} pools, counted from 0")
    if objective not in get_args(Objective):
        raise InputError(f"objective: {objective!r} is not known", f"one of {', '.join(get_args(Objective))}")
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


def _model(ask: _Question) -> _Model | None:
    """The programme over the kept candidates (m,): columns y (m), x (m) where shares have a price, then every
    pool's flow.

    None where no candidate fits.
    """
    c, rate = ask.candidates, ask.rate_rps
    kept = undominated(ask.pools, c, hosted(ask.pools, c, ask.unlimited), by_latency=ask.objective == "latency")
    m = len(kept)
    if m == 0:
        return None
    mixed = ask.objective == "latency" and rate is not None
    if ask.objective == "latency" and rate is None:
        # Only engines of the least latency may serve; the question left is how many fit.
        kept = kept[c.latency_ms[kept] == c.latency_ms[kept].min()]
        m = len(kept)
    pool, gpus, capacity, latency = c.pool[kept], c.gpus[kept], c.capacity_rps[kept], c.latency_ms[kept]
    y, x = np.arange(m), np.arange(m, 2 * m)
    upper = np.full(m, np.inf)
    if rate is not None:
        upper = np.ceil(rate / capacity)  # more engines than carry the whole rate help nobody
    for p in set(pool.tolist()) - ask.unlimited:
        upper[pool == p] = np.minimum(upper[pool == p], ask.pools[p].gpus // gpus[pool == p])
    uppers, width = [upper, np.ones(m if mixed else 0)], 2 * m if mixed else m
    rows: list[Row] = []
    if rate is not None:
        useful = np.minimum(capacity, rate)  # one engine that carries more carries all: exact, and tighter
        if mixed:
            rows.append(Row("all traffic served", x, np.ones(m), "==", 1.0))
            rows += [
                Row(
                    f"capacity of candidate {v}",
                    np.array([i + m, i]),
                    np.array([rate, -useful[i]]),
                    "<=",
                    0.0,
                )
                for i, v in enumerate(kept.tolist())
            ]
        else:
            rows.append(Row("offered rate", y, useful, ">=", rate))
    flows: dict[int, tuple[Flow, slice]] = {}
    started: list[int] = []
    for p in sorted(set(pool.tolist()) - ask.unlimited):
        mine = np.flatnonzero(pool == p)
        cuts = [c.cut(ask.pools, v) or () for v in kept[mine].tolist()]
        graph = flow(ask.pools[p], {size for cut in cuts for size in cut})
        flows[p] = (graph, slice(width, width + len(graph.arcs)))
        rows += flow_rows(ask.pools[p], graph, width, dict(zip(mine.tolist(), cuts, strict=True)))
        uppers.append(np.full(len(graph.arcs), float(ask.pools[p].nodes)))
        started += [width + k for k, (first, _) in enumerate(graph.arcs) if first == 0]
        width += len(graph.arcs)

    def vector(columns: Ints | list[int], values: Floats | Ints | float) -> Floats:
        out = np.zeros(width)
        out[columns] = values
        return out

    prices = np.array([ask.pools[p].usd_per_gpu_hour or 0.0 for p in pool.tolist()])
    most, fewest = (vector(y, capacity), True), (vector(y, gpus), False)
    fastest = (vector(y, capacity * latency), False)
    stages = {
        "throughput": [most, fewest, fastest],
        "cost": [(vector(y, prices * gpus), False), fewest, most],
        "gpus": [fewest, most],
        "latency": [(vector(x, latency), False), fewest] if mixed else [most, fewest],
    }[ask.objective]
    integer = np.ones(width, np.bool_)
    integer[m : 2 * m] = not mixed
    (goal, maximise), *ties = [*stages, (vector(started, 1.0), False)]
    problem = Problem(goal, integer, np.zeros(width), np.concatenate(uppers), tuple(rows), maximise)
    return _Model(problem, ties, kept, flows)


def _shares(c: Candidates, engines: Ints, rate_rps: float | None) -> Floats:
    """(n,) shares of the traffic: in proportion to capacity, or with a rate, the fastest filled first (least
    mean latency)."""
    room = c.capacity_rps * engines
    if rate_rps is None:
        return np.asarray(room / room.sum())
    order = np.lexsort((np.arange(len(room)), c.latency_ms))
    before = np.cumsum(room[order]) - room[order]
    served = np.zeros(len(room))
    served[order] = np.clip(rate_rps - before, 0.0, room[order])
    # What is missing to 1 is the tolerance of the rate row, at most.
    return np.asarray(served / served.sum())


def _placement(ask: _Question, model: _Model, counts: Ints) -> tuple[Engine, ...]:
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


def _binding(ask: _Question, solution: Solution, engines: Ints, shares: Floats) -> str:
    """What would have to give way for the objective to improve: pools, the rate or the candidates."""
    c = ask.candidates
    hostable = hosted(ask.pools, c, frozenset(range(len(ask.pools))))
    if ask.objective == "throughput":
        return _gpus_of(ask, c.pool[hostable].tolist(), engines)
    if ask.objective == "latency":
        # Traffic moves to any faster candidate as soon as its pool has room: those pools bind, no others.
        slowest = c.latency_ms[shares > 0].max()
        faster = c.pool[hostable[c.latency_ms[hostable] < slowest]].tolist()
        return _gpus_of(ask, faster, engines) if faster else "latency of the fastest candidate"
    assert solution.objective is not None
    better = solution.objective - 10 * TOLERANCE * abs(solution.objective)

    def improves(unlimited: frozenset[int]) -> bool:
        wider = replace(ask, unlimited=unlimited)
        model = _model(wider)
        found = wider.solve(model, ties=False) if model else None
        return found is not None and found.objective is not None and found.objective < better

    everything = frozenset(c.pool[hostable].tolist())
    if not improves(everything):
        return "offered rate"
    alone = [p for p in sorted(everything) if improves(frozenset({p}))]
    return f"offered rate; {_gpus_of(ask, alone or sorted(everything), engines)}"


def _gpus_of(ask: _Question, which: Sequence[int], engines: Ints | None = None) -> str:
    """The pools in words, with ``engines`` (n,) also how many of their GPUs are idle."""
    c, parts = ask.candidates, []
    for p in sorted(set(which)):
        idle = 0 if engines is None else ask.pools[p].gpus - int((c.gpus * engines)[c.pool == p].sum())
        parts.append(f"pool {ask.pools[p].name}" + (f" ({idle} of {ask.pools[p].gpus} idle)" if idle else ""))
    return f"GPUs of {' and '.join(parts)}"


def _infeasible(ask: _Question) -> Infeasible:
    """Why there is no fleet, and what would work: a lower rate, or so many GPUs of one pool alone."""
    c, rate = ask.candidates, ask.rate_rps
    if not len(c.pool):
        return Infeasible(
            "candidates: none was given, so there is nothing to run", "loosen the SLO, or offer more layouts"
        )
    offered = sorted(set(c.pool.tolist()))
    needed = {ask.pools[p].name: _gpus_needed(ask, p) for p in offered}
    ways = [f"{gpus} GPUs of pool {name}" for name, gpus in needed.items() if gpus is not None]
    hostable = hosted(ask.pools, c, frozenset(offered))
    binding = _gpus_of(ask, c.pool[hostable].tolist() or offered)
    most = _model(replace(ask, objective="throughput", rate_rps=None))
    if most is None:
        has = [f"{ask.pools[p].gpus} in nodes of {ask.pools[p].gpus_per_node}" for p in offered]
        return Infeasible(
            f"no candidate fits the {_gpus_of(ask, offered)}, which has {' and '.join(has)}: every engine is "
            + ("larger" if ways else "larger than that or has blocks larger than a node"),
            (f"have {' or '.join(ways)}, or " if ways else "") + "offer smaller engines",
            binding=binding,
            highest_rate_rps=0.0,
            gpus_needed=needed,
        )
    found = ask.solve(most, ties=False)
    highest = found.objective or 0.0
    digits = 10.0 ** (5 - math.floor(math.log10(highest))) if highest else 1.0
    shown = math.floor(highest * digits) / digits  # rounded down, so that it can be carried
    return Infeasible(
        f"rate_rps: {rate:g} requests/s is more than the {binding} carry, "
        + (f"at most {shown:g}" if found.status == "optimal" else f"{shown:g} as far as was found in time"),
        f"offer at most {shown:g} requests/s" + (f", or have {' or '.join(ways)}" if ways else ""),
        binding=binding,
        highest_rate_rps=highest,
        gpus_needed=needed,
    )


def _gpus_needed(ask: _Question, p: int) -> int | None:
    """The fewest GPUs with which pool ``p`` alone carries the rate (without one: hosts an engine); None where
    no number does or none was proved in time. More GPUs never carry less, so the number is found by doubling
    and halving."""
    c = ask.candidates
    mine = c.pool == p
    only = Candidates(c.pool[mine], c.gpus[mine], c.block[mine], c.capacity_rps[mine], c.latency_ms[mine])
    ask = replace(ask, candidates=only, objective="gpus")

    def fewest(gpus: int | None) -> Solution | None:
        pools = list(ask.pools)
        pools[p] = with_gpus(pools[p], gpus or 1)
        wider = replace(ask, pools=tuple(pools), unlimited=frozenset({p} if gpus is None else ()))
        model = _model(wider)
        return wider.solve(model, ties=False) if model else None

    if ask.rate_rps is None:
        node = ask.pools[p].gpus_per_node
        cuts = [only.cut(ask.pools, v) for v in range(len(only.pool))]
        return min((span(cut, node) for cut in cuts if cut), default=None)
    least = fewest(None)
    if least is None or least.bound is None or least.objective is None:
        return None

    def enough(gpus: int) -> bool:
        solution = fewest(gpus)
        if solution is not None and solution.status == "time_limit":
            raise LimitReached(f"pool {ask.pools[p].name}: no answer for {gpus} GPUs", "raise time_limit_s")
        return solution is not None and solution.found

    low = high = math.ceil(least.bound * (1 - TOLERANCE))
    try:
        while not enough(high):
            low, high = high + 1, 2 * high
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle + 1, high)
    except LimitReached:
        return None
    return high
