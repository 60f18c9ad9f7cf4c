"""Steady state of continuous batching with chunked prefill, in closed form over thousands of candidates.

One attention rank holds ``b`` decoding sequences. Requests arrive at random (Poisson) at the rate at which
they leave. Every arrival costs ``s`` prefill chunks, each of which rides along in one step (a *mixed* step)
and delays the decodes in it (Sarathi-Serve, arXiv:2403.02310, §4). By Little's law b = X·T, with T the time
a request decodes:

    T = N·(cycle + pp·f·(mixed − decode))          N = osl − 1 steps
    f = 1 − (1 − φ)^dp,  φ = b·s / (N·pp)          share of micro-steps in which some rank has a chunk
    X = b / T

The prompt waits for earlier prompts as in M/D/1 with service s·mixed (Pollaczek–Khinchine), then for its
own chunks. An event simulator with the engines' own schedulers takes this function's place for the
finalists (a later issue).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from costmodels.architecture import Architecture
from costmodels.communication import Network
from costmodels.estimates import Estimates, Floats, Ints
from costmodels.layouts import Layouts
from costmodels.library import CostModel
from costmodels.operators import Batch
from costmodels.precision import Precision
from costmodels.serving.frameworks import Framework
from costmodels.serving.step import StepTimes, step_times


@dataclass(frozen=True)
class Steady:
    """Predictions over ``n`` operating points (a layout, a token budget and a decode concurrency each).

    Attributes:
        stable: shape [n], whether prefill keeps up with decode at this concurrency.
        rate_rps: requests per second of the whole engine.
        ttft_us, tpot_us, e2e_us: mean, with intervals from the kernels' uncertainty.
        decode, mixed: the two kinds of step.
        mixed_share: share of steps that carry a chunk.
        waiting_us, queue_busy: mean wait behind other prompts, and the share of time that prefill is busy.
    """

    stable: np.ndarray
    rate_rps: Estimates
    ttft_us: Estimates
    tpot_us: Estimates
    e2e_us: Estimates
    decode: StepTimes
    mixed: StepTimes
    mixed_share: Floats
    waiting_us: Floats
    queue_busy: Floats
    _ttft: dict[str, Floats]
    _decode_steps: int
    _burstiness: Floats

    def ttft_percentile_us(self, p: float) -> Floats:
        """TTFT that a share ``p`` of requests stays below. The wait of M/D/1 has an exponential tail:
        P(wait > t) ≈ busy·exp(−t·busy/mean wait) (Kleinrock, Queueing Systems I, 1975)."""
        waits = np.where(
            self.queue_busy > 1 - p,
            self.waiting_us / np.maximum(self.queue_busy, 1e-12) * np.log(np.maximum(self.queue_busy / (1 - p), 1.0)),
            0.0,
        )
        return waits + self._ttft["service"] + self._ttft["step"] * p

    def tpot_percentile_us(self, p: float) -> Floats:
        """TPOT that a share ``p`` of requests stays below: the number of chunks that fall into one
        request's lifetime is Poisson around its mean."""
        z = NormalDist().inv_cdf(p)
        spread = z * np.sqrt(self.mixed_share * self._burstiness / self._decode_steps)
        share = np.clip(self.mixed_share + spread, 0.0, 1.0)
        tpot: Floats = self._ttft["cycle"] + share * self._ttft["delay"]
        return tpot

    def e2e_percentile_us(self, p: float) -> Floats:
        """Deviations of TTFT and of decode time are taken as independent (squares add, each with its sign, so
        that the sum rises with ``p`` as its parts do)."""
        decode = self._decode_steps * (self.tpot_percentile_us(p) - self.tpot_us.value)
        first = self.ttft_percentile_us(p) - self.ttft_us.value
        squares = decode * np.abs(decode) + first * np.abs(first)
        e2e: Floats = self.e2e_us.value + np.sign(squares) * np.sqrt(np.abs(squares))
        return e2e


def steady_state(
    model: Architecture,
    precision: Precision,
    cost: CostModel,
    network: Network,
    framework: Framework,
    layouts: Layouts,
    token_budget: Ints,
    concurrency: Ints,
    isl: int,
    osl: int,
    routing: str,
) -> Steady:
    """Steady state of each operating point.

    Args:
        layouts, token_budget, concurrency: shape [n]; concurrency counts decoding sequences per attention
            rank.
        isl, osl: prompt and output tokens of every request.
    """
    steps = max(osl - 1, 1)
    # A rank's sequences spread over its pipeline stages.
    per_stage = np.maximum(-(-concurrency // layouts.pp), 1)
    room = np.maximum(token_budget - per_stage, 1)
    chunk = np.minimum(room, isl)
    # Short prompts share a step when they arrive faster than steps pass.
    together = np.clip(-(-concurrency // (steps * layouts.pp)), 1, np.maximum(room // isl, 1))
    chunks = np.where(isl > room, isl / room, 1.0 / together)
    load = concurrency * chunks / (steps * layouts.pp)  # φ
    stable = load <= 1.0
    mixed_share = 1 - (1 - np.minimum(load, 1.0)) ** layouts.dp

    context = np.full(len(layouts), isl + osl // 2)
    nobody = np.zeros(len(layouts), np.int64)
    decoding = Batch(nobody, nobody, nobody, per_stage, context, per_stage.astype(np.float64))
    ranks_with_chunk = np.minimum(load, 1.0) / np.maximum(mixed_share, 1e-12)
    chunk_tokens = together * chunk
    mixing = Batch(
        together,
        chunk,
        np.where(isl > chunk, (isl - chunk) // 2, 0),
        per_stage,
        context,
        per_stage + chunk_tokens * np.maximum(ranks_with_chunk, 1 / layouts.dp),
    )
    both = step_times(
        model,
        precision,
        cost,
        network,
        framework,
        _twice(layouts),
        _stack(decoding, mixing),
        routing,
    )
    decode, mixed = _halves(both, len(layouts))

    def times(kind: str) -> dict[str, Floats]:
        decode_stage, mixed_stage = (getattr(s.stage, kind) for s in (decode, mixed))
        decode_all, mixed_all = (getattr(s.latency, kind) for s in (decode, mixed))
        cycle = np.maximum(decode_all, layouts.pp * decode_stage)
        delay = layouts.pp * np.maximum(mixed_stage - decode_stage, 0.0)
        tpot = cycle + mixed_share * delay
        rate = concurrency / (steps * tpot)  # per rank and µs
        work = chunks * mixed_stage
        busy = np.minimum(rate * work, 0.999)
        waiting = busy * work / (2 * (1 - busy))
        step = tpot / layouts.pp
        service = (np.ceil(np.maximum(chunks, 1.0)) - 1) * mixed_stage + mixed_all
        ttft = waiting + service + step / 2
        return {
            "cycle": cycle,
            "delay": delay,
            "tpot": tpot,
            "rate": rate * layouts.dp * 1e6,
            "busy": busy,
            "waiting": waiting,
            "step": step,
            "service": service,
            "ttft": ttft,
            "e2e": ttft + (osl - 1) * tpot,
        }

    value, low, high = times("value"), times("low"), times("high")
    how = np.maximum(decode.latency.how, mixed.latency.how)
    inside = decode.latency.inside & mixed.latency.inside

    def estimates(name: str, down: dict[str, Floats], up: dict[str, Floats]) -> Estimates:
        return Estimates(
            value[name], np.minimum(down[name], value[name]), np.maximum(up[name], value[name]), how, inside
        )

    return Steady(
        stable,
        estimates("rate", high, low),  # slow steps, low rate
        estimates("ttft", low, high),
        estimates("tpot", low, high),
        estimates("e2e", low, high),
        decode,
        mixed,
        mixed_share,
        value["waiting"],
        value["busy"],
        value,
        steps,
        np.maximum(chunks, 1.0),
    )


def _twice(layouts: Layouts) -> Layouts:
    index = np.tile(np.arange(len(layouts)), 2)
    return layouts.take(index)


def _stack(first: Batch, second: Batch) -> Batch:
    return Batch(
        *(
            np.concatenate([getattr(first, name), getattr(second, name)])
            for name in ("prefills", "chunk", "prefix", "decodes", "context", "expert_tokens")
        )
    )


def _halves(both: StepTimes, n: int) -> tuple[StepTimes, StepTimes]:
    return both.take(np.arange(n)), both.take(np.arange(n, 2 * n))
