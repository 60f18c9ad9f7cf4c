"""Closed loops that a table of runs asks for, and runs at a rate beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from costmodels.estimates import Ints
from costmodels.operations.layouts import Layouts
from costmodels.serving.calibration_fit.rate_play import RatePlay, step_levels
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.closed_loop.loop_grid import grid_questions
from costmodels.serving.closed_loop.open_client import SETTLED, OpenLoad, engines_of, played
from costmodels.serving.recipe import Started
from costmodels.serving.served_model import ServedModel
from costmodels.serving.simulator.capacity import once_settled
from costmodels.serving.simulator.outcome import Outcome
from profiles.errors import InputError


@dataclass(frozen=True)
class AskedLoops:
    """Closed loops of one served model.

    Attributes:
        rows: of the table that they are of, [n].
        at_rate: what came at a rate in place of a closed loop, of one row alone; ``load`` then says how many users are
            there on average.
    """

    served: ServedModel
    layouts: Layouts
    load: Load
    routing: str
    rows: Ints
    at_rate: RatePlay | None = None


def asked_at_rate(
    served: ServedModel, layout: Layouts, load: OpenLoad, kv_tokens: int, started: Started, row: int
) -> AskedLoops:
    """A row at a rate beside closed loops: its steps are those with as many users as are there on average.

    Raises:
        InputError: the engine does not keep up, and nothing says how many requests were sent.
    """
    (engine,) = engines_of(served, layout, load, kv_tokens, started, ("value",)).values()
    outcome, holds = played(engine, load)
    if not holds and load.requests is None:
        raise InputError(
            f"rate: {load.rate_rps:g} requests/s is more than this engine is said to serve "
            f"(about {outcome.rate_rps:.3g})",
            "give requests, how many were sent, so that they can be counted out",
        )
    users = np.array([max(round(_in_flight(outcome, load)), 1)])
    shape, budget = load.shape, np.array([started.max_num_batched_tokens])
    cached = shape.cached_tokens / shape.isl
    standing = Load.of(users, np.array([shape.isl]), np.array([shape.osl]), budget, users, 1.0, cached)
    asked = grid_questions(layout, users, standing, served.framework.scheduler)
    times = served.step(asked.layouts, asked.batch, shape.routing)
    grid = asked.grid(times.latency.value, times.stage.value)
    levels = step_levels(grid.decode_us / 1e3, grid.prefill_us / 1e3)
    play = RatePlay(engine, load, (float(levels[0][0]), float(levels[1][0])))
    standing = replace(standing, generations=np.ones(1, np.int64))
    return AskedLoops(served, layout, standing, shape.routing, np.array([row]), play)


def _in_flight(outcome: Outcome, load: OpenLoad) -> float:
    seen = once_settled(outcome, SETTLED)
    return float(min(load.rate_rps * seen.mean_us("e2e") / 1e6, len(outcome)))
