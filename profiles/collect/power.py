"""Power under one operation, from the energy counter where there is one, else from power samples.

The operation runs back to back for at least a second, first until the temperature is steady, then while energy is
read. Sensors see less than they seem to: those of A100 and H100 average about 25 of every 100 ms (Yang, Adamek and
Armour, "Part-time Power Measurements", SC 2024, arXiv:2312.02741), so that only a load that looks the same all the
time is measured truly. A loop of equal runs does; a single short kernel does not, which is why power takes seconds a
point. Operands stay in the cache between runs of the loop, where they fit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from profiles.collect.devices import Device, import_torch
from profiles.collect.points import Prepared
from profiles.collect.timing import captured

LOOP_S = 2.0
IDLE_S = 3.0
STEADY_C, STEADY_S, STEADY_CAP_S = 1.0, 10.0, 30.0
"""The load is thermally steady when the temperature stayed within so many °C for so many seconds; the last is the
longest that this is waited for."""
_BATCH_S = 0.01
_SLEEP_S = 0.02


@dataclass(frozen=True)
class Power:
    """Mean power over a loop.

    Attributes:
        method: ``energy_counter`` or ``power_samples``.
        steady: whether the temperature was steady before the loop; None where nobody tells it.
        samples: readings that the mean is of, or ticks of the counter that were seen.
    """

    watts: float
    seconds: float
    method: str
    steady: bool | None
    samples: int


class PowerMeter:
    """Measures the power of ``device``. ``method`` is None where nothing on this machine tells it."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._sensors = device.sensors
        self.method: str | None = None
        if self._sensors.energy_counter:
            self.method = "energy_counter"
        elif self._sensors.read().power_watts is not None:
            self.method = "power_samples"

    def idle(self, seconds: float = IDLE_S) -> Power | None:
        """Power of the device at rest."""
        return self._mean(lambda: time.sleep(_SLEEP_S), seconds, steady=None)

    def measure(self, prepared: Prepared, run_us: float, *, seconds: float = LOOP_S) -> Power | None:
        """Power under ``prepared`` run back to back, or None where nothing tells it or the operation runs in
        other processes.

        Args:
            run_us: how long a run takes, about.
        """
        if self.method is None or prepared.timed is not None:
            return None
        with _load(self._device, prepared, run_us) as load:
            steady = self._settle(load)
            return self._mean(load, seconds, steady)

    def _settle(self, load: Callable[[], object]) -> bool | None:
        """Runs ``load`` until the temperature is steady; None where nobody tells the temperature."""
        began = time.monotonic()
        if self._sensors.read().temperature_c is None:
            while time.monotonic() - began < 1.0:
                load()
            return None
        seen: list[tuple[float, float]] = []
        while (now := time.monotonic()) - began < STEADY_CAP_S:
            load()
            heat = self._sensors.read().temperature_c
            if heat is not None:
                seen.append((now, heat))
            seen = [(at, value) for at, value in seen if at >= now - STEADY_S]
            values = [value for _, value in seen]
            if now - began >= STEADY_S and values and max(values) - min(values) <= STEADY_C:
                return True
        return False

    def _mean(self, load: Callable[[], object], seconds: float, steady: bool | None) -> Power | None:
        if self.method == "energy_counter":
            return self._from_counter(load, seconds, steady)
        if self.method == "power_samples":
            return self._from_samples(load, seconds, steady)
        return None

    def _from_counter(self, load: Callable[[], object], seconds: float, steady: bool | None) -> Power | None:
        """Between two ticks of the counter, so that its period (20–100 ms) does not count."""
        ticks: list[tuple[float, float]] = []
        last = self._sensors.energy_joules()
        deadline = time.monotonic() + seconds + 5.0
        while time.monotonic() < deadline:
            load()
            now, energy = time.monotonic(), self._sensors.energy_joules()
            if energy is None:
                return None
            if energy != last:
                ticks.append((now, energy))
                last = energy
            if ticks and ticks[-1][0] - ticks[0][0] >= seconds:
                (start, before), (end, after) = ticks[0], ticks[-1]
                return Power((after - before) / (end - start), end - start, "energy_counter", steady, len(ticks))
        return None  # the counter stands still

    def _from_samples(self, load: Callable[[], object], seconds: float, steady: bool | None) -> Power | None:
        began = time.monotonic()
        watts: list[float] = []
        while time.monotonic() - began < seconds:
            load()
            reading = self._sensors.read().power_watts
            if reading is not None:
                watts.append(reading)
        if not watts:
            return None
        return Power(sum(watts) / len(watts), time.monotonic() - began, "power_samples", steady, len(watts))


@contextlib.contextmanager
def _load(device: Device, prepared: Prepared, run_us: float) -> Iterator[Callable[[], object]]:
    """A call that keeps the device busy for about :data:`_BATCH_S`, without a gap between two calls."""
    runs = max(1, round(_BATCH_S * 1e6 / max(run_us, 1.0)))
    if device.kind == "cpu":

        def on_host() -> None:
            for _ in range(runs):
                prepared.run()

        yield on_host
        return
    torch = import_torch()
    with torch.cuda.device(device.index):
        inner = min(runs, 256) if prepared.capturable else 1
        graph = captured(inner, None, prepared.run) if prepared.capturable else None
        once = prepared.run if graph is None else graph.replay
        ahead: list[Any] = []

        def on_gpu() -> None:
            for _ in range(max(1, runs // inner)):
                once()
            done = torch.cuda.Event()
            done.record()
            ahead.append(done)
            if len(ahead) > 2:  # one batch runs while the next is queued
                ahead.pop(0).synchronize()

        try:
            yield on_gpu
        finally:
            torch.cuda.synchronize()
            if graph is not None:
                graph.reset()


class PowerPlan:
    """Which points power is measured of: one for each operation, precision and factor of two in arithmetic
    intensity and in duration, while it takes no more than :data:`SHARE` of the time."""

    SHARE = 1 / 3

    def __init__(self, meter: PowerMeter) -> None:
        self.meter = meter
        self.began = time.monotonic()
        self.spent_s = 0.0
        self._covered: set[tuple[object, ...]] = set()

    def measure(self, bucket: tuple[object, ...], prepared: Prepared, run_us: float, left_s: float) -> Power | None:
        """The power of a point that stands for a ``bucket`` not covered yet, or None."""
        cost_s = STEADY_S + LOOP_S
        affordable = self.spent_s + cost_s <= self.SHARE * (time.monotonic() - self.began + left_s)
        if bucket in self._covered or not affordable or cost_s > left_s:
            return None
        started = time.monotonic()
        power = self.meter.measure(prepared, run_us)
        self.spent_s += time.monotonic() - started
        if power is not None:
            self._covered.add(bucket)
        return power
