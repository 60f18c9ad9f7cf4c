"""Under which conditions a point was timed: clocks, temperature, throttling, and whether they changed on the way."""

from __future__ import annotations

import statistics
import time
from typing import Any

from profiles.collect.sensors import ALARMING, Reading, Sensors

STEADY_CLOCK = 0.9
"""A clock that falls below this share of an earlier one of the same point has dropped."""


class Conditions:
    """Collects readings while a point is timed; calling it reads the sensors, at most every ``every_s``."""

    def __init__(self, sensors: Sensors, every_s: float = 0.05) -> None:
        self._sensors = sensors
        self._every_s = every_s
        self._next_s = 0.0
        self.readings: list[Reading] = []

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._next_s:
            self.readings.append(self._sensors.read())
            self._next_s = time.monotonic() + self._every_s  # reading itself takes up to tens of milliseconds

    @property
    def clock_mhz(self) -> float | None:
        """Median clock (the first reading may catch the device waking up), or None where nobody tells."""
        clocks = self._clocks()
        return statistics.median(clocks) if clocks else None

    def _clocks(self) -> list[float]:
        return [reading.clock_mhz for reading in self.readings if reading.clock_mhz is not None]

    def facts(self) -> dict[str, Any]:
        """Lowest and highest clock, highest temperature, all throttle reasons seen; absent where unknown."""
        clocks = self._clocks()
        heat = [reading.temperature_c for reading in self.readings if reading.temperature_c is not None]
        seen = sorted({reason for reading in self.readings for reason in reading.throttle})
        out: dict[str, Any] = {}
        if clocks:
            out |= {"clock_low_mhz": min(clocks), "clock_high_mhz": max(clocks)}
        if heat:
            out["temperature_c"] = max(heat)
        if seen:
            out["throttle"] = seen
        return out

    def disturbance(self) -> str:
        """Why the point should be timed again, or an empty text."""
        alarms = sorted({reason for reading in self.readings for reason in reading.throttle} & ALARMING)
        if alarms:
            return f"throttled: {', '.join(alarms)}"
        highest = 0.0
        for clock in self._clocks():
            if clock < STEADY_CLOCK * highest:
                return f"clock dropped from {highest:.0f} to {clock:.0f} MHz"
            highest = max(highest, clock)
        return ""
