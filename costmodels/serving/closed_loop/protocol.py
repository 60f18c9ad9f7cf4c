"""A client that keeps a fixed number of requests in flight, estimated for thousands of configurations at once.

The protocol of the public harnesses (InferenceX and every ``benchmark_serving`` with ``--max-concurrency``): a burst of
C requests, then a new one for each that finishes, ten times C in all, lengths uniform within 20 % below the stated
ones. Requests of a burst queue for prefill and finish close together, so their successors queue too: the mean TTFT is
mostly that queue, which no static formula gives.

Simulated event by event, but in lock step over all configurations: one array operation advances every configuration by
its own next event (a batch of prompts, or decode steps until the next sequence ends). More than ``SLOTS`` requests in
flight move as clusters of equal size, whose prompts come one by one once the opening burst is through. What a step
takes is asked beforehand on a small grid (:mod:`~costmodels.serving.closed_loop.loop_grid`).

The event simulator (``simulator.py``) plays single requests with the engines' schedulers. On the same steps the two
differ by 2 % (TTFT) and 1 % (TPOT, throughput) in the median of 216 points and by 10 and 3 % in nine of ten; most where
more than a hundred requests are in flight, and where the cache is so full that sequences are preempted, which is not
played here (``costmodels/evidence/closed_loop.json``, by ``python -m tests.benchmarks.loops``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from costmodels.arrays import take_rows
from costmodels.estimates import Floats, Ints

SLOTS = 32
GENERATIONS = 10
"""Requests per slot: the harnesses send ten times the concurrency."""

SHORTEST = 0.8
"""Lengths are uniform between this share of the stated length and all of it (``--random-range-ratio 0.8``)."""

_SEED = 0
_NEVER = np.inf


@dataclass(frozen=True)
class StepGrid:
    """Step times of ``n`` configurations on a small grid, µs.

    Attributes:
        decode_batch, decode_us: decoding sequences of one attention rank, ascending, and the time until each has its
            next token; [n, b].
        prompts, prefill_us: prompts taken into one step over all ranks, from 1 ascending, and the time that they take
            (all chunks of a prompt longer than the token budget); [n, p]. Where ``mixed``, the decodes that ride along
            are in it.
        fill_us: by how much longer they take when they follow decodes: a pipeline passes on prompts that follow each
            other stage by stage, and the first waits for all its stages; [n, p].
        chunks: steps that this takes; [n].
        stages: of the pipeline; [n].
        mixed: whether decodes go on during prefill; [n].
    """

    decode_batch: Floats
    decode_us: Floats
    prompts: Floats
    prefill_us: Floats
    fill_us: Floats
    chunks: Floats
    stages: Ints
    mixed: np.ndarray

    def take(self, index: Ints) -> StepGrid:
        return take_rows(self, index)


@dataclass(frozen=True)
class Gate:
    """When an engine that decodes lets waiting prompts in, shape [n] each; one that is idle lets them in at once.

    Attributes:
        steps: decode steps until it does; 0: at every step.
        enough: waiting requests for which it does so earlier.
        free_running: steps count from the last look at the queue (SGLang's ``--scheduler-recv-interval``,
            TensorRT-LLM's attention-DP balance), not from the first waiting request (its ``batch_wait``).
    """

    steps: Floats
    enough: Floats
    free_running: np.ndarray

    @classmethod
    def none(cls, n: int) -> Gate:
        return cls(np.zeros(n), np.full(n, np.inf), np.zeros(n, np.bool_))

    def after(self, tokens_per_step: Floats) -> Gate:
        """With steps counted in tokens of one sequence."""
        return replace(self, steps=self.steps * tokens_per_step)

    def take(self, index: Ints) -> Gate:
        return take_rows(self, index)


@dataclass(frozen=True)
class _Sent:
    """What the clients send, shape [n] each: as of :func:`closed_loop`."""

    concurrency: Ints
    osl: Ints
    shortest: Floats
    generations: Ints

    def take(self, index: Ints) -> _Sent:
        return take_rows(self, index)


@dataclass(frozen=True)
class ClosedLoop:
    """What the client sees, shape [n] each unless said otherwise; times in µs.

    Attributes:
        ttft, tpot, e2e: of each request, shape [n, requests], NaN where a configuration had fewer.
        ttft_prefill, tpot_prefill: the share of the mean that was spent in steps with prompts.
        output_tokens_per_s: of the whole run, ramp-up and tail included, as the harnesses report it.
    """

    ttft: Floats
    tpot: Floats
    e2e: Floats
    ttft_prefill: Floats
    tpot_prefill: Floats
    output_tokens_per_s: Floats


def closed_loop(
    grid: StepGrid,
    concurrency: Ints,
    most_running: Ints,
    ranks: Ints,
    osl: Ints,
    shortest: Floats | float = SHORTEST,
    gate: Gate | None = None,
    generations: Ints | int = GENERATIONS,
) -> ClosedLoop:
    """Plays the protocol on each configuration.

    Args:
        concurrency: requests that the client keeps in flight, shape [n].
        most_running: sequences that the whole engine holds at once (cache and batch limits); the rest wait.
        ranks: attention ranks, over which requests are spread evenly.
        osl: stated output length in tokens.
        shortest: lengths are uniform between this share of the stated ones and all of it.
        gate: when prompts are let in, its steps counted in tokens of one sequence (None: at every step).
        generations: requests of each client, one after the other, at most :data:`GENERATIONS`; 1: a burst alone.
    """
    n = len(concurrency)
    gate = gate or Gate.none(n)
    sent = _Sent(
        concurrency,
        osl,
        np.broadcast_to(np.asarray(shortest, dtype=np.float64), n),
        np.broadcast_to(np.asarray(generations, dtype=np.int64), n),
    )
    requests = SLOTS * GENERATIONS
    out = ClosedLoop(*(np.full((n, requests), np.nan) for _ in range(3)), *(np.zeros(n) for _ in range(3)))
    slots = np.minimum(concurrency, SLOTS)
    sizes = 2 ** np.ceil(np.log2(np.maximum(slots, 1))).astype(np.int64)
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        part = _play(grid.take(rows), sent.take(rows), most_running[rows], ranks[rows], gate.take(rows), int(size))
        for name in out.__dataclass_fields__:
            whole, piece = getattr(out, name), getattr(part, name)
            if piece.ndim == 2:
                whole[rows, : piece.shape[1]] = piece
            else:
                whole[rows] = piece
    return out


def _play(grid: StepGrid, sent: _Sent, most_running: Ints, ranks: Ints, gate: Gate, width: int) -> ClosedLoop:
    concurrency, osl, ratio = sent.concurrency, sent.osl, sent.shortest
    n = len(concurrency)
    slots = np.minimum(concurrency, SLOTS)
    weight = concurrency / slots  # requests that one slot stands for
    total = slots * sent.generations
    room = np.maximum(np.floor(most_running / weight), 1)
    draw = np.random.default_rng(_SEED).random((2, GENERATIONS * 2, width))
    spread, least_share = (1 - ratio)[:, None], ratio[:, None]
    present = np.arange(width) < slots[:, None]

    now, prefilling = np.zeros(n), np.zeros(n)  # clocks: all time, and the part of it in steps with prompts
    arrival = np.where(present, 0.0, _NEVER)
    arrival_prefill = np.zeros((n, width))
    first, first_wait = np.zeros((n, width)), np.zeros((n, width))
    first_prefill = np.zeros((n, width))
    remaining = np.full((n, width), _NEVER)
    target = np.zeros((n, width))
    generation = np.zeros((n, width), np.int64)
    started = slots.astype(np.int64).copy()
    finished = np.zeros(n, np.int64)
    ttft, tpot, e2e = (np.full((n, width * GENERATIONS), np.nan) for _ in range(3))
    ttft_sum, ttft_prefill, tpot_sum, tpot_prefill, tokens = (np.zeros(n) for _ in range(5))
    admitted = np.zeros(n, np.int64)
    osl_steps = np.maximum(osl - 1, 1).astype(np.float64)
    mean = (1 + ratio) / 2

    most = grid.prompts[:, -1]  # prompts over all ranks that one step takes
    at_once = np.maximum(np.floor(most / weight), 1)  # slots served together
    since = np.zeros(n)  # steps that count towards the gate's
    filling = np.zeros(n, np.bool_)  # whether the last step had prompts
    soon = (1 - ratio) / 2 * osl_steps  # steps: half of what lengths differ by
    # Decode steps in which requests come that are served together.
    together = np.maximum(np.where(grid.mixed, grid.chunks / grid.stages, 1.0), gate.steps)
    piped = grid.stages > 1
    while True:
        live = finished < total
        if not live.any():
            break
        decoding = remaining < _NEVER
        running = decoding.sum(1)
        waiting = arrival < _NEVER
        queue = waiting.sum(1)
        shut = (running > 0) & (since < gate.steps) & (queue * weight < gate.enough)
        take = np.minimum(np.minimum(queue, at_once), np.maximum(room - running, 0)).astype(np.int64)
        take = np.where(shut, 0, take)
        serve = live & (take > 0)
        since = np.where(serve, gate.steps, since)
        ends = np.zeros_like(decoding)
        # --- a batch of prompts, first come first served
        if serve.any():
            chosen = _earliest(arrival, np.where(serve, take, 0))
            prompts = take * weight
            turn = np.minimum(generation, 2 * GENERATIONS - 1)
            share_in = least_share + spread * draw[0, turn, np.arange(width)]
            scale_in = np.where(chosen, share_in, 0.0).sum(1) / np.maximum(take, 1) / mean
            each = prompts / np.maximum(np.ceil(prompts / most), 1)
            burst = (chosen & (generation == 0)).any(1) | (weight == 1) | (soon < 1)
            fills = np.where(piped & ~filling, 1.0, 0.0)
            if not burst.all():
                # Requests come at random: those that are served together are so many on average, at least one.
                rate = weight * (remaining <= soon[:, None]).sum(1) / np.maximum(soon, 1.0)
                rate = np.maximum(rate * together * take, 1e-9)
                each = np.where(burst, each, np.clip(rate / -np.expm1(-rate), 1.0, np.minimum(prompts, most)))
                empty = np.where(piped, prompts / np.maximum(each, 1.0) * np.exp(-rate), 0.0)
                fills = np.where(burst, fills, empty)
            batches = prompts / np.maximum(each, 1.0)
            own = line_through(grid.prompts, grid.prefill_us, each) * scale_in
            time = batches * own
            steps = batches * grid.chunks / grid.stages
            if piped.any():
                fill = fills * line_through(grid.prompts, grid.fill_us, each) * scale_in
                time, own = time + fill, own + fill / np.maximum(batches, 1.0)
                steps = steps + fills * (1 - 1 / grid.stages)
            time = np.where(serve, time, 0.0)
            moving = decoding & (serve & grid.mixed)[:, None]
            remaining = np.where(moving, remaining - steps[:, None], remaining)
            ends = moving & (remaining <= 0)
            now, prefilling = now + time, prefilling + time
            # Of a burst, members of a cluster are done half way through its steps on average. Later ones would have
            # come one by one, and waited for none of their own cluster.
            alone = np.where(burst, grid.prefill_us[:, 0] * scale_in, own)
            halfway = time * np.maximum(batches - 1, 0.0) / (2 * np.maximum(batches, 1.0))
            early = np.where(burst, halfway, np.maximum(time - own, 0.0))[:, None]
            wait = np.maximum(now[:, None] - early - arrival, alone[:, None])
            where_first = np.cumsum(chosen, axis=1) - 1 + admitted[:, None]
            r, c = np.nonzero(chosen)
            ttft[r, where_first[r, c]] = wait[r, c]
            in_prompts = prefilling[:, None] - early - arrival_prefill
            ttft_sum += np.where(chosen, wait, 0.0).sum(1)
            ttft_prefill += np.where(chosen, in_prompts, 0.0).sum(1)
            admitted += chosen.sum(1)
            first = np.where(chosen, now[:, None], first)
            first_prefill = np.where(chosen, prefilling[:, None], first_prefill)
            share_out = least_share + spread * draw[1, turn, np.arange(width)]
            drawn = np.maximum(np.rint(share_out * osl_steps[:, None]), 1)
            target = np.where(chosen, drawn, target)
            remaining = np.where(chosen, drawn, remaining)
            first_wait = np.where(chosen, wait, first_wait)
            arrival = np.where(chosen, _NEVER, arrival)
        filling = serve
        # --- or decode until the next sequence ends or the gate opens
        go = live & ~serve & (running > 0)
        if go.any():
            least = np.where(decoding, remaining, _NEVER).min(1)
            least = np.where(shut & (queue > 0), np.minimum(least, gate.steps - since), least)
            least = np.where(go, np.maximum(least, 1.0), 0.0)
            idle = np.where(gate.free_running, (since + least) % np.maximum(gate.steps, 1.0), 0.0)
            since = np.where(go, np.where(queue > 0, since + least, idle), since)
            per_rank = np.maximum(running * weight / ranks, 1.0)
            time = np.where(go, least * line_through(grid.decode_batch, grid.decode_us, per_rank), 0.0)
            now = now + time
            remaining = np.where(decoding & go[:, None], remaining - least[:, None], remaining)
            ends = ends | (decoding & go[:, None] & (remaining <= 0))
        if ends.any():
            r, c = np.nonzero(ends)
            span = now[r] - first[r, c]
            index = (np.cumsum(ends, axis=1) - 1 + finished[:, None])[r, c]
            tpot[r, index] = span / target[r, c]
            e2e[r, index] = span + first_wait[r, c]
            np.add.at(tpot_sum, r, span / target[r, c])
            np.add.at(tpot_prefill, r, (prefilling[r] - first_prefill[r, c]) / target[r, c])
            np.add.at(tokens, r, (target[r, c] + 1) * weight[r])
            count = ends.sum(1)
            finished += count
            remaining[r, c] = _NEVER
            rank = (np.cumsum(ends, axis=1) - 1)[r, c]
            again = started[r] + rank < total[r]
            started = np.minimum(started + count, total)
            arrival[r[again], c[again]] = now[r[again]]
            arrival_prefill[r[again], c[again]] = prefilling[r[again]]
            generation[r, c] += 1
    return ClosedLoop(
        ttft,
        tpot,
        e2e,
        ttft_prefill / np.maximum(ttft_sum, 1e-9),
        tpot_prefill / np.maximum(tpot_sum, 1e-9),
        tokens / np.maximum(now, 1e-9) * 1e6,
    )


def _earliest(arrival: Floats, take: Ints) -> np.ndarray:
    """The ``take`` slots of each row that have waited longest, shape [n, slots]; of equals the first."""
    if take.max() <= 1:  # by far the most common, and without sorting
        first: np.ndarray = np.arange(arrival.shape[1]) == arrival.argmin(axis=1)[:, None]
        return first & (take > 0)[:, None]
    place = np.argsort(np.argsort(arrival, axis=1, kind="stable"), axis=1, kind="stable")
    chosen: np.ndarray = np.less(place, take[:, None])
    return chosen


def line_through(x: Floats, y: Floats, at: Floats) -> Floats:
    """Piecewise linear through the columns of ``x`` and ``y``, row by row; the ends are kept beyond them."""
    out = y[:, 0].copy()
    for k in range(x.shape[1] - 1):
        span = np.maximum(x[:, k + 1] - x[:, k], 1e-12)
        share = np.clip((at - x[:, k]) / span, 0.0, 1.0)
        out += np.where(x[:, k + 1] > x[:, k], share * (y[:, k + 1] - y[:, k]), 0.0)
    return out
