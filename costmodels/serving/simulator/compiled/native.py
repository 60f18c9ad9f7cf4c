"""The event loop as machine code (:mod:`costmodels.native.kept`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from costmodels.native.kept import Loop
from costmodels.serving.simulator.compiled.state import (
    BUSY,
    FULL,
    NOW,
    SAMPLED,
    STEPS,
    Array,
    Curve,
    Seen,
    Sent,
    Spec,
    State,
)

_SAMPLES = 64
"""That there is room for at first."""


def _function() -> Callable[..., int]:
    from costmodels.serving.simulator.compiled.loop import loop  # deferred: the compiler

    return loop


_LOOP = Loop("loop", list(Path(__file__).parent.glob("*.py")), _function)


def run(
    spec: Spec, through: Curve, slowest: Curve, asked: Sent, seen: Seen, s: State
) -> tuple[int, float, float, int, Array]:
    """(how it ended, when, µs in steps, steps, samples) and ``seen``."""
    samples, how = np.zeros((_SAMPLES, 8)), FULL
    while True:
        how = _LOOP(spec, through, slowest, asked, seen, s, samples)
        taken = int(s.n[SAMPLED])
        if how != FULL:
            return how, float(s.clock[NOW]), float(s.clock[BUSY]), int(s.n[STEPS]), samples[:taken]
        samples = np.concatenate((samples, np.zeros_like(samples)))
