"""What requests that come at random at a rate see of one configuration: the event simulator, calibrated."""

from __future__ import annotations

import math

import numpy as np

from costmodels.estimates import Estimates, Floats
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Batch
from costmodels.serving.closed_loop.client import Answers, Latency
from costmodels.serving.closed_loop.protocol import SHORTEST
from costmodels.serving.frameworks.calibration import Spread
from costmodels.serving.recipe import Started
from costmodels.serving.served_model import ServedModel
from costmodels.serving.simulator.arrivals import open_loop as requests_at
from costmodels.serving.simulator.arrivals import uniform_lengths
from costmodels.serving.simulator.engine import Engine
from costmodels.serving.simulator.events import simulate
from costmodels.serving.simulator.step_table import step_tables
from costmodels.serving.step import interval
from profiles.errors import InputError

REQUESTS, MOST_REQUESTS = 1000, 20_000
LIFETIMES = 6
"""The run must last so many times as long as a request, or it ends before the engine has filled up."""

SETTLED = 0.4  # share of the requests after which the engine counts as filled up; those before are left out
GROWTH = 1.5
"""TTFT of the last fifth ÷ that of the fifth after settling, from which the queue counts as growing without bound: 1.9
where it grows in proportion to time, 1 where it does not grow."""


def open_loop(
    served: ServedModel,
    layout: Layouts,
    isl: int,
    osl: int,
    rate_rps: float,
    kv_tokens: int,
    routing: str,
    started: Started,
) -> Answers:
    """Poisson arrivals at ``rate_rps`` on one configuration (``layout`` of length 1), lengths as in the closed loop.

    Args:
        kv_tokens: of the cache of one attention rank.
        started: what the engine is started with.

    Raises:
        InputError: the engine does not keep up with the rate.
    """
    framework, sequences, budget = served.framework, started.max_num_seqs, started.max_num_batched_tokens
    (table,) = step_tables(
        served,
        layout,
        routing,
        most_tokens=budget,
        most_sequences=sequences,
        longest_tokens=isl + osl,
    )
    engine = Engine(
        table,
        framework.scheduler.model_copy(update={"chunked": started.chunked_prefill}),
        kv_tokens=kv_tokens,
        token_budget=budget,
        max_sequences=sequences,
    )
    count = REQUESTS
    while True:
        lengths = uniform_lengths(count, isl, osl, below=1 - SHORTEST, seed=0)
        outcome = simulate(engine, requests_at(*lengths, rate_rps, seed=0))
        needed = math.ceil(LIFETIMES * rate_rps * outcome.mean_us("e2e") / 1e6)
        if needed <= count or count == MOST_REQUESTS:
            break
        count = min(max(needed, 2 * count), MOST_REQUESTS)
    after, last = (outcome.trimmed(*ends).mean_us("ttft") for ends in ((SETTLED, 0.8 - SETTLED), (0.8, 0.0)))
    tpot = outcome.mean_us("tpot")
    # A run that is cut short at MOST_REQUESTS is one whose requests stay ever longer.
    if needed > count or (last > GROWTH * after and last - after > 10 * tpot):
        raise InputError(
            f"rate: {rate_rps:g} requests/s is more than this engine serves (about {outcome.rate_rps:.3g})",
            "lower the rate, or use more or larger engines",
        )
    warm = outcome.trimmed(SETTLED, 0.0)
    tpot = warm.mean_us("tpot")
    calibration = framework.calibration
    in_flight = rate_rps * warm.mean_us("e2e") / 1e6
    front = calibration.front_us(np.array([isl * (1 + SHORTEST) / 2]), np.array([in_flight]), np.array([tpot]))[0]
    decoding = np.array([max(round(in_flight / float(layout.dp[0])), 1)])
    nobody = np.zeros(1, np.int64)
    step = served.step(
        layout,
        Batch(nobody, nobody, nobody, decoding, np.array([isl + osl // 2]), decoding.astype(np.float64)),
        routing,
    )

    def latency(values: Floats, spread: Spread) -> Latency:
        mean = np.array([np.mean(values)])
        low, high = interval(mean, spread)
        p50, p99 = np.quantile(values, [0.5, 0.99])
        return Latency(
            Estimates(mean, low, high, step.latency.how, step.latency.inside), np.array([p50]), np.array([p99])
        )

    return Answers(
        latency(warm.ttft_us + front, calibration.ttft),
        latency(warm.tpot_us, calibration.tpot),
        latency(warm.e2e_us + front, calibration.e2e),
        np.array([rate_rps * osl * (1 + SHORTEST) / 2]),
    )
