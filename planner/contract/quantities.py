"""Predicted quantities, the same in every document."""

from __future__ import annotations

from pydantic import Field

from planner.contract.documents import Document

SLOW_END = "with steps at the slow end of their interval"
"""How a note begins of engines that keep up with their load as predicted, and not there: the upper ends of TTFT and E2E
then grow with the number of requests."""


class Interval(Document):
    """A predicted quantity: 80 % of true values are expected between ``low`` and ``high``."""

    value: float
    low: float
    high: float


class Latency(Document):
    """One latency metric over requests, ms."""

    mean: Interval
    p50: Interval
    p90: Interval
    p95: Interval | None = Field(default=None, description="null in plans of schema 1.0")
    p99: Interval
