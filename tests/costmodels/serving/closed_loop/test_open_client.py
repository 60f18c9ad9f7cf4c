"""Output tokens a second that a client counts of requests at a rate: until the last of them is answered."""

from __future__ import annotations

import numpy as np
import pytest

from costmodels.estimates import Floats, Ints
from costmodels.serving.closed_loop.open_client import OpenLoad, counted
from costmodels.serving.request_shape import RequestShape
from costmodels.serving.simulator.outcome import Outcome
from costmodels.serving.simulator.step_table import End

SENT, RATE, OSL = 200, 16.0, 200


def load(requests: int = SENT, rate_rps: float = RATE) -> OpenLoad:
    def drawn(n: int) -> tuple[Ints, Ints]:
        return np.full(n, 200), np.full(n, OSL)

    return OpenLoad(RequestShape(isl=200, osl=OSL, routing="balanced"), drawn, 400, rate_rps, requests)


def seen(e2e_us: Floats) -> dict[End, Outcome]:
    """By requests of which each is answered after its own of ``e2e_us``; they come once a second."""
    n, sent = len(e2e_us), np.arange(len(e2e_us)) * 1e6
    outcome = Outcome(
        arrival_us=sent,
        isl=np.full(n, 200),
        osl=np.full(n, OSL),
        first_us=sent + 1e3,
        finish_us=sent + e2e_us,
        preemptions=np.zeros(n, np.int64),
        rank=np.zeros(n, np.int64),
        refused=np.zeros(n, np.int8),
        end_us=float((sent + e2e_us).max()),
        busy_us=0.0,
        steps=0,
        timeline=np.zeros((0, 8)),
    )
    return {"value": outcome, "low": outcome, "high": outcome}


def test_requests_of_one_length_end_with_the_last_that_is_sent() -> None:
    told = counted(load(), seen(np.full(50, 3e6)))
    assert told.value[0] == pytest.approx(SENT * OSL / (SENT / RATE + 3), rel=1e-3)
    assert told.low[0] < told.value[0] < told.high[0]


def test_where_few_are_long_one_of_them_ends_the_run() -> None:
    """Against a thousand runs: sixteen requests a second are sent, which take what is drawn of the times given."""
    rng = np.random.default_rng(3)
    e2e_us = rng.lognormal(np.log(2e6), 1.0, 2_000)
    sent_us = np.arange(SENT) / RATE * 1e6
    ends = (sent_us + rng.choice(e2e_us, (1_000, SENT))).max(axis=1) / 1e6 + 1 / RATE
    told = counted(load(), seen(e2e_us))
    assert told.value[0] == pytest.approx(SENT * OSL / ends.mean(), rel=0.02)
    assert told.value[0] < 0.9 * counted(load(), seen(np.full(10, e2e_us.mean()))).value[0]


def test_many_requests_are_as_many_tokens_as_come() -> None:
    assert counted(load(200_000), seen(np.full(50, 3e6))).value[0] == pytest.approx(RATE * OSL, rel=1e-3)
