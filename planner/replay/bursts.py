"""What users at once see who begin together, as benchmarks have them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from costmodels.serving.simulator.arrivals import Requests
from costmodels.serving.simulator.outcome import Outcome
from planner.replay.loads import A_USER
from planner.replay.planned_engines import PlannedEngine


def burst_notes(requests: Outcome, load: Requests, left_out: int, engines: Sequence[PlannedEngine]) -> list[str]:
    """What benchmarks see, which count the burst that the report leaves out, and in it the kernels that are compiled
    for the first requests."""
    users = load.concurrency
    if users is None or not left_out:
        return []
    seen = requests.take(np.argsort(requests.arrival_us, kind="stable")[: A_USER * users])
    opening_us = engines[0].job.served.calibration.first_us
    waits = seen.ttft_us + np.where(np.arange(len(seen)) < users, opening_us, 0.0)
    mean, p99 = (_told(float(us)) for us in (np.nanmean(waits), np.nanquantile(waits, 0.99)))
    return [
        f"users begin with a burst, which is left out here; benchmarks of {A_USER} requests a user count it, and so "
        f"does `plan predict`: their TTFT is {mean} on average, p99 {p99}"
    ]


def _told(us: float) -> str:
    return f"{us / 1e6:.3g} s" if us >= 1e6 else f"{us / 1e3:.3g} ms"
