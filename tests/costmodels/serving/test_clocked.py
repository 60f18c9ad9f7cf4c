"""Clocks and power limits are two levers: a limit leaves alone what does not reach it, a clock slows every step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from costmodels.estimates import Estimates
from costmodels.power.board import Activity, step_watts
from costmodels.power.response import clock_response
from costmodels.power.state import OperatingState
from costmodels.serving.clocked import at_state
from costmodels.serving.step import StepTimes
from profiles.errors import InputError, Unsupported
from profiles.hardware import find_gpu
from tests.costmodels.measured_response import MeasuredResponse

GPU = find_gpu("H200")


@pytest.fixture
def steps() -> StepTimes:
    """A prefill and a decode step, µs."""
    latency = Estimates(
        np.array([100e3, 10e3]), np.array([90e3, 9e3]), np.array([110e3, 11e3]), np.zeros(2, np.int8), np.ones(2, bool)
    )
    one = np.ones(2)
    return StepTimes(
        latency,
        latency,
        {"gemm": latency.value},
        np.array([80e3, 0.5e3]),
        np.array([10e3, 4e3]),
        0 * one,
        0 * one,
        0 * one,
        one,
        np.inf * one,
        0 * one,
    )


def test_a_clock_slows_every_step_prefill_more(steps: StepTimes) -> None:
    slow = at_state(steps, GPU, OperatingState(clock_mhz=990), clock_response(GPU.name))
    factor = slow.latency.value / steps.latency.value
    assert 1 < factor[1] < factor[0] < 2
    watts, free = (step_watts(GPU, Activity.of(each)).value for each in (slow, steps))
    assert (watts < free).all()


def test_a_limit_leaves_alone_what_does_not_reach_it(steps: StepTimes) -> None:
    free = step_watts(GPU, Activity.of(steps)).value
    assert free[1] < 600 < free[0]
    capped = at_state(steps, GPU, OperatingState(cap_watts=600), clock_response(GPU.name))
    assert capped.latency.value[1] == steps.latency.value[1]
    assert capped.latency.value[0] > steps.latency.value[0]
    assert step_watts(GPU, Activity.of(capped)).value == pytest.approx([600, free[1]], rel=1e-6)


def test_the_highest_clock_changes_nothing(steps: StepTimes) -> None:
    same = at_state(steps, GPU, OperatingState(clock_mhz=1980, cap_watts=700), clock_response(GPU.name))
    assert np.allclose(same.latency.value, steps.latency.value)
    assert np.allclose(same.hot, 1)


def test_ends_are_wider_on_a_gpu_that_was_not_measured(steps: StepTimes) -> None:
    state = OperatingState(clock_mhz=990)
    ratios = []
    for gpu in (GPU, find_gpu("H100")):
        slow = at_state(steps, gpu, state, clock_response(gpu.name))
        ratios.append(slow.latency.high / slow.latency.low)
    assert (ratios[1] > ratios[0]).all()
    assert not clock_response("H100-SXM").measured


def test_a_mixture_of_capped_steps_stays_under_the_limit(steps: StepTimes) -> None:
    capped = at_state(steps, GPU, OperatingState(cap_watts=450), clock_response(GPU.name))
    parts = [(Activity.of(replace(capped).take(np.array([i]))), np.array([share])) for i, share in ((0, 0.3), (1, 0.7))]
    assert step_watts(GPU, Activity.mixed(parts)).value[0] <= 450


@pytest.mark.parametrize(
    ("clock", "cap", "said"),
    [
        ("2000MHz", "", "2000 MHz is outside"),
        ("1401", "", "between two steps"),
        ("fast", "", "'fast' is not understood"),
        ("", "100W", "100 W is outside"),
        ("", "0.9kW", "900 W is outside"),
    ],
)
def test_what_cannot_be_set_is_named(clock: str, cap: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        OperatingState.asked(clock, cap, GPU)


def test_units_are_read_and_a_gpu_without_facts_is_refused() -> None:
    assert OperatingState.asked("1.5GHz", "0.5 kW", GPU) == OperatingState(1500, 500.0)
    assert OperatingState.asked("", "", GPU) is None
    with pytest.raises(Unsupported, match="no known range"):
        OperatingState.asked("1000", "", find_gpu("L4"))


def test_two_points_of_an_engine_give_those_between() -> None:
    """RTX PRO 6000, Qwen3.6-27B at 32 users (Light-Heart-Labs/MMBT-Messy-Model-Bench-Tests, 2026-04-29)."""
    engine = MeasuredResponse.of(80.0, (1351.5, 573.0, 2696.0), (1033.5, 298.7, 1144.0))
    rate, watts = engine.at_cap(np.array([500.0, 400.0, 350.0]))
    assert rate == pytest.approx([1336.5, 1320.5, 1201.5], rel=0.11)
    assert watts == pytest.approx([497.5, 398.5, 348.3], rel=0.02)


def test_the_host_does_not_follow_the_clock(steps: StepTimes) -> None:
    half = np.array([0.0, 0.5]) * steps.latency.value
    hosted = replace(steps, parts={"gemm": steps.latency.value - half, "host": half})
    state, response = OperatingState(clock_mhz=990), clock_response(GPU.name)
    slow, free = at_state(hosted, GPU, state, response), at_state(steps, GPU, state, response)
    assert slow.latency.value[0] == free.latency.value[0]
    longer, whole = (each.latency.value[1] - steps.latency.value[1] for each in (slow, free))
    assert longer == pytest.approx(whole / 2)
    assert slow.parts["host"] == pytest.approx(half)
    assert sum(slow.parts.values()) == pytest.approx(slow.latency.value)
