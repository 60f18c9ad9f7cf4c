"""How the time and the watts of prefill and decode answer to the SM clock (``response.yaml``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from costmodels.estimates import Floats
from profiles.shipped import shipped


@dataclass(frozen=True)
class PhaseResponse:
    """Of one phase: (value, low, high) of the share of time that scales with the clock, and of the exponent of the
    watts above idle. ``acts_below``: share of the clock below which a cap acts, of GPUs that are locked there."""

    clocked: tuple[float, float, float]
    exponent: tuple[float, float, float]
    acts_below: float = 1.0

    def slowdown(self, share: Floats | float, end: int = 0) -> Floats:
        """Time ÷ time at the highest clock, at ``share`` of it; ``end``: 0 value, 1 low, 2 high."""
        clocked = self.clocked[end]
        return np.asarray(clocked / self._of_own(share) + (1.0 - clocked))

    def watts(self, share: Floats | float, end: int = 0) -> Floats:
        """Watts above idle ÷ those at the highest clock; ``end`` as of the watts: 1 is the lower end."""
        exponent = (self.exponent[0], self.exponent[2], self.exponent[1])[end]
        return np.asarray(self._of_own(share) ** exponent)

    def _of_own(self, share: Floats | float) -> Floats:
        own = np.asarray(share, np.float64)
        return own if self.acts_below == 1.0 else np.minimum(own / self.acts_below, 1.0)

    def locked_at(self, own: float, highest: float) -> PhaseResponse:
        """Of GPUs that are locked at ``own`` of the highest clock, asked about shares of ``highest`` of it: a ÷ f + b
        is of that form again, with more of the time in a."""
        value, low, high = (each / own / (each / own + 1.0 - each) for each in self.clocked)
        return PhaseResponse((value, low, high), self.exponent, own / highest)


@dataclass(frozen=True)
class ClockResponse:
    """Of a GPU type; ``measured``: whether its figures are from that type."""

    prefill: PhaseResponse
    decode: PhaseResponse
    measured: bool


@cache
def clock_response(gpu: str) -> ClockResponse:
    """Of ``gpu``; of a type that nobody measured, the same with wider ends."""
    facts: dict[str, Any] = shipped(Path(__file__).parent / "response.yaml", dict)
    measured = gpu in facts["measured_on"]
    widening = 1.0 if measured else float(facts["widening"])

    def phase(name: str) -> PhaseResponse:
        fields = facts[name]

        def three(key: str, most: float) -> tuple[float, float, float]:
            value, low, high = (float(each) for each in fields[key])
            return value, max(value - (value - low) * widening, 0.0), min(value + (high - value) * widening, most)

        return PhaseResponse(three("clocked", 1.0), three("exponent", 3.0))

    return ClockResponse(phase("prefill"), phase("decode"), measured)


def share_under_cap(watts: Floats, idle: Floats | float, cap: Floats | float, exponent: Floats | float) -> Floats:
    """Clock ÷ highest at which a board that would draw ``watts`` draws ``cap``; 1 where the cap is not reached: decode
    that never comes near it is left alone."""
    above = np.maximum(np.asarray(cap, np.float64) - idle, 1e-9) / np.maximum(np.asarray(watts) - idle, 1e-9)
    return np.asarray(np.minimum(above, 1.0) ** (1.0 / np.asarray(exponent)))
