"""A client that keeps a fixed number of requests in flight, estimated for thousands of configurations at once.

The protocol of the public harnesses (InferenceX and every ``benchmark_serving`` with ``--max-concurrency``): a burst of
C requests, then a new one for each that finishes, ten times C in all, lengths uniform within 20 % below the stated
ones. Requests of a burst queue for prefill and finish close together, so their successors queue too: the mean TTFT is
mostly that queue, which no static formula gives.

Simulated event by event, but in lock step over all configurations: one array operation advances every configuration by
its own next event (a batch of prompts, or decode steps until the next sequence ends). More than ``SLOTS`` requests in
flight (``AT_ONCE_SLOTS`` where they are all that is sent, or the engine holds few of them) move as clusters of equal
size, whose prompts come one by one once the opening burst is through. What a step takes is asked beforehand on a small
grid (:mod:`~costmodels.serving.closed_loop.loop_grid`).

The event simulator (``simulator.py``) plays single requests with the engines' schedulers. On the same steps the two
differ by 3 % (TTFT) and 1 % (TPOT, throughput) in the median of 648 points and by 16 and 3 % in nine of ten; most where
all lengths are alike, where more than a hundred requests are in flight, and where the cache is so full that sequences
are preempted, which is not played here (``costmodels/evidence/closed_loop.json``, by ``python -m
tests.benchmarks.loops``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from costmodels.arrays import Rowwise
from costmodels.estimates import Bools, Floats, Ints

SLOTS = 32
AT_ONCE_SLOTS = 512
"""Of requests that are all sent at once, and no more. An engine that holds 17 of 500 would be one slot of 32: all 17
would have their prompts together, and decode without a prompt among them."""

LEAST_HELD = 8
"""Slots in an engine that holds as many requests: of more users there are as many slots as that takes, up to
:data:`AT_ONCE_SLOTS`."""

GENERATIONS = 10
"""Requests per slot: the harnesses send ten times the concurrency."""

SHORTEST = 0.8
"""Lengths are uniform between this share of the stated length and all of it (``--random-range-ratio 0.8``)."""

_SEED = 0
_NEVER = np.inf


@dataclass(frozen=True)
class StepGrid(Rowwise):
    """Step times of ``n`` configurations on a small grid, µs.

    Attributes:
        decode_batch, decode_us: decoding sequences of one attention rank, ascending, and the time until each has its
            next token; [n, b].
        prompts, prefill_us: prompts taken into one step over all ranks, from 1 ascending (most: with a fraction where a
            prompt is cut to fill the step), and the time that they take (all chunks of a prompt longer than the token
            budget); [n, p]. Where ``mixed``, all decodes ride along in it.
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


@dataclass(frozen=True)
class Gate(Rowwise):
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


@dataclass(frozen=True)
class Clients(Rowwise):
    """What the clients of ``n`` configurations send, shape [n] each.

    Attributes:
        concurrency: requests that they keep in flight.
        osl: stated output length in tokens.
        shortest: lengths are uniform between this share of the stated ones and all of it.
        generations: requests of each client, one after the other, at most :data:`GENERATIONS`; 1: a burst alone.
        travel_us: from the end of a client's request until the engine sees its next. No latency holds it.
    """

    concurrency: Ints
    osl: Ints
    shortest: Floats
    generations: Ints
    travel_us: Floats

    @classmethod
    def of(
        cls,
        concurrency: Ints,
        osl: Ints,
        shortest: Floats | float = SHORTEST,
        generations: Ints | int = GENERATIONS,
        travel_us: Floats | float = 0.0,
    ) -> Clients:
        n = len(concurrency)
        return cls(
            concurrency,
            osl,
            np.broadcast_to(np.asarray(shortest, dtype=np.float64), n),
            np.broadcast_to(np.asarray(generations, dtype=np.int64), n),
            np.broadcast_to(np.asarray(travel_us, dtype=np.float64), n),
        )


@dataclass(frozen=True)
class ClosedLoop:
    """What the client sees, shape [n] each unless said otherwise; times in µs.

    Attributes:
        ttft, tpot, e2e: of each request, shape [n, requests], NaN where a configuration had fewer.
        ttft_prefill, tpot_prefill: the share of the mean that was spent in steps with prompts.
        output_tokens_per_s: of the whole run, ramp-up and tail included, as the harnesses report it.
        time_at: share of all time that is spent at each level of the grid, those without prompts first, shape
            [n, levels]; what is left the engine rests.
    """

    ttft: Floats
    tpot: Floats
    e2e: Floats
    ttft_prefill: Floats
    tpot_prefill: Floats
    output_tokens_per_s: Floats
    time_at: Floats


def closed_loop(grid: StepGrid, sent: Clients, most_running: Ints, ranks: Ints, gate: Gate | None = None) -> ClosedLoop:
    """Plays the protocol on each configuration.

    Args:
        most_running: sequences that the whole engine holds at once (cache and batch limits); the rest wait.
        ranks: attention ranks, over which requests are spread evenly.
        gate: when prompts are let in, its steps counted in tokens of one sequence (None: at every step).
    """
    n, concurrency = len(sent.concurrency), sent.concurrency
    gate = gate or Gate.none(n)
    slots = slots_of(concurrency, most_running, sent.generations)
    requests = max(SLOTS * GENERATIONS, int((slots * sent.generations).max(initial=0)))
    levels = grid.decode_us.shape[1] + grid.prefill_us.shape[1]
    ttft, tpot, e2e = (np.full((n, requests), np.nan) for _ in range(3))
    out = ClosedLoop(ttft, tpot, e2e, np.zeros(n), np.zeros(n), np.zeros(n), np.zeros((n, levels)))
    sizes = 2 ** np.ceil(np.log2(np.maximum(slots, 1))).astype(np.int64)
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        part = _Play(
            grid.take(rows), sent.take(rows), most_running[rows], ranks[rows], gate.take(rows), int(size)
        ).run()
        for name in out.__dataclass_fields__:
            whole, piece = getattr(out, name), getattr(part, name)
            if piece.ndim == 2:
                whole[rows, : piece.shape[1]] = piece
            else:
                whole[rows] = piece
    return out


def slots_of(concurrency: Ints, most_running: Ints, generations: Ints) -> Ints:
    """How many slots stand for the clients: few enough that whole slots fill an engine that holds fewer than there are
    (of 128 clients in 32 slots an engine of 11 sequences would hold 2 slots, 8 of them)."""
    full = np.minimum(most_running, LEAST_HELD)
    enough = np.minimum(-(-concurrency * full // np.maximum(most_running, 1)), AT_ONCE_SLOTS)
    slots = np.minimum(concurrency, np.where(generations == 1, AT_ONCE_SLOTS, np.maximum(SLOTS, enough)))
    held = np.maximum(most_running * slots // concurrency, 1)
    fewer = -(-concurrency * held // np.maximum(most_running, 1))
    return np.where(most_running < concurrency, np.minimum(slots, fewer), slots)


class _Play:
    """Configurations of which none has more than ``width`` slots, in lock step; [n] or [n, width] each."""

    def __init__(self, grid: StepGrid, sent: Clients, most_running: Ints, ranks: Ints, gate: Gate, width: int) -> None:
        n, ratio = len(sent.concurrency), sent.shortest
        self.grid, self.gate, self.ranks = grid, gate, ranks
        self.slots = slots_of(sent.concurrency, most_running, sent.generations)
        self.weight = sent.concurrency / self.slots  # requests that one slot stands for
        self.total = self.slots * sent.generations
        self.room = np.maximum(most_running * self.slots // sent.concurrency, 1)
        self.draw = np.random.default_rng(_SEED).random((2, GENERATIONS * 2, width))
        self.spread, self.least_share = (1 - ratio)[:, None], ratio[:, None]
        self.osl_steps = np.maximum(sent.osl - 1, 1).astype(np.float64)
        self.mean_share = (1 + ratio) / 2
        self.most = grid.prompts[:, -1]  # prompts over all ranks that one step takes
        self.at_once = np.maximum(np.rint(self.most / self.weight), 1)  # slots served together
        self.soon = (1 - ratio) / 2 * self.osl_steps  # steps: half of what lengths differ by
        # Decode steps in which requests come that are served together.
        self.together = np.maximum(np.where(grid.mixed, grid.chunks / grid.stages, 1.0), gate.steps)
        self.piped = grid.stages > 1
        self.travel = sent.travel_us

        self.now, self.prefilling = np.zeros(n), np.zeros(n)  # clocks: all time, and the part of it with prompts
        self.arrival = np.where(np.arange(width) < self.slots[:, None], 0.0, _NEVER)
        self.arrival_prefill = np.zeros((n, width))
        self.first, self.first_wait, self.first_prefill = (np.zeros((n, width)) for _ in range(3))
        self.remaining = np.full((n, width), _NEVER)
        self.target = np.zeros((n, width))
        self.generation = np.zeros((n, width), np.int64)
        self.started = self.slots.astype(np.int64).copy()
        self.admitted, self.finished = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.since = np.zeros(n)  # steps that count towards the gate's
        self.filling = np.zeros(n, np.bool_)  # whether the last step had prompts

        self.ttft, self.tpot, self.e2e = (np.full((n, int(self.total.max())), np.nan) for _ in range(3))
        self.ttft_sum, self.ttft_prefill, self.tpot_sum, self.tpot_prefill = (np.zeros(n) for _ in range(4))
        self.tokens = np.zeros(n)
        self.plain_us, self.prompts_us = np.zeros_like(grid.decode_us), np.zeros_like(grid.prefill_us)

    def run(self) -> ClosedLoop:
        while True:
            live = self.finished < self.total
            if not live.any():
                break
            decoding = self.remaining < _NEVER
            running, queue = decoding.sum(1), (self.arrival <= self.now[:, None]).sum(1)
            shut = (running > 0) & (self.since < self.gate.steps) & (queue * self.weight < self.gate.enough)
            take = np.minimum(np.minimum(queue, self.at_once), np.maximum(self.room - running, 0)).astype(np.int64)
            take = np.where(shut, 0, take)
            serve = live & (take > 0)
            self.since = np.where(serve, self.gate.steps, self.since)
            ends = np.zeros_like(decoding)
            if serve.any():
                ends = self._prefill(serve, take, decoding)
            self.filling = serve
            go = live & ~serve & (running > 0)
            if go.any():
                ends = ends | self._decode(go, shut, decoding, running, queue)
            idle = live & ~serve & (running == 0)
            if idle.any():  # until the next request is there
                self.now = np.where(idle, self.arrival.min(1), self.now)
            if ends.any():
                self._finish(ends)
        return ClosedLoop(
            self.ttft,
            self.tpot,
            self.e2e,
            self.ttft_prefill / np.maximum(self.ttft_sum, 1e-9),
            self.tpot_prefill / np.maximum(self.tpot_sum, 1e-9),
            self.tokens / np.maximum(self.now + self.travel, 1e-9) * 1e6,
            np.hstack([self.plain_us, self.prompts_us]) / np.maximum(self.now, 1e-9)[:, None],
        )

    def _prefill(self, serve: Bools, take: Ints, decoding: Bools) -> Bools:
        """A batch of prompts, first come first served; which sequences end in its steps, [n, width]."""
        grid = self.grid
        chosen = _earliest(self.arrival, np.where(serve, take, 0))
        prompts = take * self.weight
        turn = np.minimum(self.generation, 2 * GENERATIONS - 1)
        share_in = self.least_share + self.spread * self.draw[0, turn, np.arange(chosen.shape[1])]
        scale_in = np.where(chosen, share_in, 0.0).sum(1) / np.maximum(take, 1) / self.mean_share
        burst, each, fills = self._step_sizes(chosen, prompts, take)
        batches = prompts / np.maximum(each, 1.0)
        sooner = self._not_riding(decoding, take)
        own = line_through(grid.prompts, grid.prefill_us, each) * scale_in - sooner
        time = batches * own
        steps = batches * grid.chunks / grid.stages
        if self.piped.any():
            fill = fills * line_through(grid.prompts, grid.fill_us, each) * scale_in
            time, own = time + fill, own + fill / np.maximum(batches, 1.0)
            steps = steps + fills * (1 - 1 / grid.stages)
        time = np.where(serve, time, 0.0)
        self.prompts_us += time[:, None] * weights_at(grid.prompts, each)
        moving = decoding & (serve & grid.mixed)[:, None]
        self.remaining = np.where(moving, self.remaining - steps[:, None], self.remaining)
        ends: Bools = moving & (self.remaining <= 0)
        self.now, self.prefilling = self.now + time, self.prefilling + time
        # Of a burst, members of a cluster are done half way through its steps on average. Later ones would have
        # come one by one, and waited for none of their own cluster.
        alone = np.where(burst, grid.prefill_us[:, 0] * scale_in - sooner, own)
        halfway = time * np.maximum(batches - 1, 0.0) / (2 * np.maximum(batches, 1.0))
        early = np.where(burst, halfway, np.maximum(time - own, 0.0))[:, None]
        self._admit(chosen, turn, alone, early)
        return ends

    def _not_riding(self, decoding: Bools, take: Ints) -> Floats:
        """How much sooner a step with prompts is over than one that all decodes ride along with, µs [n]."""
        grid = self.grid
        running = np.maximum((decoding.sum(1) + (take - 1) / 2) * self.weight / self.ranks, 1.0)
        sooner = grid.decode_us[:, -1] - line_through(grid.decode_batch, grid.decode_us, running)
        return np.asarray(np.where(grid.mixed & ~self.piped, np.maximum(sooner, 0.0), 0.0) * grid.chunks)

    def _step_sizes(self, chosen: Bools, prompts: Floats, take: Ints) -> tuple[Bools, Floats, Floats]:
        """(whether the prompts are of a burst and come together, prompts of a step, times that a pipeline is filled),
        [n] each."""
        each = np.minimum(prompts, self.most)
        burst: Bools = (chosen & (self.generation == 0)).any(1) | (self.weight == 1) | (self.soon < 1)
        fills = np.where(self.piped & ~self.filling, 1.0, 0.0)
        if not burst.all():
            # Requests come at random: those that are served together are so many on average, at least one.
            rate = self.weight * (self.remaining <= self.soon[:, None]).sum(1) / np.maximum(self.soon, 1.0)
            rate = np.maximum(rate * self.together * take, 1e-9)
            at_random = np.clip(rate / -np.expm1(-rate), 1.0, np.minimum(prompts, self.most))
            each = np.where(burst, each, self._with_those_that_wait(chosen, prompts, at_random, rate))
            empty = np.where(self.piped, prompts / np.maximum(each, 1.0) * np.exp(-rate), 0.0)
            fills = np.where(burst, fills, empty)
        return burst, each, fills

    def _with_those_that_wait(self, chosen: Bools, prompts: Floats, each: Floats, rate: Floats) -> Floats:
        """Prompts of a step, [n], where a slot stands for more than a step of several ranks takes: its requests came
        one after the other at the ``rate`` (of a step) since the first of them, and those that are there already fill
        steps. An engine that is full lets them in as others end, however long they have waited."""
        since = self.now - np.where(chosen, self.arrival, _NEVER).min(1)
        there = np.minimum(np.maximum(since, 0.0) / self.grid.prefill_us[:, 0] * self.grid.chunks * rate, prompts)
        batches = there / self.most + (prompts - there) / np.maximum(each, 1.0)  # no prompt, no step
        queues = (self.at_once == 1) & (self.ranks > 1) & (self.room >= self.slots)
        return np.where(queues, prompts / np.maximum(batches, 1.0), each)

    def _admit(self, chosen: Bools, turn: Ints, alone: Floats, early: Floats) -> None:
        """The ``chosen`` have their first token, ``early`` before now, after no less than ``alone``, and decode."""
        wait = np.maximum(self.now[:, None] - early - self.arrival, alone[:, None])
        where_first = np.cumsum(chosen, axis=1) - 1 + self.admitted[:, None]
        r, c = np.nonzero(chosen)
        self.ttft[r, where_first[r, c]] = wait[r, c]
        in_prompts = np.minimum(self.prefilling[:, None] - early - self.arrival_prefill, wait)
        self.ttft_sum += np.where(chosen, wait, 0.0).sum(1)
        self.ttft_prefill += np.where(chosen, in_prompts, 0.0).sum(1)
        self.admitted += chosen.sum(1)
        self.first = np.where(chosen, self.now[:, None], self.first)
        self.first_prefill = np.where(chosen, self.prefilling[:, None], self.first_prefill)
        share_out = self.least_share + self.spread * self.draw[1, turn, np.arange(chosen.shape[1])]
        drawn = np.maximum(np.rint(share_out * self.osl_steps[:, None]), 1)
        self.target = np.where(chosen, drawn, self.target)
        self.remaining = np.where(chosen, drawn, self.remaining)
        self.first_wait = np.where(chosen, wait, self.first_wait)
        self.arrival = np.where(chosen, _NEVER, self.arrival)

    def _decode(self, go: Bools, shut: Bools, decoding: Bools, running: Ints, queue: Ints) -> Bools:
        """Steps without prompts until the next sequence ends or the gate opens; which end, [n, width]."""
        gate, grid = self.gate, self.grid
        least = np.where(decoding, self.remaining, _NEVER).min(1)
        least = np.where(shut & (queue > 0), np.minimum(least, gate.steps - self.since), least)
        per_rank = np.maximum(running * self.weight / self.ranks, 1.0)
        step = line_through(grid.decode_batch, grid.decode_us, per_rank)
        coming = np.where(self.arrival > self.now[:, None], self.arrival, _NEVER).min(1)
        least = np.where(coming < _NEVER, np.minimum(least, np.ceil((coming - self.now) / step)), least)
        least = np.where(go, np.maximum(least, 1.0), 0.0)
        idle = np.where(gate.free_running, (self.since + least) % np.maximum(gate.steps, 1.0), 0.0)
        self.since = np.where(go, np.where(queue > 0, self.since + least, idle), self.since)
        time = np.where(go, least * step, 0.0)
        self.plain_us += time[:, None] * weights_at(grid.decode_batch, per_rank)
        self.now = self.now + time
        moving = decoding & go[:, None]
        self.remaining = np.where(moving, self.remaining - least[:, None], self.remaining)
        ends: Bools = moving & (self.remaining <= 0)
        return ends

    def _finish(self, ends: Bools) -> None:
        """Sequences end, and their clients ask again as long as requests are left."""
        r, c = np.nonzero(ends)
        place = (np.cumsum(ends, axis=1) - 1)[r, c]
        index = place + self.finished[r]
        span = self.now[r] - self.first[r, c]
        self.tpot[r, index] = span / self.target[r, c]
        self.e2e[r, index] = span + self.first_wait[r, c]
        np.add.at(self.tpot_sum, r, span / self.target[r, c])
        np.add.at(self.tpot_prefill, r, (self.prefilling[r] - self.first_prefill[r, c]) / self.target[r, c])
        np.add.at(self.tokens, r, (self.target[r, c] + 1) * self.weight[r])
        count = ends.sum(1)
        self.finished += count
        self.remaining[r, c] = _NEVER
        again = self.started[r] + place < self.total[r]
        self.started = np.minimum(self.started + count, self.total)
        self.arrival[r[again], c[again]] = self.now[r[again]] + self.travel[r[again]]
        self.arrival_prefill[r[again], c[again]] = self.prefilling[r[again]]
        self.generation[r, c] += 1


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
        out += np.where(x[:, k + 1] > x[:, k], _beyond(x, k, at) * (y[:, k + 1] - y[:, k]), 0.0)
    return out


def weights_at(x: Floats, at: Floats) -> Floats:
    """What each column of ``x`` counts for at ``at`` in :func:`line_through`, shape of ``x``."""
    out = np.zeros_like(x)
    out[:, 0] = 1.0
    for k in range(x.shape[1] - 1):
        share = np.where(x[:, k + 1] > x[:, k], _beyond(x, k, at), 0.0)
        out[:, k] -= share
        out[:, k + 1] += share
    return out


def _beyond(x: Floats, k: int, at: Floats) -> Floats:
    """How far ``at`` lies from column ``k`` to the next, 0 to 1, [n]."""
    return np.asarray(np.clip((at - x[:, k]) / np.maximum(x[:, k + 1] - x[:, k], 1e-12), 0.0, 1.0))
