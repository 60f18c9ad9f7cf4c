"""Numbers as people read them: three significant digits, and the unit that suits their size.

Durations have one style everywhere: 400 µs, 312 ms, 1.24 s, 5 min 21 s, 2 h 5 min."""

from __future__ import annotations

import math
from collections.abc import Iterable

from planner.contract.quantities import SLOW_END, Interval

GIB = 2**30

_TIMES = ((1.0, "µs", 1e3), (1e3, "ms", 1.0), (math.inf, "s", 1e-3))
_MINUTE_MS, _HOUR_S = 60e3, 3600
_WIDEST = 1e4  # a range has one unit while its ends are below this many of it
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


def per_second(text: str) -> str:
    """Of requests, a rate as it was written: 1 request/s, 4.02 requests/s."""
    return f"{text} request{'' if text == '1' else 's'}/s"


def _with_unit(scale: Scale, *values: float) -> tuple[list[str], str]:
    """The values in the unit that suits the first of them."""
    _, unit, factor = next(entry for entry in scale if abs(values[0]) < entry[0])
    return [number(value * factor) for value in values], unit


def _one(scale: Scale, value: float) -> str:
    (text,), unit = _with_unit(scale, value)
    return f"{text} {unit}".rstrip()


def milliseconds(ms: float) -> str:
    """A duration: 312 ms, 1.24 s, 5 min 21 s."""
    return _one(_TIMES, ms) if abs(ms) < _MINUTE_MS else _minutes(ms / 1e3)


def _minutes(seconds: float) -> str:
    """From a minute on: two units, the smaller one rounded."""
    sign, seconds = "−" if seconds < 0 else "", abs(seconds)
    if round(seconds) < _HOUR_S:
        minutes, rest = divmod(round(seconds), 60)
        return f"{sign}{minutes} min" + (f" {rest} s" if rest else "")
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{sign}{hours:,} h" + (f" {rest} min" if rest else "")


def milliseconds_exact(ms: float) -> str:
    """A duration that somebody asked for, as given: 1 s, 30 ms, 1.25 s."""
    if ms >= _MINUTE_MS and ms % 1e3 == 0:
        return _minutes(ms / 1e3) if ms < _HOUR_S * 1e3 or ms % 60e3 == 0 else f"{ms / 1e3:,.0f} s"
    _, unit, factor = next(entry for entry in _TIMES if ms < entry[0])
    return f"{ms * factor:g} {unit}"


def milliseconds_range(interval: Interval) -> str:
    """The interval in the unit of its value: 280–350 ms; where one unit does not suit both ends, 193 ms–5 min 21 s."""
    ends = (interval.value, interval.low, interval.high)
    limit = min(_MINUTE_MS, _WIDEST * next(1 / factor for most, _, factor in _TIMES if abs(interval.value) < most))
    if max(map(abs, ends)) >= limit:
        return f"{milliseconds(interval.low)}–{milliseconds(interval.high)}"
    (_, low, high), unit = _with_unit(_TIMES, *ends)
    return f"{low}–{high} {unit}"


def growing_range(interval: Interval, notes: Iterable[str]) -> str:
    """The interval of a latency: ``250 ms–falls behind`` where its upper end is minutes because an engine does not keep
    up at the slow end, as ``notes`` say: how many minutes depends on how long one waits."""
    if interval.high >= _MINUTE_MS and any(note.startswith(SLOW_END) for note in notes):
        return f"{milliseconds(interval.low)}–falls behind"
    return milliseconds_range(interval)


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


def several(count: int, noun: str, plural: str = "s") -> str:
    """``1 file``, ``2 files``."""
    return f"{count:,} {noun}{'' if count == 1 else plural}"


def probability(share: float) -> str:
    """How sure: never a round 0 or 100 %, which no prediction deserves."""
    if share > 0.99:
        return "> 99 %"
    return "< 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")
