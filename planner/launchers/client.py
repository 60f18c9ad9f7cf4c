"""The client of a framework that measures what engines do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Sweep:
    """What a benchmark sends. ``rate``, ``requests`` and ``output`` are variables of the script that runs it."""

    model: str
    isl: int
    osl: int
    rate: str
    requests: str
    output: str


@dataclass(frozen=True)
class Benchmark:
    """A client's command, and which keys of the JSON that it writes are our columns."""

    command: tuple[str, ...]
    columns: Mapping[str, str]
    appends: bool = False  # writes a line of JSON at the end of the file


def measured_columns(e2e: str) -> dict[str, str]:
    """Columns of ``plan predict --measured`` → keys of the clients' JSON; ``e2e``: their word for whole requests."""
    statistics = (("mean", "mean"), ("p50", "median"), ("p99", "p99"))
    return {
        f"{ours}_ms_{statistic}": f"{said}_{theirs}_ms"
        for ours, theirs in (("ttft", "ttft"), ("tpot", "tpot"), ("e2e", e2e))
        for statistic, said in statistics
    }
