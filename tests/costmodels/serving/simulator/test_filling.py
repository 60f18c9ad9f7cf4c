"""Whether an engine keeps up is a matter of the rate, not of how long one looks; nor is a percentile between two modes
a matter of luck."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from naive_simulator import constant_table

from costmodels.estimates import Floats
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.simulator.arrivals import open_loop
from costmodels.serving.simulator.capacity import between_modes, keeps_up
from costmodels.serving.simulator.events import Engine, simulate
from costmodels.serving.simulator.filling import by_chance, carries, filling
from costmodels.serving.simulator.outcome import Outcome
from tests.costmodels.lengths import constant_lengths

ENGINE = Engine(constant_table(1000.0), find_framework("vllm").scheduler, 10**6, token_budget=64, max_sequences=100)


def seen(wait_us: Floats, stay_us: float, rate_rps: float = 100.0) -> Outcome:
    """Requests that come at a rate, wait so long each and stay so long."""
    n = len(wait_us)
    like = simulate(ENGINE, open_loop(*constant_lengths(n, 64, 2), rate_rps))
    arrival = np.arange(n) * 1e6 / rate_rps
    first = arrival + wait_us
    return replace(like, arrival_us=arrival, first_us=first, finish_us=first + stay_us)


def test_a_queue_that_grows_while_the_engine_fills_says_nothing() -> None:
    rising = seen(np.linspace(0.2e6, 3e6, 5000), 30e6)  # 50 s of arrivals, 30-s requests
    assert not keeps_up(rising)
    assert filling(rising)
    assert carries(ENGINE, rising)  # of 1,000 requests/s
    slow = replace(ENGINE, table=constant_table(20_000.0))  # of 50
    assert not carries(slow, rising)


def test_an_engine_that_has_filled_is_judged_by_what_was_seen() -> None:
    rising = seen(np.linspace(0.2e6, 3e6, 5000), 1e6)
    assert not filling(rising)
    assert not carries(ENGINE, rising)


def test_a_percentile_between_two_modes_takes_more_requests() -> None:
    def of(share: float, n: int) -> Outcome:
        meets = np.arange(n) % round(1 / share) == 0
        return seen(np.where(meets, 60e3, 6e3), 1e6, 1.0)

    assert between_modes(of(0.01, 3000), "ttft", 0.99)
    assert between_modes(of(0.0095, 3000), "ttft", 0.99, 7e3)
    assert not between_modes(of(0.0095, 3000), "ttft", 0.99, 70e3)  # it is below the bound, whichever it is
    assert not between_modes(of(0.0095, 3000), "ttft", 0.9)
    assert not between_modes(of(0.005, 100_000), "ttft", 0.99)
    assert not between_modes(of(0.02, 100_000), "ttft", 0.99)


def test_a_queue_that_grew_by_chance_says_nothing() -> None:
    arrivals = np.arange(750) * 1e6 / 100.0
    some = seen(np.where(arrivals > 6e6, 0.2e6, 0.01e6), 0.1e6)  # 20 requests of its last second
    assert not keeps_up(some)
    assert by_chance(some)
    assert carries(ENGINE, some)
    assert not carries(replace(ENGINE, table=constant_table(11_000.0)), some), "of 91 of its 100 requests/s"
    assert not by_chance(seen(np.linspace(0.2e6, 3e6, 5000), 1e6))
