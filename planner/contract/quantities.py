"""Predicted quantities, the same in every document."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydantic import Field

from costmodels.power.state import read_mhz, read_watts
from planner.contract.documents import Document
from profiles.errors import InputError
from profiles.values import number, shown

SLOW_END = "with steps at the slow end of their interval"
"""How a note begins of engines that keep up with their load as predicted, and not there: the upper ends of TTFT and E2E
then grow with the number of requests."""


def as_watts(field: str, value: Any) -> Any:
    """``"12kW"`` as 12000."""
    return _read(read_watts, field, value)


def as_mhz(value: Any) -> Any:
    """``"1275MHz"`` as 1275."""
    return _read(read_mhz, "clock_mhz", value)


def _read(reads: Callable[[str, str], float], field: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return reads(value, field)
    except InputError as error:
        raise ValueError(f"{error.message.removeprefix(f'{field}: ')}; {error.hint}") from error


def as_share(value: Any) -> Any:
    """``"0.5%"`` as 0.005."""
    if not isinstance(value, str):
        return value
    share = number(value.rstrip().removesuffix("%")) if value.rstrip().endswith("%") else None
    if share is None:
        raise ValueError(f"{shown(value)} is not a share; write 5% or a plain number, 0.05")
    return share / 100


def as_seconds(value: Any) -> Any:
    """``"40s"`` as 40."""
    if not isinstance(value, str):
        return value
    found = _SECONDS.fullmatch(value.strip())
    seconds = None if found is None else number(found["value"])
    if found is None or seconds is None:
        raise ValueError(f"{shown(value)} is not a time; write 40s, 500ms, 2min or a plain number of seconds")
    return seconds * {"ms": 1e-3, "s": 1.0, "min": 60.0}[found["unit"]]


_SECONDS = re.compile(r"(?P<value>[0-9.]+)\s*(?P<unit>ms|s|min)")


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
