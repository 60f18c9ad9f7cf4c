"""Machines that are not there: sensors, devices and benchmarks that do what a test tells them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from profiles.collect.devices import Device
from profiles.collect.points import Point, Prepared
from profiles.collect.sensors import Reading


class FakeSensors:
    """Gives the readings in turn, the last one for ever; energy grows by ``step`` joules a look."""

    name = "fake"

    def __init__(self, *readings: Reading, step: float | None = None) -> None:
        self.readings = list(readings) or [Reading()]
        self.step = step
        self.energy_counter = step is not None
        self.energy = 0.0

    def read(self) -> Reading:
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]

    def energy_joules(self) -> float | None:
        if self.step is None:
            return None
        self.energy += self.step
        return self.energy

    def facts(self) -> dict[str, Any]:
        return {}


def a_device(sensors: FakeSensors | None = None, **changes: Any) -> Device:
    """A CPU whose cache is so small that flushing it takes no time."""
    given: dict[str, Any] = {
        "kind": "cpu",
        "indices": (0, 1),
        "name": "Test CPU",
        "capability": None,
        "sm_count": 2,
        "memory_bytes": 2**30,
        "l2_bytes": 2**16,
        "versions": {"torch": "2.9", "cuda": None, "driver": None, "nccl": None},
        "sensors": sensors or FakeSensors(),
    }
    return Device(**{**given, **changes})


def gemm(m: int, n: int = 8, k: int = 8, dtype: str = "bf16") -> Point:
    return Point("gemm", dtype, {"m": m, "n": n, "k": k})


class FakeBenchmark:
    """Runs ``run(point)``; refuses the precisions that it is told to."""

    operation = "gemm"

    def __init__(self, run: Callable[[Point], Any] = lambda _: None, refuses: tuple[str, ...] = ()) -> None:
        self.run = run
        self.refuses = refuses
        self.prepared: list[Point] = []
        self.closed = 0

    def unsupported(self, device: Device, point: Point) -> str | None:
        return f"no {point.dtype} here" if point.dtype in self.refuses else None

    def prepare(self, device: Device, point: Point) -> Prepared:
        self.prepared.append(point)
        return Prepared(lambda: self.run(point), "fake", "torch", "2.9", 1e3, 1e3, rotate=False)

    def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
        for m in (1, 2, 4):
            for dtype in precisions:
                yield gemm(m, dtype=dtype)

    def close(self) -> None:
        self.closed += 1
