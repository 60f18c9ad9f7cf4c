"""What a fixed number of users see of one configuration whose requests are of drawn lengths (a data set's, a trace's):
the event simulator, calibrated as the loops in lock step (:mod:`costmodels.serving.closed_loop.client`) are."""

from __future__ import annotations

import numpy as np

from costmodels.estimates import Floats
from costmodels.operations.layouts import Layouts
from costmodels.serving.closed_loop.client import Answers, Intervals, front_us, opening_us
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.closed_loop.open_client import (
    DrawnRequests,
    between_tokens,
    engines_of,
    running,
    tpot_parts,
    ttft_parts,
)
from costmodels.serving.closed_loop.protocol import GENERATIONS
from costmodels.serving.recipe import Started
from costmodels.serving.served_model import ServedModel
from costmodels.serving.simulator.arrivals import closed_loop
from costmodels.serving.simulator.events import simulate
from costmodels.serving.simulator.outcome import Metric

FEWEST = 500
"""Requests that are played where users ask on and on: fewer would be a sample of the lengths."""


def drawn_answers(
    served: ServedModel, layout: Layouts, load: Load, sent: DrawnRequests, kv_tokens: int, started: Started
) -> Answers:
    """Plays the closed loop on one configuration (``layout`` and ``load`` of length 1), whose users send what ``sent``
    draws; ``kv_tokens``: of the cache of one attention rank."""
    calibration, shape = served.calibration, sent.shape
    users, generations = int(load.concurrency[0]), int(load.generations[0])
    count = users * generations
    if generations == GENERATIONS:
        count = max(count, FEWEST)
    (engine,) = engines_of(served, layout, sent, kv_tokens, started, ("value",)).values()
    seen = simulate(engine, closed_loop(*sent.drawn(count), users))
    tpot = 0.0 if shape.osl == 1 else seen.mean_us("tpot")
    front = float(front_us(calibration, load, np.array([tpot]), layout.dp)[0])
    first = np.where(np.arange(count) < users, opening_us(calibration, load, 1)[0, 0], 0.0)
    before = front + first
    ttft, e2e = seen.ttft_us + before, seen.e2e_us + before
    span_us = max(seen.end_us + front * count / users + first.max(), 1.0)
    rate_rps = len(seen) * 1e6 / span_us
    in_flight = min(rate_rps * seen.mean_us("e2e") / 1e6, float(min(users, int(load.most_running[0]))))
    steps, watts = running(served, layout, shape, rate_rps, in_flight, seen.busy_us / span_us)
    chunks, itl = between_tokens(steps, layout, shape, started, (rate_rps, in_flight, tpot))
    answer = Intervals(calibration, steps.latency, 1)
    of_ttft, of_tpot, of_e2e = (
        calibration.spread_at(name, np.array([float(users)])) for name in ("ttft", "tpot", "e2e")
    )

    def row(metric: Metric, values: Floats) -> Floats:
        """[1, requests]; answers of one token have no time between tokens."""
        kept = values[~np.isnan(values)]
        return (kept if len(kept) else np.zeros(1))[None, :]

    tokens = np.array([float(seen.osl.sum()) * 1e6 / span_us])
    return Answers(
        answer.latency(row("ttft", ttft), of_ttft),
        answer.latency(row("tpot", seen.tpot_us), of_tpot),
        answer.latency(row("e2e", e2e), of_e2e),
        answer.estimates(itl[0].value, of_tpot),
        answer.estimates(itl[1].value, of_tpot),
        answer.rates(tokens, of_e2e),
        watts,
        np.array([seen.isl.sum() / seen.osl.sum()]),
        tpot_parts=tpot_parts(steps, tpot, (1 + engine.draft_share) / shape.tokens_per_step),
        ttft_parts=ttft_parts(float(steps.latency.value[1]) * chunks, seen.mean_us("ttft"), front),
    )
