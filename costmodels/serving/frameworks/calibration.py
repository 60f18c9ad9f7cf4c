"""What an engine takes beyond its kernels, per framework, fitted to public end-to-end runs (``calibration.yaml``).

A step of a framework is modelled as

    T = Σ factor(operation) · kernels(operation) + host
    host = step + layers · layer + sequences · sequence            (a step without prompts)
    host = prompt_step + layers · prompt_layer                     (a step with prompts)

and the time to the first token as what the steps give, plus the request's own way through the front end:

    front = request + tokens · token + concurrency · waiting + steps · TPOT

The factors say how far kernels overlap, fuse or fall short of what they take alone; the last term is that a request is
looked for, and its first token handed out, between steps. Public runs come from campaigns that differ in releases and
flags; these are the constants of the first of them, partially pooled with the others. Written by
``python -m tests.benchmarks.silicon calibrate``, which also holds out whole models and whole GPU types.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from costmodels.estimates import Floats, Ints
from costmodels.operations.registry import families
from costmodels.serving.frameworks.facts import Drift
from profiles.shipped import shipped

Part = Literal["gemm", "attention_prefill", "attention_decode", "moe", "moe_prompts", "communication", "elementwise"]


_NO_KERNELS = ("communication", "elementwise")  # have factors, too


class Spread(BaseModel):
    """The 80 % interval of log(measured ÷ predicted) on models and GPU types held out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float
    high: float

    def drifted(self, half_width: float) -> Spread:
        """Wider by an independent error of ``half_width`` (log, 80 %) on either side."""
        return Spread(low=-math.hypot(min(self.low, 0.0), half_width), high=math.hypot(max(self.high, 0.0), half_width))


class Calibration(BaseModel):
    """Constants of one framework; the module's docstring has the formulas. Times in µs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    factors: dict[Part, float]
    step_us: float
    step_us_per_layer: float
    step_us_per_sequence: float = Field(ge=0)
    prompt_step_us: float = Field(ge=0)
    prompt_step_us_per_layer: float = Field(ge=0)
    request_us: float = Field(ge=0)
    request_us_per_token: float = Field(ge=0)
    request_us_per_concurrent: float = Field(ge=0)
    request_steps: float = Field(ge=0)
    acceptance: float = Field(ge=0, lt=1)  # of each drafted token, given that those before it were accepted
    ttft: Spread
    tpot: Spread
    e2e: Spread
    rows: int  # distinct measurements behind the constants
    fitted_on: str
    date: str

    def drifted(self, drift: Drift, times: int) -> Calibration:
        """The same constants, less sure by ``drift``, so many times over (independent errors)."""
        if times == 0:
            return self
        spreads = {
            name: getattr(self, name).drifted(math.sqrt(times) * getattr(drift, name))
            for name in ("ttft", "tpot", "e2e")
        }
        return self.model_copy(update=spreads)

    def factor(self, operation: str, prompts: Ints) -> Floats:
        """By how much the kernels of ``operation`` (or ``communication``, ``elementwise``) are multiplied in steps
        with so many ``prompts``, shape [n]. Experts have a factor of their own in steps with prompts."""
        part = operation if operation in _NO_KERNELS else families().kernel(operation).factor
        if not part:
            return np.ones(len(prompts))
        plain = np.full(len(prompts), self.factors[part], np.float64)  # type: ignore[index]
        if part != "moe":
            return plain
        mixed: Floats = np.where(prompts > 0, self.factors["moe_prompts"], plain)
        return mixed

    def host_us(self, layers: int, sequences: Ints, prompts: Ints) -> Floats:
        """The host's share of each step, shape [n]; at least zero."""
        plain = self.step_us + layers * self.step_us_per_layer + sequences * self.step_us_per_sequence
        prompt = self.prompt_step_us + layers * self.prompt_step_us_per_layer
        host: Floats = np.asarray(np.maximum(np.where(prompts > 0, prompt, plain), 0.0), dtype=np.float64)
        return host

    def front_us(self, prompt_tokens: Floats, concurrency: Floats, tpot_us: Floats) -> Floats:
        """What a request waits outside the engine's steps, shape [n]."""
        front: Floats = (
            self.request_us
            + self.request_us_per_token * prompt_tokens
            + self.request_us_per_concurrent * concurrency
            + self.request_steps * tpot_us
        )
        return front

    def tokens_per_step(self, drafted: Ints) -> Floats:
        """Tokens that a decode step yields when ``drafted`` are drafted: 1 + a + a² + …"""
        a = self.acceptance
        tokens: Floats = np.asarray((1 - a ** (np.asarray(drafted) + 1.0)) / (1 - a), dtype=np.float64)
        return tokens


NOTHING = Spread(low=0.0, high=0.0)

NEUTRAL = Calibration(
    factors=dict.fromkeys(get_args(Part), 1.0),
    step_us=0,
    step_us_per_layer=0,
    step_us_per_sequence=0,
    prompt_step_us=0,
    prompt_step_us_per_layer=0,
    request_us=0,
    request_us_per_token=0,
    request_us_per_concurrent=0,
    request_steps=0,
    acceptance=0,
    ttft=NOTHING,
    tpot=NOTHING,
    e2e=NOTHING,
    rows=0,
    fitted_on="nothing: kernels alone",
    date="",
)
"""The kernels alone: what constants are fitted on top of."""


def calibrations(folder: Path) -> dict[str, Calibration]:
    """By framework, as ``calibration.yaml`` in ``folder`` has them.

    Raises:
        DataError: the file is broken.
    """
    return shipped(
        folder / "calibration.yaml",
        lambda document: {name: Calibration(**fields) for name, fields in document.items()},
    )
