"""Power: from the counter where there is one, from samples otherwise, and never invented."""

from __future__ import annotations

from typing import Any

import pytest
from machines import FakeSensors, a_device

from profiles.collect import power
from profiles.collect.points import Prepared, Timing
from profiles.collect.power import PowerMeter, PowerPlan
from profiles.collect.sensors import Reading


class Clock:
    """Time that passes when somebody works or sleeps: 10 ms a call."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(power, "time", fake)
    return fake


def busy(clock: Clock, **changes: Any) -> Prepared:
    def run() -> None:
        clock.now += 0.01

    return Prepared(run, "fake", "torch", "2.9", 1.0, 1.0, **changes)


class Counter(FakeSensors):
    """A counter that ticks every 100 ms, of a device that draws ``watts``, at a temperature that rises to 60 °C."""

    def __init__(self, clock: Clock, watts: float, warms_for_s: float = 5.0) -> None:
        super().__init__(step=1.0)
        self.clock, self.watts, self.warms_for_s = clock, watts, warms_for_s

    def energy_joules(self) -> float | None:
        return round(self.clock.now, 6) // 0.1 * 0.1 * self.watts if hasattr(self, "clock") else 0.0

    def read(self) -> Reading:
        return Reading(temperature_c=min(60.0, 40 + 20 * self.clock.now / self.warms_for_s))


def test_the_counter_gives_the_mean_power_between_two_ticks(clock: Clock) -> None:
    found = PowerMeter(a_device(Counter(clock, 500.0))).measure(busy(clock), 1e4)
    assert found is not None
    assert found.watts == pytest.approx(500, rel=0.01)
    assert found.method == "energy_counter"
    assert found.seconds >= power.LOOP_S
    assert found.steady is True
    assert clock.now >= power.STEADY_S + power.LOOP_S


def test_a_device_that_never_gets_steady_is_measured_and_marked(clock: Clock) -> None:
    found = PowerMeter(a_device(Counter(clock, 500.0, warms_for_s=100.0))).measure(busy(clock), 1e4)
    assert found is not None
    assert found.steady is False
    assert clock.now < power.STEADY_CAP_S + 2 * power.LOOP_S


def test_a_counter_that_stands_still_gives_nothing(clock: Clock) -> None:
    assert PowerMeter(a_device(Counter(clock, 0.0))).measure(busy(clock), 1e4) is None


def test_samples_stand_in_for_a_counter(clock: Clock) -> None:
    readings = [Reading(power_watts=300.0 if i % 2 else 400.0) for i in range(2000)]
    meter = PowerMeter(a_device(FakeSensors(*readings)))
    assert meter.method == "power_samples"
    found = meter.measure(busy(clock), 1e4)
    assert found is not None
    assert found.watts == pytest.approx(350, abs=1)
    assert found.steady is None
    assert found.samples > 100


def test_where_nothing_tells_power_it_is_null(clock: Clock) -> None:
    meter = PowerMeter(a_device(FakeSensors()))
    assert (meter.method, meter.idle(), meter.measure(busy(clock), 1e4)) == (None, None, None)


def test_other_processes_power_is_not_read(clock: Clock) -> None:
    own = Timing(1.0, 1.0, 1.0, 5, 0.0, 0, "ranks")
    meter = PowerMeter(a_device(Counter(clock, 500.0)))
    assert meter.measure(busy(clock, timed=lambda _: own), 1e4) is None


def test_idle_power_needs_no_load(clock: Clock) -> None:
    found = PowerMeter(a_device(Counter(clock, 90.0))).idle()
    assert found is not None
    assert found.watts == pytest.approx(90, rel=0.01)
    assert found.seconds >= power.IDLE_S


def test_one_point_stands_for_its_bucket_and_power_takes_a_third_of_the_time(clock: Clock) -> None:
    plan = PowerPlan(PowerMeter(a_device(Counter(clock, 500.0))))
    assert plan.measure(("a",), busy(clock), 1e4, left_s=300.0) is not None
    assert plan.measure(("a",), busy(clock), 1e4, left_s=300.0) is None
    taken = 0
    for name in range(100):
        taken += plan.measure((name,), busy(clock), 1e4, left_s=300.0 - clock.now) is not None
    assert taken > 3
    assert plan.spent_s <= 300 * PowerPlan.SHARE


def test_power_is_not_begun_where_it_does_not_fit(clock: Clock) -> None:
    plan = PowerPlan(PowerMeter(a_device(Counter(clock, 500.0))))
    assert plan.measure(("a",), busy(clock), 1e4, left_s=5.0) is None
    assert clock.now == 0.0
