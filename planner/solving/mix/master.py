"""The programme over counts alone: how many engines of each kind run in each step.

Columns: y_vt engines, u_vt that start for step t, z_vt^j whether there is a j-th (what a loss can take), d_vt that
stand on the nodes that may be lost (those with most), m_bt instances, i_bt^j whether there is a j-th. What the fleet
has to carry enters as cuts Σ π·y ≥ :func:`planner.solving.mix.question.required`; of a loss, with what it takes
subtracted. Everything else is as supplies and time want it:

* Σ each·y ≤ most, or Σ each·y ≤ unit·m with m ≤ most ÷ unit;
* u_vt ≥ y_vt − y_v,t−1, and Σ each·(y_v,t−1 + u_vt) ≤ most: what replaces an engine is warm before that one leaves;
* Σ of the u_v of the last ``min_up_s`` before the end of step t ≤ y_vt;
* Σ_v (u_vt + leaving) ≤ the most changes.

The objective is the mean cost of an hour: engines while they serve, and while they start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from planner.solving.mix.carrying import _quiet
from planner.solving.mix.losses import ALL, Loss, nodes_of_supply, worth_of_node
from planner.solving.mix.question import Block, MixQuestion
from planner.solving.solvers import Bools, Floats, Ints
from profiles.errors import ShardwrightError

OFF_FOR_ONE_STEP = (
    "mip_heuristic_run_feasibility_jump", "mip_heuristic_run_rins", "mip_heuristic_run_rens",
    "mip_heuristic_run_root_reduced_cost", "mip_detect_symmetry",
)  # fmt: skip
"""Of the solver: they look for fleets, a third of the time of a step's search; here fleets are mended and sharpened out
of what is found (:mod:`planner.solving.mix.rounds`)."""


WHOLE = 1e-9
"""Above a whole number, that is no more than it."""


@dataclass(frozen=True, eq=False)
class Counts:
    """What the programme answers: ``engines`` (steps, n) float64 (whole unless relaxed), None where none was found;
    ``bound``: no counts cost less. ``proved``: infeasible where there are no engines."""

    engines: Floats | None
    objective: float | None
    bound: float
    proved: bool


class Master:
    """Kept from round to round; cuts are added to it."""

    def __init__(self, question: MixQuestion, upper: Ints) -> None:
        """``upper`` (steps, n): more engines than these are of no use."""
        import highspy

        self._q, self._highspy = question, highspy
        q, steps, n = question, question.steps, len(question.kinds)
        self.upper = upper
        self._moves = steps > 1 or q.before is not None
        self._levels = _levels(q)
        self._units = [block for block in q.blocks if block.unit > 1]
        self._on_nodes = self._parts_of_nodes()
        of_each = 1 + self._moves + self._levels + bool(self._on_nodes.any())
        self._lost = q.survive.nodes if self._units else 0
        self.width = n * of_each + len(self._units) * (1 + self._lost)
        total = steps * self.width
        cost, low, high = np.zeros(total), np.zeros(total), np.zeros(total)
        share = q.share_of_time
        hours = q.seconds.sum() / 3600
        for t in range(steps):
            cost[self.y(t)] = q.kinds.cost * share[t]
            high[self.y(t)] = upper[t]
            if self._moves:
                cost[self.u(t)] = q.kinds.cost * q.kinds.startup_s / 3600 / hours
                high[self.u(t)] = upper[t] if self._is_followed(t) else 0
            if self._levels:
                high[self._z(t, 0).start : self._z(t, self._levels - 1).stop] = 1
            if self._on_nodes.any():
                high[self._d(t)] = np.ceil(self._on_nodes * upper[t] - WHOLE)
            for k, block in enumerate(self._units):
                cost[self._m(t, k)] = block.unit_cost * share[t]
                most = block.most if np.isfinite(block.most) else float(block.each @ upper[t][block.kinds]) + block.unit
                high[self._m(t, k)] = np.ceil(most / block.unit) if not np.isfinite(block.most) else most // block.unit
                high[self._instances(t, k)] = 1
        self._cost, self._most = cost, high
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = total, 0
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, low, high
        self._highs = _quiet(highspy)
        for kind in ("mip", "primal", "dual"):
            self._highs.setOptionValue(f"{kind}_feasibility_tolerance", 1e-9)
        if steps == 1:  # small programmes again and again: what presolving saves is less than it takes
            self._highs.setOptionValue("presolve", "off")
            for name in OFF_FOR_ONE_STEP:
                self._highs.setOptionValue(name, False)
            self._highs.setOptionValue("mip_heuristic_effort", 0.0)
            self._highs.setOptionValue("mip_pscost_minreliable", 1)  # trying branches out took a third of the time
            self._highs.setOptionValue("mip_pool_age_limit", 5)
        self._highs.passModel(lp)
        self._columns = np.arange(total, dtype=np.int32)
        self._whole = False
        self._rows, self._joining = 0, list[tuple[int, Ints, Floats, float, float]]()
        self._supply()
        self._present()
        for t in range(steps if self._on_nodes.any() else 0):
            for v in np.flatnonzero(self._on_nodes).tolist():
                self._row(np.array([self._d(t).start, self.y(t).start]) + v, np.array([1, -self._on_nodes[v]]), low=0)
        if self._moves:
            self._in_time()
        if q.budget is not None:
            for t in range(steps):
                columns = [np.arange(total)[self.y(t)], *[np.array([self._m(t, k)]) for k in range(len(self._units))]]
                prices = [q.of_budget, *[np.array([block.unit_cost]) for block in self._units]]
                self._row(np.concatenate(columns), np.concatenate(prices), high=q.budget - q.fixed_cost)

    # -------------------------------------------------------------- columns

    def y(self, t: int) -> slice:
        first = t * self.width
        return slice(first, first + len(self._q.kinds))

    def u(self, t: int) -> slice:
        first, n = t * self.width, len(self._q.kinds)
        return slice(first + n, first + 2 * n)

    def _z(self, t: int, level: int) -> slice:
        n = len(self._q.kinds)
        first = t * self.width + n * (1 + self._moves + level)
        return slice(first, first + n)

    def _d(self, t: int) -> slice:
        return self._z(t, self._levels)

    def _parts_of_nodes(self) -> Floats:
        """(n,) the part of its supply's nodes that may be lost, 0 where nodes are not counted."""
        q = self._q
        nodes = np.array([nodes_of_supply(q, v) for v in range(len(q.kinds))])
        return np.minimum(q.survive.nodes / nodes, 1.0)

    def _m(self, t: int, unit: int) -> int:
        return (t + 1) * self.width - len(self._units) * (1 + self._lost) + unit

    def _instances(self, t: int, unit: int) -> Ints:
        first = (t + 1) * self.width - len(self._units) * self._lost
        return np.arange(first, first + len(self._units) * self._lost)[unit :: len(self._units)]

    def _is_followed(self, t: int) -> bool:
        """Whether engines that run before step t are known."""
        return t > 0 or self._q.cyclic or self._q.before is not None

    # -------------------------------------------------------------- rows

    def _row(
        self, columns: Ints, values: Floats, low: float = -np.inf, high: float = np.inf, *, joins: bool = False
    ) -> None:
        """``joins``: it is of several steps."""
        kept = np.flatnonzero(values)
        scale = float(np.abs(values[kept]).max(initial=0.0)) or 1.0
        inf = self._highspy.kHighsInf
        if joins:
            self._joining.append((self._rows, columns[kept], values[kept] / scale, low / scale, high / scale))
        self._rows += 1
        self._highs.addRow(
            low / scale if np.isfinite(low) else -inf,
            high / scale if np.isfinite(high) else inf,
            len(kept),
            columns[kept].astype(np.int32),
            values[kept] / scale,
        )

    def _supply(self) -> None:
        for t in range(self._q.steps):
            for block in self._q.blocks:
                columns = np.arange(self.y(t).start, self.y(t).stop)[block.kinds]
                if block.unit > 1:
                    unit = self._m(t, self._units.index(block))
                    self._row(np.append(columns, unit), np.append(block.each, -block.unit), high=0.0)
                elif np.isfinite(block.most):
                    self._row(columns, block.each, high=block.most)

    def _present(self) -> None:
        """z^1 ≥ z^2 ≥ …, and as many as there are engines, the last for all that are more; so of instances."""
        for t in range(self._q.steps):
            for v in range(len(self._q.kinds) if self._levels else 0):
                z = np.array([self._z(t, j).start + v for j in range(self._levels)])
                self._leveled(z, self.y(t).start + v, float(self.upper[t][v]))
            for k in range(len(self._units) if self._lost else 0):
                self._leveled(self._instances(t, k), self._m(t, k), self._most[self._m(t, k)])

    def _leveled(self, levels: Ints, column: int, upper: float) -> None:
        most = max(upper - len(levels) + 1, 1.0)
        self._row(np.append(levels, column), np.concatenate([np.ones(len(levels) - 1), [most, -1.0]]), low=0.0)
        for first, second in pairwise(levels):
            self._row(np.array([first, second]), np.array([1.0, -1.0]), low=0.0)

    def _in_time(self) -> None:
        q, n = self._q, len(self._q.kinds)
        for t in range(q.steps):
            if not self._is_followed(t):
                continue
            before, known = (self.y(t - 1 if t else q.steps - 1), None) if t or q.cyclic else (None, q.before)
            y, u = np.arange(self.y(t).start, self.y(t).stop), np.arange(self.u(t).start, self.u(t).stop)
            was = None if before is None else np.arange(before.start, before.stop)
            gone = np.zeros(n) if known is None else known.astype(np.float64)
            for v in range(n):
                if was is not None and was[v] != y[v]:
                    self._row(np.array([u[v], y[v], was[v]]), np.array([1.0, -1.0, 1.0]), low=0.0, joins=True)
                elif was is None:
                    self._row(np.array([u[v], y[v]]), np.array([1.0, -1.0]), low=-gone[v], joins=True)
            for block in q.blocks:
                if np.isfinite(block.most) and block.of_changes and was is not None and was[0] != y[0]:
                    columns = np.concatenate([was[block.kinds], u[block.kinds]])
                    most = block.most // block.unit * block.unit
                    self._row(columns, np.concatenate([block.each, block.each]), high=most, joins=True)
            if q.most_changes is not None and (was is None or was[0] != y[0]):
                # Engines that start, and as many leave as were there and start more than are there now.
                columns = np.concatenate([u, y] if was is None else [u, y, was])
                values = np.concatenate([np.full(n, 2.0), -np.ones(n), *([] if was is None else [np.ones(n)])])
                self._row(columns, values, high=q.most_changes - float(gone.sum()), joins=True)
        self._stays()

    def _stays(self) -> None:
        q = self._q
        ends = np.cumsum(q.seconds)
        begins = ends - q.seconds
        for v in np.flatnonzero(q.kinds.min_up_s > 0).tolist():
            for t in range(q.steps):
                recent = [s for s in range(t + 1) if begins[t] - begins[s] < q.kinds.min_up_s[v] - 1e-9]
                if q.cyclic:
                    ago = ends[-1] - begins + begins[t]
                    recent += [s for s in range(t + 1, q.steps) if ago[s] < q.kinds.min_up_s[v] - 1e-9]
                recent = [s for s in recent if self._is_followed(s)]
                if recent != [t] and recent:
                    columns = np.array([*(self.u(s).start + v for s in recent), self.y(t).start + v])
                    self._row(columns, np.append(np.ones(len(recent)), -1.0), high=0.0, joins=True)

    def cut(self, t: int, price: Floats, least: float, loss: Loss) -> None:
        """Σ price·(what is left after ``loss``) ≥ ``least``, in step ``t``."""
        columns, values = np.arange(self.y(t).start, self.y(t).stop), price.copy()
        taken: list[tuple[int, float]] = []
        for v, count in loss:
            if count >= ALL:
                values[v] = 0.0
            elif price[v]:
                taken += [(self._z(t, j).start + v, -price[v]) for j in range(min(count, self._levels))]
        if taken:
            columns = np.append(columns, [column for column, _ in taken])
            values = np.append(values, [value for _, value in taken])
        self._row(columns, values, low=least)

    def spread_cut(self, t: int, price: Floats, least: float, v: int) -> None:
        """Σ price·(what is left after the nodes with most of kind ``v``, of these alone) ≥ ``least``."""
        columns = np.append(np.arange(self.y(t).start, self.y(t).stop), self._d(t).start + v)
        self._row(columns, np.append(price, -price[v]), low=least)

    def bought_cut(self, t: int, price: Floats, least: float, v: int, beside: Loss) -> None:
        """The same after the loss of instances of those that kind ``v`` is one of: others hold no more than full
        ones do. Of the nodes lost, so many as engines ``beside`` are of other supplies."""
        unit = next(k for k, block in enumerate(self._units) if v in block.kinds)
        mine, lost = self._units[unit].kinds, self._instances(t, unit)[: self._lost - sum(n for _, n in beside)]
        most = worth_of_node(self._q.kinds, price, mine.tolist())
        others = [(self._z(t, j).start + w, -price[w]) for w, n in beside for j in range(n)]
        columns = [*range(self.y(t).start, self.y(t).stop), self._m(t, unit), *lost.tolist(), *(w for w, _ in others)]
        rest = price.copy()
        rest[mine] = 0.0
        values = [*rest.tolist(), most, *[-most] * len(lost), *(worth for _, worth in others)]
        self._row(np.array(columns), np.array(values), low=least)

    def step_cut(self, t: int, cost: Floats, least: float) -> None:
        """No engines of step ``t`` alone cost less than ``least`` at ``cost`` (n,) of each kind."""
        columns, values = np.arange(self.y(t).start, self.y(t).stop), cost
        if self._units:
            columns = np.append(columns, [self._m(t, k) for k in range(len(self._units))])
            values = np.append(values, [block.unit_cost for block in self._units])
        self._row(columns, values, low=least * (1 - 1e-9))

    # -------------------------------------------------------------- solving

    def solve(self, *, whole: bool, seconds: float, gap: float, start: Floats | None = None) -> Counts:
        """The cheapest counts under the cuts so far, whole or not; ``start`` (steps, n): counts to begin with."""
        highspy, highs = self._highspy, self._highs
        if whole != self._whole:
            kind = highspy.HighsVarType.kInteger if whole else highspy.HighsVarType.kContinuous
            kinds = np.full(len(self._columns), kind.value if hasattr(kind, "value") else int(kind), np.uint8)
            highs.changeColsIntegrality(len(self._columns), self._columns, kinds)
            self._whole = whole
        highs.setOptionValue("mip_rel_gap", gap)
        highs.setOptionValue("mip_abs_gap", 1e-9)
        # HiGHS counts its time over all its runs.
        highs.setOptionValue("time_limit", highs.getRunTime() + max(seconds, 0.05))
        if whole and start is not None:
            solution = highspy.HighsSolution()
            solution.col_value = self._all(start).tolist()
            highs.setSolution(solution)
        highs.run()
        status, info = highs.getModelStatus(), highs.getInfo()
        if "Infeasible" in status.name:
            return Counts(None, None, np.inf, proved=True)
        ended = highspy.HighsModelStatus.kTimeLimit
        if status == highspy.HighsModelStatus.kNotset:  # its time ended before it began
            return Counts(None, None, 0.0, proved=False)
        if status not in (highspy.HighsModelStatus.kOptimal, ended):
            raise ShardwrightError(f"highs stopped: {status.name}", "please report this problem")
        bound = info.mip_dual_bound if whole else (info.objective_function_value if status != ended else -np.inf)
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return Counts(None, None, bound if np.isfinite(bound) else 0.0, proved=False)
        values = np.array(highs.getSolution().col_value)
        engines = np.array([values[self.y(t)] for t in range(self._q.steps)])
        if whole:
            engines = np.rint(engines)
        return Counts(engines, float(info.objective_function_value), max(bound, 0.0), proved=False)

    def costs(self, cost: Floats) -> None:
        """Other costs (n,) of engines while they serve, of one step; or of all columns."""
        self._cost[: len(cost)] = cost
        self._highs.changeColsCost(len(cost), self._columns[: len(cost)], cost)

    @property
    def joining(self) -> Sequence[tuple[int, Ints, Floats, float, float]]:
        """Rows of several steps: (row, columns, values, low, high)."""
        return self._joining

    @property
    def starts(self) -> tuple[Floats, Floats]:
        """(what engines cost that start, their most), (steps, n) each."""
        cost = np.array([self._cost[self.u(t)] for t in range(self._q.steps)])
        return cost, np.array([self.upper[t] * self._is_followed(t) for t in range(self._q.steps)], dtype=np.float64)

    def duals(self) -> Floats:
        """Of each of the joining rows, as the last programme in parts of engines gave them."""
        every = np.array(self._highs.getSolution().row_dual)
        return every[[row for row, *_ in self._joining]] if self._joining else np.zeros(0)

    def apart(self, duals: Floats) -> tuple[Floats, float]:
        """(steps, n) what engines cost an hour of their step when steps are told apart, and what they cost at least
        beside, at ``duals`` of the joining rows. Steps that are cheapest alone at these costs are together a bound on
        every schedule (Lagrange's)."""
        cost, beside = self.priced(duals, range(self._q.steps))
        engines = np.array([cost[self.y(t)] for t in range(self._q.steps)]) / self._q.share_of_time[:, None]
        return engines, beside

    def priced(self, duals: Floats, firsts: Iterable[int]) -> tuple[Floats, float]:
        """(cost of all columns at ``duals`` of the joining rows, what they cost at least beside, with the engines that
        start for the steps ``firsts``)."""
        cost, beside = self._cost.copy(), 0.0
        for dual, (_, columns, values, low, high) in zip(duals.tolist(), self._joining, strict=True):
            end = low if dual > 0 else high
            if dual and np.isfinite(end):
                cost[columns] -= dual * values
                beside += dual * end
        for t in firsts if self._moves else ():
            most = self.upper[t] * self._is_followed(t)
            beside += float(np.minimum(cost[self.u(t)] * most, 0.0).sum())
        return cost, beside

    def window_cut(self, window: Ints, cost: Floats, least: float) -> None:
        """No engines of the steps ``window``, one after the other, cost less than ``least`` at ``cost`` of all
        columns, without those that start for the first."""
        columns = np.arange(window[0] * self.width, (window[-1] + 1) * self.width)
        columns = np.setdiff1d(columns, np.arange(self.u(window[0]).start, self.u(window[0]).stop))
        self._row(columns, cost[columns], low=least - 1e-9 * abs(least))

    def at_least(self, engines: Floats, seconds: float, gap: float) -> Floats | None:
        """The cheapest whole counts that are nowhere below ``engines`` (steps, n) and change in time as they may."""
        steps, n = engines.shape
        columns = np.concatenate([np.arange(self.y(t).start, self.y(t).stop) for t in range(steps)]).astype(np.int32)
        high = np.maximum(self.upper, engines).ravel().astype(np.float64)
        self._highs.changeColsBounds(steps * n, columns, engines.ravel(), high)
        found = self.solve(whole=True, seconds=seconds, gap=gap)
        self._highs.changeColsBounds(steps * n, columns, np.zeros(steps * n), self.upper.ravel().astype(np.float64))
        return found.engines

    def _all(self, engines: Floats) -> Floats:
        """All columns that go with ``engines`` (steps, n)."""
        q, values = self._q, np.zeros(len(self._columns))
        for t in range(q.steps):
            y = engines[t]
            values[self.y(t)] = y
            if self._moves and self._is_followed(t):
                before = engines[t - 1] if t or q.cyclic else q.before
                values[self.u(t)] = np.maximum(y - before, 0)
            for j in range(self._levels):
                values[self._z(t, j)] = y > j
            if self._on_nodes.any():
                values[self._d(t)] = np.ceil(self._on_nodes * y - WHOLE)
            for k, block in enumerate(self._units):
                values[self._m(t, k)] = np.ceil(float(block.each @ y[block.kinds]) / block.unit - 1e-9)
                values[self._instances(t, k)] = values[self._m(t, k)] > np.arange(self._lost)
        return values

    def serving(self, engines: Floats) -> float:
        """Cost of an hour of ``engines`` (n,) while they serve, whole instances with it."""
        units = sum(
            float(np.ceil(float(block.each @ engines[block.kinds]) / block.unit - 1e-9)) * block.unit_cost
            for block in self._units
        )
        return float(self._q.kinds.cost @ engines) + units

    def cost(self, engines: Floats) -> float:
        """Of the columns that go with ``engines`` (steps, n)."""
        return float(self._cost @ self._all(engines))


def _levels(question: MixQuestion) -> int:
    """How many engines any loss takes at least, but losses of whole pools."""
    return max(question.survive.engines, question.survive.nodes)


def fits(question: MixQuestion, engines: Floats) -> Bools:
    """Which blocks hold ``engines`` (n,)."""
    return np.array([_used(block, engines) <= block.most + 1e-9 for block in question.blocks], np.bool_)


def per_hour(question: MixQuestion, engines: Floats | Ints) -> float:
    """What ``engines`` (n,) take of the budget while they serve, whole units and what is fixed with them."""
    units = sum(
        np.ceil(_used(block, engines) / block.unit - 1e-9) * block.unit_cost
        for block in question.blocks
        if block.unit > 1
    )
    return float(question.of_budget @ engines + units) + question.fixed_cost


def affordable(question: MixQuestion, engines: Floats | Ints) -> bool:
    """Whether the budget has room for ``engines`` (n,)."""
    return question.budget is None or per_hour(question, engines) <= question.budget + 1e-9


def _used(block: Block, engines: Floats | Ints) -> float:
    return float(block.each @ engines[block.kinds])
