"""Board power of a GPU that runs engine steps, by how busy tensor cores and memory are, and between steps.

``board.yaml`` has the formula, its constants and their sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

METERED = ("hopper", "ampere")
"""Generations of which serving was metered."""


@dataclass(frozen=True)
class PowerFacts:
    """See ``board.yaml``."""

    base: float
    memory: float
    compute: float
    rest: float
    rest_ampere: float
    context: float
    idle_error: float
    limit: float
    residual_low: float
    residual_high: float
    elsewhere_low: float
    elsewhere_high: float
    peak_250ms: float
    peak_1s: float


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
    def kernels_us(self) -> Floats: ...


@dataclass(frozen=True)
class Activity:
    """What a GPU does while steps run, shares of their time, [n] each.

    Attributes:
        compute, memory: that tensor cores and memory take at their peak.
        kernels: that all kernels and exchanges take as measured alone.
    """

    compute: Floats
    memory: Floats
    kernels: Floats

    @classmethod
    def of(cls, step: Timed) -> Activity:
        time = np.maximum(step.latency.value, 1e-9)
        return cls(*(np.minimum(part / time, 1.0) for part in (step.compute_us, step.memory_us, step.kernels_us)))

    @classmethod
    def mixed(cls, parts: Sequence[tuple[Activity, Floats]]) -> Activity:
        """Of kinds of step that each take a share [n] of the time."""
        whole = np.maximum(np.sum([share for _, share in parts], axis=0), 1e-12)
        return cls(
            *(
                np.asarray(np.sum([getattr(each, name) * share for each, share in parts], axis=0) / whole)
                for name in ("compute", "memory", "kernels")
            )
        )


def idle_loaded_watts(gpu: Gpu) -> float:
    """Of a GPU that holds a model and does nothing: its clocks stay up."""
    return gpu.idle_watts + power_facts().context * (gpu.tdp_watts - gpu.idle_watts)


def step_watts(gpu: Gpu, activity: Activity) -> Estimates:
    """Of one GPU while steps run, [n]."""
    return mean_watts(gpu, activity, np.ones(len(activity.compute)))


def mean_watts(gpu: Gpu, activity: Activity, running: Floats) -> Estimates:
    """Of one GPU over time, [n].

    Args:
        activity: while steps run.
        running: share of the time in which they do.
    """
    facts, idle = power_facts(), idle_loaded_watts(gpu)
    rest = facts.rest_ampere if gpu.generation == "ampere" else facts.rest
    level = (
        facts.base
        + facts.memory * activity.memory
        + facts.compute * np.sqrt(activity.compute)
        + rest * (1 - activity.kernels)
    )
    bent = (np.maximum(level, 1e-9) ** -_BEND + 1) ** (-1 / _BEND)
    above = np.asarray((facts.limit * gpu.tdp_watts - idle) * bent)
    metered = gpu.generation in METERED
    low, high = (facts.residual_low, facts.residual_high) if metered else (facts.elsewhere_low, facts.elsewhere_high)
    most = facts.peak_1s * gpu.tdp_watts

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
