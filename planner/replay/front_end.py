"""What a request of a deployment waits outside its engine's steps."""

from __future__ import annotations

import numpy as np

from costmodels.operations.layouts import Layouts
from costmodels.serving.steady.steady_state import steady_state
from planner.serving.operating_points import GRID, IDLE, Job


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
