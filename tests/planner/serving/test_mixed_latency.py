"""Requests of several kinds of engine, laid together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from planner.serving.engines import latency


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99, 0.999, 0.99995])
def test_alike_kinds_of_engine_have_the_tail_of_one(monkeypatch: pytest.MonkeyPatch, p: float) -> None:
    def exponential(pair: Any, checks: Any, metric: Any, p: float, end: Any) -> float:
        return float(-pair.mean_us * np.log1p(-p))

    monkeypatch.setattr(latency, "pair_us", exponential)
    two = cast(Any, [SimpleNamespace(weight=0.25, mean_us=1e3), SimpleNamespace(weight=0.75, mean_us=1e3)])
    assert latency.all_us(two, {}, "ttft")(p, "value") == pytest.approx(-1e3 * np.log1p(-p), rel=2e-3)
