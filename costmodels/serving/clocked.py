"""Steps at another clock or under a power limit: t = a ÷ f + b, with a the part that follows the clock. What the host
takes of a step is in b: its own clock is another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from costmodels.estimates import Estimates, Floats
from costmodels.power.board import Activity, idle_loaded_watts, step_watts
from costmodels.power.response import ClockResponse, share_under_cap
from costmodels.power.state import OperatingState
from costmodels.serving.step import StepTimes
from profiles.hardware import Gpu


def at_state(times: StepTimes, gpu: Gpu, state: OperatingState, response: ClockResponse) -> StepTimes:
    """``times`` of steps at the highest clock as they are in ``state``. A limit is met step by step: one that never
    draws as much is left alone, while a lower clock slows every one. Neither slows the host."""
    prefill = _prefill_like(times)
    exponent = _blend(response, prefill, "exponent", 0)
    share, idle = np.full(len(prefill), state.clock_share(gpu)), idle_loaded_watts(gpu)
    above = step_watts(gpu, Activity.of(times)).value - idle
    if state.cap_watts is not None:
        share = np.minimum(share, share_under_cap(above + idle, idle, state.cap_watts, exponent))
    host = np.minimum(times.parts.get("host", np.zeros(len(prefill))) / np.maximum(times.latency.value, 1e-9), 1.0)
    slower = [(1.0 - host) * _blend(response, prefill, "clocked", end) * (1.0 / share - 1.0) + 1.0 for end in range(3)]
    kernels = _blend(response, prefill, "clocked", 0) * (1.0 / share - 1.0) + 1.0

    def longer(estimates: Estimates) -> Estimates:
        value, low, high = (
            getattr(estimates, name) * factor for name, factor in zip(("value", "low", "high"), slower, strict=True)
        )
        return replace(estimates, value=value, low=low, high=high)

    slowed = replace(
        times,
        latency=longer(times.latency),
        stage=longer(times.stage),
        parts={name: part if name == "host" else part * kernels for name, part in times.parts.items()},
        # Tensor cores take as much longer as the clock is lower, memory as long as ever, the others as kernels do.
        compute_us=np.minimum(times.compute_us / share, times.latency.value * slower[0]),
        exchange_us=times.exchange_us * kernels,
        waits_us=times.waits_us * kernels,
    )
    again = step_watts(gpu, Activity.of(slowed)).value - idle
    limit = times.most_watts if state.cap_watts is None else np.minimum(times.most_watts, state.cap_watts)
    return replace(slowed, hot=times.hot * above * share**exponent / np.maximum(again, 1e-9), most_watts=limit)


def _prefill_like(times: StepTimes) -> Floats:
    """How much each step is like prefill, 0 to 1: what tensor cores take of them and memory together."""
    return np.asarray(times.compute_us / np.maximum(times.compute_us + times.memory_us, 1e-9))


def _blend(response: ClockResponse, prefill: Floats, field: str, end: int) -> Floats:
    one, other = getattr(response.decode, field)[end], getattr(response.prefill, field)[end]
    return np.asarray(one + (other - one) * prefill)
