"""Measures the response of a GPU to its clock: the products of :mod:`profiles.collect.response` at each clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from profiles.collect.clocks import ClockLock
from profiles.collect.conditions import Conditions
from profiles.collect.devices import Device
from profiles.collect.points import Point, Settings
from profiles.collect.power import PowerMeter
from profiles.collect.response import SECONDS_A_POINT, SHAPES, ResponsePoint, fitted, keep, points
from profiles.collect.sensors import driver_index
from profiles.errors import InputError, Unsupported
from profiles.hardware import Gpu
from profiles.settable import check_clock


def check(device: Device, gpu: Gpu, clocks: tuple[int, ...], budget_s: float) -> None:
    """Raises InputError where the clocks of ``device`` cannot be set so, or not within the budget; Unsupported where
    nobody has said what its type takes."""
    for mhz in clocks:
        check_clock(gpu, mhz, "--clocks")
    needed = SECONDS_A_POINT * len(clocks) * sum(len(shapes) for shapes in SHAPES.values())
    if needed > budget_s:
        raise InputError(
            f"--clocks: {len(clocks)} clocks take about {needed:.0f} s, and do not fit --budget of {budget_s:.0f} s",
            "raise --budget, or give fewer clocks",
        )
    if driver_index(device.index) is None:
        raise InputError(
            "--clocks: CUDA_VISIBLE_DEVICES hides which GPU of the driver's it is", "name GPUs there by their numbers"
        )


def measure_response(
    device: Device,
    gpu: Gpu,
    clocks: tuple[int, ...],
    settings: Settings,
    folder: Path,
    source: str,
    date: str,
    say: Callable[[str], None],
) -> Path:
    """Locks each clock in turn, measures, unlocks, and keeps the fit in ``folder``; what it wrote.

    Raises:
        InputError: the user may not set clocks.
        Unsupported: the products do not run, or nothing tells the clock.
    """
    from profiles.collect.operations import benchmarks
    from profiles.collect.timing import measure

    benchmark, meter = benchmarks()["gemm"], PowerMeter(device)
    idle = None if meter.method is None else meter.idle()
    set_to: list[int] = []

    def at(phase: str, shape: tuple[int, int, int], mhz: int) -> ResponsePoint:
        if set_to[-1:] != [mhz]:
            lock.set(mhz)
            set_to.append(mhz)
            say(f"locked at {mhz} MHz")
        point = Point("gemm", "bf16", dict(zip("mnk", shape, strict=True)))
        why = benchmark.unsupported(device, point)
        if why is not None:
            raise Unsupported(f"--clocks: {why}", "leave --clocks out")
        prepared = benchmark.prepare(device, point)
        try:
            conditions = Conditions(device.sensors)
            timing = measure(device, prepared, settings, conditions)
            power = meter.measure(prepared, timing.median_us)
        finally:
            if prepared.close is not None:
                prepared.close()
        read = conditions.clock_mhz
        return ResponsePoint(
            phase, shape, float(mhz if read is None else read), timing.median_us, None if power is None else power.watts
        )

    try:
        with ClockLock(str(driver_index(device.index)), device.name, device.sensors.read().throttle) as lock:
            found = points(clocks, at)
    finally:
        benchmark.close()
    fit = fitted(found, None if idle is None else idle.watts, float(max(clocks)))
    return keep(folder, gpu.name, fit, found, source, date)
