"""What an unlisted device is found to be: reported, measured, or said to be assumed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("torch")

from machines import a_device

from profiles.collect import detection
from profiles.collect.detection import detect
from profiles.collect.devices import Device, find_device
from profiles.collect.operations.work import work
from profiles.collect.points import Point, Prepared, Settings
from profiles.collect.power import Power
from profiles.collect.timing import TooLong
from profiles.descriptions import in_words, match, measured_type, type_name
from profiles.errors import InputError
from profiles.hardware import SHIPPED, Gpu

TODAY = "2026-01-02"


@pytest.fixture(scope="module")
def cpu() -> Device:
    found = find_device("cpu")
    return dataclasses.replace(found, measured=detect(found, TODAY))


def test_every_fact_that_a_description_needs_is_found_with_its_source(cpu: Device) -> None:
    gpu, node = measured_type(cpu.describe(), "here")
    needed = {name for name, field in Gpu.model_fields.items() if field.is_required()} - {"name", "full_name"}
    assert needed - {"sources", "vendor", "peak_flops"} <= set(cpu.measured)
    for name in ("peak_flops.bf16", "memory_bandwidth_bytes_per_s", "launch_us"):
        assert gpu.sources[name].startswith(f"measured on {TODAY}")
    for source in gpu.sources.values():
        assert "a data sheet" not in source
    assert 1e9 < gpu.peak_flops["bf16"] < 1e15
    assert 1e8 < gpu.memory_bandwidth_bytes_per_s < 1e13
    assert node.gpus == cpu.count
    assert gpu.name in in_words(gpu)[0]


def test_a_found_type_is_known_again_and_a_part_of_its_processor_is_another(cpu: Device) -> None:
    device = cpu.describe()
    known = SHIPPED.describing(*measured_type(device, "here"), "here")
    assert match(device, known) == known.find_gpu(type_name(device))
    assert match({**device, "sm_count": device["sm_count"] + 1}, known) is None
    assert match(device) is None


def test_a_run_that_does_not_fit_the_time_counts_once(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(*_: object) -> None:
        raise TooLong(0.5)

    monkeypatch.setattr(detection, "measure", slowly)
    found = detect(find_device("cpu"), TODAY)
    assert found["peak_flops.bf16"][0] == 2 * 1024**3 / 0.5


def test_a_device_on_which_nothing_runs_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(detection, "measure", broken)
    with pytest.raises(InputError, match="can be timed") as caught:
        detect(find_device("cpu"), TODAY)
    assert "--gpu-facts" in caught.value.hint


def test_what_no_sensor_tells_is_said_to_be_assumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(detection, "_rapl_limit_watts", lambda: None)
    monkeypatch.setattr("profiles.collect.power.PowerMeter.idle", lambda *_: None)
    found = detection._power(find_device("cpu"), TODAY)
    assert all(source.startswith("assumed") for _, source in found.values())
    assert detection._rapl_limit_watts.__name__ == "<lambda>"
    folder = tmp_path / "intel-rapl:0"
    folder.mkdir()
    (folder / "constraint_0_power_limit_uw").write_text("205000000")
    monkeypatch.undo()
    assert detection._rapl_limit_watts(tmp_path) == 205
    assert detection._rapl_limit_watts(tmp_path / "none") is None


def test_clock_and_cache_can_be_measured_where_nobody_reports_them() -> None:
    device = find_device("cpu")
    megahertz, source = detection._clock(device, TODAY)
    assert 100 < megahertz < 20_000
    assert "assumed" in source
    assert detection._cache_bytes(device, 1e30) == 2**20  # nothing outruns such a memory
    assert detection._cache_bytes(device, 1.0) == 2**27


def test_quick_settings_are_quick() -> None:
    assert detection.QUICK.cap_s < Settings().cap_s


@pytest.mark.parametrize(("between_gpus", "link"), [(300e9, "nvlink"), (50e9, "pcie")])
def test_an_unlisted_gpu_is_told_by_its_driver_and_by_what_it_does(
    monkeypatch: pytest.MonkeyPatch, between_gpus: float, link: str
) -> None:
    asked: list[str] = []

    def quick(device: Device, prepare: object, point: Point) -> tuple[Prepared, float]:
        asked.append(point.dtype)
        flops, moved = work(point)
        return Prepared(lambda: None, "k", "torch", "2", flops, moved), 1000.0

    monkeypatch.setattr(detection, "_quick", quick)
    monkeypatch.setattr(detection, "_copy_rate", lambda *_: between_gpus)
    rest = Power(70.0, 1.0, "energy_counter", True, 9)
    monkeypatch.setattr("profiles.collect.power.PowerMeter.idle", lambda *_: rest)
    told = {
        "max_sm_clock_mhz": 1980,
        "default_power_limit_watts": 700.0,
        "pcie_generation": 5,
        "pcie_lanes": 16,
    }
    gpu = a_device(
        kind="cuda",
        name="NVIDIA H900 90GB",
        capability=(9, 0),
        sm_count=140,
        memory_bytes=90 * 2**30,
        l2_bytes=50 * 2**20,
        facts=told,
    )
    found = detect(gpu, TODAY)
    made, node = measured_type(dataclasses.replace(gpu, measured=found).describe(), "here")
    assert (made.name, made.aliases, made.vendor) == ("H900-90GB", ("NVIDIA H900 90GB",), "nvidia")
    assert (made.generation, made.compute_capability) == ("hopper", 9.0)
    assert set(made.peak_flops) == {"bf16", "fp16", "fp8", "int8"} <= set(asked)
    assert made.peak_flops["bf16"] == 2 * 8192**3 / 1e-3
    assert (made.tdp_watts, made.idle_watts, made.boost_clock_mhz) == (700.0, 70.0, 1980)
    assert made.pcie_bytes_per_s == 64e9
    assert (made.scale_up_link, made.scale_up_bytes_per_s) == (link, between_gpus)
    assert (node.gpus, node.joined_by) == (2, None)
    assert not any(source.startswith("assumed") for source in made.sources.values())
    lonely = detect(dataclasses.replace(gpu, indices=(0,), facts={}), TODAY)
    assert lonely["scale_up_link"][0] == "pcie"
    assert lonely["tdp_watts"][1].startswith("assumed")
