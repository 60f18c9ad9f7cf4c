"""Numbers as people read them: three significant digits, and the unit that suits their size."""

from __future__ import annotations

import math

from planner.contract.quantities import Interval

GIB = 2**30

_TIMES = ((1.0, "µs", 1e3), (1e3, "ms", 1.0), (180e3, "s", 1e-3), (math.inf, "min", 1 / 60e3))
_WATTS = ((1e3, "W", 1.0), (1e6, "kW", 1e-3), (math.inf, "MW", 1e-6))
_COUNTS = ((1e6, "", 1.0), (1e9, "M", 1e-6), (1e12, "B", 1e-9), (math.inf, "T", 1e-12))

Scale = tuple[tuple[float, str, float], ...]


def number(value: float, digits: int = 3) -> str:
    """``digits`` significant digits, thousands separated: 0.0123, 1.50, 24.8, 9,400."""
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, decimals)
    # Rounding may carry into the next power of ten (9.996 -> 10.0).
    decimals = digits - 1 - math.floor(math.log10(abs(rounded))) if rounded else decimals
    return f"{rounded:,.{max(decimals, 0)}f}"


def _with_unit(scale: Scale, *values: float) -> tuple[list[str], str]:
    """The values in the unit that suits the first of them."""
    _, unit, factor = next(entry for entry in scale if abs(values[0]) < entry[0])
    return [number(value * factor) for value in values], unit


def _one(scale: Scale, value: float) -> str:
    (text,), unit = _with_unit(scale, value)
    return f"{text} {unit}".rstrip()


def milliseconds(ms: float) -> str:
    """A duration: 312 ms, 1.24 s."""
    return _one(_TIMES, ms)


def milliseconds_exact(ms: float) -> str:
    """A duration that somebody asked for, as given: 1 s, 30 ms, 1.25 s."""
    _, unit, factor = next(entry for entry in _TIMES if ms < entry[0])
    return f"{ms * factor:g} {unit}"


def milliseconds_range(interval: Interval) -> str:
    """The interval in the unit of its value: 280–350 ms."""
    (_, low, high), unit = _with_unit(_TIMES, interval.value, interval.low, interval.high)
    return f"{low}–{high} {unit}"


def watts(value: float) -> str:
    return _one(_WATTS, value)


def watts_range(interval: Interval) -> str:
    (_, low, high), unit = _with_unit(_WATTS, interval.value, interval.low, interval.high)
    return f"{low}–{high} {unit}"


def plain_range(interval: Interval) -> str:
    """17.9–19.6; empty for what is certain (a rate that was asked for)."""
    if interval.low == interval.high:
        return ""
    return f"{number(interval.low)}–{number(interval.high)}"


def parameters(count: float) -> str:
    """Weights of a model: 32.8B, 671B, 1.03T."""
    (text,), unit = _with_unit(_COUNTS, count)
    return f"{text}{unit}"


def promise(metric: str, percentile: float, limit_ms: float) -> str:
    """``TTFT p90 ≤ 1 s``."""
    return f"{metric.upper()} p{percentile:g} ≤ {milliseconds_exact(limit_ms)}"


def gib(size_bytes: float) -> str:
    return f"{size_bytes / GIB:,.1f}"


def percent(share: float) -> str:
    """A share of one: 98 %, 1.4 %, < 0.1 %."""
    value = share * 100
    if value == 0:
        return "0 %"
    if abs(value) < 0.1:
        return "< 0.1 %" if value > 0 else "> −0.1 %"
    text = f"{value:.1f}" if abs(value) < 9.95 else f"{value:.0f}"
    return f"{text} %".replace("-", "−")


def probability(share: float) -> str:
    """How sure: never a round 0 or 100 %, which no prediction deserves."""
    if share > 0.99:
        return "> 99 %"
    return "< 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")
