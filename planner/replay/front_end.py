"""What a request of a deployment waits outside its engine's steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from costmodels.operations.layouts import Layouts
from costmodels.serving.closed_loop.client import closed_loop_answers
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.steady.disaggregated import decoding, front_end, prefill_steps, prefilling, work_us
from costmodels.serving.steady.steady_state import steady_state
from planner.contract.engine import Limits
from planner.serving.confirmation.simulated_engine import cache_tokens
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
    """The same where so many users at once ask an engine (``layouts`` of length 1), each again when it is answered: as
    a prediction of that closed loop has it."""
    work, policy, ranks = job.workload, job.served.framework.scheduler, layouts.dp
    low, high = work.shares
    held = cache_tokens(job, layouts, limits) / float(policy.held_tokens(work.mean_isl, work.mean_osl))
    load = Load.of(
        np.maximum(np.rint([users]), 1).astype(np.int64),
        np.maximum(np.rint([work.isl * high]), 1).astype(np.int64) + work.image_tokens,
        np.maximum(np.rint([work.osl * high]), 1).astype(np.int64),
        np.array([limits.max_tokens_per_step]),
        max(min(int(held), limits.max_sequences), 1) * ranks,
        low / high,
        work.prefix_hit,
    )
    polled = policy.polling if policy.polling > 1 else 0
    load = replace(load, gate=replace(load.gate, steps=np.array([float(polled)]), free_running=np.array([True])))
    answers = closed_loop_answers(job.served, layouts, load, work.routing, job.shape.drafting)
    return float(answers.ttft_parts["front end"][0])
