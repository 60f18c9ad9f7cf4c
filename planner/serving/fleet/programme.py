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

and in each pool the pieces of the engines must pack into its nodes (:mod:`planner.solving.packing`); where watts are
limited, Σ watts_v·y_v ≤ budget. Where x has no
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
from planner.solving.solvers import Bools, Floats, Ints, Problem, Row, Solution, Solver, lexicographic

Objective = Literal["throughput", "cost", "gpus", "latency", "energy"]

Goal = Literal["throughput", "cost", "gpus", "latency", "energy", "watts"]
"""``watts``: min Σ watts_v·y_v, subject to the same as ``gpus``: what a budget would have to be."""

BY_REQUEST = ("latency", "energy")
"""Objectives that are a sum over requests, by which engine serves them."""


@dataclass(frozen=True)
class Question:
    """What to choose. ``unlimited``: pools taken to have as many nodes as wanted, which is how bounds and ways out
    are found. ``deadline``: of :func:`time.perf_counter`. ``budget_watts``: of all engines at their capacity together,
    None: any. ``joules``: λ of ``energy`` without a rate, None for the most
    that can be carried; ``filling``: as much as can be carried at λ."""

    pools: tuple[NodePool, ...]
    candidates: Candidates
    objective: Goal
    rate_rps: float | None
    solver: Solver
    deadline: float
    unlimited: frozenset[int] = frozenset()
    joules: float | None = None
    filling: bool = False
    budget_watts: float | None = None

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
    """The programme over the kept candidates. None where a role has no candidate that fits."""
    c, rate = ask.candidates, ask.rate_rps
    weighed = c if ask.objective == "energy" else replace(c, standing=None)
    fitting = hosted(ask.pools, c, ask.unlimited)
    kept = undominated(ask.pools, weighed, fitting, by_latency=ask.objective in BY_REQUEST)
    if not set(c.needed) <= set(c.roles[kept].tolist()):
        return None
    if ask.objective not in BY_REQUEST:
        return _by_engines(_Parts(ask, kept))
    if rate is not None:
        return _by_shares(_Parts(ask, kept), rate)
    if ask.objective == "energy":
        return _by_joules(_Parts(ask, kept, unit=float(c.capacity_rps[kept].max())))
    # Only engines of the least latency may serve; the question left is how many fit.
    least = {r: c.latency_ms[kept][c.roles[kept] == r].min() for r in c.needed}
    return _by_engines(_Parts(ask, kept[c.latency_ms[kept] == np.array([least[r] for r in c.roles[kept].tolist()])]))


def _by_engines(parts: _Parts) -> Programme:
    """Columns y (m), and R (1) where two roles carry what both do; then the flows."""
    engines, rate = parts.engines, parts.ask.rate_rps
    if rate is not None:
        useful = np.minimum(parts.capacity, rate)  # one engine that carries more carries all: exact, and tighter
        for mine in parts.roles:
            parts.rows.append(Row("offered rate", engines[mine], useful[mine], ">=", rate))
    most: Stage = (engines, parts.capacity, True)
    if parts.ask.candidates.needed != (AGGREGATED,):
        both = parts.carried_column()
        for mine in parts.roles:
            columns, values = np.append(engines[mine], both), np.append(parts.capacity[mine], -1.0)
            parts.rows.append(Row("both roles carry the rate", columns, values, ">=", 0.0))
        most = (both, np.ones(1), True)
    nodes = parts.flow_columns()
    fewest: Stage = (engines, parts.gpus, False)
    fastest: Stage = (engines, parts.capacity * parts.latency, False)
    stages: dict[Goal, list[Stage]] = {
        "throughput": [most, fewest, fastest],
        "cost": [(engines, parts.prices * parts.gpus, False), fewest, most],
        "gpus": [fewest, most],
        "watts": [(engines, parts.watts, False), fewest],
        "latency": [most, fewest],
    }
    return parts.programme([*stages[parts.ask.objective], nodes])


def _by_shares(parts: _Parts, rate: float) -> Programme:
    """Columns y (m) and the shares x (m), which latency or joules price; then the flows."""
    engines, useful = parts.engines, np.minimum(parts.capacity, rate)
    shares = parts.columns(np.ones(len(engines)), integer=False)
    for mine in parts.roles:
        parts.rows.append(Row("all traffic served", shares[mine], np.ones(len(mine)), "==", 1.0))
    parts.hold_capacities(shares, rate, useful)
    nodes = parts.flow_columns()
    return parts.programme([parts.priced(shares, rate), (engines, parts.gpus, False), nodes])


def _by_joules(parts: _Parts) -> Programme:
    """The most energy-thrifty without a rate: columns y (m), x (m) in rates, and R (1); then the flows. At the λ that
    the question names, or the most that is carried: at any, or at λ."""
    ask, engines = parts.ask, parts.engines
    rates = parts.columns(parts.capacity * parts.most_engines, integer=False)
    both = parts.carried_column()
    for mine in parts.roles:
        columns, values = np.append(rates[mine], both), np.append(np.ones(len(mine)), -1.0)
        parts.rows.append(Row("all is carried", columns, values, "==", 0.0))
    parts.hold_capacities(rates, 1.0, parts.capacity)
    nodes = parts.flow_columns()
    columns, weights, _ = parts.priced(rates, parts.unit)
    joules: Stage = (np.append(columns, both), np.append(weights, -(ask.joules or 0.0)), False)
    if ask.joules is not None and not ask.filling:
        return parts.programme([joules, nodes])
    if ask.filling:
        weight = parts.vector(joules)
        used = np.flatnonzero(weight)
        parts.rows.append(Row("joules per token", used, weight[used], "<=", 0.0))
    return parts.programme([(both, np.ones(1), True), (engines, parts.gpus, False), nodes])


Stage = tuple[Ints, Floats | Ints, bool]
"""What is wanted: columns, the weight of each, and whether the most of their sum (else the least)."""


class _Parts:
    """A programme that is being written: its columns, block by block, and its rows.

    The first block is the engines y of the ``kept`` candidates (m,); ``pool`` to ``prices`` (m,) are what they are of,
    ``roles`` the rows of each role in them, and capacities are in ``unit``, so that tolerances mean as much whatever it
    is.
    """

    def __init__(self, ask: Question, kept: Ints, unit: float = 1.0) -> None:
        c = ask.candidates
        self.ask, self.kept, self.unit = ask, kept, unit
        self.pool, self.gpus = c.pool[kept], c.gpus[kept]
        self.capacity, self.latency = c.capacity_rps[kept] / unit, c.latency_ms[kept]
        self.prices = np.array([ask.pools[p].usd_per_gpu_hour or 0.0 for p in self.pool.tolist()])
        self.roles = [np.flatnonzero(c.roles[kept] == r) for r in c.needed]
        self.rows: list[Row] = []
        self._flows: dict[int, tuple[Flow, slice]] = {}
        self._width = 0
        self._blocks: list[tuple[Floats, Floats, Bools]] = []  # lower and upper bounds, and whether whole numbers
        self.most_engines = self._most_engines()
        self.engines = self.columns(self.most_engines)
        self.watts = np.zeros(len(kept)) if c.watts is None else c.watts[kept]
        if ask.budget_watts is not None:
            self.rows.append(Row("power budget", self.engines, self.watts, "<=", ask.budget_watts))

    def _limited(self) -> list[int]:
        return sorted(set(self.pool.tolist()) - self.ask.unlimited)

    def _most_engines(self) -> Floats:
        """That fit, and are of any use."""
        most = np.full(len(self.kept), np.inf)
        if self.ask.rate_rps is not None:
            most = np.ceil(self.ask.rate_rps / self.capacity)  # more than carry the whole rate help nobody
        for p in self._limited():
            here = self.pool == p
            most[here] = np.minimum(most[here], self.ask.pools[p].gpus // self.gpus[here])
        return most

    def columns(self, upper: Floats, *, integer: bool = True, lower: float = 0.0) -> Ints:
        """The numbers of new columns."""
        n = len(upper)
        self._blocks.append((np.full(n, lower), upper, np.full(n, integer)))
        self._width += n
        return np.arange(self._width - n, self._width)

    def carried_column(self) -> Ints:
        """The column of R, which the least capacity bounds: one engine of each role carries that, and without one there
        is no fleet."""
        most = min(float(self.capacity[mine] @ self.most_engines[mine]) for mine in self.roles)
        return self.columns(np.array([most]), integer=False, lower=float(self.capacity.min()))

    def hold_capacities(self, served: Ints, rate: float, capacity: Floats) -> None:
        """``rate`` × each of the columns ``served`` is at most what its engines carry."""
        self.rows += [
            Row(f"capacity of candidate {v}", np.array([served[i], i]), np.array([rate, -capacity[i]]), "<=", 0.0)
            for i, v in enumerate(self.kept.tolist())
        ]

    def priced(self, served: Ints, rate: float) -> Stage:
        """What requests cost where they are served, and for joules what stands, spread over ``rate``."""
        if self.ask.objective != "energy":
            return served, self.latency, False
        standing = self.ask.candidates.stands[self.kept] / rate
        return np.append(served, self.engines), np.append(self.latency, standing), False

    def flow_columns(self) -> Stage:
        """The columns and rows of every pool's packing, after all others; the stage of fewest nodes."""
        started: list[int] = []
        for p in self._limited():
            pool, here = self.ask.pools[p], np.flatnonzero(self.pool == p)
            cuts = [self.ask.candidates.cut(self.ask.pools, v) or () for v in self.kept[here].tolist()]
            graph, begin = flow(pool, {size for cut in cuts for size in cut}), self._width
            self.columns(np.full(len(graph.arcs), float(pool.nodes)))
            self._flows[p] = (graph, slice(begin, self._width))
            self.rows += flow_rows(pool, graph, begin, dict(zip(here.tolist(), cuts, strict=True)))
            started += [begin + k for k, (first, _) in enumerate(graph.arcs) if first == 0]
        return np.array(started, np.int64), np.ones(len(started)), False

    def vector(self, stage: Stage) -> Floats:
        columns, weights, _ = stage
        out = np.zeros(self._width)
        out[columns] = weights
        return out

    def programme(self, stages: list[Stage]) -> Programme:
        """The first of ``stages`` is the goal; the others break its ties, in their order."""
        (goal, maximise), *ties = [(self.vector(stage), stage[2]) for stage in stages]
        lower, upper, integer = (np.concatenate(each) for each in zip(*self._blocks, strict=True))
        return Programme(Problem(goal, integer, lower, upper, tuple(self.rows), maximise), ties, self.kept, self._flows)
