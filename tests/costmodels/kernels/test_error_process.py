"""The Gaussian process over what the model gets wrong: against its textbook formulas, and what it must do in words."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodels.kernels import error_process as error_process
from costmodels.kernels.error_process import (
    ErrorProcess,
    Points,
    Prior,
    Priors,
    as_prior,
    coordinates,
    priors,
)
from costmodels.operations.registry import families
from profiles.errors import DataError
from tests.benchmarks.few_shot import as_figures

PRIOR = Prior(0.1, 0.05, 0.1, 0.05, 0.02, 2.0, 0.5, np.array([2.0, 4.0]), 5.0)
BOTH = Priors(PRIOR, Prior(0.02, 0.01, 0.03, 0.01, 0.02, 0.0, 1.0, np.array([2.0, 4.0]), 5.0))


def made(n: int, seed: int = 0, known: bool = False) -> Points:
    rng = np.random.default_rng(seed)
    return Points(rng.uniform(0, 12, (n, 2)), rng.integers(0, 2, n), np.full(n, known), rng.uniform(0.01, 0.1, n))


def covariance(a: Points, b: Points, i: int, j: int) -> float:
    """The docstring's formula, one pair at a time."""
    d = np.sqrt((((a.place[i] - b.place[j]) / PRIOR.lengths) ** 2).sum())
    near = (1 + np.sqrt(3) * d) * np.exp(-np.sqrt(3) * d)
    near *= (1 + PRIOR.growth * a.claimed[i]) * (1 + PRIOR.growth * b.claimed[j])
    same = a.partition[i] == b.partition[j]
    own = PRIOR.shared**2 + (PRIOR.local**2 if same else 0.0)
    return PRIOR.offset**2 + (PRIOR.partition**2 if same else 0.0) + own * near


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 12), asked=st.integers(1, 6), seed=st.integers(0, 100))
def test_the_posterior_is_that_of_the_plain_formulas(rows: int, asked: int, seed: int) -> None:
    p, q = made(rows, seed), made(asked, seed + 1)
    with patch.object(error_process, "_REWEIGHTINGS", 0):
        compare(p, q, seed)


def compare(p: Points, q: Points, seed: int) -> None:
    rows, asked = len(p), len(q)
    r = np.random.default_rng(seed).normal(0, 0.1, rows)
    k = np.array([[covariance(p, p, i, j) for j in range(rows)] for i in range(rows)])
    k += np.diag(PRIOR.noise**2 + (PRIOR.claim * p.claimed) ** 2)
    across = np.array([[covariance(q, p, i, j) for j in range(rows)] for i in range(asked)])
    inverse = np.linalg.inv(k)
    process = ErrorProcess(BOTH, p, r)
    mean, width = process.at(q)
    # The order of the rows is shuffled inside, which must not show.
    np.testing.assert_allclose(mean, across @ inverse @ r, rtol=1e-8, atol=1e-12)
    left = np.array([covariance(q, q, i, i) for i in range(asked)]) - np.einsum("ij,jk,ik->i", across, inverse, across)
    scale = (PRIOR.degrees + r @ inverse @ r) / (PRIOR.degrees + rows)
    sd = np.sqrt(scale * (left + PRIOR.noise**2 + (PRIOR.claim * q.claimed) ** 2))
    np.testing.assert_allclose(width, process.quantile * sd, rtol=1e-8)


def test_a_single_row_far_off_does_not_bend_its_neighbours() -> None:
    p, q = made(40), made(20, seed=1)
    residual = np.full(40, 0.1)
    clean, _ = ErrorProcess(BOTH, p, residual).at(q)
    residual[7] = 2.0
    with patch.object(error_process, "_REWEIGHTINGS", 0):
        plain, _ = ErrorProcess(BOTH, p, residual).at(q)
    robust, _ = ErrorProcess(BOTH, p, residual).at(q)
    assert np.abs(robust - clean).max() < 0.25 * np.abs(plain - clean).max()


def test_an_offset_that_all_rows_share_is_found_everywhere() -> None:
    mean, _ = ErrorProcess(BOTH, made(40), np.full(40, 0.2)).at(made(20, seed=1))
    np.testing.assert_allclose(mean, 0.2, atol=0.06)


def test_spread_shrinks_as_rows_arrive() -> None:
    p, q = made(64), made(30, seed=1)
    residual = np.random.default_rng(0).normal(0.1, 0.05, 64)
    widths = [ErrorProcess(BOTH, p.take(np.arange(n)), residual[:n]).at(q)[1].mean() for n in (4, 16, 64)]
    assert widths[0] > widths[1] > widths[2]


def test_errors_larger_than_usual_widen_the_spread() -> None:
    p, q = made(20), made(5, seed=1)
    pattern = np.random.default_rng(0).normal(0, 1, 20)
    small, large = (ErrorProcess(BOTH, p, size * pattern).at(q)[1] for size in (0.05, 0.5))
    assert np.all(large > 2 * small)


def test_rows_where_the_pack_has_the_gpu_say_nothing_of_where_it_has_not() -> None:
    p = made(20, known=True)
    mean, _ = ErrorProcess(BOTH, p, np.full(20, 0.3)).at(made(5, seed=1))
    np.testing.assert_array_equal(mean, 0.0)


def test_more_rows_than_the_equations_take_are_thinned_and_only_widen(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q, residual = made(60), made(10, seed=1), np.random.default_rng(0).normal(0.1, 0.02, 60)
    full_mean, full = ErrorProcess(BOTH, p, residual).at(q)
    monkeypatch.setattr(error_process, "SPREAD_ROWS", 10)
    mean, width = ErrorProcess(BOTH, p, residual).at(q)
    np.testing.assert_array_equal(mean, full_mean)
    assert np.all(width >= full)
    monkeypatch.setattr(error_process, "MEAN_ROWS", 30)
    assert ErrorProcess(BOTH, p, residual).rows_used == 30


def test_many_questions_are_answered_in_blocks_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    process = ErrorProcess(BOTH, made(10), np.full(10, 0.1))
    whole = process.at(made(50, seed=1))
    monkeypatch.setattr(error_process, "_BLOCK", 7)
    for got, expected in zip(process.at(made(50, seed=1)), whole, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.parametrize("operation", families().kernels)
def test_every_operation_has_priors_and_a_machine_of_a_known_type_surprises_less(operation: str) -> None:
    both = priors(operation)
    p = Points(np.zeros((1, len(coordinates(operation)))), np.zeros(1, np.int64), np.zeros(1, bool), np.full(1, 0.05))
    seen = Points(p.place, p.partition, ~p.known, p.claimed)
    assert 0 < both.variance(seen)[0] + both.noise(seen)[0] < both.variance(p)[0] + both.noise(p)[0] < 2.0


def test_figures_of_a_prior_are_read_back() -> None:
    prior = priors("gemm").unseen
    again = as_prior("gemm", as_figures("gemm", prior))
    np.testing.assert_allclose(again.lengths, prior.lengths, rtol=1e-2)
    assert again.offset == pytest.approx(prior.offset, rel=1e-2)


@pytest.mark.parametrize("content", ["", "{", "[1]", "gemm: {unseen: {offset: wide}}", "gemm: {}"])
def test_a_broken_file_of_priors_is_a_data_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    (tmp_path / "few_shot.yaml").write_text(content)
    monkeypatch.setattr(error_process, "__file__", str(tmp_path / "error_process.py"))
    with pytest.raises(DataError, match=r"few_shot\.yaml"):
        priors.__wrapped__("gemm")


@pytest.mark.parametrize(("name", "value"), [("noise", 0.0), ("offset", -0.1), ("degrees", 0.0)])
def test_figures_that_are_no_covariance_are_refused(name: str, value: float) -> None:
    figures = as_figures("gemm", priors("gemm").unseen)
    with pytest.raises(ValueError, match="positive"):
        as_prior("gemm", {**figures, name: value})
