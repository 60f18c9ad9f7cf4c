"""Prefill on some engines and decode on others (DistServe, arXiv:2401.09670; Splitwise, arXiv:2311.18677; Mooncake,
arXiv:2407.00079), in closed form over thousands of candidates.

A prefill engine is a queue whose server takes as many waiting prompts into a step as its token budget holds, K at
most. With S(k) the step of k prompts (affine in k), w = S(K)/K and utilisation ρ = λ·w:

    wait = busy·E[S²]/2E[S] + ρ²·w / (2·(1 − ρ))       k̄ = λ·S(k̄), between 1 and K

the rest of the step that an arrival finds, and what M/D/1 waits beyond it; for
K = 1 this is M/D/1 itself (Pollaczek–Khinchine). The prompt is then in a step with what came during that one. A decode
engine takes decode steps only: b = X·N·cycle (Little). TTFT = prefill queue + prefill + exposed transfer
(:mod:`costmodels.serving.steady.kv_transfer`) + wait for the next decode step (+ that step, where the framework has
the decode engine compute the first token).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import NormalDist

import numpy as np

from costmodels.arrays import Rowwise
from costmodels.estimates import Estimates, Floats, Ints, combine
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Batch
from costmodels.origins import ROOFLINE
from costmodels.serving.frameworks.connector import KvConnector
from costmodels.serving.request_shape import RequestShape
from costmodels.serving.served_model import ServedModel
from costmodels.serving.steady.chunked_prefill import wait_percentile_us
from costmodels.serving.steady.kv_transfer import Link, exposed_us
from costmodels.serving.steady.steady_state import batch_size_deviation_us, decode_batch, deviation
from costmodels.serving.step import StepTimes
from costmodels.step.communication import FABRIC_SPREAD

# ------------------------------------------------------------------ prefill


@dataclass(frozen=True)
class PrefillSteps(Rowwise):
    """The steps of ``n`` prefill engines: with one prompt's chunk, and with ``together`` prompts, shape [n] each.

    ``chunks``: steps' worth of tokens in one prompt, at least 1.
    """

    layouts: Layouts
    one: StepTimes
    full: StepTimes
    together: Ints
    chunks: Floats


def prefill_steps(
    served: ServedModel, shape: RequestShape, layouts: Layouts, token_budget: Ints, most: Ints
) -> PrefillSteps:
    """Steps of engines that only prefill.

    Args:
        layouts, token_budget: shape [n].
        most: shape [n], prompts of which an attention rank's memory holds the cache at the same time.
    """
    n, new = len(layouts), shape.new_tokens
    chunk = np.minimum(token_budget, new)
    together = np.clip(np.minimum(token_budget // new, most // layouts.pp), 1, None).astype(np.int64)
    prefix = shape.cached_tokens + np.where(new > chunk, (new - chunk) // 2, 0)
    nobody = np.zeros(2 * n, np.int64)
    prompts = np.concatenate([np.ones(n, np.int64), together])
    chunk_tokens = np.tile(chunk, 2)
    # Every rank of a group is taken to have a chunk, as at the loads that prefill engines are planned for.
    batch = Batch(
        prompts, chunk_tokens, np.tile(prefix, 2), nobody, nobody, (prompts * chunk_tokens).astype(np.float64)
    )
    both = layouts.take(np.tile(np.arange(n), 2))
    steps = served.step(both, batch, shape.routing)
    return PrefillSteps(
        layouts,
        steps.take(np.arange(n)),
        steps.take(np.arange(n, 2 * n)),
        together,
        np.maximum(new / chunk, 1.0),
    )


@dataclass(frozen=True)
class Prefilling(Rowwise):
    """``n`` prefill engines under load, shape [n] each.

    Attributes:
        rate_rps: prompts per second of the whole engine.
        utilisation: ρ, of what the engine can do at most.
        done_us: mean time from arrival to the end of the prompt's prefill.
        waiting_us, queue_busy: mean wait, and the share of time that an arrival finds a step running.
        service_us: a prompt's own steps. run_us: what an arrival finds running.
        prompts: prompts of one step, mean.
        steps: the steps behind it.
    """

    rate_rps: Estimates
    utilisation: Floats
    done_us: Estimates
    waiting_us: Floats
    queue_busy: Floats
    service_us: Floats
    run_us: Floats
    prompts: Floats
    steps: PrefillSteps

    def __len__(self) -> int:
        return len(self.utilisation)

    def percentile_us(self, p: float) -> Floats:
        """Time to the end of the prefill that a share ``p`` of requests stays below."""
        return self._below(p)

    @cached_property
    def _below(self) -> Callable[[float], Floats]:
        """The same, worked out once for each share: what engines are paired with is tried many times over."""
        return cache(lambda p: wait_percentile_us(self.waiting_us, self.queue_busy, self.run_us, p) + self.service_us)


def work_us(steps: PrefillSteps) -> Floats:
    """Time per prompt of an attention rank that is never idle, [n]."""
    return np.where(steps.together > 1, steps.full.stage.value / steps.together, steps.one.stage.value * steps.chunks)


def prefilling(steps: PrefillSteps, utilisation: Floats) -> Prefilling:
    """The queue of each engine at a ``utilisation`` (n,), each below 1."""
    many = steps.together
    rho = utilisation

    def times(kind: str) -> dict[str, Floats]:
        one, full = (getattr(s.stage, kind) for s in (steps.one, steps.full))
        one_all, full_all = (getattr(s.latency, kind) for s in (steps.one, steps.full))
        alone = one * steps.chunks
        work = np.where(many > 1, full / many, alone)
        rate = rho / work
        more = np.maximum(full - one, 0.0) / np.maximum(many - 1, 1)  # of one prompt more in a step
        batch = np.clip(rate * (alone - more) / np.maximum(1 - rate * more, 1e-9), 1, many)
        step = alone + (batch - 1) * more
        busy = np.minimum(rate * step / batch, 0.999)
        scatter = more**2 * (batch - 1) / (1 - np.minimum(rate * more, 0.99) ** 2)  # variance of a step
        rest = busy * (step + scatter / step) / 2
        waiting = rest + rho**2 * work / (2 * (1 - rho))
        # A prompt is in a step with all that came during the one before: more than are in the average step.
        seen = np.clip(1 + 2 * rate * rest, batch, many)
        latency = one_all + (seen - 1) * np.maximum(full_all - one_all, 0.0) / np.maximum(many - 1, 1)
        service = latency + (steps.chunks - 1) * one
        return {"rate": rate, "batch": batch, "busy": busy, "waiting": waiting, "service": service, "run": step}

    value, low, high = times("value"), times("low"), times("high")
    origin = steps.full.latency
    done = [t["waiting"] + t["service"] for t in (value, low, high)]
    dp = steps.layouts.dp * 1e6
    return Prefilling(
        _between(value["rate"] * dp, high["rate"] * dp, low["rate"] * dp, origin),
        rho,
        _between(done[0], done[1], done[2], origin),
        value["waiting"],
        value["busy"],
        value["service"],
        value["run"],
        value["batch"],
        steps,
    )


def _between(value: Floats, low: Floats, high: Floats, origin: Estimates) -> Estimates:
    return Estimates(value, np.minimum(low, value), np.maximum(high, value), origin.how, origin.inside)


# ------------------------------------------------------------------ decode


@dataclass(frozen=True)
class Decoding(Rowwise):
    """``n`` decode engines with a mean of ``concurrency`` sequences in each attention rank, shape [n] each.

    ``step``: decode steps. ``cycle_us``: between two steps of one sequence, drafting included. ``rate_rps``: requests
    per second of the whole engine. ``tokens``: output tokens after the first.
    """

    layouts: Layouts
    concurrency: Floats
    step: StepTimes
    cycle_us: Estimates
    rate_rps: Estimates
    tpot_us: Estimates
    batch_size_deviation_us: Floats
    steps_per_token: float
    tokens: int

    def __len__(self) -> int:
        return len(self.concurrency)

    def tpot_percentile_us(self, p: float) -> Floats:
        """TPOT that a share ``p`` of requests stays below, by how many others share their steps."""
        spread = NormalDist().inv_cdf(p) * self.batch_size_deviation_us * self.steps_per_token
        return np.asarray(np.maximum(self.tpot_us.value + spread, 0.0))


def decoding(
    served: ServedModel,
    shape: RequestShape,
    layouts: Layouts,
    concurrency: Floats,
    kv_connector: KvConnector,
    step: StepTimes | None = None,
) -> Decoding:
    """Engines that only decode.

    Args:
        shape: with an osl of at least 2.
        layouts, concurrency: shape [n].
        step: the steps of :func:`costmodels.serving.steady.steady_state.decode_batch`, where they are known.
    """
    if step is None:
        step = served.step(layouts, decode_batch(served, shape, layouts, concurrency), shape.routing)
    drafted = 1 + shape.share_of_step(served.model.layers)
    osl, steps = shape.osl, shape.decode_steps
    # The first step counts where it is taken here.
    here = steps + (1.0 if kv_connector.first_token == "decode_step" else 0.0)
    cycle = [
        np.maximum(getattr(step.latency, kind), layouts.pp * getattr(step.stage, kind)) * drafted
        for kind in ("value", "low", "high")
    ]
    cycles = _between(cycle[0], cycle[1], cycle[2], step.latency)
    rate = [concurrency * layouts.dp * 1e6 / (here * time) for time in cycle]
    return Decoding(
        layouts,
        concurrency,
        step,
        cycles,
        _between(rate[0], rate[2], rate[1], step.latency),
        cycles.scaled(steps / (osl - 1)),
        batch_size_deviation_us(served, layouts, shape.context, concurrency),
        steps / (osl - 1),
        osl - 1,
    )


# ------------------------------------------------------------------ together


@dataclass(frozen=True)
class Joint:
    """``n`` pairs of a prefill and a decode engine, and what their requests see, shape [n] each. Times µs.

    ``front_us``: what a request waits outside the engines' steps (tokeniser, HTTP), as calibrated on engines that do
    everything.
    """

    prefill: Prefilling
    decode: Decoding
    transfer_us: Estimates
    exposed_us: Estimates
    front_us: Estimates
    kv_connector: KvConnector

    @property
    def _first(self) -> float:
        """Decode steps before the first token."""
        return 1.0 if self.kv_connector.first_token == "decode_step" else 0.0

    @property
    def _step(self) -> Estimates:
        return self.decode.cycle_us.scaled(1 / self.decode.layouts.pp)

    @property
    def ttft_us(self) -> Estimates:
        wait = self._step.scaled(0.5)
        first = self.decode.cycle_us.scaled(self._first)
        return combine([self.front_us, self.prefill.done_us, self.exposed_us, wait, first])

    @property
    def tpot_us(self) -> Estimates:
        return self.decode.tpot_us

    @property
    def e2e_us(self) -> Estimates:
        first = combine([self.front_us, self.prefill.done_us, self.exposed_us])
        steps = 0.5 / self.decode.layouts.pp + self._first + self.decode.tokens * self.decode.steps_per_token
        return combine([first, self.decode.cycle_us.scaled(steps)])

    @property
    def ttft_parts_us(self) -> dict[str, Floats]:
        """What the mean TTFT consists of."""
        return {
            "queue": self.prefill.waiting_us,
            "prefill": self.prefill.service_us,
            "KV transfer": self.exposed_us.value,
            "next step": self._step.value / 2,
            "first decode step": self.decode.cycle_us.value * self._first,
            "front end": self.front_us.value,
        }

    def ttft_percentile_us(self, p: float) -> Floats:
        """TTFT that a share ``p`` of requests stays below."""
        after = self.exposed_us.value + self._step.value * p + self.decode.cycle_us.value * self._first
        return self.front_us.value + self.prefill.percentile_us(p) + after

    def tpot_percentile_us(self, p: float) -> Floats:
        """TPOT that a share ``p`` of requests stays below."""
        return self.decode.tpot_percentile_us(p)

    def e2e_percentile_us(self, p: float) -> Floats:
        """Time of a whole request that a share ``p`` of requests stays below."""
        decode = self.decode.tokens * (self.tpot_percentile_us(p) - self.tpot_us.value)
        return self.e2e_us.value + deviation(self.ttft_percentile_us(p) - self.ttft_us.value, decode)


def front_end(served: ServedModel, isl: int, prefill: Prefilling, tpot_us: Floats) -> Floats:
    """What a request waits outside the engines' steps, µs, [n]: the prefill engine's front end has the prompts that are
    on their way through it (Little's law)."""
    concurrent = prefill.rate_rps.value / 1e6 * prefill.done_us.value
    return served.calibration.front_us(np.full(len(prefill), float(isl)), concurrent, tpot_us)


def joint(
    served: ServedModel,
    isl: int,
    prefill: Prefilling,
    decode: Decoding,
    transfer_us: Floats,
    link: Link,
    kv_connector: KvConnector,
) -> Joint:
    """Pairs, row by row. ``transfer_us``: [n], of the slower end ``link``, its queue included."""
    front = front_end(served, isl, prefill, decode.tpot_us.value)
    ends = served.calibration.front_ends

    def estimated(time: Floats) -> Estimates:
        # As across_nodes of costmodels.step.communication: line rate, or more for a GPU that has a shared card alone.
        low, high = time / link.shared_by_gpus, time * np.exp(FABRIC_SPREAD)
        return Estimates(time, low, high, np.full(len(time), ROOFLINE, np.int8), np.zeros(len(time), np.bool_))

    exposed = exposed_us(transfer_us, prefill.service_us, prefill.steps.chunks, served.model.layers, kv_connector)
    return Joint(
        prefill,
        decode,
        estimated(transfer_us),
        estimated(exposed),
        _between(front, front * ends["low"], front * ends["high"], decode.tpot_us),
        kv_connector,
    )
