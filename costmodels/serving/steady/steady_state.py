"""Steady state of continuous batching with chunked prefill, in closed form over thousands of candidates.

One attention rank holds ``b`` decoding sequences on average. Requests arrive at random (Poisson) at the rate at which
they leave; each costs a number of prefill chunks, each of which rides along in one step and delays the decodes in it.
Here the steps with and without chunks are timed; how they mix, and what requests wait for each other, is worked out in
:mod:`costmodels.serving.steady.chunked_prefill`, whose docstring has the formulas.

A sequence sees itself beside the b others that decode on average (arrivals see time averages), on a pipeline the
fullest of its stages' micro-batches, as they stay in order: b/pp and the expected maximum of pp normal deviates
(Blom, 1958) of √(b/pp). Steps without chunks run at the sizes of captured CUDA graphs
(:mod:`costmodels.serving.frameworks.policies`). N = osl − 1 decode steps, or (osl − 1) ÷ tokens a step where tokens
are drafted. Prompt tokens that the prefix cache holds are attended to and not computed. With osl 1 nobody decodes:
``b`` is then the share of the time that prefill is busy.

The event simulator (:mod:`costmodels.serving.simulator.events`) takes this function's place for single plans; how far
the two are apart is measured by ``python -m tests.benchmarks.simulator``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from costmodels.arrays import Rowwise
from costmodels.estimates import Estimates, Floats, Ints
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Batch
from costmodels.serving.frameworks.framework import Framework
from costmodels.serving.request_shape import RequestShape
from costmodels.serving.served_model import ServedModel
from costmodels.serving.steady.chunked_prefill import (
    EngineLoad,
    Equilibrium,
    equilibrium,
    gamma_quantile,
    wait_percentile_us,
)
from costmodels.serving.step import StepTimes


@dataclass(frozen=True)
class Steady(Rowwise):
    """Predictions over ``n`` operating points (a layout, a token budget and a decode concurrency each).

    Attributes:
        stable: shape [n], whether prefill keeps up with decode at this concurrency.
        rate_rps: requests per second of the whole engine.
        ttft_us, tpot_us, e2e_us: mean, with intervals from the uncertainty of steps and front end.
        decode, mixed: the two kinds of step.
        mixed_share: share of steps that carry a chunk.
        waiting_us, queue_busy: mean wait behind other prompts, and the share of time that prefill is busy.
        balanced: what the percentiles come from.
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
    balanced: Equilibrium
    _times: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.stable)

    @property
    def ttft_parts_us(self) -> dict[str, Floats]:
        """What the mean TTFT consists of, [n] each."""
        return {
            "queue": self.waiting_us,
            "prefill": self._times["service"],
            "next step": self._times["next_step"],
            "front end": self._times["front"],
        }

    def with_front(self, front_us: Floats) -> Steady:
        """The same with another wait before the engine, [n]."""
        more = front_us - self._times["front"]
        low, high = (more * self._times[f"front_{end}"] for end in ("low", "high"))
        ttft, e2e = (
            Estimates(each.value + more, each.low + low, each.high + high, each.how, each.inside)
            for each in (self.ttft_us, self.e2e_us)
        )
        return replace(self, ttft_us=ttft, e2e_us=e2e, _times={**self._times, "front": front_us})

    def ttft_percentile_us(self, p: float) -> Floats:
        """TTFT that a share ``p`` of requests stays below."""
        met = self.balanced.mixture
        waits = wait_percentile_us(self.waiting_us, met.delayed, met.run, p)
        return waits + self._times["service"] + 2 * p * self._times["next_step"] + self._times["front"]

    def tpot_percentile_us(self, p: float) -> Floats:
        """TPOT that a share ``p`` of requests stays below: a gamma law between no chunk and a chunk in every step."""
        it = self.balanced
        time = it.shortest + gamma_quantile(it.time - it.shortest, it.deviation, p)
        tpot: Floats = np.minimum(time, it.longest) / self._times["tokens"]
        return tpot

    def e2e_percentile_us(self, p: float) -> Floats:
        """Time of a whole request that a share ``p`` of requests stays below."""
        decode = self._times["tokens"] * (self.tpot_percentile_us(p) - self.tpot_us.value)
        return self.e2e_us.value + deviation(self.ttft_percentile_us(p) - self.ttft_us.value, decode)


def batch_size_deviation_us(served: ServedModel, layouts: Layouts, tokens: int, concurrency: Floats | Ints) -> Floats:
    """Standard deviation, over requests, of a step's time that comes from how many others decode with them, [n].

    The number in service of M/D/∞ is Poisson with mean b and remembers a lifetime T linearly, so that its mean
    over one lifetime varies by 2b/3. One sequence more is one cache more to read, here at the memory's rate.
    """
    each = served.kv_bytes(layouts, tokens) / served.gpu.memory_bandwidth_bytes_per_s * 1e6
    return np.asarray(each * np.sqrt(2 * np.asarray(concurrency, np.float64) / 3))


def deviation(first: Floats, second: Floats) -> Floats:
    """Of a sum whose parts deviate independently: squares add, each with its sign, so that the sum rises with the
    percentile as its parts do."""
    squares = first * np.abs(first) + second * np.abs(second)
    return np.asarray(np.copysign(np.sqrt(np.abs(squares)), squares))


def fullest_batch(concurrency: Floats, layouts: Layouts) -> Ints:
    """Sequences that a step holds, as a request sees it that shares a rank with ``concurrency`` others on average, [n]:
    itself beside those of its pipeline stage's micro-batch, or the fullest of the micro-batches."""
    others = np.asarray(concurrency / layouts.pp, np.float64)
    fullest = others + ndtri((layouts.pp - 0.375) / (layouts.pp + 0.25)) * np.sqrt(others)
    return np.rint(np.maximum(fullest, others + 1)).astype(np.int64)


def decode_batch(served: ServedModel, shape: RequestShape, layouts: Layouts, concurrency: Floats) -> Batch:
    """What each attention rank decodes in a step without chunks, as a request sees it that shares the rank with
    ``concurrency`` (n,) others on average; at the sizes of captured CUDA graphs."""
    decodes = fullest_batch(concurrency, layouts) * (shape.osl > 1)
    size = _captured(served.framework, decodes, concurrency / layouts.pp) * (shape.osl > 1)
    return _decoding_alone(shape, layouts, decodes, size)


def held_batch(served: ServedModel, shape: RequestShape, layouts: Layouts, sequences: Floats) -> Batch:
    """The same of an engine of whose attention ranks each holds so many ``sequences`` all the time, [n], no more and no
    fewer: its users ask again when they are answered."""
    decodes = np.ceil(sequences / layouts.pp).astype(np.int64)
    size = _captured(served.framework, decodes, np.zeros(len(layouts)))
    return _decoding_alone(shape, layouts, decodes, size)


def _decoding_alone(shape: RequestShape, layouts: Layouts, decodes: Ints, size: Ints) -> Batch:
    """A step of ``decodes`` sequences of each attention rank, padded to ``size``."""
    queries, nobody = shape.queries, np.zeros(len(layouts), np.int64)
    return Batch(
        nobody,
        nobody,
        nobody,
        size,
        shape.context * decodes // np.maximum(size, 1),
        # Experts that all ranks share are not padded.
        np.where(layouts.dp > 1, decodes * queries, size * queries).astype(np.float64),
        queries=queries,
    )


def steady_state(
    served: ServedModel, shape: RequestShape, layouts: Layouts, token_budget: Ints, concurrency: Ints | Floats
) -> Steady:
    """Steady state of each operating point. With osl 1 the times per output token are 0.

    Args:
        layouts, token_budget, concurrency: shape [n]; concurrency counts decoding sequences per attention
            rank, on average: it may be below 1.
    """
    others = np.asarray(concurrency, np.float64)
    chunking = _Chunking.of(shape, layouts, token_budget, others)
    decoding, mixing = decode_batch(served, shape, layouts, others), chunking.batch(shape, layouts)
    both = served.step(_twice(layouts), _stack(decoding, mixing), shape.routing)
    decode, mixed = _halves(both, len(layouts))
    x = _engine_load(served, shape, layouts, others, chunking, decode, mixed)
    it = equilibrium(x)
    met = it.mixture
    tokens = max(shape.osl - 1, 1)
    tpot = it.time / tokens
    prompt = np.full(len(layouts), float(shape.isl))
    polling = served.framework.scheduler.polling
    outputs = float(shape.osl)
    users = x.concurrency * layouts.dp
    times = {
        "service": met.service + mixed.latency.value - mixed.stage.value,
        "next_step": x.decode * x.occupied * (shape.osl > 1) * (1 - met.busy) * polling / 2,
        "front": served.calibration.front_us(prompt, users, tpot, layouts.dp, outputs, polling > 1, it.rate),
        "tokens": np.full(len(layouts), float(tokens)),
        **{f"front_{end}": np.full(len(layouts), factor) for end, factor in served.calibration.front_ends.items()},
    }
    return _with_intervals(x, it, tpot, times, decode, mixed)


@dataclass(frozen=True)
class _Chunking:
    """How prompts ride along in steps, [n] each.

    Attributes:
        decodes: sequences that decode in a step beside them.
        together, chunk: prompts in a step, and tokens of each.
        chunks, fitting: steps that a prompt takes, and prompts that a step has room for, both at least 1.
        ranks: share of attention ranks that have a chunk, in a step that has one.
    """

    decodes: Ints
    together: Ints
    chunk: Ints
    chunks: Floats
    fitting: Floats
    ranks: Floats

    @classmethod
    def of(cls, shape: RequestShape, layouts: Layouts, token_budget: Ints, concurrency: Floats) -> _Chunking:
        steps, new, dp = shape.decode_steps, shape.new_tokens, layouts.dp
        present = np.asarray(concurrency / layouts.pp, np.float64)  # a rank's sequences spread over its stages
        decodes = fullest_batch(concurrency, layouts) * (shape.osl > 1)
        room = np.maximum(token_budget - decodes * shape.queries, 1)
        # Short prompts share a step when they arrive faster than steps pass.
        arriving = np.ceil(present / max(steps, 1.0)).astype(np.int64)
        together = np.clip(arriving, 1, np.maximum(room // new, 1))
        chunks, fitting = np.maximum(new / room, 1.0), np.maximum(room / new, 1.0)
        load = np.minimum(present * chunks / (fitting * max(steps, 1.0)), 1.0)
        ranks = np.maximum(load / np.maximum(1 - (1 - load) ** dp, 1e-12), 1 / dp)
        return cls(decodes, together, np.minimum(room, new), chunks, fitting, ranks)

    def batch(self, shape: RequestShape, layouts: Layouts) -> Batch:
        """What each attention rank has in a step with chunks."""
        new, chunk = shape.new_tokens, self.chunk
        return Batch(
            self.together,
            chunk,
            shape.cached_tokens + np.where(new > chunk, (new - chunk) // 2, 0),
            self.decodes,
            np.full(len(layouts), shape.context),
            self.decodes * shape.queries + self.together * chunk * self.ranks,
            queries=shape.queries,
        )


def _engine_load(
    served: ServedModel,
    shape: RequestShape,
    layouts: Layouts,
    concurrency: Floats,
    chunking: _Chunking,
    decode: StepTimes,
    mixed: StepTimes,
) -> EngineLoad:
    """What the two kinds of step say of the engine. A step of several attention ranks waits for the chunks of all in
    its experts, and for its own in the rest."""
    pp, dp, together = layouts.pp, layouts.dp, chunking.together
    drafted = 1 + shape.share_of_step(served.model.layers)
    without, added = decode.stage.value, np.maximum(mixed.stage.value - decode.stage.value, 1e-3)
    cycle = np.maximum(decode.latency.value, pp * without) * drafted
    experts = (mixed.parts["moe"] - decode.parts["moe"]) / np.maximum(mixed.latency.value - decode.latency.value, 1e-3)
    experts = np.where(dp > 1, np.clip(experts, 0, 1), 1.0)
    return EngineLoad(
        ranks=dp,
        stages=pp,
        concurrency=concurrency,
        steps=shape.decode_steps,
        decode=cycle / pp,
        own=added * (1 - experts) / together,
        shared=added * experts / (together * dp * chunking.ranks),
        chunks=chunking.chunks,
        room=chunking.fitting,
        sequence=decode.parts["attention"] / (pp * np.maximum(chunking.decodes, 1)),
    )


def _with_intervals(
    x: EngineLoad, it: Equilibrium, tpot: Floats, times: dict[str, Floats], decode: StepTimes, mixed: StepTimes
) -> Steady:
    """The answer, with the intervals that the steps' times and the front end's give it: times that are all longer by a
    factor are in balance at a rate lower by it."""
    met = it.mixture
    share = np.minimum(met.mixed_share, 1.0)
    how = np.maximum(decode.latency.how, mixed.latency.how)
    inside = decode.latency.inside & mixed.latency.inside

    def mean(kind: str) -> Floats:
        plain, chunked = getattr(decode.stage, kind), getattr(mixed.stage, kind)
        return np.asarray((1 - share) * plain + share * chunked)

    low, high = mean("low") / mean("value"), mean("high") / mean("value")

    def estimates(value: Floats, down: Floats, up: Floats) -> Estimates:
        return Estimates(value, np.minimum(down, value), np.maximum(up, value), how, inside)

    in_engine = met.wait + times["service"] + times["next_step"]

    def fronted(factor: Floats, end: str) -> Floats:
        return np.asarray(in_engine * factor + times["front"] * times[f"front_{end}"])

    def whole(factor: Floats, end: str) -> Floats:
        return fronted(factor, end) + it.time * factor

    ones = np.ones(len(tpot))
    rate = it.rate * 1e6
    return Steady(
        x.load <= 1.0,
        estimates(rate, rate / high, rate / low),
        estimates(fronted(ones, "value"), fronted(low, "low"), fronted(high, "high")),
        estimates(tpot, tpot * low, tpot * high),
        estimates(whole(ones, "value"), whole(low, "low"), whole(high, "high")),
        decode,
        mixed,
        met.mixed_share,
        met.wait,
        met.busy,
        it,
        times,
    )


def _captured(framework: Framework, decodes: Ints, mean: Floats) -> Ints:
    """The size that steps without chunks run at on average while the number of sequences fluctuates like Poisson's
    around ``decodes`` (Gauss and Hermite's three points), [n]."""
    policy = framework.scheduler
    sizes = np.array(policy.graph_sizes)

    def padded(number: Floats) -> Floats:
        whole = np.asarray(np.maximum(np.rint(number), 1))
        return np.where(whole > sizes[-1], whole, sizes[np.minimum(np.searchsorted(sizes, whole), len(sizes) - 1)])

    middle, away = decodes.astype(np.float64), np.sqrt(3 * mean)
    return np.rint((4 * padded(middle) + padded(middle - away) + padded(middle + away)) / 6).astype(np.int64)


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
