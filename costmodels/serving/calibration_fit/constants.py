"""The constants that are fitted, and what a run takes with them (:mod:`costmodels.serving.frameworks.calibration` has
the formulas; here each run has its own constants, so that they can be moved together)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.serving.calibration_fit.rate_play import step_levels
from costmodels.serving.calibration_fit.runs import PARTS, MeasuredRuns
from costmodels.serving.closed_loop.loop_grid import DECODE_LEVELS
from costmodels.serving.closed_loop.protocol import StepGrid, closed_loop
from costmodels.serving.frameworks.calibration import IN_PROGRESS, Calibration, steps_to_gather
from costmodels.step.launching import no_earlier

# name, start, prior's half-width, least, most; times in ms, factors and acceptance as they are
CONSTANTS: tuple[tuple[str, float, float, float, float], ...] = (
    *((part, 0.0, 0.05, -0.5, 0.5) for part in PARTS),
    ("moe_prompts", 0.0, 0.08, -0.6, 0.6),
    ("step", 0.4, 0.4, 0.05, 3.0),
    ("step_per_layer", 0.003, 0.004, 0.0, 0.03),
    ("step_per_sequence", 0.004, 0.005, 0.0, 0.1),
    ("sampled", 0.010, 0.008, 0.0, 0.05),
    ("block_experts", 0.0, 0.05, 0.0, 0.5),
    ("uneven_experts", 0.0, 0.4, 0.0, 1.5),
    ("slow_experts", 0.0, 0.4, 0.0, 0.8),
    ("early_launch_per_layer", 0.0076, 0.008, 0.0, 0.03),
    ("prompt_step", 0.5, 0.7, 0.0, 4.0),
    ("prompt_step_per_layer", 0.03, 0.03, 0.0, 0.12),
    ("request", 10.0, 10.0, 0.0, 120.0),
    ("request_per_expert_layer", 0.1, 0.3, 0.0, 2.0),
    ("request_per_token", 0.003, 0.004, 0.0, 0.03),
    ("request_per_concurrent", 0.2, 0.4, 0.0, 4.0),
    ("request_steps", 2.0, 3.0, 0.0, 20.0),
    ("first", 500.0, 1000.0, 0.0, 6000.0),
    ("first_on_amd", 4.0, 2.0, 1.0, 12.0),
    ("rank_steps", 5.0, 20.0, 0.0, 60.0),
    ("acceptance", 0.6, 0.6, 0.0, 0.95),
)
NAMES = tuple(entry[0] for entry in CONSTANTS)
START, WIDTH, LEAST, MOST = (np.array([entry[i] for entry in CONSTANTS]) for i in (1, 2, 3, 4))
FACTORS = (*PARTS, "moe_prompts")
MOE = PARTS.index("moe")
LEAST_STEP_MS = 0.05


@dataclass(frozen=True)
class OfRuns:
    """Each run's constants [n, names] and effects [n] (logarithms; ``layer``: ms of each layer)."""

    values: Floats
    step: Floats
    prompts: Floats
    front: Floats
    layer: Floats

    def __getitem__(self, name: str) -> Floats:
        at = NAMES.index(name)
        return np.asarray(self.values[:, at : at + 1])

    def take(self, index: Ints) -> OfRuns:
        return OfRuns(self.values[index], *(each[index] for each in self.effects))

    @property
    def effects(self) -> tuple[Floats, ...]:
        return self.step, self.prompts, self.front, self.layer

    def tokens_per_step(self, runs: MeasuredRuns) -> Floats:
        """[n]."""
        a, drafted = self["acceptance"][:, 0], runs.load.drafted
        return np.where(drafted > 0, (1 - a ** (drafted + 1.0)) / (1 - a), 1.0)


def steps_ms(c: OfRuns, runs: MeasuredRuns) -> tuple[Floats, Floats]:
    """(decode steps per token [n, decode levels], prompts [n, prompt levels]) in ms."""
    layers = runs.layers[:, None].astype(np.float64)

    def kernels(parts: Floats, longer: Floats, moe: str) -> Floats:
        names = [moe if part == "moe" else part for part in PARTS]
        factors = np.exp(c.values[:, [NAMES.index(name) for name in names]])
        more = np.expm1(longer) * factors[:, MOE : MOE + 1] * parts[:, :, MOE]
        return np.asarray((parts @ factors[:, :, None])[:, :, 0] + more)

    uneven = c["uneven_experts"] * runs.uneven
    slow = np.where(runs.slow_experts[:, None], c["slow_experts"], 0.0)
    blocks = np.where(runs.slow_blocks[:, None], c["block_experts"], 0.0)
    early = np.where(runs.launched_early[:, None], c["early_launch_per_layer"], 0.0)
    host = c["step"] + (c["step_per_layer"] + blocks) * layers
    sequence = c["step_per_sequence"] + np.where(runs.greedy[:, None], 0.0, c["sampled"]) + runs.sequence_ms[:, None]
    decode = np.exp(c.step)[:, None] * (
        kernels(runs.parts_ms[:, :DECODE_LEVELS], uneven[:, :DECODE_LEVELS] + slow, "moe") + host - early * layers
    )
    beside = c.layer[:, None] * layers
    decode = np.maximum(decode + beside + sequence * runs.decode_batch, LEAST_STEP_MS)
    first = host + c["prompt_step"] + c["prompt_step_per_layer"] * layers
    prompt = np.exp(c.prompts)[:, None] * (
        kernels(runs.parts_ms[:, DECODE_LEVELS:], uneven[:, DECODE_LEVELS:], "moe_prompts") + first
    )
    prompt = no_earlier(prompt, runs.launching_ms[:, None])
    prompt = prompt + beside + sequence * np.where(runs.mixed[:, None], runs.decode_batch[:, -1:], 0.0)
    prompt = np.maximum(prompt, LEAST_STEP_MS)
    longer = 1 + runs.load.drafted[:, None] / layers  # a drafted token takes as long as a layer
    return longer * decode / c.tokens_per_step(runs)[:, None], longer * prompt * runs.chunks[:, None]


def front_ms(c: OfRuns, runs: MeasuredRuns, tpot_ms: Floats) -> Floats:
    """[n]."""
    users = runs.load.concurrency.astype(np.float64)
    others = np.maximum(users - 1, 0.0)
    own = c["request"][:, 0] + c["request_per_expert_layer"][:, 0] * runs.launched
    own = own + c["request_per_token"][:, 0] * runs.load.mean_isl
    there = np.where(runs.closed, others, np.minimum(np.exp(c.front) * own * runs.coming_per_ms, others))
    own = np.exp(c.front) * (own + c["request_per_concurrent"][:, 0] * there)
    waited = np.where(runs.closed, c["request_steps"][:, 0], np.maximum(c["request_steps"][:, 0] - IN_PROGRESS, 0.0))
    steps = np.where(runs.load.gate.steps > 0, 0.0, waited * others / np.maximum(users, 1.0))
    gathered = np.minimum(c["rank_steps"][:, 0], steps_to_gather(runs.ranks, users, runs.load.mean_osl))
    return np.asarray(own + (steps + np.where(runs.ranks > 1, gathered, 0.0)) * tpot_ms)


def first_ms(c: OfRuns, runs: MeasuredRuns) -> Floats:
    """What the longer wait of first requests adds to the mean, [n]."""
    wait = c["first"][:, 0] * np.where(runs.vendor == "amd", c["first_on_amd"][:, 0], 1.0)
    return runs.load.of_opening(runs.load.first_wait(np.where(runs.compiled, wait, 0.0), runs.first_full_ms))


def play_ms(c: OfRuns, runs: MeasuredRuns, slower: tuple[float, float] = (1.0, 1.0)) -> Floats:
    """Plays each run: [statistics, n] in ms, without the front end.

    Args:
        slower: factors on the times of steps without prompts and with.
    """
    at_rate = np.flatnonzero(~runs.closed)
    if not len(at_rate):
        return _closed_ms(c, runs, slower)
    out, closed = np.empty((4, len(runs))), np.flatnonzero(runs.closed)
    if len(closed):
        out[:, closed] = _closed_ms(c.take(closed), runs.take(closed), slower)
    plain, prompts = step_levels(*steps_ms(c.take(at_rate), runs.take(at_rate)))
    for run, decode, first in zip(at_rate, plain + np.log(slower[0]), prompts + np.log(slower[1]), strict=True):
        out[:, run] = runs.at_rate[run].statistics_ms(decode, first)
    return out


def _closed_ms(c: OfRuns, runs: MeasuredRuns, slower: tuple[float, float]) -> Floats:
    """:func:`play_ms` of closed loops."""
    decode, prompt = steps_ms(c, runs)
    fill = np.zeros_like(prompt)
    grid = StepGrid(
        runs.decode_batch,
        decode * 1e3 * slower[0],
        runs.prompts,
        prompt * 1e3 * slower[1],
        fill,
        runs.chunks,
        runs.stages,
        runs.mixed,
    )
    sent = runs.load.clients(front_ms(c, runs, decode[:, -1] * slower[0]) * 1e3)
    gate = runs.load.gate.after(c.tokens_per_step(runs))
    loop = closed_loop(grid, sent, runs.load.most_running, runs.ranks, gate)
    return np.stack([f(v, axis=1) for v in (loop.ttft, loop.tpot) for f in (np.nanmean, np.nanmedian)]) / 1e3


def predicted_ms(c: OfRuns, runs: MeasuredRuns) -> Floats:
    """[statistics, n], front end included."""
    played = play_ms(c, runs)
    front = front_ms(c, runs, played[2])
    return np.stack([played[0] + front + first_ms(c, runs), played[1] + front, played[2], played[3]])


IN_CALIBRATION = {
    "step": "step_us",
    "step_per_layer": "step_us_per_layer",
    "step_per_sequence": "step_us_per_sequence",
    "sampled": "sampled_us_per_sequence",
    "block_experts": "block_experts_us_per_layer",
    "uneven_experts": "uneven_experts",
    "slow_experts": "slow_experts",
    "early_launch_per_layer": "early_launch_us_per_layer",
    "prompt_step": "prompt_step_us",
    "prompt_step_per_layer": "prompt_step_us_per_layer",
    "request": "request_us",
    "request_per_expert_layer": "request_us_per_expert_layer",
    "request_per_token": "request_us_per_token",
    "request_per_concurrent": "request_us_per_concurrent",
    "request_steps": "request_steps",
    "first": "first_us",
    "first_on_amd": "first_on_amd",
    "rank_steps": "rank_steps",
    "acceptance": "acceptance",
}
"""Constant → field of :class:`~costmodels.serving.frameworks.calibration.Calibration`, there in µs where here in ms."""


def constants_of(calibration: Calibration) -> Floats:
    """As :data:`NAMES` lists them, shape [names]."""
    values: dict[str, float] = {str(name): float(np.log(factor)) for name, factor in calibration.factors.items()}
    for name, field in IN_CALIBRATION.items():
        values[name] = getattr(calibration, field) / (1e3 if "_us" in field else 1.0)
    return np.asarray(np.clip(np.array([values[name] for name in NAMES]), LEAST, MOST))
