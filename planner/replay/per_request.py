"""What each request of a replay saw, as a table."""

from __future__ import annotations

import io

import numpy as np

from costmodels.serving.simulator.outcome import Outcome

COLUMNS = ("arrival_s", "isl", "osl", "ttft_ms", "tpot_ms")


def rows_of(requests: Outcome, begins_s: float = 0.0) -> str:
    """A CSV with a line a request, in the order they came: times are empty where it was refused, and ``tpot_ms`` for
    one output token. ``begins_s`` is added to arrivals."""
    out = io.StringIO()
    out.write(",".join(COLUMNS) + "\n")
    columns = [
        requests.arrival_us / 1e6 + begins_s,
        requests.isl,
        requests.osl,
        requests.ttft_us / 1e3,
        requests.tpot_us / 1e3,
    ]
    for arrival, isl, osl, ttft, tpot in zip(*(column.tolist() for column in columns), strict=True):
        times = ",".join("" if np.isnan(value) else f"{value:.6g}" for value in (ttft, tpot))
        out.write(f"{arrival:.6f},{isl},{osl},{times}\n")
    return out.getvalue()
