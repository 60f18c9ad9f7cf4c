"""When a simulated engine is in its steady state, and how sure its percentiles are."""

from __future__ import annotations

import numpy as np
import pytest

from costmodels.serving.simulator.capacity import most_share, requests_to_settle, standard_error_us
from costmodels.serving.simulator.outcome import Outcome


def waiting(ttft_us: np.ndarray) -> Outcome:
    n = len(ttft_us)
    ones, arrival = np.ones(n, np.int64), np.arange(n, dtype=np.float64)
    first = arrival + ttft_us
    zeros = np.zeros(n, np.int64)
    return Outcome(
        ones, ones, arrival, first, first, zeros, zeros, zeros.astype(np.int8), 1.0, 1.0, 1, np.zeros((0, 5))
    )


def test_an_engine_near_its_edge_takes_long_to_forget() -> None:
    shares = [0.1, 0.5, 0.9, 0.99]
    takes = [requests_to_settle(share) for share in shares]
    assert takes == sorted(takes)
    assert takes[-1] == pytest.approx(4 / 0.01**2, rel=0.02)
    assert requests_to_settle(1.0) == requests_to_settle(1.2) == float("inf")


@pytest.mark.parametrize("requests", [10.0, 1000.0, 1e6])
def test_the_highest_share_is_the_one_that_settles_in_time(requests: float) -> None:
    assert requests_to_settle(most_share(requests)) == pytest.approx(requests)


def test_the_standard_error_is_what_percentiles_vary_by() -> None:
    rng = np.random.default_rng(0)
    runs = [waiting(rng.exponential(1000.0, 4000)) for _ in range(200)]
    varies = np.std([run.percentile_us("ttft", 0.9) for run in runs])
    said = np.mean([standard_error_us(run, "ttft", 0.9) for run in runs])
    assert said == pytest.approx(varies, rel=0.2)
