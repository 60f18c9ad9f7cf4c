"""Runs at a rate as a fit sees them: requests at random, played by the event simulator with the steps that stand, or
with slower ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from costmodels.estimates import Floats
from costmodels.serving.closed_loop.loop_grid import DECODE_LEVELS
from costmodels.serving.closed_loop.open_client import SETTLED, OpenLoad, played
from costmodels.serving.simulator.capacity import once_settled
from costmodels.serving.simulator.engine import Engine


@dataclass(frozen=True)
class RatePlay:
    """One run at a rate.

    Attributes:
        engine: with steps as the constants say that stand.
        levels: log of those steps (ms), without prompts and with (:func:`step_levels`).
    """

    engine: Engine
    load: OpenLoad
    levels: tuple[float, float]

    @property
    def coming_per_ms(self) -> float:
        return self.load.rate_rps / 1e3

    def statistics_ms(self, plain: float, prompts: float) -> Floats:
        """Mean and median of TTFT without the front end, and of TPOT, [4], with logarithms of steps without prompts
        and with as given."""
        by = [float(np.exp(each - stood)) for each, stood in zip((plain, prompts), self.levels, strict=True)]
        outcome, _ = played(replace(self.engine, table=self.engine.table.slower(*by)), self.load)
        seen = once_settled(outcome, SETTLED)
        values = [(seen.mean_us(metric), seen.percentile_us(metric, 0.5)) for metric in ("ttft", "tpot")]
        return np.array(values).ravel() / 1e3


def step_levels(decode_ms: Floats, prompt_ms: Floats) -> tuple[Floats, Floats]:
    """log of the steps without prompts and with, [n], over the levels of a grid that most of them are at."""
    return np.log(decode_ms[:, DECODE_LEVELS // 2 :]).mean(axis=1), np.log(prompt_ms).mean(axis=1)
