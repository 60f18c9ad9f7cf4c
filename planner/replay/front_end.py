"""What a request of a deployment waits outside its engine's steps."""

from __future__ import annotations

import numpy as np

from costmodels.operations.layouts import Layouts
from costmodels.serving.steady.disaggregated import decoding, front_end, prefill_steps, prefilling, work_us
from costmodels.serving.steady.steady_state import steady_state
from planner.contract.engine import Limits
from planner.serving.operating_points import CONCURRENCIES, GRID, IDLE, Job

FULL = 0.99
"""Utilisation of an engine that is asked for more than it can do."""


def front_end_of(job: Job, layouts: Layouts, budget: int, rate_rps: float | None) -> float:
    """What a request of an engine waits outside its steps (tokeniser, HTTP), µs: by the formulas, at the concurrency
    that the rate makes; at a load of one sequence where there is no rate."""
    tried = np.append(IDLE, GRID).astype(np.float64)
    many = layouts.take(np.zeros(len(tried), np.int64))
    steady = steady_state(job.served, job.shape, many, np.full(len(tried), budget), tried)
    front = steady.ttft_parts_us["front end"]
    if rate_rps is None:
        return float(front[1])
    rate = np.where(steady.stable, steady.rate_rps.value, np.inf)
    return float(front[min(int(np.searchsorted(rate, rate_rps)), len(tried) - 1)])


def front_end_of_prefill(job: Job, layouts: Layouts, limits: Limits, rate_rps: float, tpot_us: float) -> float:
    """What a request waits outside the steps of an engine that prefills ``rate_rps``, µs, as a plan of such engines
    says it; ``tpot_us``: of the engines that its prompts are handed to."""
    budget, held = np.array([limits.max_tokens_per_step]), np.array([limits.max_sequences])
    steps = prefill_steps(job.served, job.shape, layouts, budget, held)
    utilisation = np.minimum(rate_rps / layouts.dp * work_us(steps) / 1e6, FULL)
    return float(front_end(job.served, job.shape.isl, prefilling(steps, utilisation), np.array([tpot_us]))[0])


def decode_tpot_us(job: Job, layouts: Layouts, rate_rps: float) -> float:
    """Mean time per output token of an engine that decodes ``rate_rps``, by the formulas, µs."""
    tried = CONCURRENCIES.astype(np.float64)
    many = layouts.take(np.zeros(len(tried), np.int64))
    decode = decoding(job.served, job.shape, many, tried, job.served.framework.kv_connector)
    return float(np.interp(rate_rps, decode.rate_rps.value, decode.tpot_us.value))


def front_end_of_users(job: Job, layouts: Layouts, limits: Limits, users: float) -> float:
    """The same where so many users at once ask an engine (``layouts`` of length 1), each again when it is answered: by
    the time per token where the formulas have about as many requests in flight."""
    served, shape, ranks = job.served, job.shape, layouts.dp
    tried = CONCURRENCIES[limits.max_sequences >= CONCURRENCIES]
    many = layouts.take(np.zeros(len(tried), np.int64))
    steady = steady_state(served, shape, many, np.full(len(tried), limits.max_tokens_per_step), tried)
    there = np.where(steady.stable, steady.rate_rps.value * steady.e2e_us.value / 1e6, np.inf)
    at = max(int(np.searchsorted(there, users, side="right")) - 1, 0)
    tpot_us = steady.tpot_us.value[at : at + 1] if shape.osl > 1 else np.zeros(1)
    polled = served.framework.scheduler.polling > 1
    isl, asking = np.array([float(shape.isl)]), np.array([users])
    return float(served.calibration.front_us(isl, asking, tpot_us, ranks, float(shape.osl), polled)[0])
