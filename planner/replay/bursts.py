"""What users at once see who begin together, as benchmarks have them."""

from __future__ import annotations

import numpy as np

from costmodels.serving.simulator.arrivals import Requests
from costmodels.serving.simulator.outcome import Outcome
from planner.replay.loads import A_USER


def burst_notes(requests: Outcome, load: Requests, left_out: int) -> list[str]:
    """What benchmarks see, which count the burst that the report leaves out."""
    users = load.concurrency
    if users is None or not left_out:
        return []
    seen = requests.take(np.argsort(requests.arrival_us, kind="stable")[: A_USER * users])
    mean, p99 = (_told(float(us)) for us in (np.nanmean(seen.ttft_us), np.nanquantile(seen.ttft_us, 0.99)))
    return [
        f"users begin with a burst, which is left out here; benchmarks of {A_USER} requests a user count it, and so "
        f"does `plan predict`: their TTFT is {mean} on average, p99 {p99}"
    ]


def _told(us: float) -> str:
    return f"{us / 1e6:.3g} s" if us >= 1e6 else f"{us / 1e3:.3g} ms"
