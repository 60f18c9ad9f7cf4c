"""Capacity: where an engine stops keeping up, and where its percentiles stop holding."""

from __future__ import annotations

import math

import numpy as np
import pytest
from naive_simulator import constant_table, rising_table

from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.simulator.arrivals import open_loop
from costmodels.serving.simulator.capacity import (
    capacity_rps,
    keeps_up,
    meets,
    queue_growth,
    requests_needed,
)
from costmodels.serving.simulator.events import Engine, GivenUp, Limit, Missed, simulate
from costmodels.serving.simulator.outcome import Metric
from profiles.errors import InputError
from tests.costmodels.lengths import constant_lengths

SERVICE_US = 1000.0
SERVER = Engine(
    constant_table(SERVICE_US), find_framework("vllm").scheduler, 10_000, token_budget=64, max_sequences=100
)
BATCHING = Engine(rising_table(3), find_framework("vllm").scheduler, 20_000, token_budget=256, max_sequences=64)


def test_capacity_is_that_of_the_queue_with_equal_services() -> None:
    """M/D/1: P(wait > t) ≈ e^(−2·(1 − ρ)·t / (ρ·s)) in heavy traffic (Kingman), so p90 gives the load."""
    limit = 6 * SERVICE_US
    got = capacity_rps(SERVER, *constant_lengths(8_000, 64, 1), [Limit("ttft", 0.9, limit)], seed=1)
    load = 1 / (1 + math.log(10) / (2 * (limit / SERVICE_US - 1)))
    assert got * SERVICE_US / 1e6 == pytest.approx(load, rel=0.05)


def test_limits_hold_at_capacity_and_break_beyond() -> None:
    isl, osl = constant_lengths(1500, 100, 40)
    limits = [Limit("ttft", 0.9, 60e3), Limit("tpot", 0.99, 8e3)]
    rate = capacity_rps(BATCHING, isl, osl, limits, tolerance=0.01)
    assert rate > 0
    drawn = len(isl) * 1e6 / open_loop(isl, osl, 1.0).arrival_us[-1]  # gaps are scaled to the mean asked for
    missed = []
    for factor in (1.0, 1.02):
        outcome = simulate(BATCHING, open_loop(isl, osl, rate * factor / drawn)).trimmed(0.1)
        missed.append(any(outcome.percentile_us(x.metric, x.percentile) > x.limit_us for x in limits))
    assert missed == [False, True]


def test_tighter_limits_never_raise_the_capacity() -> None:
    isl, osl = constant_lengths(600, 100, 40)
    rates = [capacity_rps(BATCHING, isl, osl, [Limit("ttft", 0.9, limit)]) for limit in (100e3, 50e3, 20e3, 10e3)]
    assert rates == sorted(rates, reverse=True)


def test_what_an_idle_engine_cannot_do_has_no_capacity() -> None:
    isl, osl = constant_lengths(200, 100, 40)
    assert capacity_rps(BATCHING, isl, osl, [Limit("tpot", 0.5, 1.0)]) == 0.0
    assert capacity_rps(BATCHING, *constant_lengths(200, 30_000, 40), []) == 0.0  # refused
    with pytest.raises(InputError, match="tolerance"):
        capacity_rps(BATCHING, isl, osl, [], tolerance=0.0)
    with pytest.raises(InputError, match="near_rps: -1"):
        capacity_rps(BATCHING, isl, osl, [], near_rps=-1.0)


@pytest.mark.parametrize(("load", "steady"), [(0.5, True), (0.9, True), (1.2, False), (3.0, False)])
def test_a_queue_that_grows_is_seen(load: float, steady: bool) -> None:
    outcome = simulate(SERVER, open_loop(*constant_lengths(5000, 64, 1), load / SERVICE_US * 1e6, seed=2))
    assert keeps_up(outcome) is steady
    assert queue_growth(outcome) == pytest.approx(max(1 - 1 / load, 0), abs=0.04)


def test_few_requests_say_nothing_of_growth() -> None:
    outcome = simulate(SERVER, open_loop(np.array([64]), np.array([1]), 1.0))
    assert queue_growth(outcome) == 0.0


@pytest.mark.parametrize("guess", [0.01, 0.8, 1.3, 50.0])
def test_where_the_search_begins_does_not_change_the_answer(guess: float) -> None:
    isl, osl = constant_lengths(1200, 100, 40)
    limits = [Limit("ttft", 0.9, 60e3), Limit("tpot", 0.99, 8e3)]
    rate = capacity_rps(BATCHING, isl, osl, limits)
    assert capacity_rps(BATCHING, isl, osl, limits, near_rps=guess * rate) == pytest.approx(rate, rel=0.03)


@pytest.mark.parametrize("metric", ["ttft", "tpot", "e2e"])
@pytest.mark.parametrize("percentile", [0.5, 0.9, 0.99])
def test_a_run_is_given_up_only_where_it_fails(metric: Metric, percentile: float) -> None:
    """And not where its percentile is the limit itself."""
    isl, osl = constant_lengths(400, 100, 40)
    for rate in (20.0, 40.0):
        load = open_loop(isl, osl, rate, seed=1)
        whole = simulate(BATCHING, load)
        exact = whole.trimmed(0.1).percentile_us(metric, percentile)
        for share in (0.5, 0.999, 1.0, 1.001, 2.0):
            limits = [Limit(metric, percentile, exact * share)]
            try:
                simulate(BATCHING, load, sample_us=1e4, give_up=Missed(limits, 0.1))
            except GivenUp:
                assert share < 1
                assert not meets(whole.trimmed(0.1), limits)
            else:
                assert share >= 0.999


def test_few_requests_have_a_capacity_though_no_queue_grows() -> None:
    isl, osl = constant_lengths(5, 100, 40)
    assert 0 < capacity_rps(BATCHING, isl, osl, []) < 1e6
    assert 0 < capacity_rps(BATCHING, isl, osl, [], near_rps=1.0) < 1e6


def test_finer_percentiles_and_fuller_engines_need_longer_runs() -> None:
    assert requests_needed(0.9, 1.0) == pytest.approx(300, abs=1)
    assert requests_needed(0.99, 1.0) == pytest.approx(3000, abs=1)
    assert requests_needed(0.9, 200.0) == 2000  # the engine fills up within the warm-up
