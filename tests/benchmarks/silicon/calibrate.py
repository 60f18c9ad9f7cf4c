"""Fits the constants of :mod:`costmodels.serving.calibration` to measured rows, and holds out groups of them.

Robust least squares (soft L1) on the logarithms of TPOT and TTFT. The closed loop is not differentiated: for a given
order of events both are linear in the times of the two kinds of step, and the loop says how much of each was spent in
steps with prompts. A few rounds of playing the loop and fitting with its shares converge. Priors keep factors at 1 and
overheads near zero, where the rows say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from costmodels.estimates import Floats, Ints
from costmodels.serving.calibration import NEUTRAL, Calibration, Spread
from costmodels.serving.closed_loop import Gate, StepGrid, closed_loop
from tests.benchmarks.silicon.asked import DECODE_LEVELS, PARTS, Asked

FACTORS = (*PARTS, "moe_prompts")
# name, start, prior half-width, least, most; times in ms but per-token and per-sequence ones
CONSTANTS = (
    ("step", 0.3, 0.5, -0.3, np.inf),
    ("step_per_layer", 0.0, 0.004, 0.0, np.inf),
    ("step_per_sequence", 0.002, 0.005, 0.0, np.inf),
    ("prompt_step", 1.0, 5.0, 0.0, np.inf),
    ("prompt_step_per_layer", 0.02, 0.05, 0.0, 0.2),
    ("request", 10.0, 30.0, 0.0, np.inf),
    ("request_per_token", 0.005, 0.01, 0.0, np.inf),
    ("request_per_concurrent", 0.1, 0.3, 0.0, np.inf),
    ("request_steps", 1.0, 3.0, 0.0, np.inf),
    ("acceptance", 0.6, 0.2, 0.0, 0.95),
)
NAMES = (*FACTORS, *(name for name, *_ in CONSTANTS))
START = np.array([0.0] * len(FACTORS) + [entry[1] for entry in CONSTANTS])
FACTOR_WIDTH = 0.1  # prior half-width (log) of the factors
WIDTH = np.array([FACTOR_WIDTH] * len(FACTORS) + [entry[2] for entry in CONSTANTS])
LEAST = np.array([-1.5] * len(FACTORS) + [entry[3] for entry in CONSTANTS])
MOST = np.array([1.5] * len(FACTORS) + [entry[4] for entry in CONSTANTS])

NOISE = 0.12  # log error from which a row counts linearly, not squared
TTFT_WEIGHT = 0.7  # against TPOT: repeats of one configuration differ more in it
PRIOR_WEIGHT = 0.02  # of all priors together, per residual
ROUNDS = 3

X = Floats


@dataclass(frozen=True)
class Played:
    """The loop of some rows: means in ms, and the share of each spent in steps with prompts."""

    ttft_ms: Floats
    tpot_ms: Floats
    ttft_prompts: Floats
    tpot_prompts: Floats
    decode_ms: Floats
    prompt_ms: Floats

    def take(self, index: Ints) -> Played:
        return Played(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def _value(x: X, name: str) -> float:
    return float(x[NAMES.index(name)])


def _factors(x: X, *, prompts: bool) -> Floats:
    """Of :data:`PARTS`."""
    names = ["moe_prompts" if prompts and part == "moe" else part for part in PARTS]
    return np.exp([_value(x, name) for name in names])


def tokens_per_step(x: X, rows: Asked) -> Floats:
    a = _value(x, "acceptance")
    tokens: Floats = (1 - a ** (rows.table["drafted"].to_numpy() + 1.0)) / (1 - a)
    return tokens


def steps_ms(x: X, rows: Asked) -> tuple[Floats, Floats]:
    """(decode steps per token [n, decode levels], prompts [n, prompt levels]) in ms."""
    layers = rows.layers[:, None]
    decode = rows.parts_ms[:, :DECODE_LEVELS] @ _factors(x, prompts=False)
    host = _value(x, "step") + _value(x, "step_per_layer") * layers + _value(x, "step_per_sequence") * rows.decode_batch
    prompt = rows.parts_ms[:, DECODE_LEVELS:] @ _factors(x, prompts=True)
    prompt = prompt + _value(x, "prompt_step") + _value(x, "prompt_step_per_layer") * layers
    return (decode + np.maximum(host, 0.0)) / tokens_per_step(x, rows)[:, None], prompt * rows.chunks[:, None]


def front_ms(x: X, rows: Asked, tpot_ms: Floats) -> Floats:
    table = rows.table
    tokens = (table["isl"] * (1 + table["shortest"]) / 2).to_numpy()
    return (
        _value(x, "request")
        + _value(x, "request_per_token") * tokens
        + _value(x, "request_per_concurrent") * table["concurrency"].to_numpy()
        + _value(x, "request_steps") * tpot_ms
    )


def play(x: X, rows: Asked) -> Played:
    decode, prompt = steps_ms(x, rows)
    grid = StepGrid(rows.decode_batch, decode * 1e3, rows.prompts, prompt * 1e3, rows.chunks, rows.mixed)
    table = rows.table
    loop = closed_loop(
        grid,
        table["concurrency"].to_numpy(),
        rows.most_running,
        table["dp"].to_numpy(),
        table["osl"].to_numpy(),
        table["shortest"].to_numpy(),
        Gate(
            table["gate_steps"].to_numpy() * tokens_per_step(x, rows),
            table["gate_enough"].to_numpy(),
            table["gate_free_running"].to_numpy(),
        ),
    )
    return Played(
        np.nanmean(loop.ttft, axis=1) / 1e3,
        np.nanmean(loop.tpot, axis=1) / 1e3,
        loop.ttft_prefill,
        loop.tpot_prefill,
        decode,
        prompt,
    )


def predict_ms(x: X, rows: Asked) -> tuple[Floats, Floats]:
    """(TTFT, TPOT) in ms."""
    played = play(x, rows)
    return played.ttft_ms + front_ms(x, rows, played.tpot_ms), played.tpot_ms


def _adjust(x: X, rows: Asked, played: Played) -> X:
    """The constants that fit ``rows`` best while their events keep the order of ``played``."""
    ttft, tpot = (rows.table[name].to_numpy() for name in ("ttft_ms", "tpot_ms"))
    priors = np.sqrt(PRIOR_WEIGHT * 2 * len(rows)) / WIDTH

    def residuals(y: X) -> Floats:
        decode, prompt = steps_ms(y, rows)
        slower_decode = (decode / played.decode_ms)[:, 2:].mean(axis=1)  # at the batches that most steps have
        slower_prompt = (prompt / played.prompt_ms).mean(axis=1)
        per_token = played.tpot_ms * ((1 - played.tpot_prompts) * slower_decode + played.tpot_prompts * slower_prompt)
        first = played.ttft_ms * ((1 - played.ttft_prompts) * slower_decode + played.ttft_prompts * slower_prompt)
        first = first + front_ms(y, rows, per_token)
        return np.concatenate(
            [
                np.log(per_token / tpot) / NOISE,
                TTFT_WEIGHT * np.log(np.maximum(first, 1e-3) / ttft) / NOISE,
                (y - START) * priors,
            ]
        )

    least, most = LEAST - 1e-9, MOST + 1e-9
    start = np.clip(x, LEAST, MOST)
    found = least_squares(residuals, start, bounds=(least, most), loss="soft_l1", x_scale=WIDTH, max_nfev=30)
    return np.asarray(found.x)


def fit(rows: Asked) -> tuple[X, Played]:
    """The constants of one framework's rows, and the loops as played with them."""
    x = START
    for _ in range(ROUNDS):
        played = play(x, rows)
        x = _adjust(x, rows, played)
    return x, play(x, rows)


def held_out(rows: Asked, x: X, played: Played, groups: np.ndarray) -> tuple[Floats, Floats]:
    """(TTFT, TPOT) of every row, in ms, with constants fitted to the rows of other groups alone.

    The full fit's loops are the linearisation point; the rows held out are played anew.
    """
    ttft, tpot = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for group in np.unique(groups):
        out, rest = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
        if not len(rest):
            continue
        constants = _adjust(START, rows.take(rest), played.take(rest))
        ttft[out], tpot[out] = predict_ms(constants, rows.take(out))
    return ttft, tpot


def calibration(x: X, rows: int, spreads: dict[str, Spread], fitted_on: str, date: str) -> Calibration:
    """As the engine model reads it (µs)."""

    def us(name: str) -> float:
        return round(max(_value(x, name), CONSTANTS[NAMES.index(name) - len(FACTORS)][3]) * 1e3 + 0.0, 3)

    return NEUTRAL.model_copy(
        update={
            "factors": {name: round(float(np.exp(_value(x, name))), 4) for name in FACTORS},
            "step_us": us("step"),
            "step_us_per_layer": us("step_per_layer"),
            "step_us_per_sequence": us("step_per_sequence"),
            "prompt_step_us": us("prompt_step"),
            "prompt_step_us_per_layer": us("prompt_step_per_layer"),
            "request_us": us("request"),
            "request_us_per_token": us("request_per_token"),
            "request_us_per_concurrent": us("request_per_concurrent"),
            "request_steps": round(max(_value(x, "request_steps"), 0.0), 4),
            "polled_share": round(max(_value(x, "polled_share"), 0.0), 4),
            "acceptance": round(_value(x, "acceptance"), 4),
            **spreads,
            "rows": rows,
            "fitted_on": fitted_on,
            "date": date,
        }
    )
