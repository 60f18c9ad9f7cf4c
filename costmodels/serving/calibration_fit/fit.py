"""Fits the constants of :mod:`costmodels.serving.frameworks.calibration` to measured rows, and holds out groups of
them.

Robust least squares (soft L1) on the logarithms of TPOT and TTFT. The closed loop is not differentiated: for a given
order of events both are linear in the times of the two kinds of step, and the loop says how much of each was spent in
steps with prompts. A few rounds of playing the loop and fitting with its shares converge. Priors keep factors at 1 and
overheads near zero, where the rows say nothing: factors tightly, for kernels are measured; how tightly is chosen by
holding out groups of the very rows that are fitted.

Rows come from campaigns that differ in releases and flags. Each has constants of its own, partially pooled: a prior
holds them to the framework's, so that few rows move them little, and a campaign of which every row is held out is
predicted with the framework's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from costmodels.arrays import take_rows
from costmodels.estimates import Floats, Ints
from costmodels.serving.calibration_fit.runs import DECODE_LEVELS, PARTS, MeasuredRuns
from costmodels.serving.closed_loop.protocol import Gate, StepGrid, closed_loop
from costmodels.serving.frameworks.calibration import NEUTRAL, Calibration, Spread

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
FACTOR_WIDTHS = (0.03, 0.1)  # prior half-width (log) of the factors: which, is for groups held out to say
WIDTH = np.array([1.0] * len(FACTORS) + [entry[2] for entry in CONSTANTS])  # of factors: in units of that
LEAST = np.array([-1.5] * len(FACTORS) + [entry[3] for entry in CONSTANTS])
MOST = np.array([1.5] * len(FACTORS) + [entry[4] for entry in CONSTANTS])

NOISE = 0.12  # log error from which a row counts linearly, not squared
TTFT_WEIGHT = 0.7  # against TPOT: repeats of one configuration differ more in it
BALANCE = 0.5  # power of the number of rows of one model on one GPU by which each weighs less
PRIOR_WEIGHT = 0.05  # of all priors together, per residual
DEVIATION = 0.5  # prior half-width of a campaign's constants around the framework's, per that of the latter
ROUNDS = 3
INNER_ROUNDS = 12  # of least squares where it only has to tell priors apart

KERNELS_ALONE = np.where(np.array(NAMES) == "acceptance", START, 0.0)

X = Floats
"""Constants [1 + campaigns, names]: the framework's, then each campaign's."""


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
        return take_rows(self, index)


def nowhere(rows: MeasuredRuns) -> X:
    """Where a fit starts."""
    return np.tile(START, (1 + len(rows.campaigns), 1))


@dataclass(frozen=True)
class Constants:
    """Of each of ``n`` rows: ``values`` [n, names]; by name [n, 1]."""

    values: Floats

    @classmethod
    def of(cls, x: X, rows: MeasuredRuns) -> Constants:
        return cls(x[1 + rows.campaign])

    def __getitem__(self, name: str) -> Floats:
        at = NAMES.index(name)
        column: Floats = self.values[:, at : at + 1]
        return column

    def kernels_ms(self, parts_ms: Floats, *, prompts: bool) -> Floats:
        """[n, levels] from the kernels by part [n, levels, parts]."""
        names = ["moe_prompts" if prompts and part == "moe" else part for part in PARTS]
        factors = np.exp(self.values[:, [NAMES.index(name) for name in names]])
        total: Floats = (parts_ms @ factors[:, :, None])[:, :, 0]
        return total

    def tokens_per_step(self, drafted: Ints) -> Floats:
        a = self["acceptance"]
        tokens: Floats = (1 - a ** (drafted[:, None] + 1.0)) / (1 - a)
        return tokens


def steps_ms(c: Constants, rows: MeasuredRuns) -> tuple[Floats, Floats]:
    """(decode steps per token [n, decode levels], prompts [n, prompt levels]) in ms."""
    layers = rows.layers[:, None]
    decode = c.kernels_ms(rows.parts_ms[:, :DECODE_LEVELS], prompts=False)
    host = c["step"] + c["step_per_layer"] * layers + c["step_per_sequence"] * rows.decode_batch
    tokens = c.tokens_per_step(rows.table["drafted"].to_numpy())
    prompt = c.kernels_ms(rows.parts_ms[:, DECODE_LEVELS:], prompts=True)
    prompt = prompt + c["prompt_step"] + c["prompt_step_per_layer"] * layers
    return (decode + np.maximum(host, 0.0)) / tokens, prompt * rows.chunks[:, None]


def front_ms(c: Constants, rows: MeasuredRuns, tpot_ms: Floats) -> Floats:
    """Shape [n]."""
    table = rows.table
    tokens = (table["isl"] * (1 + table["shortest"]) / 2).to_numpy()[:, None]
    concurrency = table["concurrency"].to_numpy()[:, None]
    front = c["request"] + c["request_per_token"] * tokens + c["request_per_concurrent"] * concurrency
    total: Floats = (front + c["request_steps"] * tpot_ms[:, None])[:, 0]
    return total


def play(c: Constants, rows: MeasuredRuns) -> Played:
    """Plays the closed loop of each row."""
    decode, prompt = steps_ms(c, rows)
    table = rows.table
    stages = table["pp"].to_numpy()  # 1 in all of them
    fill = np.zeros_like(prompt)
    grid = StepGrid(rows.decode_batch, decode * 1e3, rows.prompts, prompt * 1e3, fill, rows.chunks, stages, rows.mixed)
    tokens = c.tokens_per_step(table["drafted"].to_numpy())[:, 0]
    loop = closed_loop(
        grid,
        table["concurrency"].to_numpy(),
        rows.most_running,
        table["dp"].to_numpy(),
        table["osl"].to_numpy(),
        table["shortest"].to_numpy(),
        Gate(
            *(table[f"gate_{name}"].to_numpy() for name in ("steps", "enough", "free_running")),
        ).after(tokens),
    )
    return Played(
        np.nanmean(loop.ttft, axis=1) / 1e3,
        np.nanmean(loop.tpot, axis=1) / 1e3,
        loop.ttft_prefill,
        loop.tpot_prefill,
        decode,
        prompt,
    )


def predict_ms(x: X, rows: MeasuredRuns) -> tuple[Floats, Floats]:
    """(TTFT, TPOT) in ms."""
    c = Constants.of(x, rows)
    played = play(c, rows)
    return played.ttft_ms + front_ms(c, rows, played.tpot_ms), played.tpot_ms


def linear_ms(c: Constants, rows: MeasuredRuns, played: Played) -> tuple[Floats, Floats]:
    """(TTFT, TPOT) in ms while the events keep the order of ``played``."""
    decode, prompt = steps_ms(c, rows)
    slower_decode = (decode / played.decode_ms)[:, 2:].mean(axis=1)  # at the batches that most steps have
    slower_prompt = (prompt / played.prompt_ms).mean(axis=1)
    tpot = played.tpot_ms * ((1 - played.tpot_prompts) * slower_decode + played.tpot_prompts * slower_prompt)
    ttft = played.ttft_ms * ((1 - played.ttft_prompts) * slower_decode + played.ttft_prompts * slower_prompt)
    return np.maximum(ttft + front_ms(c, rows, tpot), 1e-3), tpot


def balance(rows: MeasuredRuns) -> Floats:
    """Each row's weight: rows of one model on one GPU share their errors, so that many of them say little more than
    a few; 1 on average, shape [n]."""
    pairs = rows.table["family"] + " " + rows.table["gpu"]
    weight = pairs.map(pairs.value_counts()).to_numpy(dtype=np.float64) ** -BALANCE
    shared: Floats = weight / weight.mean()
    return shared


def _adjust(x: X, rows: MeasuredRuns, played: Played, factor_width: float, rounds: int = 40) -> X:
    """The constants that fit ``rows`` best while their events keep the order of ``played``."""
    half = WIDTH * np.where(np.arange(len(NAMES)) < len(FACTORS), factor_width, 1.0)
    measured = np.log([rows.table[name].to_numpy() for name in ("ttft_ms", "tpot_ms")])
    weight = np.array([TTFT_WEIGHT, 1.0])[:, None] / NOISE * balance(rows)
    index = rows.campaign
    present = np.flatnonzero(np.bincount(index, minlength=len(rows.campaigns)))
    member = (index == present[:, None]).astype(np.float64)  # [campaigns with rows, rows]
    prior = np.sqrt(PRIOR_WEIGHT * 2 * len(rows)) / half
    tie = np.sqrt(PRIOR_WEIGHT * 2 * member.sum(1))[:, None] / (DEVIATION * half)
    blocks = 1 + len(present)

    def errors(values: Floats) -> Floats:
        return ((np.log(linear_ms(Constants(values), rows, played)) - measured) * weight).ravel()

    def residuals(free: Floats) -> Floats:
        whole, own = free[: len(NAMES)], free[len(NAMES) :].reshape(len(present), -1)
        return np.concatenate([errors(member.T @ own), (whole - START) * prior, ((own - whole) * tie).ravel()])

    def jacobian(free: Floats) -> Floats:
        """Each row's derivatives by its own constants, which are its campaign's."""
        values = member.T @ free[len(NAMES) :].reshape(len(present), -1)
        here, step = errors(values), 1e-6 * half
        by_constant = np.empty((2 * len(rows), len(NAMES)))
        for k in range(len(NAMES)):
            moved = values.copy()
            moved[:, k] += step[k]
            by_constant[:, k] = (errors(moved) - here) / step[k]
        own = np.einsum("rk,br->rbk", by_constant, np.tile(member, 2)).reshape(2 * len(rows), -1)
        ties = np.hstack([np.vstack([-np.diag(row) for row in tie]), np.diag(tie.ravel())])
        return np.vstack(
            [
                np.hstack([np.zeros((2 * len(rows), len(NAMES))), own]),
                np.hstack([np.diag(prior), np.zeros((len(NAMES), len(NAMES) * len(present)))]),
                ties,
            ]
        )

    bounds = (np.tile(LEAST - 1e-9, blocks), np.tile(MOST + 1e-9, blocks))
    start = np.clip(x[[0, *(1 + present)]], LEAST, MOST).ravel()
    scale = np.tile(half, blocks)
    found = least_squares(residuals, start, jacobian, bounds=bounds, loss="soft_l1", x_scale=scale, max_nfev=rounds)
    whole = found.x[: len(NAMES)]
    out = np.tile(whole, (1 + len(rows.campaigns), 1))  # a campaign without rows has the framework's
    out[1 + present] = found.x[len(NAMES) :].reshape(len(present), -1)
    return out


def factor_width(rows: MeasuredRuns, played: Played, groups: np.ndarray) -> float:
    """Which of :data:`FACTOR_WIDTHS` predicts groups held out of ``rows`` best, by their mean log errors."""
    if len(np.unique(groups)) < 2:
        return FACTOR_WIDTHS[0]
    measured = np.log([rows.table[name].to_numpy() for name in ("ttft_ms", "tpot_ms")])
    weight = np.array([TTFT_WEIGHT, 1.0])[:, None] * balance(rows)

    def error(width: float) -> float:
        total = 0.0
        for group in np.unique(groups):
            out, rest = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
            x = _adjust(nowhere(rows), rows.take(rest), played.take(rest), width, INNER_ROUNDS)
            held = rows.take(out)
            predicted = np.log(linear_ms(Constants.of(x, held), held, played.take(out)))
            total += float((np.abs(predicted - measured[:, out]) * weight[:, out]).sum())
        return total

    best: float = min(FACTOR_WIDTHS, key=error)
    return best


def fit(rows: MeasuredRuns) -> tuple[X, Played]:
    """The constants of one framework's rows, and the loops as played with them; models held out say how far factors
    may go."""
    x, width = nowhere(rows), FACTOR_WIDTHS[0]
    for last in [False] * (ROUNDS - 1) + [True]:
        played = play(Constants.of(x, rows), rows)
        if last:
            width = factor_width(rows, played, rows.table["family"].to_numpy())
        x = _adjust(x, rows, played, width)
    return x, play(Constants.of(x, rows), rows)


def held_out(rows: MeasuredRuns, x: X, played: Played, groups: np.ndarray) -> tuple[Floats, Floats]:
    """(TTFT, TPOT) of every row, in ms, with constants fitted to the rows of other groups alone.

    The full fit's loops are the linearisation point; the rows held out are played anew. How far factors may go is
    chosen among the other groups, too.
    """
    ttft, tpot = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for group in np.unique(groups):
        out, rest = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
        if not len(rest):
            continue
        others = rows.take(rest), played.take(rest)
        constants = _adjust(nowhere(rows), *others, factor_width(*others, groups[rest]))
        ttft[out], tpot[out] = predict_ms(constants, rows.take(out))
    return ttft, tpot


def calibration(x: X, rows: int, spreads: dict[str, Spread], fitted_on: str, date: str) -> Calibration:
    """As the engine model reads it (µs): the constants of the first campaign."""
    found: dict[str, float] = dict(zip(NAMES, np.clip(x[1], LEAST, MOST).tolist(), strict=True))

    def us(name: str) -> float:
        return round(found[name] * 1e3 + 0.0, 3)

    return NEUTRAL.model_copy(
        update={
            "factors": {name: round(float(np.exp(found[name])), 4) for name in FACTORS},
            "step_us": us("step"),
            "step_us_per_layer": us("step_per_layer"),
            "step_us_per_sequence": us("step_per_sequence"),
            "prompt_step_us": us("prompt_step"),
            "prompt_step_us_per_layer": us("prompt_step_per_layer"),
            "request_us": us("request"),
            "request_us_per_token": us("request_per_token"),
            "request_us_per_concurrent": us("request_per_concurrent"),
            "request_steps": round(found["request_steps"], 4),
            "acceptance": round(found["acceptance"], 4),
            **spreads,
            "rows": rows,
            "fitted_on": fitted_on,
            "date": date,
        }
    )
