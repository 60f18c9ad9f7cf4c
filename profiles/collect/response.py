"""How the time and the watts of an operation answer to the SM clock: what ``--clocks`` measures, fitted and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from profiles.whole_files import write_whole

FILE = "clock_response.json"
"""In the folder of a profile store; :mod:`costmodels.power.own_response` reads it."""

SHAPES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "prefill": ((8192, 8192, 8192), (4096, 14336, 4096)),
    "decode": ((16, 14336, 8192), (64, 8192, 14336)),
}
"""(m, n, k) of the products that stand for a phase: bound by tensor cores, and by memory."""

SECONDS_A_POINT = 15.0
"""About: timed, then run until its temperature is steady and its power is read."""

_MARGIN = 0.03
"""Beyond what the shapes of a phase differ by: half-width of its constants."""


@dataclass(frozen=True)
class ResponsePoint:
    """One shape at one clock; ``clock_mhz`` as read while it ran."""

    phase: str
    shape: tuple[int, int, int]
    clock_mhz: float
    latency_us: float
    power_watts: float | None


def points(clocks: Sequence[int], measure: Callable[[str, tuple[int, int, int], int], ResponsePoint]) -> list[Any]:
    """Every shape at every clock, clock by clock."""
    return [measure(phase, shape, mhz) for mhz in clocks for phase, shapes in SHAPES.items() for shape in shapes]


def fitted(found: Sequence[ResponsePoint], idle_watts: float | None, highest_mhz: float) -> dict[str, Any]:
    """(clocked, exponent) of each phase as (value, low, high): t = a ÷ f + b by least squares in 1 ÷ f, so that
    ``clocked`` is the part of the time at the highest clock that follows it; watts above idle go with f to the
    exponent. Values are the mean over shapes, ends what they differ by and a margin."""
    out: dict[str, Any] = {}
    for phase in SHAPES:
        mine = [each for each in found if each.phase == phase]
        shapes = dict.fromkeys(each.shape for each in mine)
        pairs = [_one([each for each in mine if each.shape == shape], idle_watts, highest_mhz) for shape in shapes]
        out[phase] = {}
        for i, (name, most) in enumerate((("clocked", 1.0), ("exponent", 3.0))):
            values = [pair[i] for pair in pairs]
            low, high = min(values) - _MARGIN, max(values) + _MARGIN
            out[phase][name] = [
                round(float(each), 4) for each in (np.mean(values), max(low, 0.0), min(max(high, 0.0), most))
            ]
    return out


def _one(points: Sequence[ResponsePoint], idle_watts: float | None, highest_mhz: float) -> tuple[float, float]:
    share = np.array([each.clock_mhz for each in points]) / highest_mhz
    time = np.array([each.latency_us for each in points])
    constant, per_clock = np.linalg.lstsq(np.stack([np.ones_like(share), 1 / share], axis=1), time, rcond=None)[0]
    clocked = float(np.clip(per_clock / max(constant + per_clock, 1e-9), 0.0, 1.0))
    watts = np.array([np.nan if each.power_watts is None else each.power_watts for each in points], np.float64)
    above = watts - (0.0 if idle_watts is None else idle_watts)
    known = np.isfinite(above) & (above > 0)
    exponent = 1.0
    if known.sum() >= 2:
        exponent = float(np.clip(np.polyfit(np.log(share[known]), np.log(above[known]), 1)[0], 0.0, 3.0))
    return clocked, exponent


def keep(folder: Path, gpu: str, fit: dict[str, Any], found: Sequence[ResponsePoint], source: str, date: str) -> Path:
    """Writes the fit beside a store's rows, whole or not at all; what the file says of other GPUs stays."""
    path = folder / FILE
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    rows = [
        {
            "phase": each.phase,
            **dict(zip("mnk", each.shape, strict=True)),
            "clock_mhz": each.clock_mhz,
            "latency_us": each.latency_us,
            "power_watts": each.power_watts,
        }
        for each in found
    ]
    known[gpu] = {**fit, "source": source, "date": date, "points": rows}
    write_whole(path, json.dumps(known, indent=1) + "\n")
    return path
