"""From an engine of a plan to the engine that the simulator plays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from costmodels.operations.layouts import Layouts
from costmodels.serving.simulator.events import Engine, Overheads
from costmodels.serving.simulator.step_table import End, step_tables_at
from costmodels.step.memory import kv_bytes_per_sequence, memory
from planner.contract.engine import Limits, Role
from planner.serving.operating_points import Job

ENDS: tuple[End, ...] = get_args(End)


def simulated_engines(
    job: Job, layouts: Layouts, limits: Limits, role: Role, front_us: float, ends: Sequence[End] = ENDS
) -> dict[End, Engine]:
    """One engine, at each of the ``ends`` of the step times' interval.

    Args:
        layouts: of the one engine.
        front_us: what a request waits outside the engine's steps before it is queued.

    Raises:
        InputError: the cache does not hold one token.
    """
    workload, framework, drafting = job.workload, job.framework, job.drafting
    kv_tokens = cache_tokens(job, layouts, limits)
    engines = {}
    (tables,) = step_tables_at(
        ends,
        job.model,
        job.precision,
        job.cost,
        job.network,
        framework,
        layouts,
        workload.routing,
        most_tokens=limits.max_tokens_per_step,
        most_sequences=limits.max_sequences,
        longest_tokens=limits.max_model_len,
        queries=drafting.queries if drafting else 1,
    )
    for end, table in tables.items():
        engines[end] = Engine(
            table,
            framework.scheduler,
            kv_tokens=kv_tokens,
            token_budget=limits.max_tokens_per_step,
            max_sequences=limits.max_sequences,
            max_model_len=limits.max_model_len,
            cached_share=workload.prefix_hit,
            role=role,
            first_token_here=role == "decode" and framework.kv_connector.first_token == "decode_step",
            tokens_per_step=drafting.tokens_per_step if drafting else 1.0,
            draft_share=drafting.share_of_step(job.model.layers) if drafting else 0.0,
            overheads=Overheads(request_us=0.0 if role == "decode" else front_us),
        )
    return engines


def cache_tokens(job: Job, layouts: Layouts, limits: Limits) -> float:
    """Tokens of cache of one attention rank, at the workload's length (windows keep longer ones cheaper)."""
    parts = memory(
        job.model,
        job.precision,
        layouts,
        job.cost.gpu,
        memory_fraction=limits.memory_fraction,
        token_budget=np.array([limits.max_tokens_per_step]),
        sequences=256,  # as in planner.serving.operating_points
    )
    tokens = job.workload.isl + job.workload.osl
    per_token = float(kv_bytes_per_sequence(job.model, job.precision, layouts, tokens)[0]) / tokens
    return float(parts.kv_bytes[0]) / per_token
