"""What operators may set on a GPU: SM clocks and board power limits, facts with their sources
(``hardware/settings.yaml``). A value outside is named, never clamped."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field, TypeAdapter

from profiles.errors import InputError, Unsupported
from profiles.hardware import Fact, Gpu
from profiles.shipped import shipped

_FILE = Path(__file__).parent / "hardware" / "settings.yaml"


class Settable(Fact):
    """Of one GPU type."""

    clock_mhz: tuple[int, int, int] = Field(description="lowest, highest, step")
    power_watts: tuple[int, int] = Field(description="lowest, highest")
    brake_mhz: int | None = None

    @property
    def clocks(self) -> range:
        """Every SM clock that can be set, MHz, rising."""
        low, high, step = self.clock_mhz
        return range(low, high + 1, step)

    def nearest_clock(self, mhz: float) -> int:
        """The settable clock nearest to ``mhz`` (for presets that are written for another GPU)."""
        return min(self.clocks, key=lambda each: abs(each - mhz))


@cache
def all_settable() -> dict[str, Settable]:
    """By GPU name."""
    entries = TypeAdapter(dict[str, Settable])
    return shipped(_FILE, lambda facts: entries.validate_python({n: {"name": n, **f} for n, f in facts.items()}))


def settable(gpu: Gpu | str) -> Settable:
    """What can be set on ``gpu``.

    Raises:
        Unsupported: nobody has said for this type.
    """
    name = gpu if isinstance(gpu, str) else gpu.name
    found = all_settable().get(name)
    if found is None:
        raise Unsupported(
            f"gpu: {name} has no known range of clocks and power limits",
            f"known: {', '.join(all_settable())}; `nvidia-smi -q -d SUPPORTED_CLOCKS,POWER` shows a machine's",
        )
    return found


def check_clock(gpu: Gpu | str, mhz: float, field: str) -> int:
    """``mhz`` as a clock that can be set.

    Raises:
        InputError: outside the range, or between two steps; names the nearest that can be set.
        Unsupported: as :func:`settable`.
    """
    can = settable(gpu)
    low, high, step = can.clock_mhz
    name = gpu if isinstance(gpu, str) else gpu.name
    if not low <= mhz <= high:
        raise InputError(
            f"{field}: {mhz:g} MHz is outside what {name} can be set to", f"{low} to {high} MHz in steps of {step}"
        )
    if mhz not in can.clocks:
        near = sorted(can.clocks, key=lambda each: abs(each - mhz))[:2]
        raise InputError(
            f"{field}: {mhz:g} MHz is between two steps of {name}",
            f"nearest: {' or '.join(f'{each} MHz' for each in sorted(near))}",
        )
    return int(mhz)


def check_power(gpu: Gpu | str, watts: float, field: str) -> float:
    """``watts`` as a board power limit that can be set.

    Raises:
        InputError: outside the range.
        Unsupported: as :func:`settable`.
    """
    low, high = settable(gpu).power_watts
    name = gpu if isinstance(gpu, str) else gpu.name
    if not low <= watts <= high:
        raise InputError(f"{field}: {watts:g} W is outside what {name} can be set to", f"{low} to {high} W")
    return float(watts)
