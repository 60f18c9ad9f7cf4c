"""An engine whose answer to the clock is read off two measurements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Floats
from costmodels.power.response import share_under_cap


@dataclass(frozen=True)
class MeasuredResponse:
    """Of one engine, from two of its points: tokens per second and watts, uncapped and at one lower clock.

    ``slowdown``: t = clocked ÷ x + (1 − clocked); watts above ``idle`` go with x to the power of ``exponent``."""

    idle: float
    watts: float
    rate: float
    clock_mhz: float
    clocked: float
    exponent: float

    @classmethod
    def of(cls, idle: float, free: tuple[float, float, float], capped: tuple[float, float, float]) -> MeasuredResponse:
        """Args:
        free, capped: (tokens per second, watts, SM clock in MHz).
        """
        share = capped[2] / free[2]
        clocked = (free[0] / capped[0] - 1.0) / (1.0 / share - 1.0)
        exponent = float(np.log((capped[1] - idle) / (free[1] - idle)) / np.log(share))
        return cls(idle, free[1], free[0], free[2], float(np.clip(clocked, 0.0, 1.0)), max(exponent, 0.2))

    def at_cap(self, cap: Floats) -> tuple[Floats, Floats]:
        """(tokens per second, watts) under board power limits, [n]."""
        share = share_under_cap(np.full(len(cap), self.watts), self.idle, cap, self.exponent)
        rate = self.rate / (self.clocked / share + 1.0 - self.clocked)
        return rate, np.asarray(self.idle + (self.watts - self.idle) * share**self.exponent)
