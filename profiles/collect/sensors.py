"""What a device says of itself while it works: clock, temperature, power, and why it is slower than it could be.

Three ways to ask, tried in this order: NVML (package ``nvidia-ml-py``), the program ``nvidia-smi``, and for CPUs the
files that Linux keeps under ``/sys``. What nobody tells is null, never a guess.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# NVML's bits of the "clocks event reasons" mask (nvml.h), as nvidia-smi spells them.
REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
QUIET = frozenset({"gpu_idle"})  # says nothing of a device that works
ALARMING = frozenset(
    {"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "thermal"}
)
"""Reasons for which a measurement is repeated. A power cap is not among them: a GPU that multiplies flat out lives at
its power limit, and so it will in service."""


@dataclass(frozen=True)
class Reading:
    """One look at the device; None where it does not tell."""

    clock_mhz: float | None = None
    temperature_c: float | None = None
    power_watts: float | None = None
    throttle: tuple[str, ...] = ()


class Sensors(Protocol):
    """``name`` says who is asked; ``energy_counter`` whether :meth:`energy_joules` answers."""

    name: str
    energy_counter: bool

    def read(self) -> Reading: ...

    def energy_joules(self) -> float | None:
        """Energy since some moment in the past, or None."""
        ...

    def facts(self) -> dict[str, Any]:
        """What does not change: driver, limits, highest clocks; keys are absent where unknown."""
        ...


class Silent:
    """A device that nobody can ask."""

    name = "none"
    energy_counter = False

    def read(self) -> Reading:
        return Reading()

    def energy_joules(self) -> float | None:
        return None

    def facts(self) -> dict[str, Any]:
        return {}


class Nvml:
    """NVIDIA's management library. A query that a board does not support is None.

    The energy counter counts millijoules since the driver was loaded and moves every 20–100 ms.
    """

    name = "nvml"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self.energy_counter = self.energy_joules() is not None

    @classmethod
    def of(cls, uuid: str | None, index: int) -> Nvml | None:
        """NVML's view of the GPU with ``uuid`` (else of the driver's ``index``), or None without the package."""
        try:
            nvml = importlib.import_module("pynvml")
            nvml.nvmlInit()
        except Exception:  # no package, no library, no driver: all mean that NVML cannot be asked
            return None
        for name in (f"GPU-{uuid}", f"MIG-{uuid}") if uuid else ():
            with contextlib.suppress(nvml.NVMLError):
                return cls(nvml, nvml.nvmlDeviceGetHandleByUUID(name))
        if uuid is None:
            with contextlib.suppress(nvml.NVMLError):
                return cls(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
        return None

    def _ask(self, function: str, *arguments: Any) -> Any:
        with contextlib.suppress(self._nvml.NVMLError, AttributeError):
            return getattr(self._nvml, function)(self._handle, *arguments)
        return None

    def read(self) -> Reading:
        mask = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if mask is None:  # its name before driver 535
            mask = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        power = self._ask("nvmlDeviceGetPowerUsage")
        return Reading(
            clock_mhz=self._ask("nvmlDeviceGetClockInfo", 1),
            temperature_c=self._ask("nvmlDeviceGetTemperature", 0),
            power_watts=None if power is None else power / 1e3,
            throttle=reasons(mask or 0),
        )

    def energy_joules(self) -> float | None:
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1e3

    def facts(self) -> dict[str, Any]:
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        limit = self._ask("nvmlDeviceGetPowerManagementLimit")
        default_limit = self._ask("nvmlDeviceGetPowerManagementDefaultLimit")
        mig = self._ask("nvmlDeviceGetMigMode")
        driver = None
        with contextlib.suppress(self._nvml.NVMLError):
            driver = self._nvml.nvmlSystemGetDriverVersion()
        return _known(
            driver=driver.decode() if isinstance(driver, bytes) else driver,
            memory_bytes=None if memory is None else int(memory.total),
            power_limit_watts=None if limit is None else limit / 1e3,
            default_power_limit_watts=None if default_limit is None else default_limit / 1e3,
            max_sm_clock_mhz=self._ask("nvmlDeviceGetMaxClockInfo", 1),
            max_memory_clock_mhz=self._ask("nvmlDeviceGetMaxClockInfo", 2),
            memory_bus_bits=self._ask("nvmlDeviceGetMemoryBusWidth"),
            pcie_generation=self._ask("nvmlDeviceGetMaxPcieLinkGeneration"),
            pcie_lanes=self._ask("nvmlDeviceGetMaxPcieLinkWidth"),
            mig=None if mig is None else bool(mig[0]),
        )


class NvidiaSmi:
    """The program ``nvidia-smi``, where NVML's package is missing. A call takes tens of milliseconds, so
    readings less than :data:`FRESH_S` old are given again. It knows no energy counter."""

    name = "nvidia-smi"
    energy_counter = False
    FRESH_S = 0.1
    _FACTS: Mapping[str, tuple[str, float]] = {
        "driver_version": ("driver", 0),
        "memory.total": ("memory_bytes", 2**20),
        "power.limit": ("power_limit_watts", 1),
        "power.default_limit": ("default_power_limit_watts", 1),
        "clocks.max.sm": ("max_sm_clock_mhz", 1),
        "clocks.max.memory": ("max_memory_clock_mhz", 1),
        "pcie.link.gen.max": ("pcie_generation", 1),
        "pcie.link.width.max": ("pcie_lanes", 1),
    }

    def __init__(self, ask: Callable[[str], list[str] | None]) -> None:
        self._ask = ask
        self._last = Reading()
        self._last_s = -self.FRESH_S

    @classmethod
    def of(cls, uuid: str | None, index: int) -> NvidiaSmi | None:
        if shutil.which("nvidia-smi") is None:
            return None
        which = f"GPU-{uuid}" if uuid else str(index)

        def ask(query: str) -> list[str] | None:
            words = ["nvidia-smi", f"--id={which}", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
            try:
                ran = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
            except (OSError, subprocess.TimeoutExpired):
                return None
            return [cell.strip() for cell in ran.stdout.strip().split(",")] if ran.returncode == 0 else None

        return cls(ask) if ask("driver_version") else None

    def read(self) -> Reading:
        if time.monotonic() - self._last_s >= self.FRESH_S:
            cells = self._ask("clocks.sm,temperature.gpu,power.draw,clocks_throttle_reasons.active")
            clock, temperature, power, mask = cells if cells and len(cells) == 4 else ("", "", "", "")
            bits = int(mask, 16) if mask.startswith("0x") else 0
            self._last = Reading(_number(clock), _number(temperature), _number(power), reasons(bits))
            self._last_s = time.monotonic()
        return self._last

    def energy_joules(self) -> float | None:
        return None

    def facts(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for query, (name, scale) in self._FACTS.items():
            cells = self._ask(query)  # one by one: an old program refuses the whole list for one name
            if not cells or not cells[0]:
                continue
            value = _number(cells[0])
            if not scale:
                out[name] = cells[0]
            elif value is not None:
                out[name] = int(value * scale) if scale > 1 else value
        return out


class CpuSensors:
    """Linux's own files: cpufreq, thermal zones, throttle counters and RAPL (powercap). Virtual machines and
    containers mostly show none of them."""

    name = "sysfs"

    def __init__(self, root: Path = Path("/sys")) -> None:
        self._root = root
        packages = sorted(root.glob("class/powercap/intel-rapl:*"))
        self._rapl = [p for p in packages if _text(p / "name").startswith("package") and _text(p / "energy_uj")]
        self._before = [0.0] * len(self._rapl)
        self._wrapped = [0.0] * len(self._rapl)
        self._throttles = self._throttle_count()
        self.energy_counter = bool(self._rapl)

    def _cpus(self, file: str) -> Iterator[float]:
        for path in self._root.glob(f"devices/system/cpu/cpu[0-9]*/{file}"):
            value = _number(_text(path))
            if value is not None:
                yield value

    def _throttle_count(self) -> float:
        return sum(self._cpus("thermal_throttle/core_throttle_count"))

    def read(self) -> Reading:
        clocks = list(self._cpus("cpufreq/scaling_cur_freq"))
        count = self._throttle_count()
        hot, self._throttles = count > self._throttles, count
        return Reading(
            clock_mhz=sum(clocks) / len(clocks) / 1e3 if clocks else None,
            temperature_c=self._temperature(),
            throttle=("thermal",) if hot else (),
        )

    def _temperature(self) -> float | None:
        for zone in self._root.glob("class/thermal/thermal_zone*"):
            if _text(zone / "type") == "x86_pkg_temp":
                value = _number(_text(zone / "temp"))
                return None if value is None else value / 1e3
        return None

    def energy_joules(self) -> float | None:
        """Of all packages; the counters wrap around at their range, which is added back."""
        if not self._rapl:
            return None
        total = 0.0
        for i, package in enumerate(self._rapl):
            value = _number(_text(package / "energy_uj"))
            if value is None:
                return None
            if value < self._before[i]:
                self._wrapped[i] += _number(_text(package / "max_energy_range_uj")) or 0.0
            self._before[i] = value
            total += value + self._wrapped[i]
        return total / 1e6

    def facts(self) -> dict[str, Any]:
        clock = max(self._cpus("cpufreq/cpuinfo_max_freq"), default=None)
        return _known(max_sm_clock_mhz=None if clock is None else clock / 1e3)


def gpu_sensors(uuid: str | None, index: int) -> Sensors:
    """The best way to ask the GPU that CUDA numbers ``index``."""
    number = driver_index(index)
    if uuid is None and number is None:
        return Silent()  # which of the driver's GPUs it is cannot be told
    where = (uuid, index if number is None else number)
    return Nvml.of(*where) or NvidiaSmi.of(*where) or Silent()


def driver_index(index: int) -> int | None:
    """The driver's number of CUDA's ``index``-th GPU, or None where CUDA_VISIBLE_DEVICES hides it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return index
    entries = [entry.strip() for entry in visible.split(",")]
    return int(entries[index]) if index < len(entries) and entries[index].isdigit() else None


def reasons(mask: int) -> tuple[str, ...]:
    """The names of the bits of NVML's mask that say why clocks are low."""
    return tuple(name for bit, name in REASONS.items() if mask & bit and name not in QUIET)


def _known(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
