"""The benchmarks behind few_shot.yaml and sampling.json, on the synthetic world: they fit what they say, and hide what
they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from costmodels.kernels.error_process import Points, Prior, Priors, priors
from profiles.store import ProfileStore
from tests.benchmarks import few_shot, sampling
from tests.benchmarks.kernels import Data


def machine(seed: int, n: int = 120) -> Points:
    rng = np.random.default_rng(seed)
    return Points(rng.uniform(0, 12, (n, 6)), rng.integers(0, 2, n), np.zeros(n, bool), rng.uniform(0.02, 0.2, n))


def test_the_slope_of_the_fit_is_that_of_finite_differences() -> None:
    p, r = machine(0, 30), np.random.default_rng(1).normal(0, 0.2, 30)
    theta = np.array([0.2, 0.1, 0.3, 0.2, 0.05, 3.0, 0.5, 4.0, *np.linspace(2, 8, 6)])
    _, slope = few_shot._misfit(p, r, theta)
    for i in range(len(theta)):
        step = np.zeros(len(theta))
        step[i] = 1e-5
        up, down = (few_shot._misfit(p, r, theta * np.exp(sign * step))[0] for sign in (1, -1))
        assert slope[i] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-6)


def test_a_prior_is_found_again_from_machines_drawn_from_it() -> None:
    truth = Prior(0.2, 0.05, 0.1, 0.1, 0.03, 1.0, 0.3, np.full(6, 6.0), 5.0)
    samples = []
    for seed in range(8):
        p = machine(seed)
        covariance = truth.covariance(p, p) + np.diag(truth.scatter(p))
        samples.append((p, np.random.default_rng(seed).multivariate_normal(np.zeros(len(p)), covariance)))
    found = few_shot.fit("gemm", samples, steps=40)
    p = machine(99)
    assert found.offset == pytest.approx(truth.offset, rel=0.6)
    assert np.sqrt(found.variance(p)).mean() == pytest.approx(np.sqrt(truth.variance(p)).mean(), rel=0.4)


def test_the_prior_of_a_hidden_gpu_knows_nothing_of_it(
    synthetic_store: ProfileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden_sets: list[set[str]] = []
    real = few_shot.held_out

    def watched(data: Data, hidden: set[str], tested: str, most: int = 60) -> tuple[Points, np.ndarray]:
        hidden_sets.append(set(hidden))
        return real(data, hidden, tested, most)

    monkeypatch.setattr(few_shot, "held_out", watched)
    store = ProfileStore.create(tmp_path / "s", name="three", version="1", attribution="")
    table = synthetic_store.query("gemm")
    third = table[table["gpu"] == "H200"].assign(gpu="B200")
    store.add("gemm", pd.concat([table, third]))
    few_shot.unseen(Data.of(store, "gemm", "vllm"), {"H200"})
    assert sorted(map(sorted, hidden_sets)) == [["B200", "H200"], ["H100-SXM", "H200"]]


def test_the_sampling_benchmark_hides_the_gpu_and_errors_fall(synthetic_store: ProfileStore, tmp_path: Path) -> None:
    both = Priors(priors("gemm").unseen, priors("gemm").unseen)
    store = ProfileStore.create(tmp_path / "s", name="two", version="1", attribution="")
    table = synthetic_store.query("gemm")
    table["latency_us"] *= np.where(table["gpu"] == "H200", 1.4, 1.0)  # what no model of the others can know
    store.add("gemm", table)
    hidden = sampling.hide(store, "H200", tmp_path / "hidden", both)
    assert "H200" not in hidden.cost.store.values("gemm", "gpu")
    assert not hidden.space.known.any()
    assert all(weights.sum() == pytest.approx(1.0) for weights in hidden.weights.values())
    lines = sampling.averaged(pd.DataFrame(list(sampling.curves(hidden, both, (0, 16), 1))))
    of = {(line["population"], line["order"], line["rows"]): line["mape_pct"] for line in lines}
    assert len(of) == 12
    assert all(of[p, "active", 16] < 0.55 * of[p, "active", 0] for p in sampling.POPULATIONS)
