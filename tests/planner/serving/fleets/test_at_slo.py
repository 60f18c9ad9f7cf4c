"""What an engine carries at the edge of its promise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from planner.serving.fleets import at_slo
from planner.serving.fleets.at_slo import at_edge


class _Points:
    """Two engines: latency 10 ms times the concurrency, and the rate its root."""

    def __init__(self, engine: Any, concurrency: Any, most: int, limit_ms: float) -> None:
        self.engine, self.concurrency = np.array(engine), np.array(concurrency, np.float64)
        self.layouts = SimpleNamespace(rows=self.engine[:, None], pp=np.ones(len(self.engine), np.int64))
        self.budget, self.most = np.full(len(self.engine), 2048), np.full(len(self.engine), most)
        self.ms = 10 * self.concurrency
        self.within = self.ms <= limit_ms
        self.rate = np.sqrt(self.concurrency)
        self.steady = SimpleNamespace(rate_rps=self.rate, stable=np.ones(len(self.engine), np.bool_))
        self.limit_ms = limit_ms
        bound = SimpleNamespace(limit_ms=limit_ms)
        self.job = SimpleNamespace(
            confidence=0.5, slo=SimpleNamespace(bounds=(bound,)), shape=SimpleNamespace(queries=1)
        )
        self.steady.ms = self.ms

    def take(self, index: Any) -> _Points:
        return _Points(self.engine[index], self.concurrency[index], int(self.most[0]), self.limit_ms)


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_slo, "percentile_ms", lambda steady, *_: steady.ms)
    monkeypatch.setattr(at_slo, "rate_at_confidence", lambda rate, _: rate)


def _most(concurrency: Any, most: int, limit_ms: float) -> list[float]:
    engine = [0] * len(concurrency) + [1] * len(concurrency)
    points = _Points(engine, [*concurrency, *concurrency], most, limit_ms)
    found = at_edge(cast(Any, SimpleNamespace(fine=points, coarse=None)))
    assert found is not None
    return cast(list[float], found.rate_rps.tolist())


def test_the_edge_lies_between_the_concurrencies_that_were_tried() -> None:
    assert _most([1, 2, 3], 10_000, 25.0) == pytest.approx([2.5**0.5] * 2)
    assert _most([1, 2, 3], 10_000, 20.0) == pytest.approx([2**0.5] * 2)


def test_the_cache_ends_what_the_promise_does_not() -> None:
    """Of 100 sequences that fit 81 decode on average; the last tried are 80."""
    assert _most([60, 80], 100, 1e6) == pytest.approx([81**0.5] * 2)
    assert _most([60, 80, 96], 100, 850.0) == pytest.approx([81**0.5] * 2)
    assert _most([60, 80, 96], 100, 805.0) == pytest.approx([80.5**0.5] * 2)


def test_nothing_within_the_promise_is_nothing() -> None:
    assert at_edge(cast(Any, SimpleNamespace(fine=None, coarse=None))) is None
