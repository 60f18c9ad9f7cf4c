"""Board power of a GPU that runs engine steps, by the work of tensor cores and memory, and between steps.

``board.yaml`` has the formula, its constants and their sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from costmodels.estimates import Estimates, Floats
from costmodels.facts import read_numbers
from costmodels.origins import ROOFLINE
from profiles.hardware import Gpu

_BEND = 10.0
"""How sharply power bends to its limit (the power of a p-norm)."""

TIMES = ("compute", "memory", "exchange", "waits")
SHARES = (*TIMES, "filled")
"""Of an :class:`Activity`, those of time first."""

METERED = ("hopper", "ampere")
"""Generations of which serving was metered."""


@dataclass(frozen=True)
class PowerFacts:
    """See ``board.yaml``."""

    base: float
    memory: float
    filled: float
    compute: float
    rest: float
    reference_bandwidth_per_watt: float
    bandwidth_exponent: float
    memory_ampere: float
    compute_ampere: float
    context: float
    idle_error: float
    limit: float
    residual_low: float
    residual_high: float
    elsewhere_low: float
    elsewhere_high: float
    peak_1s: float
    peak_burst: float
    peak_burst_hopper: float
    limit_s: float


@cache
def power_facts() -> PowerFacts:
    return read_numbers(Path(__file__).parent / "board.yaml", PowerFacts)


class Timed(Protocol):
    """What is known of a step, µs, [n] each (:class:`costmodels.serving.step.StepTimes`)."""

    @property
    def latency(self) -> Estimates: ...
    @property
    def compute_us(self) -> Floats: ...
    @property
    def memory_us(self) -> Floats: ...
    @property
    def exchange_us(self) -> Floats: ...
    @property
    def waits_us(self) -> Floats: ...
    @property
    def filled(self) -> Floats: ...
    @property
    def hot(self) -> Floats: ...
    @property
    def most_watts(self) -> Floats: ...


@dataclass(frozen=True)
class Activity:
    """What a GPU does while steps run, shares of their time, [n] each.

    Attributes:
        compute, memory: that tensor cores and memory take at their peak.
        exchange: that GPUs exchange in. ``waits``: that layers of experts take beyond their kernels.
        filled: of the rows of tensor cores' tiles, those that hold a token.
        hot: watts above idle ÷ those at the highest clock. ``most_watts``: the board's limit.
    """

    compute: Floats
    memory: Floats
    exchange: Floats
    waits: Floats
    filled: Floats
    hot: Floats = field(default_factory=lambda: np.ones(1))
    most_watts: Floats = field(default_factory=lambda: np.full(1, np.inf))

    @classmethod
    def of(cls, step: Timed) -> Activity:
        time = np.maximum(step.latency.value, 1e-9)
        shares = {name: np.asarray(np.minimum(getattr(step, f"{name}_us") / time, 1.0)) for name in TIMES}
        return cls(**shares, filled=step.filled, hot=step.hot, most_watts=step.most_watts)

    @classmethod
    def mixed(cls, parts: Sequence[tuple[Activity, Floats]]) -> Activity:
        """Of kinds of step that each take a share [n] of the time."""
        whole = np.maximum(np.sum([share for _, share in parts], axis=0), 1e-12)
        shares = {
            name: np.asarray(np.sum([getattr(each, name) * share for each, share in parts], axis=0) / whole)
            for name in SHARES
        }
        # By the watts above idle that each would draw: a cool kind of step that is short cools little.
        drawn = [each.level * share for each, share in parts]
        hot = np.sum([each.hot * watts for (each, _), watts in zip(parts, drawn, strict=True)], axis=0)
        most = np.max([each.most_watts + 0.0 * share for each, share in parts], axis=0)
        mean_hot = np.asarray(hot / np.maximum(np.sum(drawn, axis=0), 1e-12))
        return cls(**shares, hot=mean_hot, most_watts=most)

    @property
    def level(self) -> Floats:
        """Watts above idle, as a share of what is left to the limit, before they bend to it."""
        facts = power_facts()
        work = facts.memory * self.memory + facts.compute * self.compute + facts.rest * self.waits
        return np.asarray(facts.base + facts.filled * self.filled + work)


def idle_loaded_watts(gpu: Gpu) -> float:
    """Of a GPU that holds a model and does nothing: its clocks stay up."""
    return gpu.idle_watts + power_facts().context * (gpu.tdp_watts - gpu.idle_watts)


def step_watts(gpu: Gpu, activity: Activity) -> Estimates:
    """Of one GPU while steps run, [n]."""
    return mean_watts(gpu, activity, np.ones(len(activity.compute)))


def ampere_level(memory: Floats, compute: Floats, of_memory: float, of_compute: float) -> Floats:
    """:attr:`Activity.level` on Ampere."""
    return np.asarray(of_memory * memory**0.75 + of_compute * compute**0.8)


def bent_to_limit(level: Floats) -> Floats:
    """A level as a share of what is left to the limit."""
    return np.asarray((np.maximum(level, 1e-9) ** -_BEND + 1) ** (-1 / _BEND))


def _at_work(gpu: Gpu, activity: Activity) -> Floats:
    """Share of a step in which a GPU does not wait for others' data; Ampere's law, of whole runs, has that within."""
    return np.asarray(1.0 - (0.0 if gpu.generation == "ampere" else activity.exchange))


def level_of(gpu: Gpu, activity: Activity) -> Floats:
    """By the law of its generation: :attr:`Activity.level`, on Hopper by what the memory reads."""
    facts = power_facts()
    if gpu.generation == "ampere":
        return ampere_level(activity.memory, activity.compute, facts.memory_ampere, facts.compute_ampere)
    if gpu.generation != "hopper":
        return activity.level
    bytes_per_watt = gpu.memory_bandwidth_bytes_per_s / gpu.tdp_watts
    more = (bytes_per_watt / facts.reference_bandwidth_per_watt) ** facts.bandwidth_exponent
    return np.asarray(activity.level + facts.memory * activity.memory * (more - 1))


def free_watts(gpu: Gpu, activity: Activity) -> Floats:
    """Of one GPU while steps run for less time than the board takes to hold its limit, [n]."""
    facts, idle = power_facts(), idle_loaded_watts(gpu)
    above = (facts.limit * gpu.tdp_watts - idle) * level_of(gpu, activity) * activity.hot
    burst = facts.peak_burst_hopper if gpu.generation == "hopper" else facts.peak_burst
    most = np.minimum(burst * gpu.tdp_watts, activity.most_watts) - idle
    return np.asarray(idle + np.minimum(above, most) * _at_work(gpu, activity))


def limit_watts(gpu: Gpu) -> float:
    """That a board holds."""
    return power_facts().limit * gpu.tdp_watts


def watts_by_window(gpu: Gpu, activity: Activity, running: Floats, window_s: float) -> Floats:
    """Of one GPU in windows of so many seconds one after the other, [n], arguments as of :func:`mean_watts`. A board
    holds its limit on average over ``limit_s``: shorter windows go beyond it, and below it when they did."""
    behind = round(power_facts().limit_s / window_s)
    if behind < 2 or np.isfinite(activity.most_watts).any():
        return mean_watts(gpu, activity, running).value
    idle, limit = idle_loaded_watts(gpu), limit_watts(gpu)
    watts = idle + running * (free_watts(gpu, activity) - idle)
    before, at = [idle] * behind, 0
    for i in range(len(watts)):
        watts[i] = min(watts[i], max(2 * limit - sum(before) / behind, idle))
        before[at], at = watts[i], (at + 1) % behind
    return np.asarray(watts)


def mean_watts(gpu: Gpu, activity: Activity, running: Floats) -> Estimates:
    """Of one GPU over time, [n].

    Args:
        activity: while steps run.
        running: share of the time in which they do.
    """
    facts, idle = power_facts(), idle_loaded_watts(gpu)
    level = level_of(gpu, activity)
    bent = bent_to_limit(level) * _at_work(gpu, activity)
    above = np.asarray((facts.limit * gpu.tdp_watts - idle) * bent * activity.hot)
    metered = gpu.generation in METERED
    low, high = (facts.residual_low, facts.residual_high) if metered else (facts.elsewhere_low, facts.elsewhere_high)
    most = np.minimum(facts.peak_1s * gpu.tdp_watts, activity.most_watts)

    def over_time(idle: float, error: float) -> Floats:
        watts = np.clip(loaded * np.exp(error), idle, most)
        return np.asarray(idle + running * (watts - idle))

    loaded = idle + above
    n = len(level)
    return Estimates(
        over_time(idle, 0.0),
        over_time(max(idle * np.exp(-facts.idle_error), gpu.idle_watts), low),
        over_time(idle * np.exp(facts.idle_error), high),
        np.full(n, ROOFLINE, np.int8),
        np.full(n, metered),
    )
