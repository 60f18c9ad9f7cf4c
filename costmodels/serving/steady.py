"""Steady state of continuous batching with chunked prefill, in closed form over thousands of candidates.

One attention rank holds ``b`` decoding sequences. Requests arrive at random (Poisson) at the rate at which
they leave. Every arrival costs ``s`` prefill chunks, each of which rides along in one step (a *mixed* step)
and delays the decodes in it (Sarathi-Serve, arXiv:2403.02310, §4). By Little's law b = X·T, with T the time
a request decodes:

    T = N·(cycle + pp·f·(mixed − decode))          N steps after the first token
    f = 1 − (1 − φ)^dp,  φ = b·s / (N·pp)          share of micro-steps in which some rank has a chunk
    X = b / T

N = osl − 1, or (osl − 1) ÷ tokens a step where tokens are drafted. b below 1 is as good: a request then finds
a chunk in a share φ of its steps, and most of the time nobody decodes. The prompt waits for earlier prompts as
in M/D/1 with service s·mixed (Pollaczek–Khinchine), then for its own chunks. Prompt tokens that the prefix cache
holds are attended to and not computed. The event simulator (:mod:`costmodels.serving.simulator`) takes this
function's place for single plans.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np

from costmodels.architecture import Architecture
from costmodels.communication import Network
from costmodels.estimates import Estimates, Floats, Ints
from costmodels.layouts import Layouts
from costmodels.library import CostModel
from costmodels.memory import kv_bytes_per_sequence
from costmodels.operators import Batch
from costmodels.precision import Precision
from costmodels.serving.drafting import Drafting
from costmodels.serving.frameworks import Framework
from costmodels.serving.step import StepTimes, step_times
from profiles.hardware import Gpu


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
    _times: dict[str, Floats]
    _decode_steps: float
    _burstiness: Floats

    def __len__(self) -> int:
        return len(self.stable)

    def take(self, index: Ints) -> Steady:
        """The operating points ``index`` (k,)."""
        return taken(self, index)

    @property
    def ttft_parts_us(self) -> dict[str, Floats]:
        """What the mean TTFT consists of, [n] each."""
        return {
            "queue": self.waiting_us,
            "prefill": self._times["service"],
            "next step": self._times["step"] / 2,
            "front end": self._times["front"],
        }

    def ttft_percentile_us(self, p: float) -> Floats:
        """TTFT that a share ``p`` of requests stays below."""
        waits = wait_percentile_us(self.waiting_us, self.queue_busy, p)
        return waits + self._times["service"] + self._times["step"] * p + self._times["front"]

    def tpot_percentile_us(self, p: float) -> Floats:
        """TPOT that a share ``p`` of requests stays below: the number of chunks that fall into one request's
        lifetime is Poisson around its mean, and so is the number of sequences that it shares its steps with."""
        z = NormalDist().inv_cdf(p)
        spread = z * np.sqrt(self.mixed_share * self._burstiness / self._decode_steps)
        share = np.clip(self.mixed_share + spread, 0.0, 1.0)
        chunks = (share - self.mixed_share) * self._times["delay"]
        both = np.copysign(np.hypot(chunks, z * self._times["crowd"]), z)
        tpot: Floats = self.tpot_us.value + both * self._times["steps_per_token"]
        return tpot

    def e2e_percentile_us(self, p: float) -> Floats:
        """Time of a whole request that a share ``p`` of requests stays below."""
        decode = self._times["decode_tokens"] * (self.tpot_percentile_us(p) - self.tpot_us.value)
        return self.e2e_us.value + deviation(self.ttft_percentile_us(p) - self.ttft_us.value, decode)


P = TypeVar("P")


def taken(points: P, index: Ints) -> P:
    """The points ``index`` (k,) of a dataclass of arrays [n]; what is no array is common to all of them."""

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: values[index] for name, values in value.items()}
        if isinstance(value, np.ndarray):
            return value[index]
        return value.take(index) if hasattr(value, "take") else value

    changed: Any = {field.name: of(getattr(points, field.name)) for field in fields(points)}  # type: ignore[arg-type]
    return replace(points, **changed)  # type: ignore[type-var]


def wait_percentile_us(mean_us: Floats, busy: Floats, p: float) -> Floats:
    """Wait that a share ``p`` stays below. The wait of M/D/1 has an exponential tail:
    P(wait > t) ≈ busy·exp(−t·busy/mean wait) (Kleinrock, Queueing Systems I, 1975)."""
    scale = mean_us / np.maximum(busy, 1e-12)
    return np.where(busy > 1 - p, scale * np.log(np.maximum(busy / (1 - p), 1.0)), 0.0)


def crowd_us(
    model: Architecture, precision: Precision, gpu: Gpu, layouts: Layouts, tokens: int, concurrency: Floats | Ints
) -> Floats:
    """Standard deviation, over requests, of a step's time that comes from how many others decode with them, [n].

    The number in service of M/D/∞ is Poisson with mean b and remembers a lifetime T linearly, so that its mean
    over one lifetime varies by 2b/3. One sequence more is one cache more to read, here at the memory's rate.
    """
    each = kv_bytes_per_sequence(model, precision, layouts, tokens) / gpu.memory_bandwidth_bytes_per_s * 1e6
    return np.asarray(each * np.sqrt(2 * np.asarray(concurrency, np.float64) / 3))


def deviation(first: Floats, second: Floats) -> Floats:
    """Of a sum whose parts deviate independently: squares add, each with its sign, so that the sum rises with the
    percentile as its parts do."""
    squares = first * np.abs(first) + second * np.abs(second)
    return np.asarray(np.copysign(np.sqrt(np.abs(squares)), squares))


def steady_state(
    model: Architecture,
    precision: Precision,
    cost: CostModel,
    network: Network,
    framework: Framework,
    layouts: Layouts,
    token_budget: Ints,
    concurrency: Ints | Floats,
    isl: int,
    osl: int,
    routing: str,
    *,
    cached_tokens: int = 0,
    drafting: Drafting | None = None,
) -> Steady:
    """Steady state of each operating point.

    Args:
        layouts, token_budget, concurrency: shape [n]; concurrency counts decoding sequences per attention
            rank, on average: it may be below 1.
        isl, osl: prompt and output tokens of every request. With osl 1 nothing is left to decode, and the
            times per output token are 0.
        cached_tokens: prompt tokens that the prefix cache holds, < isl.
        drafting: speculative decoding; None: one token a step.
    """
    queries, per_step = (drafting.queries, drafting.tokens_per_step) if drafting else (1, 1.0)
    # The step of the last token may yield more than are wanted, so no fewer than one.
    steps = max((osl - 1) / per_step, 1.0)
    # A rank's sequences spread over its pipeline stages.
    per_stage = np.maximum(np.ceil(concurrency / layouts.pp), 1).astype(np.int64) * min(osl - 1, 1)
    room = np.maximum(token_budget - per_stage * queries, 1)
    new = isl - cached_tokens
    chunk = np.minimum(room, new)
    # Short prompts share a step when they arrive faster than steps pass.
    arriving = np.ceil(concurrency / (steps * layouts.pp)).astype(np.int64)
    together = np.clip(arriving, 1, np.maximum(room // new, 1))
    chunks = np.where(new > room, new / room, 1.0 / together)
    load = concurrency * chunks / (steps * layouts.pp)  # φ
    stable = load <= 1.0
    mixed_share = np.asarray(1 - (1 - np.minimum(load, 1.0)) ** layouts.dp, np.float64)

    context = np.full(len(layouts), isl + osl // 2)
    nobody = np.zeros(len(layouts), np.int64)
    rows = (per_stage * queries).astype(np.float64)
    decoding = Batch(nobody, nobody, nobody, per_stage, context, rows, queries=queries)
    ranks_with_chunk = np.minimum(load, 1.0) / np.maximum(mixed_share, 1e-12)
    chunk_tokens = together * chunk
    mixing = Batch(
        together,
        chunk,
        cached_tokens + np.where(new > chunk, (new - chunk) // 2, 0),
        per_stage,
        context,
        per_stage * queries + chunk_tokens * np.maximum(ranks_with_chunk, 1 / layouts.dp),
        queries=queries,
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

    drafted = 1 + (drafting.share_of_step(model.layers) if drafting else 0.0)
    steps_per_token = steps / (osl - 1) if osl > 1 else 0.0
    prompt, in_flight = np.full(len(layouts), float(isl)), np.asarray(concurrency * layouts.dp, dtype=np.float64)

    def times(kind: str) -> dict[str, Floats]:
        decode_stage, mixed_stage = (getattr(s.stage, kind) for s in (decode, mixed))
        decode_all, mixed_all = (getattr(s.latency, kind) for s in (decode, mixed))
        cycle = np.maximum(decode_all, layouts.pp * decode_stage) * drafted
        delay = layouts.pp * np.maximum(mixed_stage - decode_stage, 0.0)
        passing = cycle + mixed_share * delay
        tpot = passing * steps_per_token
        rate = concurrency / (steps * passing)  # per rank and µs
        work = chunks * (mixed_stage + decode_stage * (drafted - 1))
        busy = np.minimum(rate * work, 0.999)
        waiting = busy * work / (2 * (1 - busy))
        step = passing / layouts.pp
        service = (np.ceil(np.maximum(chunks, 1.0)) - 1) * mixed_stage + mixed_all
        front = framework.calibration.front_us(prompt, in_flight, tpot)
        ttft = waiting + service + step / 2 + front
        return {
            "front": front,
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
    value["crowd"] = crowd_us(model, precision, cost.gpu, layouts, isl + osl // 2, concurrency)
    value["steps_per_token"] = np.full(len(layouts), steps_per_token)
    value["decode_tokens"] = np.full(len(layouts), float(osl - 1))
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
    columns: Any = {
        name: np.concatenate([getattr(first, name), getattr(second, name)])
        for name in ("prefills", "chunk", "prefix", "decodes", "context", "expert_tokens")
    }
    return Batch(**columns, queries=first.queries)


def _halves(both: StepTimes, n: int) -> tuple[StepTimes, StepTimes]:
    return both.take(np.arange(n)), both.take(np.arange(n, 2 * n))
