"""Estimates: sums keep low ≤ value ≤ high, the weakest origin, and whether all parts were inside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from costmodels.estimates import Estimates, combine
from costmodels.origins import FOREST, MEASURED, ROOFLINE

N = 6
times = arrays.arrays(np.float64, N, elements=st.floats(0, 1e6))
shares = arrays.arrays(np.float64, N, elements=st.floats(0, 1))


@st.composite
def estimates(draw: st.DrawFn) -> Estimates:
    value = draw(times)
    how = draw(arrays.arrays(np.int8, N, elements=st.integers(0, 2)))
    inside = draw(arrays.arrays(np.bool_, N))
    return Estimates(value, value * draw(shares), value * (1 + draw(shares)), how, inside)


def assert_ordered(made: Estimates) -> None:
    slack = 1e-9 * (1 + made.high)
    assert np.all(made.low <= made.value + slack)
    assert np.all(made.value <= made.high + slack)
    assert np.all(made.low >= 0)


@given(estimates(), estimates(), arrays.arrays(np.int64, N, elements=st.integers(0, 3)), times)
def test_sums_scales_and_selections_stay_ordered(
    one: Estimates, other: Estimates, group: np.ndarray, count: np.ndarray
) -> None:
    assert_ordered(one.scaled(2.5))
    assert_ordered(one.take(group))
    assert_ordered(one.summed(group, count, 4))
    assert_ordered(combine([one, other]))
    assert_ordered(combine([one, other, Estimates.exact(np.zeros(N))]))


@given(estimates(), estimates())
def test_combining_is_narrower_than_adding_the_bounds_and_never_narrower_than_a_part(
    one: Estimates, other: Estimates
) -> None:
    both = combine([one, other])
    up = both.high - both.value
    assert np.all(up <= (one.high - one.value) + (other.high - other.value) + 1e-6)
    assert np.all(up >= np.maximum(one.high - one.value, other.high - other.value) - 1e-6)
    np.testing.assert_allclose(both.value, one.value + other.value)


def test_a_group_sums_counts_times_estimates_with_errors_fully_correlated() -> None:
    parts = Estimates(
        np.array([10.0, 20.0, 5.0]),
        np.array([8.0, 18.0, 4.0]),
        np.array([13.0, 24.0, 9.0]),
        np.array([MEASURED, FOREST, ROOFLINE], np.int8),
        np.array([True, False, True]),
    )
    summed = parts.summed(np.array([0, 0, 2]), np.array([3.0, 1.0, 2.0]), 4)
    assert summed.value.tolist() == [50, 0, 10, 0]
    assert summed.low.tolist() == [42, 0, 8, 0]
    assert summed.high.tolist() == [63, 0, 18, 0]
    assert summed.how.tolist() == [FOREST, MEASURED, ROOFLINE, MEASURED]
    assert summed.inside.tolist() == [False, True, True, True]


def test_what_occurs_never_says_nothing_of_the_sum() -> None:
    parts = Estimates(
        np.array([1.0]), np.array([1.0]), np.array([1.0]), np.array([ROOFLINE], np.int8), np.array([False])
    )
    summed = parts.summed(np.array([0]), np.array([0.0]), 1)
    assert (summed.value[0], summed.how[0], summed.inside[0]) == (0.0, MEASURED, True)


def test_independent_errors_add_in_quadrature_and_never_below_zero() -> None:
    one = Estimates(
        np.array([10.0, 1.0]),
        np.array([7.0, 0.0]),
        np.array([13.0, 4.0]),
        np.zeros(2, np.int8),
        np.ones(2, bool),
    )
    other = Estimates(
        np.array([20.0, 1.0]),
        np.array([16.0, 0.0]),
        np.array([24.0, 5.0]),
        np.zeros(2, np.int8),
        np.ones(2, bool),
    )
    both = combine([one, other])
    assert both.low[0] == pytest.approx(25)
    assert both.high == pytest.approx([35, 7])
    assert both.low[1] == pytest.approx(2 - np.sqrt(2))


def test_an_exact_fact_has_no_width() -> None:
    fact = Estimates.exact(np.array([3.0, 0.0]))
    assert len(fact) == 2
    assert fact.low.tolist() == fact.high.tolist() == fact.value.tolist()
    assert fact.inside.all()
    assert not fact.how.any()
