"""The fleet's integer programme: how many engines of each candidate, in which roles, packed into which nodes.

For every candidate v a whole number of engines y_v, and where latency matters its share x_v of the traffic.
Aggregated engines carry Σ capacity_v·y_v. Prefill and decode engines carry what both roles do: the rate R with
R ≤ Σ capacity_v·y_v over either role; where no rate is asked for, R is a column of its own.

* ``throughput``  max Σ capacity_v·y_v, or max R
* ``cost``        min Σ usd_per_hour_v·y_v   subject to Σ capacity_v·y_v ≥ rate in every role
* ``gpus``        min Σ gpus_v·y_v           subject to the same
* ``latency``     min Σ latency_v·x_v        subject to Σ x_v = 1 in every role, rate·x_v ≤ capacity_v·y_v;
  without a rate, the candidates of least latency in each role, as many as fit
* ``energy``      min Σ joules_v·x_v + Σ standing_v·y_v ÷ rate   subject to the same. Without a rate x_v are
  requests per second (÷ the highest capacity), and their sum in every role is R:
  min Σ joules_v·x_v + Σ standing_v·y_v − λ·R, which is 0 where λ is the least joules per token
  (W. Dinkelbach, Management Science 13, 1967); then max R at that λ

and in each pool the pieces of the engines must pack into its nodes (:mod:`planner.solving.packing`). Where x has no
price, shares with rate·x_v ≤ capacity_v·y_v and Σ x_v = 1 exist exactly when Σ capacity_v·y_v ≥ rate, so x is
left out and set afterwards. Engines of a candidate are counted, GPUs never named, so nothing in the model can
be swapped for its equal.

Ties are broken by further solves with the optimum held (:func:`planner.solving.solvers.lexicographic`): fewer GPUs,
then more capacity, then lower latency, then fewer nodes, as far as the objective leaves them open.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from planner.solving.packing import AGGREGATED, Candidates, Flow, NodePool, flow, flow_rows, hosted, undominated
from planner.solving.solvers import Floats, Ints, Problem, Row, Solution, Solver, lexicographic

Objective = Literal["throughput", "cost", "gpus", "latency", "energy"]

BY_REQUEST = ("latency", "energy")
"""Objectives that are a sum over requests, by which engine serves them."""


@dataclass(frozen=True)
class Question:
    """What to choose. ``unlimited``: pools taken to have as many nodes as wanted, which is how bounds and ways out
    are found. ``deadline``: of :func:`time.perf_counter`. ``joules``: λ of ``energy`` without a rate, None for the most
    that can be carried; ``filling``: as much as can be carried at λ."""

    pools: tuple[NodePool, ...]
    candidates: Candidates
    objective: Objective
    rate_rps: float | None
    solver: Solver
    deadline: float
    unlimited: frozenset[int] = frozenset()
    joules: float | None = None
    filling: bool = False

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
    weighed = c if ask.objective == "energy" else replace(c, standing=None)
    fitting = hosted(ask.pools, c, ask.unlimited)
    kept = undominated(ask.pools, weighed, fitting, by_latency=ask.objective in BY_REQUEST)
    if not set(c.needed) <= set(c.roles[kept].tolist()):
        return None
    frugal = ask.objective == "energy" and rate is None
    mixed = frugal or (ask.objective in BY_REQUEST and rate is not None)
    if ask.objective == "latency" and rate is None:
        # Only engines of the least latency may serve; the question left is how many fit.
        least = {r: c.latency_ms[kept][c.roles[kept] == r].min() for r in c.needed}
        kept = kept[c.latency_ms[kept] == np.array([least[r] for r in c.roles[kept].tolist()])]
    m = len(kept)
    pool, gpus, capacity, latency = c.pool[kept], c.gpus[kept], c.capacity_rps[kept], c.latency_ms[kept]
    unit = float(capacity.max()) if frugal else 1.0  # of rates, so that tolerances mean as much whatever it is
    capacity = capacity / unit
    roles = [np.flatnonzero(c.roles[kept] == r) for r in c.needed]
    two = c.needed != (AGGREGATED,)
    y, x = np.arange(m), np.arange(m, 2 * m)
    upper = np.full(m, np.inf)
    if rate is not None:
        upper = np.ceil(rate / capacity)  # more engines than carry the whole rate help nobody
    for p in set(pool.tolist()) - ask.unlimited:
        upper[pool == p] = np.minimum(upper[pool == p], ask.pools[p].gpus // gpus[pool == p])
    shares = capacity * upper if frugal else np.ones(m if mixed else 0)
    uppers, width = [upper, shares], 2 * m if mixed else m
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
    carried = frugal or (two and not mixed)
    if frugal:
        width += 1
        uppers.append(np.array([min(float(capacity[mine] @ upper[mine]) for mine in roles)]))
        for mine in roles:
            rows.append(Row("all is carried", np.append(x[mine], both), np.append(np.ones(len(mine)), -1.0), "==", 0.0))
        rows += [
            Row(f"capacity of candidate {v}", np.array([i + m, i]), np.array([1.0, -capacity[i]]), "<=", 0.0)
            for i, v in enumerate(kept.tolist())
        ]
    elif carried:
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
    standing = c.stands[kept] / (rate or unit)
    most = (vector([both], 1.0) if carried else vector(y, capacity), True)
    fastest = (vector(y, capacity * latency), False)
    stages = {
        "throughput": [most, fewest, fastest],
        "cost": [(vector(y, prices * gpus), False), fewest, most],
        "gpus": [fewest, most],
        "latency": [(vector(x, latency), False), fewest] if mixed else [most, fewest],
        "energy": [(vector(x, latency) + vector(y, standing), False), fewest] if mixed else [most, fewest],
    }[ask.objective]
    if frugal:
        joules = stages[0][0] - vector([both], ask.joules or 0.0)
        stages = [most, fewest] if ask.filling or ask.joules is None else [(joules, False)]
        if ask.filling:
            used = np.flatnonzero(joules)
            rows.append(Row("joules per token", used, joules[used], "<=", 0.0))
    integer = np.ones(width, np.bool_)
    integer[m : 2 * m] = not mixed
    integer[both : both + 1] = not carried
    (goal, maximise), *ties = [*stages, (vector(started, 1.0), False)]
    lower = np.zeros(width)
    if carried:
        lower[both] = capacity.min()  # one engine of each role carries that: without one there is no fleet
    problem = Problem(goal, integer, lower, np.concatenate(uppers), tuple(rows), maximise)
    return Programme(problem, ties, kept, flows)
