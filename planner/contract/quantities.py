"""Predicted quantities, the same in every document."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from costmodels.power.state import read_watts
from planner.contract.documents import Document
from profiles.errors import InputError

SLOW_END = "with steps at the slow end of their interval"
"""How a note begins of engines that keep up with their load as predicted, and not there: the upper ends of TTFT and E2E
then grow with the number of requests."""


def as_watts(field: str, value: Any) -> Any:
    """``"12kW"`` as 12000."""
    if not isinstance(value, str):
        return value
    try:
        return read_watts(value, field)
    except InputError as error:
        raise ValueError(f"{error.message.removeprefix(f'{field}: ')}; {error.hint}") from error


class Interval(Document):
    """A predicted quantity: 80 % of true values are expected between ``low`` and ``high``."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Interval:
        """``factor`` (known, 0 or more) times the quantity."""
        return Interval(value=self.value * factor, low=self.low * factor, high=self.high * factor)


class Latency(Document):
    """One latency metric over requests, ms."""

    mean: Interval
    p50: Interval
    p90: Interval
    p95: Interval | None = Field(default=None, description="null in plans of schema 1.0")
    p99: Interval
