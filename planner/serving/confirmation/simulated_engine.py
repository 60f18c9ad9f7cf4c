"""From an engine of a plan to the engine that the simulator plays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from costmodels.operations.layouts import Layouts
from costmodels.serving.simulator.events import Engine, Overheads
from costmodels.serving.simulator.step_table import End, step_tables_at
from planner.contract.engine import Limits, Role
from planner.serving.operating_points import Job

ENDS: tuple[End, ...] = get_args(End)


def simulated_engines(
    job: Job, layouts: Layouts, limits: Limits, role: Role, front_us: float, ends: Sequence[End] = ENDS
) -> dict[End, Engine]:
    """One engine, at each of the ``ends`` of the intervals of its step times and its front end.

    Args:
        layouts: of the one engine.
        front_us: what a request waits outside the engine's steps before it is queued.

    Raises:
        InputError: the cache does not hold one token.
    """
    served, shape, framework = job.served, job.shape, job.served.framework
    kv_tokens = cache_tokens(job, layouts, limits)
    engines = {}
    (tables,) = step_tables_at(
        ends,
        served,
        layouts,
        shape.routing,
        most_tokens=limits.max_tokens_per_step,
        most_sequences=limits.max_sequences,
        longest_tokens=limits.max_model_len,
        queries=shape.queries,
    )
    for end, table in tables.items():
        engines[end] = Engine(
            table,
            framework.scheduler,
            kv_tokens=kv_tokens,
            token_budget=limits.max_tokens_per_step,
            max_sequences=limits.max_sequences,
            max_model_len=limits.max_model_len,
            cached_share=job.workload.prefix_hit,
            role=role,
            first_token_here=role == "decode" and framework.kv_connector.first_token == "decode_step",
            tokens_per_step=shape.tokens_per_step,
            draft_share=shape.share_of_step(served.model.layers),
            overheads=Overheads(request_us=0.0 if role == "decode" else front_us * served.calibration.front_ends[end]),
        )
    return engines


def cache_tokens(job: Job, layouts: Layouts, limits: Limits) -> float:
    """Tokens of cache of one attention rank, at the workload's length (windows keep longer ones cheaper)."""
    budget = np.array([limits.max_tokens_per_step])
    found = job.served.cache_tokens(
        layouts, budget, job.shape.tokens, sequences=limits.max_sequences, memory_fraction=limits.memory_fraction
    )
    return float(found[0])
