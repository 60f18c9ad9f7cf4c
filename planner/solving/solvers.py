"""Mixed-integer programmes behind one question and one answer.

A decision writes a :class:`Problem` in plain arrays; any :class:`Solver` turns it into a :class:`Solution`.
Solvers declare what they can do (``continuous``, :meth:`Solver.available`), so that nobody
probes them by trial. Whatever a solver returns is checked here against the problem, row by row, before anyone
sees it.

pulp, highspy and ortools take 0.3–0.8 s to import, so they are imported by the first solve and not before.
"""

from __future__ import annotations

import importlib.util
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from profiles.errors import InputError, ShardwrightError, Unsupported

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Status = Literal["optimal", "feasible", "infeasible", "time_limit"]
Sense = Literal["<=", ">=", "=="]

TOLERANCE = 1e-9
"""How far a row may be missed, relative to the largest of its right-hand side and coefficients. Capacities
are predictions good to a few percent, so a billionth decides nothing; it only absorbs the rounding of
doubles."""

_JUMPED = 256
"""Columns from which HiGHS may look for a first answer by jumping: below, proving takes less time than that."""

PROVEN = 1e-8
"""The relative gap up to which a solver's own word *optimal* is believed: bounds are rounded too. Never
reported as a gap."""


@dataclass(frozen=True, eq=False)
class Row:
    """One constraint: Σ coefficients[k] · v[columns[k]]  ``sense``  rhs. Columns are distinct and may be
    empty."""

    name: str
    columns: Ints
    coefficients: Floats
    sense: Sense
    rhs: float

    @property
    def scale(self) -> float:
        """The largest magnitude in the row (1 when all are zero): what :data:`TOLERANCE` is relative to."""
        return float(np.max(np.abs(self.coefficients), initial=abs(self.rhs))) or 1.0

    def excess(self, values: Floats) -> float:
        """By how much ``values`` (n,) miss the row, in units of :attr:`scale`; ≤ 0 when it holds."""
        over = float(self.coefficients @ values[self.columns]) - self.rhs
        return {"<=": over, ">=": -over, "==": abs(over)}[self.sense] / self.scale


@dataclass(frozen=True, eq=False)
class Problem:
    """Minimise (or maximise) objective · v over the rows, with lower ≤ v ≤ upper and v whole where
    ``integer``.

    objective, lower, upper: float64 (n,); integer: bool (n,). Bounds are finite, so that no problem is
    unbounded. ``value_only``: of several optima any will do. Raises ValueError where arrays disagree or are not
    finite.
    """

    objective: Floats
    integer: Bools
    lower: Floats
    upper: Floats
    rows: tuple[Row, ...] = ()
    maximise: bool = False
    value_only: bool = False

    def __post_init__(self) -> None:
        n = len(self.objective)
        if n == 0 or any(a.shape != (n,) for a in (self.objective, self.integer, self.lower, self.upper)):
            raise ValueError("objective, integer, lower and upper must be vectors of one length, at least 1")
        numbers = [self.objective, self.lower, self.upper]
        for row in self.rows:
            if row.columns.shape != row.coefficients.shape or len(set(row.columns.tolist())) != len(row.columns):
                raise ValueError(f"row {row.name}: one coefficient for each of its distinct columns")
            if row.columns.size and not 0 <= row.columns.min() <= row.columns.max() < n:
                raise ValueError(f"row {row.name}: a column outside 0..{n - 1}")
            numbers += [row.coefficients, np.array([row.rhs])]
        if not all(np.isfinite(a).all() for a in numbers):
            raise ValueError("every number of a problem must be finite")


@dataclass(frozen=True, eq=False)
class Solution:
    """What a solver found and how sure it is.

    * ``optimal``: nothing better exists; objective, bound and gap are given and the gap is 0.
    * ``feasible``: the time ended with this answer; nothing beyond ``bound`` exists.
    * ``infeasible``: no values satisfy the rows (proved).  ``time_limit``: the time ended with no answer at
      all.

    gap is |objective − bound| ÷ max(|objective|, |bound|), so it is finite; ``seconds`` is wall time; values
    is float64 (n,), whole numbers exact. Objective, bound, gap and values are None where there is none.
    Raises ValueError when *optimal* comes without a bound that says so.
    """

    status: Status
    objective: float | None
    bound: float | None
    gap: float | None
    seconds: float
    engine: str
    values: Floats | None

    def __post_init__(self) -> None:
        if self.status == "optimal" and (self.objective is None or self.bound is None or self.gap != 0.0):
            raise ValueError("a solution is optimal only with an objective, a bound and no gap between them")

    @property
    def found(self) -> bool:
        return self.status in ("optimal", "feasible")


@dataclass(frozen=True)
class Answer:
    """What an engine says before anyone has checked it: its status, values (n,) and bound, None where it has
    none."""

    status: Status
    values: Floats | None = None
    bound: float | None = None


class Solver(ABC):
    """One engine. Deterministic: one thread, fixed seed; the same problem gives the same values, time limits
    aside."""

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]]
    """Modules it needs."""
    continuous: ClassVar[bool]
    """Takes variables that need not be whole."""

    @classmethod
    def available(cls) -> bool:
        """Whether the modules it needs are installed (nothing is imported)."""
        return all(importlib.util.find_spec(module) is not None for module in cls.requires)

    def solve(self, problem: Problem, time_limit_s: float = 60.0) -> Solution:
        """The answer within ``time_limit_s`` seconds, checked against every row.

        Raises Unsupported where the engine is not installed or cannot take the problem, InputError for a time
        limit that is not positive, ShardwrightError when the engine's values break the problem.
        """
        if not time_limit_s > 0:
            raise InputError(f"time_limit_s: {time_limit_s} is not positive", "give a number of seconds above 0")
        if not self.available():
            raise Unsupported(
                f"solver: {self.name} needs {' and '.join(self.requires)}, which are not installed",
                f"pip install {' '.join(self.requires)}",
            )
        if not (self.continuous or problem.integer.all()):
            raise Unsupported(f"solver: {self.name} takes whole-number variables only", "use highs for this problem")
        start = time.perf_counter()
        answer = self._answer(problem, time_limit_s)
        seconds = time.perf_counter() - start
        return _checked(problem, answer, self.engine(), seconds)

    @abstractmethod
    def engine(self) -> str:
        """Name and version, as plans show it."""

    @abstractmethod
    def _answer(self, problem: Problem, time_limit_s: float) -> Answer: ...


class Highs(Solver):
    """HiGHS in this process, through PuLP: mixed-integer programmes of every kind."""

    name = "highs"
    requires = ("pulp", "highspy")
    continuous = True

    def engine(self) -> str:
        return f"HiGHS {_version('highspy')} via PuLP {_version('pulp')}"

    def _answer(self, problem: Problem, time_limit_s: float) -> Answer:
        import highspy
        import pulp

        # HiGHS's tolerances are absolute. Rows are scaled to a largest magnitude of 1, which makes them
        # relative; the objective to whole numbers, in whose steps HiGHS prunes, or else to a smallest of 1.
        sizes = np.abs(problem.objective[problem.objective != 0])
        largest, smallest = float(np.max(sizes, initial=0.0)), float(np.min(sizes, initial=np.inf))
        scale = _decimal_scale(problem.objective) or 0.0
        if not 0 < largest * scale <= 1e6:
            scale = 1 / max(smallest, largest * 1e-6) if largest else 1.0
        model = pulp.LpProblem("problem", pulp.LpMaximize if problem.maximise else pulp.LpMinimize)
        kinds = [pulp.LpInteger if whole else pulp.LpContinuous for whole in problem.integer]
        bounds = zip(problem.lower.tolist(), problem.upper.tolist(), kinds, strict=True)
        columns = [model.add_variable(f"v{i}", low, high, kind) for i, (low, high, kind) in enumerate(bounds)]
        goal = zip(columns, (problem.objective * scale).tolist(), strict=True)
        model += pulp.LpAffineExpression(list(goal))
        senses = {"<=": pulp.LpConstraintLE, ">=": pulp.LpConstraintGE, "==": pulp.LpConstraintEQ}
        for k, row in enumerate(problem.rows):
            terms = zip(row.columns.tolist(), (row.coefficients / row.scale).tolist(), strict=True)
            left = pulp.LpAffineExpression([(columns[i], c) for i, c in terms])
            model += pulp.LpConstraint(left, senses[row.sense], f"r{k}", row.rhs / row.scale)
        settings = {
            "threads": 1,
            "random_seed": 0,
            "gapRel": 0.0,
            "gapAbs": TOLERANCE,
            "timeLimit": time_limit_s,
            # HiGHS 1.14 calls an answer optimal that is 17 % off, unless probing is left out of its presolve
            # (tests/planner/solving/test_solvers.py has the programme).
            "presolve_rule_off": 1 << 15,
            # Off, other optima are found: where the values count they are those that they always were.
            "mip_heuristic_run_feasibility_jump": not problem.value_only or len(columns) >= _JUMPED,
        }
        for kind in ("mip", "primal", "dual"):
            settings[f"{kind}_feasibility_tolerance"] = TOLERANCE
        model.solve(pulp.HiGHS(msg=False, **settings))
        # PuLP calls a time limit optimal and an empty answer zero, so HiGHS itself is asked.
        status, info = model.solverModel.getModelStatus(), model.solverModel.getInfo()
        if "Infeasible" in status.name:  # kUnboundedOrInfeasible too: bounds are finite
            return Answer("infeasible")
        done = status == highspy.HighsModelStatus.kOptimal
        if not done and status != highspy.HighsModelStatus.kTimeLimit:
            raise ShardwrightError(f"highs stopped: {status.name}", "please report this problem")
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return Answer("time_limit")
        found = zip(columns, problem.lower, strict=True)
        values = np.array([low if v.varValue is None else v.varValue for v, low in found])  # None: in no row
        bound = info.mip_dual_bound if problem.integer.any() else math.inf
        if done and not problem.integer.any():
            bound = model.solverModel.getObjectiveValue()  # a linear programme: its dual has the same value
        sign = (-1 if problem.maximise else 1) / scale  # PuLP hands HiGHS the negative of what is maximised
        return Answer("optimal" if done else "feasible", values, sign * bound if math.isfinite(bound) else None)


class CpSat(Solver):
    """OR-Tools' CP-SAT: an independent second engine for programmes in whole numbers.

    CP-SAT computes in integers. Coefficients with few decimals are scaled exactly; others by 2^40 ÷ the row's
    largest, an error below 1e-12 of it, far inside :data:`TOLERANCE`.
    """

    name = "cp-sat"
    requires = ("ortools",)
    continuous = False

    def engine(self) -> str:
        return f"CP-SAT (OR-Tools {_version('ortools')})"

    def _answer(self, problem: Problem, time_limit_s: float) -> Answer:
        from ortools.sat.python import cp_model

        lower, upper = np.ceil(problem.lower - TOLERANCE), np.floor(problem.upper + TOLERANCE)
        if (lower > upper).any():
            return Answer("infeasible")
        largest = np.maximum(np.abs(lower), np.abs(upper))
        model = cp_model.CpModel()
        columns = [
            model.new_int_var(int(a), int(b), f"v{i}") for i, (a, b) in enumerate(zip(lower, upper, strict=True))
        ]
        for row in problem.rows:
            whole, scale = _whole(row.coefficients, largest[row.columns], row.name)
            left = cp_model.LinearExpr.weighted_sum([columns[i] for i in row.columns.tolist()], whole)
            slack = TOLERANCE * row.scale
            if row.sense in (">=", "=="):
                model.add(left >= math.ceil((row.rhs - slack) * scale))
            if row.sense in ("<=", "=="):
                model.add(left <= math.floor((row.rhs + slack) * scale))
        whole, scale = _whole(problem.objective, largest, "objective")
        goal = cp_model.LinearExpr.weighted_sum(columns, whole)
        (model.maximize if problem.maximise else model.minimize)(goal)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        solver.parameters.max_time_in_seconds = time_limit_s
        solver.parameters.absolute_gap_limit = 0.0
        status = solver.solve(model)
        if status == cp_model.INFEASIBLE:
            return Answer("infeasible")
        if status == cp_model.UNKNOWN:
            return Answer("time_limit")
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            raise ShardwrightError(
                f"cp-sat: {solver.status_name(status)}: {model.validate()}", "please report this problem"
            )
        values = np.array([float(solver.value(v)) for v in columns])
        bound = solver.best_objective_bound / scale
        return Answer("optimal" if status == cp_model.OPTIMAL else "feasible", values, bound)


SOLVERS: dict[str, type[Solver]] = {solver.name: solver for solver in (Highs, CpSat)}


def lexicographic(
    solver: Solver, problem: Problem, then: Sequence[tuple[Floats, bool]], time_limit_s: float = 60.0
) -> Solution:
    """The problem's optimum and, among all its optima, the best by each ``(objective (n,), maximise)`` of
    ``then`` in turn.

    Each stage is a solve of its own with the stages before held at their values, so nothing depends on
    weights. Status, objective, bound and gap are those of the first stage; values those of the last that
    finished; seconds all of them. Raises what :meth:`Solver.solve` raises.
    """
    start = time.perf_counter()
    stage = replace(problem, value_only=bool(then))
    solution = latest = solver.solve(stage, time_limit_s)
    for k, (objective, maximise) in enumerate(then):
        left = time_limit_s - (time.perf_counter() - start)
        if latest.status != "optimal" or left <= 0:
            break
        assert latest.objective is not None
        held = np.flatnonzero(stage.objective)
        slack = TOLERANCE * abs(latest.objective)
        row = Row(
            f"objective {k} held",
            held,
            stage.objective[held],
            ">=" if stage.maximise else "<=",
            latest.objective - slack if stage.maximise else latest.objective + slack,
        )
        last = k == len(then) - 1
        stage = replace(stage, objective=objective, maximise=maximise, rows=(*stage.rows, row), value_only=not last)
        following = solver.solve(stage, left)
        if following.found:
            latest = following
        if following.status != "optimal":
            break
    return replace(solution, values=latest.values, seconds=time.perf_counter() - start)


def _checked(problem: Problem, answer: Answer, engine: str, seconds: float) -> Solution:
    """The answer as a Solution: whole numbers made whole, rows checked, objective recomputed, gap added."""
    if answer.values is None:
        return Solution(answer.status, None, answer.bound, None, seconds, engine, None)
    values = np.where(problem.integer, np.rint(answer.values), np.clip(answer.values, problem.lower, problem.upper))
    broken = [row.name for row in problem.rows if row.excess(values) > 10 * TOLERANCE]
    if ((values < problem.lower) | (values > problem.upper)).any():
        broken.append("bounds")
    if broken:
        raise ShardwrightError(
            f"{engine} returned values that break {', '.join(broken[:3])}",
            "the numbers differ too much in size for this solver; check the units of rates and prices",
        )
    objective = float(problem.objective @ values)
    if answer.bound is None:
        return Solution("feasible", objective, None, None, seconds, engine, values)
    size = max(abs(objective), abs(answer.bound))
    gap = abs(objective - answer.bound) / size if size > 0 else 0.0
    # A zero objective has no relative gap: there the objective's own coefficients are the measure.
    small = TOLERANCE * float(np.max(np.abs(problem.objective)))
    if answer.status == "optimal" and (gap <= PROVEN or size <= small):
        return Solution("optimal", objective, objective, 0.0, seconds, engine, values)
    return Solution("feasible", objective, answer.bound, gap, seconds, engine, values)


@cache
def _version(package: str) -> str:
    return version(package)


def _decimal_scale(coefficients: Floats) -> float | None:
    """The least factor that makes numbers of at most six decimals whole; None where they have more."""
    size = float(np.max(np.abs(coefficients), initial=0.0))
    for scale in (10.0**k for k in range(7)):
        whole = np.rint(coefficients * scale)
        if (np.abs(coefficients * scale - whole) <= 1e-12 * size * scale).all():
            return scale / (math.gcd(*(int(c) for c in whole)) or 1)
    return None


def _whole(coefficients: Floats, largest: Floats, name: str) -> tuple[list[int], float]:
    """Coefficients (k,) as integers, and by what factor; raises Unsupported where sums overflow int64."""
    scale = _decimal_scale(coefficients) or 2.0**40 / float(np.max(np.abs(coefficients)))
    scaled = coefficients * scale
    if float(np.abs(scaled) @ largest) >= 2.0**61:
        raise Unsupported(f"solver: cp-sat cannot scale {name} to 64-bit integers", "use highs for this problem")
    return [int(c) for c in np.rint(scaled)], scale
