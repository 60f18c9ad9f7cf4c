"""The state that a GPU is operated in: a locked SM clock and a board power limit, two different levers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from profiles.errors import InputError
from profiles.hardware import Gpu
from profiles.settable import check_clock, check_power, settable
from profiles.values import number, shown

_CLOCK = re.compile(r"(?P<value>[0-9.]+)\s*(?P<unit>(?i:mhz|ghz))?")
_WATTS = re.compile(r"(?P<value>[0-9.]+)\s*(?P<unit>(?i:w|kw|watts?)|MW)?")
_UNITS = {"ghz": 1000.0, "kw": 1e3, "mw": 1e6}


ANY = "any"
"""To have it chosen."""

_CLOCK_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Of the highest SM clock, levels that ``any`` chooses from beside the driver's own: below 0.4 steps grow longer faster
than they cool (``response.yaml``)."""
_CAP_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Of the highest board power limit."""


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
        mhz = _read(clock, _CLOCK, "clock", "1400MHz") if clock else None
        watts = _read(power_cap, _WATTS, "power_cap", "500W") if power_cap else None
        return cls(
            None if mhz is None else check_clock(gpu, mhz, "clock"),
            None if watts is None else check_power(gpu, watts, "power_cap"),
        )

    @classmethod
    def choices(cls, clocks: Sequence[str], power_caps: Sequence[str], gpu: Gpu) -> list[OperatingState | None]:
        """The states to choose from, the driver's own first where that is one of them: every clock with every limit,
        and where both are ``any``, levels of either alone.

        Raises: as :meth:`asked`.
        """
        either = ANY in clocks and ANY in power_caps
        ways = [(clocks, ("",)), (("",), power_caps)] if either else [(clocks or ("",), power_caps or ("",))]
        found = []
        for some, others in ways:
            for clock in _levels(some, gpu, _clock_levels):
                found += [cls.asked(clock, cap, gpu) for cap in _levels(others, gpu, _cap_levels)]
        return list(dict.fromkeys(found))

    @classmethod
    def of(cls, clock_mhz: int | None, cap_watts: float | None) -> OperatingState | None:
        """None where neither is said."""
        return None if clock_mhz is None and cap_watts is None else cls(clock_mhz, cap_watts)

    @property
    def key(self) -> tuple[int, int]:
        """(MHz, W), 0 where not said."""
        return self.clock_mhz or 0, round(self.cap_watts or 0)

    def told(self) -> str:
        """In words."""
        clock = None if self.clock_mhz is None else f"at most {self.clock_mhz:,} MHz"
        cap = None if self.cap_watts is None else f"at most {self.cap_watts:g} W a GPU"
        return ", ".join(filter(None, (clock, cap)))

    def clock_share(self, gpu: Gpu) -> float:
        """Clock ÷ the highest."""
        return 1.0 if self.clock_mhz is None else self.clock_mhz / settable(gpu).clock_mhz[1]


def read_watts(text: str, field: str) -> float:
    """``500W``, ``12 kW`` or a plain number of watts.

    Raises:
        InputError: it is none.
    """
    return _read(text, _WATTS, field, "12kW")


def read_mhz(text: str, field: str) -> float:
    """``1400MHz``, ``1.4 GHz`` or a plain number of MHz.

    Raises:
        InputError: it is none.
    """
    return _read(text, _CLOCK, field, "1400MHz")


def check_words(value: str, field: str) -> str:
    """``value`` as a clock or a power limit is written, or ``any``.

    Raises:
        InputError: it is neither.
    """
    text = value.strip()
    if text.casefold() == ANY:
        return ANY
    if field == "clock":
        _read(text, _CLOCK, field, "1400MHz")
    else:
        _read(text, _WATTS, field, "500W")
    return text


def _clock_levels(gpu: Gpu) -> list[str]:
    can = settable(gpu)
    return [f"{can.nearest_clock(share * can.clock_mhz[1])}MHz" for share in _CLOCK_SHARES]


def _cap_levels(gpu: Gpu) -> list[str]:
    low, high = settable(gpu).power_watts
    return [f"{watts}W" for watts in (round(share * high / 10) * 10 for share in _CAP_SHARES) if watts >= low]


def _levels(asked: Sequence[str], gpu: Gpu, of: Callable[[Gpu], list[str]]) -> list[str]:
    return ["", *of(gpu)] if ANY in asked else list(asked)


def _read(text: str, form: re.Pattern[str], field: str, example: str) -> float:
    found = form.fullmatch(text.strip())
    value = None if found is None else number(found["value"])
    if text.strip().casefold() == ANY:
        raise InputError(
            f"{field}: any is a choice, and nothing is chosen here",
            f"write one, for example {example}; `plan` chooses, a row each in a CSV for `plan predict` compares",
        )
    if found is None and form is _WATTS and text.strip()[-2:].casefold() == "mw":
        raise InputError(f"{field}: {shown(text)} may be thousandths of a watt or millions", "write W, kW or MW")
    if found is None or value is None or value <= 0:
        raise InputError(f"{field}: {shown(text)} is not understood", f"write for example {example}")
    return round(value * _UNITS.get((found["unit"] or "").casefold(), 1.0), 6)  # 1.005 GHz are 1005 MHz
