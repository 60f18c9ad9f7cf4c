"""One contract over every solver, the checks that stand between a solver and a plan, and lexicographic
solves."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

from planner.solving.solvers import SOLVERS, Answer, Problem, Row, Sense, Solution, Solver, lexicographic
from profiles.errors import InputError, ShardwrightError, Unsupported


def row(coefficients: list[float], sense: Sense, rhs: float, name: str = "row") -> Row:
    """A row over the first columns."""
    return Row(name, np.arange(len(coefficients)), np.array(coefficients, np.float64), sense, rhs)


def problem(
    objective: list[float],
    rows: list[Row],
    upper: float = 10.0,
    lower: float = 0.0,
    maximise: bool = False,
    continuous: tuple[int, ...] = (),
) -> Problem:
    n = len(objective)
    integer = np.ones(n, np.bool_)
    integer[list(continuous)] = False
    bounds = np.full(n, lower), np.full(n, upper)
    return Problem(np.array(objective, np.float64), integer, *bounds, tuple(rows), maximise)


def random_problem(seed: int) -> Problem:
    """Three or four whole variables with negative bounds, decimals, all senses, some without any answer."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 5))
    rows = []
    for k in range(rng.integers(1, 4)):
        senses: list[Sense] = ["<=", ">=", "=="]
        coefficients = rng.integers(-4, 6, n).astype(float)
        if seed % 2 and k == 0:
            coefficients = coefficients * 0.25 + rng.uniform(0, 1, n)
        sense = senses[rng.integers(2 if seed % 2 and k == 0 else 3)]
        rows.append(row(coefficients.tolist(), sense, float(rng.integers(-6, 12)), f"row {k}"))
    return problem(rng.normal(0, 10, n).round(2).tolist(), rows, 3.0, -2.0, bool(rng.integers(2)))


def exhaustive(p: Problem) -> float | None:
    """The optimum by trying every vector of whole numbers."""
    ranges = [range(int(a), int(b) + 1) for a, b in zip(p.lower, p.upper, strict=True)]
    points = np.array(list(itertools.product(*ranges)), np.float64)
    for r in p.rows:
        left = points[:, r.columns] @ r.coefficients
        good = {"<=": left <= r.rhs + 1e-9, ">=": left >= r.rhs - 1e-9, "==": np.abs(left - r.rhs) <= 1e-9}[r.sense]
        points = points[good]
    values = points @ p.objective
    return None if not len(points) else float(values.max() if p.maximise else values.min())


def market_split(m: int = 4, seed: int = 3) -> Problem:
    """Cornuéjols and Dawande's instances, 10·(m−1) whole numbers in m equations: tiny, and hopeless for
    branch and bound."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 100, (m, 10 * (m - 1)))
    rows = [row(line.tolist(), "==", float(line.sum() // 2), f"market {k}") for k, line in enumerate(a)]
    return problem([1.0] * a.shape[1], rows, upper=1.0)


def knapsacks(seed: int = 1) -> Problem:
    """Ten correlated knapsacks over a hundred items: an answer is at hand at once, its proof is not."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(50, 1000, (10, 100))
    worth = weights.mean(axis=0).round() + 50
    rows = [row(line.tolist(), "<=", float(line.sum() // 3), f"knapsack {k}") for k, line in enumerate(weights)]
    return problem(worth.tolist(), rows, upper=1.0, maximise=True)


@pytest.mark.parametrize("name", SOLVERS)
class TestEverySolver:
    @pytest.fixture
    def solver(self, name: str) -> Solver:
        return SOLVERS[name]()

    def test_declares_its_name_and_features(self, solver: Solver, name: str) -> None:
        assert solver.name == name
        assert solver.available()
        assert isinstance(solver.continuous, bool)
        assert any(digit.isdigit() for digit in solver.engine())

    def test_finds_what_trying_every_value_finds(self, solver: Solver) -> None:
        answered = 0
        for seed in range(60):
            p = random_problem(seed)
            expected, found = exhaustive(p), solver.solve(p)
            if expected is None:
                assert found.status == "infeasible", seed
                assert (found.objective, found.bound, found.gap, found.values) == (None, None, None, None)
                continue
            answered += 1
            assert found.status == "optimal", seed
            assert found.objective == pytest.approx(expected, abs=1e-9), seed
            assert found.bound == pytest.approx(expected, abs=1e-6), seed
            assert found.gap == 0.0
            assert found.values is not None
            assert (found.values == np.rint(found.values)).all()
            assert max(r.excess(found.values) for r in p.rows) <= 1e-9
        assert 20 <= answered < 60

    def test_a_small_knapsack_by_hand(self, solver: Solver) -> None:
        found = solver.solve(problem([6, 5, 4], [row([5, 4, 3], "<=", 7)], upper=1, maximise=True))
        assert found.objective == 9.0
        assert found.values is not None
        assert found.values.tolist() == [0, 1, 1]
        assert found.engine == solver.engine()
        assert found.seconds > 0

    def test_fractional_bounds_of_whole_numbers_are_tightened(self, solver: Solver) -> None:
        assert solver.solve(problem([1.0], [], upper=2.7, lower=0.3, maximise=True)).objective == 2.0
        assert solver.solve(problem([1.0], [], upper=0.7, lower=0.3)).status == "infeasible"

    def test_crossed_bounds_and_empty_rows_are_infeasible_or_ignored(self, solver: Solver) -> None:
        assert solver.solve(problem([1.0], [], upper=0.0, lower=1.0)).status == "infeasible"
        assert solver.solve(problem([1.0], [row([], ">=", 1.0)])).status == "infeasible"
        assert solver.solve(problem([1.0], [row([], "<=", 1.0)])).objective == 0.0

    def test_an_objective_of_zero_is_proved_as_well(self, solver: Solver) -> None:
        found = solver.solve(problem([0.0, 0.0], [row([1, 1], ">=", 3)]))
        assert (found.status, found.objective, found.bound, found.gap) == ("optimal", 0.0, 0.0, 0.0)

    def test_sizes_far_from_one_do_not_matter(self, solver: Solver) -> None:
        for size in (1e-7, 1e7):
            rows = [row([5 * size, 4 * size, 3 * size], "<=", 7 * size)]
            found = solver.solve(problem([6 / size, 5 / size, 4 / size], rows, upper=1, maximise=True))
            assert found.status == "optimal"
            assert found.values is not None
            assert found.values.tolist() == [0, 1, 1]

    def test_the_same_problem_gives_the_same_values(self, solver: Solver) -> None:
        p = problem([1] * 8, [row([1] * 8, "==", 4)], upper=1)
        first, second = solver.solve(p).values, solver.solve(p).values
        assert first is not None
        assert second is not None
        assert first.tolist() == second.tolist()

    def test_time_that_ends_without_an_answer_is_said_so(self, solver: Solver) -> None:
        found = solver.solve(market_split(6), time_limit_s=0.3)
        assert found.status == "time_limit"
        assert (found.objective, found.values) == (None, None)
        assert found.seconds < 3

    def test_time_that_ends_with_an_answer_keeps_the_bound_and_the_gap(self, solver: Solver) -> None:
        p = knapsacks()
        found = solver.solve(p, time_limit_s=0.5)
        assert found.status == "feasible"
        assert found.objective is not None
        assert found.bound is not None
        assert found.gap is not None
        assert found.objective < found.bound
        assert found.gap == pytest.approx(1 - found.objective / found.bound)
        assert found.seconds < 3

    def test_variables_that_need_not_be_whole_are_solved_or_refused_as_declared(self, solver: Solver) -> None:
        p = problem([3, 2], [row([2, 1], "<=", 5), row([1, 1], "<=", 4)], maximise=True, continuous=(0,))
        if not solver.continuous:
            with pytest.raises(Unsupported, match=f"{solver.name} takes whole-number variables only"):
                solver.solve(p)
            return
        found = solver.solve(p)
        assert found.status == "optimal"
        assert found.objective == pytest.approx(9.0)  # x = 1, y = 3
        linear = solver.solve(problem([3, 2], [row([2, 1], "<=", 4.5)], 1.5, maximise=True, continuous=(0, 1)))
        assert linear.objective == linear.bound == pytest.approx(7.5)

    def test_a_time_limit_that_is_not_positive_is_refused(self, solver: Solver) -> None:
        for limit in (0.0, -1.0, float("nan")):
            with pytest.raises(InputError, match="time_limit_s"):
                solver.solve(problem([1.0], []), limit)

    def test_a_missing_module_is_named_with_the_way_to_install_it(
        self, solver: Solver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(type(solver), "requires", ("no_such_engine",))
        assert not solver.available()
        with pytest.raises(Unsupported, match="needs no_such_engine") as failure:
            solver.solve(problem([1.0], []))
        assert failure.value.hint == "pip install no_such_engine"

    def test_each_tie_is_broken_by_the_next_objective(self, solver: Solver) -> None:
        # Of all ways to make 4 from whole numbers, the fewest in column 0, then the most in column 2.
        first = problem([1, 1, 1], [row([1, 1, 1], ">=", 4)], upper=3)
        then = [(np.array([1.0, 0, 0]), False), (np.array([0, 0, 1.0]), True)]
        found = lexicographic(solver, first, then)
        assert (found.status, found.objective, found.bound) == ("optimal", 4.0, 4.0)
        assert found.values is not None
        assert found.values.tolist() == [0, 1, 3]


def test_coefficients_beyond_64_bits_are_refused_by_cp_sat() -> None:
    wide = problem([1.0, 1.0], [row([1 / 3, 1e-3], "<=", 1.0)], upper=1e9)
    with pytest.raises(Unsupported, match="cp-sat cannot scale row to 64-bit integers"):
        SOLVERS["cp-sat"]().solve(wide)


class Told(Solver):
    """A solver that says what it is told to."""

    name = "told"
    requires = ()
    continuous = True

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)

    def engine(self) -> str:
        return "Told 1.0"

    def _answer(self, problem: Problem, time_limit_s: float) -> Answer:
        return self.answers.pop(0)


def test_an_answer_without_a_bound_is_never_called_optimal() -> None:
    found = Told(Answer("optimal", np.array([3.0]))).solve(problem([1.0], []))
    assert (found.status, found.objective, found.bound, found.gap) == ("feasible", 3.0, None, None)


def test_an_optimum_that_its_own_bound_contradicts_is_only_feasible() -> None:
    found = Told(Answer("optimal", np.array([4.0]), 3.0)).solve(problem([1.0], []))
    assert (found.status, found.bound, found.gap) == ("feasible", 3.0, 0.25)


@pytest.mark.parametrize(("values", "broken"), [([1.0], "offered rate"), ([11.0], "bounds")])
def test_values_that_break_the_problem_never_get_through(values: list[float], broken: str) -> None:
    liar = Told(Answer("optimal", np.array(values), 0.0))
    with pytest.raises(ShardwrightError, match=f"Told 1.0 returned values that break {broken}"):
        liar.solve(problem([1.0], [row([1.0], ">=", 2.0, "offered rate")]))


def test_the_first_optimum_survives_a_tie_break_without_an_answer() -> None:
    told = Told(Answer("optimal", np.array([2.0, 0.0]), 2.0), Answer("time_limit"))
    found = lexicographic(told, problem([1.0, 1.0], []), [(np.array([1.0, 0.0]), False)] * 2)
    assert (found.status, found.objective) == ("optimal", 2.0)
    assert found.values is not None
    assert found.values.tolist() == [2.0, 0.0]


def test_only_the_last_stage_of_a_tie_break_is_asked_for_its_values() -> None:
    asked: list[bool] = []

    class Watched(Told):
        def _answer(self, problem: Problem, time_limit_s: float) -> Answer:
            asked.append(problem.value_only)
            return super()._answer(problem, time_limit_s)

    at = np.array([2.0, 0.0])
    lexicographic(
        Watched(*[Answer("optimal", at, 2.0)] * 3), problem([1.0, 1.0], []), [(np.array([1.0, 0.0]), False)] * 2
    )
    lexicographic(Watched(Answer("optimal", at, 2.0)), problem([1.0, 1.0], []), [])
    assert asked == [True, True, False, False]


@pytest.mark.parametrize(
    ("objective", "bound", "gap"), [(1.0, None, 0.0), (None, 1.0, 0.0), (1.0, 1.0, None), (1.0, 2.0, 0.5)]
)
def test_a_solution_cannot_be_made_optimal_without_its_bound(
    objective: float | None, bound: float | None, gap: float | None
) -> None:
    with pytest.raises(ValueError, match="optimal only with"):
        Solution("optimal", objective, bound, gap, 0.1, "HiGHS", None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": []}, "one length"),
        ({"objective": [float("inf")]}, "finite"),
        ({"upper": float("inf")}, "finite"),
        ({"rows": [row([1.0], "<=", float("nan"))]}, "finite"),
        ({"rows": [row([1.0, 1.0], "<=", 1.0, "wide")]}, "row wide: a column outside 0..0"),
        ({"rows": [Row("twice", np.array([0, 0]), np.ones(2), "<=", 1.0)]}, "row twice: one coefficient"),
        ({"rows": [Row("short", np.array([0]), np.ones(2), "<=", 1.0)]}, "row short: one coefficient"),
    ],
)
def test_a_problem_that_makes_no_sense_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        problem(**{"objective": [1.0], "rows": [], **change})  # type: ignore[arg-type]


def test_engines_are_imported_by_the_first_solve_and_not_before() -> None:
    code = "import sys, planner.serving.fleet.fleet; print({'pulp', 'highspy', 'ortools'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


def test_highs_finds_what_its_probing_would_miss() -> None:
    """Three kinds of engine for one rate (seed 44 of the fleet's twin): HiGHS 1.14.0 with probing in its presolve calls
    93.46 optimal, where two engines of the third kind serve all for 80.2."""
    rate, capacity = 10.178571428571429, [6.25, 0.75, 5.25]
    objective = np.array([35 / rate, 42 / rate, 1 / rate, 10.0, 60.0, 80.0, 0, 0, 0, 0, 0])
    whole = np.ones(11, np.bool_)
    whole[3:6] = False
    upper = np.array([1.0, 5, 2, 1, 1, 1, 3, 3, 1, 1, 1])

    def over(columns: list[int], coefficients: list[float], sense: Sense, rhs: float) -> Row:
        return Row("row", np.array(columns), np.array(coefficients), sense, rhs)

    rows = (
        over([3, 4, 5], [1.0, 1, 1], "==", 1.0),
        *(over([3 + i, i], [rate, -each], "<=", 0.0) for i, each in enumerate(capacity)),
        over([1, 6, 7], [1.0, -1, -1], "<=", 0.0),
        over([6], [1.0], "<=", 2.0),
        over([7, 6], [1.0, -1], "<=", 1.0),
        over([0, 8], [1.0, -1], "<=", 0.0),
        over([2, 9, 10], [1.0, -1, -1], "<=", 0.0),
        over([8, 9], [1.0, 1], "<=", 1.0),
        over([10, 9], [1.0, -1], "<=", 0.0),
    )
    found = SOLVERS["highs"]().solve(Problem(objective, whole, np.zeros(11), upper, rows, False))
    assert found.objective == pytest.approx(80 + 2 / rate)
