"""The fleet's integer programme: how many engines of each candidate, in which roles, packed into which nodes.

For every candidate v a whole number of engines y_v, and where latency matters its share x_v of the traffic.
Aggregated engines carry Σ capacity_v·y_v. Prefill and decode engines carry what both roles do: the rate R with
R ≤ Σ capacity_v·y_v over either role; where no rate is asked for, R is a column of its own.

* ``throughput``  max Σ capacity_v·y_v, or max R
* ``cost``        min Σ usd_per_hour_v·y_v   subject to Σ capacity_v·y_v ≥ rate in every role
* ``gpus``        min Σ gpus_v·y_v           subject to the same
* ``latency``     min Σ latency_v·x_v        subject to Σ x_v = 1 in every role, rate·x_v ≤ capacity_v·y_v;
  without a rate, the candidates of least latency in each role, as many as fit

and in each pool the pieces of the engines must pack into its nodes (:mod:`planner.solving.packing`). Where x has no
price, shares with rate·x_v ≤ capacity_v·y_v and Σ x_v = 1 exist exactly when Σ capacity_v·y_v ≥ rate, so x is
left out and set afterwards. Engines of a candidate are counted, GPUs never named, so nothing in the model can
be swapped for its equal.

Ties are broken by further solves with the optimum held (:func:`planner.solving.solvers.lexicographic`): fewer GPUs,
then more capacity, then lower latency, then fewer nodes, as far as the objective leaves them open.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from planner.solving.packing import AGGREGATED, Candidates, Flow, NodePool, flow, flow_rows, hosted, undominated
from planner.solving.solvers import Floats, Ints, Problem, Row, Solution, Solver, lexicographic

Objective = Literal["throughput", "cost", "gpus", "latency"]


@dataclass(frozen=True)
class Question:
    """What to choose. ``unlimited``: pools taken to have as many nodes as wanted, which is how bounds and ways out
    are found. ``deadline``: of :func:`time.perf_counter`."""

    pools: tuple[NodePool, ...]
    candidates: Candidates
    objective: Objective
    rate_rps: float | None
    solver: Solver
    deadline: float
    unlimited: frozenset[int] = frozenset()

    def solve(self, programme: Programme, ties: bool = True) -> Solution:
        left = max(self.deadline - time.perf_counter(), 1e-3)
        return lexicographic(self.solver, programme.problem, programme.ties if ties else (), left)


@dataclass(frozen=True, eq=False)
class Programme:
    """``kept`` (m,) are the candidates of the first m columns; ``flows``: each pool's graph and the columns
    of its arcs."""

    problem: Problem
    ties: list[tuple[Floats, bool]]
    kept: Ints
    flows: dict[int, tuple[Flow, slice]]


def programme(ask: Question) -> Programme | None:
    """The programme over the kept candidates (m,): columns y (m), x (m) where shares have a price or R (1) where
    two roles carry what both do, then every pool's flow.

    None where a role has no candidate that fits.
    """
    c, rate = ask.candidates, ask.rate_rps
    kept = undominated(ask.pools, c, hosted(ask.pools, c, ask.unlimited), by_latency=ask.objective == "latency")
    if not set(c.needed) <= set(c.roles[kept].tolist()):
        return None
    mixed = ask.objective == "latency" and rate is not None
    if ask.objective == "latency" and rate is None:
        # Only engines of the least latency may serve; the question left is how many fit.
        least = {r: c.latency_ms[kept][c.roles[kept] == r].min() for r in c.needed}
        kept = kept[c.latency_ms[kept] == np.array([least[r] for r in c.roles[kept].tolist()])]
    m = len(kept)
    pool, gpus, capacity, latency = c.pool[kept], c.gpus[kept], c.capacity_rps[kept], c.latency_ms[kept]
    roles = [np.flatnonzero(c.roles[kept] == r) for r in c.needed]
    two = c.needed != (AGGREGATED,)
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
        for mine in roles:
            if mixed:
                rows.append(Row("all traffic served", x[mine], np.ones(len(mine)), "==", 1.0))
            else:
                rows.append(Row("offered rate", y[mine], useful[mine], ">=", rate))
        if mixed:
            rows += [
                Row(f"capacity of candidate {v}", np.array([i + m, i]), np.array([rate, -useful[i]]), "<=", 0.0)
                for i, v in enumerate(kept.tolist())
            ]
    both = width  # the column of R
    if two and not mixed:
        width += 1
        uppers.append(np.array([min(float(capacity[mine] @ upper[mine]) for mine in roles)]))
        rows += [
            Row("both roles carry the rate", np.append(y[mine], both), np.append(capacity[mine], -1.0), ">=", 0.0)
            for mine in roles
        ]
    flows: dict[int, tuple[Flow, slice]] = {}
    started: list[int] = []
    for p in sorted(set(pool.tolist()) - ask.unlimited):
        here = np.flatnonzero(pool == p)
        cuts = [c.cut(ask.pools, v) or () for v in kept[here].tolist()]
        graph = flow(ask.pools[p], {size for cut in cuts for size in cut})
        flows[p] = (graph, slice(width, width + len(graph.arcs)))
        rows += flow_rows(ask.pools[p], graph, width, dict(zip(here.tolist(), cuts, strict=True)))
        uppers.append(np.full(len(graph.arcs), float(ask.pools[p].nodes)))
        started += [width + k for k, (first, _) in enumerate(graph.arcs) if first == 0]
        width += len(graph.arcs)

    def vector(columns: Ints | list[int], values: Floats | Ints | float) -> Floats:
        out = np.zeros(width)
        out[columns] = values
        return out

    prices = np.array([ask.pools[p].usd_per_gpu_hour or 0.0 for p in pool.tolist()])
    fewest = (vector(y, gpus), False)
    most = (vector([both], 1.0) if two and not mixed else vector(y, capacity), True)
    fastest = (vector(y, capacity * latency), False)
    stages = {
        "throughput": [most, fewest, fastest],
        "cost": [(vector(y, prices * gpus), False), fewest, most],
        "gpus": [fewest, most],
        "latency": [(vector(x, latency), False), fewest] if mixed else [most, fewest],
    }[ask.objective]
    integer = np.ones(width, np.bool_)
    integer[m : 2 * m] = not mixed
    integer[both : both + 1] = not (two and not mixed)
    (goal, maximise), *ties = [*stages, (vector(started, 1.0), False)]
    lower = np.zeros(width)
    if two and not mixed:
        lower[both] = capacity.min()  # one engine of each role carries that: without one there is no fleet
    problem = Problem(goal, integer, lower, np.concatenate(uppers), tuple(rows), maximise)
    return Programme(problem, ties, kept, flows)
