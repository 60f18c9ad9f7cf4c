"""Sensors: what NVML, nvidia-smi and Linux say, and null where nobody says anything."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from machines import FakeSensors

from profiles.collect.conditions import Conditions
from profiles.collect.sensors import CpuSensors, NvidiaSmi, Nvml, Reading, Silent, gpu_sensors, reasons


class NvmlError(Exception):
    pass


def nvml(**answers: Any) -> ModuleType:
    """A pynvml with one GPU that answers as told, and refuses every other query."""
    module = ModuleType("pynvml")
    module.NVMLError = NvmlError  # type: ignore[attr-defined]
    module.nvmlInit = lambda: None  # type: ignore[attr-defined]
    module.nvmlSystemGetDriverVersion = lambda: "570.1"  # type: ignore[attr-defined]

    def by_uuid(name: str) -> str:
        if name != "GPU-abc":
            raise NvmlError
        return name

    module.nvmlDeviceGetHandleByUUID = by_uuid  # type: ignore[attr-defined]
    module.nvmlDeviceGetHandleByIndex = lambda index: index  # type: ignore[attr-defined]
    for name, value in answers.items():

        def ask(handle: object, *_: Any, value: Any = value) -> Any:
            if value is None:
                raise NvmlError
            return value

        setattr(module, f"nvmlDeviceGet{name}", ask)
    return module


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(module: ModuleType | None) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", module)

    return put


def test_nvml_is_asked_first(install: Any) -> None:
    install(
        nvml(
            ClockInfo=1755,
            Temperature=61,
            PowerUsage=654_321,
            CurrentClocksEventReasons=0x4 | 0x40,
            TotalEnergyConsumption=5_000,
            MigMode=(1, 1),
            PowerManagementLimit=700_000,
        )
    )
    sensors = gpu_sensors("abc", 0)
    assert sensors.read() == Reading(1755, 61, 654.321, ("sw_power_cap", "hw_thermal_slowdown"))
    assert (sensors.energy_joules(), sensors.energy_counter) == (5.0, True)
    assert sensors.facts() == {"driver": "570.1", "power_limit_watts": 700.0, "mig": True}


def test_a_board_without_a_counter_says_null(install: Any) -> None:
    install(nvml(TotalEnergyConsumption=None, PowerUsage=None))
    sensors = gpu_sensors("abc", 0)
    assert isinstance(sensors, Nvml)
    assert (sensors.energy_joules(), sensors.energy_counter) == (None, False)
    assert sensors.read() == Reading()


def test_without_nvml_and_nvidia_smi_nothing_is_known(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(None)
    monkeypatch.setenv("PATH", "")
    sensors = gpu_sensors("abc", 0)
    assert isinstance(sensors, Silent)
    assert (sensors.read(), sensors.energy_joules(), sensors.facts()) == (Reading(), None, {})


def test_a_gpu_that_cannot_be_told_from_its_neighbours_is_not_asked(
    install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(nvml(PowerUsage=1000))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-abc")
    assert isinstance(gpu_sensors(None, 0), Silent)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    found = gpu_sensors(None, 1)
    assert isinstance(found, Nvml)
    assert found._handle == 1


def test_nvidia_smi_is_read_and_not_asked_too_often() -> None:
    asked: list[str] = []
    answers = {
        "clocks.sm,temperature.gpu,power.draw,clocks_throttle_reasons.active": ["1980", "55", "412.5", "0x8"],
        "driver_version": ["570.1"],
        "memory.total": ["143771"],
        "power.limit": ["[N/A]"],
    }

    def ask(query: str) -> list[str] | None:
        asked.append(query)
        return answers.get(query)

    sensors = NvidiaSmi(ask)
    assert sensors.read() == sensors.read() == Reading(1980.0, 55.0, 412.5, ("hw_slowdown",))
    assert len(asked) == 1
    assert sensors.facts() == {"driver": "570.1", "memory_bytes": 143771 * 2**20}
    assert sensors.energy_joules() is None


def test_idleness_is_no_reason_to_throttle() -> None:
    assert reasons(0x1) == ()
    assert reasons(0x21) == ("sw_thermal_slowdown",)


def put(root: Path, name: str, text: object) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(f"{text}\n")


def test_rapl_is_summed_over_packages_and_wraps(tmp_path: Path) -> None:
    for i, name in enumerate(("package-0", "package-1", "psys")):
        put(tmp_path, f"class/powercap/intel-rapl:{i}/name", name)
        put(tmp_path, f"class/powercap/intel-rapl:{i}/energy_uj", 3_000_000)
        put(tmp_path, f"class/powercap/intel-rapl:{i}/max_energy_range_uj", 10_000_000)
    sensors = CpuSensors(tmp_path)
    assert (sensors.energy_counter, sensors.energy_joules()) == (True, 6.0)
    put(tmp_path, "class/powercap/intel-rapl:0/energy_uj", 1_000_000)  # 3 -> 10 -> 1
    assert sensors.energy_joules() == pytest.approx(14.0)


def test_a_cpu_shows_clock_temperature_and_throttling_where_linux_does(tmp_path: Path) -> None:
    for cpu, khz in ((0, 3_000_000), (1, 2_000_000)):
        put(tmp_path, f"devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", khz)
        put(tmp_path, f"devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq", 3_500_000)
        put(tmp_path, f"devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count", 7)
    put(tmp_path, "class/thermal/thermal_zone0/type", "x86_pkg_temp")
    put(tmp_path, "class/thermal/thermal_zone0/temp", 71_000)
    sensors = CpuSensors(tmp_path)
    assert sensors.facts() == {"max_sm_clock_mhz": 3500.0}
    assert sensors.read() == Reading(2500.0, 71.0)
    put(tmp_path, "devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", 8)
    assert sensors.read().throttle == ("thermal",)
    assert sensors.read().throttle == ()


def test_a_virtual_machine_shows_nothing(tmp_path: Path) -> None:
    sensors = CpuSensors(tmp_path)
    assert (sensors.read(), sensors.energy_joules(), sensors.facts()) == (Reading(), None, {})


def looked(*readings: Reading) -> Conditions:
    conditions = Conditions(FakeSensors(*readings), every_s=0.0)
    for _ in readings:
        conditions()
    return conditions


def test_a_power_cap_is_recorded_and_disturbs_nothing() -> None:
    conditions = looked(Reading(1980, 50, 650, ("sw_power_cap",)), Reading(1900, 52, 700, ("sw_power_cap",)))
    assert conditions.disturbance() == ""
    assert conditions.clock_mhz == 1940
    assert conditions.facts() == {
        "clock_low_mhz": 1900,
        "clock_high_mhz": 1980,
        "temperature_c": 52,
        "throttle": ["sw_power_cap"],
    }


def test_a_clock_that_rises_has_not_dropped() -> None:
    assert looked(Reading(345), Reading(1980), Reading(1950)).disturbance() == ""
    assert looked(Reading(1980), Reading(1200)).disturbance() == "clock dropped from 1980 to 1200 MHz"


def test_unknown_conditions_are_absent() -> None:
    conditions = looked(Reading())
    assert (conditions.clock_mhz, conditions.facts(), conditions.disturbance()) == (None, {}, "")
