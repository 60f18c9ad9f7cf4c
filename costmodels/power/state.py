"""The state that a GPU is operated in: a locked SM clock and a board power limit, two different levers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from profiles.errors import InputError
from profiles.hardware import Gpu
from profiles.settable import check_clock, check_power, settable
from profiles.values import number, shown

_CLOCK = re.compile(r"(?P<value>[0-9.]+)\s*(?P<unit>mhz|ghz)?", re.IGNORECASE)
_WATTS = re.compile(r"(?P<value>[0-9.]+)\s*(?P<unit>w|kw)?", re.IGNORECASE)


@dataclass(frozen=True)
class OperatingState:
    """``clock_mhz``: highest SM clock; ``cap_watts``: board power limit; None: as the driver has it."""

    clock_mhz: int | None = None
    cap_watts: float | None = None

    @classmethod
    def asked(cls, clock: str, power_cap: str, gpu: Gpu) -> OperatingState | None:
        """Of texts as people write them (``1400MHz``, ``1.4 GHz``, ``500W``); None where both are blank.

        Raises:
            InputError: not a clock or a power, or none that ``gpu`` can be set to.
            Unsupported: nobody has said what it can be set to.
        """
        if not clock and not power_cap:
            return None
        mhz = _read(clock, _CLOCK, "clock", "1400MHz", {"ghz": 1000.0}) if clock else None
        watts = _read(power_cap, _WATTS, "power_cap", "500W", {"kw": 1000.0}) if power_cap else None
        return cls(
            None if mhz is None else check_clock(gpu, mhz, "clock"),
            None if watts is None else check_power(gpu, watts, "power_cap"),
        )

    def clock_share(self, gpu: Gpu) -> float:
        """Clock ÷ the highest."""
        return 1.0 if self.clock_mhz is None else self.clock_mhz / settable(gpu).clock_mhz[1]


def _read(text: str, form: re.Pattern[str], field: str, example: str, units: dict[str, float]) -> float:
    found = form.fullmatch(text.strip())
    value = None if found is None else number(found["value"])
    if found is None or value is None or value <= 0:
        raise InputError(f"{field}: {shown(text)} is not understood", f"write for example {example}")
    return value * units.get((found["unit"] or "").casefold(), 1.0)
