"""Made-up statistics have the skew and the affinity that they say."""

from __future__ import annotations

import numpy as np
import pytest

from planner.experts.crossings import Distance, crossings
from planner.experts.model import MoeModel
from planner.experts.placement import Placement, Topology
from planner.experts.synthetic import synthetic_loads
from profiles.errors import InputError
from tests.benchmarks.planted import planted_loads, planted_routes

MODEL = MoeModel("made/up", layers=40, moe_layers=tuple(range(1, 40)), experts=256, top_k=8)


@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_loads_have_the_stated_skew(sigma: float) -> None:
    loads = synthetic_loads(MODEL, sigma)
    assert np.log(loads.counts[0]).std(axis=1).mean() == pytest.approx(sigma, abs=0.02)
    assert loads.counts.shape == (1, 39, 256)
    assert loads.layer_index[0] == 1


def test_windows_drift_and_seeds_differ() -> None:
    loads = synthetic_loads(MODEL, 0.7, windows=2, drift=0.2)
    assert np.log(loads.counts[0] / loads.counts[1]).std() == pytest.approx(0.2 * np.sqrt(2), rel=0.05)
    assert np.array_equal(loads.counts, synthetic_loads(MODEL, 0.7, windows=2, drift=0.2).counts)
    assert not np.array_equal(loads.counts, synthetic_loads(MODEL, 0.7, windows=2, drift=0.2, seed=1).counts)


@pytest.mark.parametrize(("sigma", "drift"), [(-0.1, 0.0), (3.1, 0.0), (float("nan"), 0.0), (0.5, 4.0)])
def test_senseless_skews_are_refused(sigma: float, drift: float) -> None:
    with pytest.raises(InputError, match="is not between 0 and 3"):
        synthetic_loads(MODEL, sigma, drift=drift)


def test_planted_groups_balance_and_keep_the_stated_share_together() -> None:
    loads, group = planted_loads(6, 8, 4, 0.7, seed=2)
    routes = planted_routes(loads, group, 0.6, top_k=2, tokens=1000)
    placement = Placement(Topology.uniform(8, 4), np.argsort(group, axis=1, kind="stable"), 32, np.arange(6))
    assert placement.balancedness(loads) == pytest.approx(1.0)
    crossed = crossings(placement, routes.transitions, Distance(1.0))
    assert crossed.share(crossed.between_gpus) == pytest.approx(0.4 * 7 / 8)
    assert routes.transitions.sum(axis=(1, 2)) == pytest.approx(1000 * 4)
    drawn = planted_routes(loads, group, 0.6, top_k=2, tokens=1000, seed=1)
    assert drawn.transitions.sum() == pytest.approx(routes.transitions.sum(), rel=0.05)
