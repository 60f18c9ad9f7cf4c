"""What a client with a fixed number of requests in flight sees of many configurations: calibrated, with intervals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from costmodels.estimates import Estimates, Floats, Ints
from costmodels.operations.layouts import Layouts
from costmodels.power.board import Activity, mean_watts
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.closed_loop.loop_grid import DECODE_LEVELS, grid_questions
from costmodels.serving.closed_loop.protocol import ClosedLoop, StepGrid, closed_loop, line_through, slots_of
from costmodels.serving.frameworks.calibration import Calibration
from costmodels.serving.served_model import ServedModel
from costmodels.serving.speculative_decoding import SpeculativeDecoding
from costmodels.serving.step import StepTimes, interval
from profiles.hardware import Gpu


@dataclass(frozen=True)
class Latency:
    """One latency of ``n`` configurations, µs: the mean and the median of requests with their 80 % intervals, and the
    99th percentile."""

    mean: Estimates
    p50: Estimates
    p99: Floats


@dataclass(frozen=True)
class Answers:
    """What clients see of ``n`` configurations.

    Attributes:
        itl_p50, itl_p90: time between two tokens, over all tokens, µs.
        output_tokens_per_s: of the whole engine.
        watts: of one GPU, mean over time.
        input_share: tokens of prompts for each of outputs.
        falls_behind: [n], where requests come at a rate: whether the engine does not keep up with steps at the slow end
            of their interval; None: in a closed loop, which waits for it.
        counted_tokens_per_s: as output_tokens_per_s, over the time that a client takes which sends a number of requests
            at a rate, its last answers included; None: in a closed loop, or no number is given.
        tpot_parts, ttft_parts: what the means consist of, µs.
    """

    ttft: Latency
    tpot: Latency
    e2e: Latency
    itl_p50: Estimates
    itl_p90: Estimates
    output_tokens_per_s: Estimates
    watts: Estimates
    input_share: Floats
    falls_behind: NDArray[np.bool_] | None = None
    counted_tokens_per_s: Estimates | None = None
    tpot_parts: dict[str, Floats] = field(default_factory=dict)
    ttft_parts: dict[str, Floats] = field(default_factory=dict)


JITTER = 1.06
"""p90 ÷ p50 of the time between tokens while no step holds prompts (median of 125 runs, ML.ENERGY 0cd52da)."""


UNSURE_QUEUE = 1.0
"""Half-width (log, 80 %) by which TTFT may be longer than its interval has it, of the square of the share of it that
requests wait for others: learnt from the runs of the fit, where it lowers the interval score of each framework, of
models and of GPU types left out (1.264 to 1.223, inside 79 to 83 %; of TTFT more than 60 % of which is a wait under
SGLang 55 to 78 %)."""

UNSURE_WAIT = 0.5
"""Half-width (log, 80 %) of how far a step without prompts grows by those of lengths that only a mean is known of, of
the share that this is of the step: learnt from those runs, 82 % of whose p90 lie inside with it, a model left out (72
without)."""


def itl_percentiles(
    plain: Floats, longer: Floats, prompts: Floats, most: Floats | float = 1.0, varied: Floats | float = 0.0
) -> Floats:
    """Time between two tokens that half and nine tenths of all tokens stay below, µs, [2, n].

    Prompts come at random, so that exp(−prompts) of the steps hold none; what the others hold is spread as a gamma
    distribution of the mean and the variance that chance gives it (a Poisson number of prompts), and steps take longer
    in proportion.

    Args:
        plain, longer: a step without prompts, and one with the share of one that a step takes.
        prompts: such shares that come in one step on average.
        most: that fit in a step.
        varied: variance of their lengths ÷ their mean squared.
    """
    coming = np.maximum(prompts, 1e-9)
    none, some = np.exp(-coming), -np.expm1(-coming)
    mean = coming / some
    variance = np.maximum(mean * (1 + varied + coming - mean), 1e-9)

    def held(q: float) -> Floats:
        """Prompts in the step that the share ``q`` of steps holds no more than."""
        among = gammaincinv(np.minimum(mean**2 / variance, 1e6), np.clip((q - none) / some, 0, 1))
        return np.where(q > none, np.minimum(among * variance / mean, most), 0.0)

    p50, p90 = (plain + (longer - plain) * held(q) for q in (0.5, 0.9))
    return np.stack([p50, np.maximum(p90, JITTER * p50)])


def itl_us(load: Load, running: Ints, ranks: Ints, grid: StepGrid) -> tuple[Floats, Floats]:
    """Time between two tokens (see :func:`itl_percentiles`), and the half-widths (log) of what is not known of
    prompts in it; [2, n] each."""
    each = np.maximum(running / ranks, 1.0)
    plain = line_through(grid.decode_batch, grid.decode_us, each)
    # Steps with prompts in the life of a request: those of the others that run, and its own is not counted. Where
    # lengths are alike, requests that began in one step end in one, and their successors come together.
    together = np.where(load.alike, grid.prompts[:, -1], 1.0)
    chunks = np.where(grid.mixed, grid.chunks, 1.0)
    prompts = np.maximum(running - 1, 0) / together * chunks / np.maximum(load.mean_osl - 1, 1)
    longer = np.where(grid.mixed, np.maximum(grid.prefill_us[:, 0] / grid.chunks, plain), plain + grid.prefill_us[:, 0])
    most = np.where(load.alike, 1.0, grid.prompts[:, -1])
    time_us = itl_percentiles(plain, longer, prompts, most, load.varied_prompts)
    return time_us, UNSURE_WAIT * np.sqrt(load.varied_prompts) * (1 - plain / time_us)


def closed_loop_answers(
    served: ServedModel, layouts: Layouts, load: Load, routing: str, drafting: SpeculativeDecoding | None = None
) -> Answers:
    """Plays the closed loop on every configuration (:mod:`costmodels.serving.closed_loop.protocol`).

    Args:
        drafting: how all of them draft, with the acceptance that is known of the load (None: as ``load`` says).
    """
    framework, calibration = served.framework, served.calibration
    running = np.minimum(load.concurrency, load.most_running)
    if drafting is None:
        drafting = SpeculativeDecoding(int(load.drafted.max()), calibration.acceptance)
    asked = replace(load, drafted=np.full(len(layouts), drafting.draft_tokens))
    questions = grid_questions(layouts, running, asked, framework.scheduler)
    longer = 1 + drafting.share_of_step(served.model.layers)
    tokens_per_step = np.full(len(layouts), drafting.tokens_per_step)
    times = served.step(questions.layouts, questions.batch, routing)
    grid = questions.grid(longer * times.latency.value, longer * times.stage.value, tokens_per_step)
    sent = load.clients(front_us(calibration, load, grid.decode_us[:, -1], layouts.dp))
    loop = closed_loop(grid, sent, load.most_running, layouts.dp, load.gate.after(tokens_per_step))
    answer = Intervals(calibration, times.latency, len(layouts))
    front = front_us(calibration, load, np.nanmean(loop.tpot, axis=1), layouts.dp)[:, None]
    front = front + opening_us(calibration, load, loop.ttft.shape[1])
    ttft, e2e = loop.ttft + front, loop.e2e + front
    played = loop.e2e + sent.travel_us[:, None]
    tokens_per_s = loop.output_tokens_per_s * np.nanmean(played, axis=1) / np.nanmean(e2e, axis=1)
    users = load.concurrency.astype(np.float64)
    of_ttft, of_tpot, of_e2e = (calibration.spread_at(name, users) for name in ("ttft", "tpot", "e2e"))
    one = load.osl == 1
    if one.any():  # the first token is all of the answer; the loop has one step more in it
        e2e = np.where(one[:, None], ttft, e2e)
        tokens_per_s = np.where(one, users * 1e6 / np.nanmean(ttft, axis=1), tokens_per_s)
        of_e2e = np.where(one, of_ttft[0], of_e2e[0]), np.where(one, of_ttft[1], of_e2e[1])
    ttft_parts = _ttft_parts(grid, loop, ttft, load.of_opening(_first_us(calibration, load)))
    queued = ttft_parts[QUEUE] / np.nanmean(ttft, axis=1)
    of_ttft = of_ttft[0], np.hypot(of_ttft[1], UNSURE_QUEUE * queued**2)
    itl, unsure = itl_us(load, running, layouts.dp, grid)
    of_itl = [(-np.hypot(of_tpot[0], each), np.hypot(of_tpot[1], each)) for each in unsure]
    return Answers(
        answer.latency(ttft, of_ttft),
        answer.latency(loop.tpot, of_tpot),
        answer.latency(e2e, of_e2e),
        answer.estimates(itl[0], of_itl[0]),
        answer.estimates(itl[1], of_itl[1]),
        answer.rates(tokens_per_s, of_e2e),
        _watts(served.gpu, times, loop, len(layouts)),
        load.mean_isl / load.mean_osl,
        tpot_parts=_tpot_parts(times, loop, len(layouts)),
        ttft_parts=ttft_parts,
    )


def _tpot_parts(times: StepTimes, loop: ClosedLoop, n: int) -> dict[str, Floats]:
    """The time per token by cause: that in steps without prompts as the fullest of them is made up, and the rest."""
    tpot, at = np.nanmean(loop.tpot, axis=1), slice((DECODE_LEVELS - 1) * n, DECODE_LEVELS * n)
    whole = np.sum([values[at] for values in times.parts.values()], axis=0)
    plain = tpot * (1 - loop.tpot_prefill)
    parts = {name: plain * values[at] / np.maximum(whole, 1e-9) for name, values in times.parts.items()}
    return {**parts, "steps with prompts": tpot * loop.tpot_prefill}


QUEUE = "queue and steps in progress"


def _ttft_parts(grid: StepGrid, loop: ClosedLoop, ttft: Floats, compiled: Floats) -> dict[str, Floats]:
    """The time to the first token: its own prompt's steps, the wait for others' and for steps, that of first requests
    for kernels to be ``compiled`` (on average, [n]), and the front end."""
    engine, whole = np.nanmean(loop.ttft, axis=1), np.nanmean(ttft, axis=1)
    own = np.minimum(grid.prefill_us[:, 0], engine)
    parts = {"own prompt": own, QUEUE: engine - own, "front end": whole - engine - compiled}
    return parts | ({"kernels compiled at first": compiled} if compiled.any() else {})


def _watts(gpu: Gpu, times: StepTimes, loop: ClosedLoop, n: int) -> Estimates:
    """Of one GPU over the whole loop, from the time that it spends at each level of the grid."""
    levels = [(Activity.of(times.take(np.arange(n) + k * n)), share) for k, share in enumerate(loop.time_at.T)]
    return mean_watts(gpu, Activity.mixed(levels), np.minimum(loop.time_at.sum(axis=1), 1.0))


def front_us(calibration: Calibration, load: Load, tpot_us: Floats, ranks: Ints) -> Floats:
    """What requests wait outside the steps before the engine sees them, [n]."""
    users, polled = load.concurrency.astype(np.float64), load.gate.steps > 0
    return calibration.front_us(load.mean_isl, users, tpot_us, ranks, load.mean_osl, polled)


def opening_us(calibration: Calibration, load: Load, requests: int) -> Floats:
    """What the requests of the opening burst wait longer where the engine is cold, [n, requests]."""
    waits = np.where(load.opens_cold, _first_us(calibration, load), 0.0)[:, None]
    opening = np.arange(requests) < slots_of(load.concurrency, load.most_running, load.generations)[:, None]
    return np.asarray(np.where(opening, waits, 0.0))


def _first_us(calibration: Calibration, load: Load) -> Floats:
    return load.first_wait(calibration.first_us, calibration.first_full_us)


Ends = tuple[Floats, Floats]
"""(low, high) of log(measured ÷ predicted), [n] each."""


class Intervals:
    """The 80 % intervals of ``n`` configurations: what held-out runs say, or the steps' own where kernels are outside
    what was measured and less sure than those runs were."""

    def __init__(self, calibration: Calibration, steps: Estimates, n: int) -> None:
        levels = len(steps.how) // n
        self._how = steps.how.reshape(levels, -1).max(axis=0).astype(np.int8)
        self._inside = np.asarray(steps.inside.reshape(levels, -1).all(axis=0), dtype=np.bool_)
        self._sure = self._inside | calibration.met
        self._down = (steps.low / steps.value).reshape(levels, -1).min(axis=0)
        self._up = (steps.high / steps.value).reshape(levels, -1).max(axis=0)

    def estimates(self, value: Floats, spread: Ends) -> Estimates:
        low, high = interval(value, *spread)
        low = np.where(self._sure, low, np.minimum(low, value * self._down))
        high = np.where(self._sure, high, np.maximum(high, value * self._up))
        return Estimates(value, low, high, self._how, self._inside)

    def rates(self, value: Floats, spread: Ends) -> Estimates:
        """Of what falls as a time with ``spread`` rises."""
        return self.estimates(value, (-spread[1], -spread[0]))

    def latency(self, values: Floats, spread: Ends) -> Latency:
        p50, p99 = percentiles(values, [0.5, 0.99])
        return Latency(self.estimates(np.nanmean(values, axis=1), spread), self.estimates(p50, spread), p99)


def percentiles(values: Floats, shares: list[float]) -> Floats:
    """``np.nanquantile`` along the rows, shape [shares, n], to the last bit: rows of as many numbers at once."""
    ordered, counts = np.sort(values, axis=1), np.count_nonzero(~np.isnan(values), axis=1)
    out = np.full((len(shares), len(values)), np.nan)
    for count in np.unique(counts[counts > 0]):
        alike = counts == count
        out[:, alike] = np.quantile(ordered[alike, :count], shares, axis=1)
    return out
