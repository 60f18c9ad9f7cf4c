"""An event simulator of one serving engine: continuous batching, iteration by iteration.

Every step is scheduled as the framework's scheduler would (``policies.yaml``), takes the time that
:class:`StepTable` says, and ends with its tokens, first tokens and finished sequences. Between two arrivals, ends,
chunks and overflows of the cache a batch of decodes does not change and its context grows evenly, so that the sum of
its steps has a closed form on the piecewise-linear tables: the simulator jumps. With pipeline stages, micro-batches
are in flight one behind the other and it goes step by step.

Attention ranks work in lock step: the slowest sets the time, the experts see everyone's tokens, and a rank without
work runs a dummy step of one token (vLLM and SGLang do so).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from typing import NamedTuple

import numpy as np

from costmodels.serving.arrivals import Requests
from costmodels.serving.clients import Clients
from costmodels.serving.engine import Engine, Overheads, refusals
from costmodels.serving.outcome import Outcome
from costmodels.serving.scheduler import Chunk, Rank, Slot
from costmodels.serving.step_table import StepCurve

__all__ = ["Engine", "Overheads", "simulate"]


class _Part(NamedTuple):
    """One rank's part of a step that is to be taken."""

    rank: Rank
    slot: Slot
    decodes: bool
    chunks: list[Chunk]


class _Taken(NamedTuple):
    """One rank's part of a step that was taken: decode steps, and the requests whose prompts end with it."""

    rank: Rank
    slot: Slot
    steps: int
    landing: list[int]


def simulate(engine: Engine, requests: Requests, *, jump: bool = True, sample_us: float = 1e6) -> Outcome:
    """Serves ``requests`` to the last token.

    Args:
        jump: False: every step by itself, for comparison.
        sample_us: simulated time between the samples of the timeline.
    """
    return _Run(engine, requests, jump, sample_us).run()


class _Run:
    def __init__(self, engine: Engine, requests: Requests, jump: bool, sample_us: float) -> None:
        self._engine = engine
        self._requests = requests
        table, policy = engine.table, engine.policy
        self._queries = table.latency.queries
        self._jump = jump and table.stages == 1
        osl = np.ones_like(requests.osl) if engine.role == "prefill" else requests.osl
        isl_list, osl_list = requests.isl.tolist(), osl.tolist()
        self._ranks = [
            Rank(
                policy,
                isl_list,
                osl_list,
                table.stages,
                kv_tokens=engine.kv_tokens,
                token_budget=engine.token_budget,
                max_sequences=engine.max_sequences,
                tokens_per_step=engine.tokens_per_step,
                queries=self._queries,
                cached_share=engine.cached_share,
                with_cache=engine.role == "decode",
                first_token_here=engine.first_token_here,
            )
            for _ in range(table.ranks)
        ]
        n = len(requests)
        self._refused = refusals(engine, requests)
        self._left = n  # requests not yet answered
        self._first = np.full(n, np.nan)
        self._finish = np.full(n, np.nan)
        self._rank_of = np.full(n, -1, np.int64)
        self._clients = Clients(requests, engine.overheads)
        self._turn = 0
        self._busy_us = 0.0
        self._steps = 0
        self._samples: list[tuple[float, float, int, int, float]] = []
        self._sample_us = sample_us

    def _receive(self, now: float) -> None:
        """Takes in the requests that have reached the engine."""
        for request in self._clients.due(now):
            if self._refused[request]:
                self._answered(now)
                continue
            number = self._turn % len(self._ranks)
            if len(self._ranks) > 1 and self._engine.policy.dispatch == "shortest_queue":
                number = min(range(len(self._ranks)), key=lambda r: self._ranks[r].load)
            self._turn += 1
            self._rank_of[request] = number
            self._ranks[number].waiting.append(request)

    def _answered(self, now: float) -> None:
        self._left -= 1
        self._clients.answered(now)

    # -------------------------------------------------------------- the loop

    def run(self) -> Outcome:
        now = 0.0
        stages = self._engine.table.stages
        in_flight: deque[tuple[float, int, list[_Taken]]] = deque()
        order = deque(range(stages))  # slots, the least recently used first
        next_sample = 0.0
        last_done = 0.0
        while self._left:
            while in_flight and in_flight[0][0] <= now:
                done, number, taken = in_flight.popleft()
                order.append(number)
                self._land(done, taken)
            self._receive(now)
            if now >= next_sample:
                self._sample(now)
                next_sample = now + self._sample_us
            number, work, tokens = self._begin(order, now)
            if not work:
                if not self._left:  # the last one has just ended, or was refused
                    break
                now = min(in_flight[0][0] if in_flight else math.inf, self._clients.next_us())
                if now == math.inf:
                    raise RuntimeError("the simulation is stuck: requests wait and nothing can run")
                continue
            order.remove(number)
            steps, latency, stage = self._time(work, tokens, now)
            self._steps += steps
            self._busy_us += stage
            taken = [_Taken(part.rank, part.slot, steps if part.decodes else 0, _landing(part.chunks)) for part in work]
            for part in work:
                if part.decodes:
                    part.rank.grow(part.slot, steps)
            if stages == 1:
                now += latency
                order.append(number)
                self._land(now, taken)
            else:
                last_done = max(now + latency, last_done + stage)
                in_flight.append((last_done, number, taken))
                now += stage
        self._sample(now)
        return self._outcome(now)

    def _handed(self, request: int, now: float) -> None:
        """A request has come to a decode engine with its first token."""
        self._first[request] = now
        if self._requests.osl[request] == 1:
            self._finish[request] = now
            self._answered(now)

    def _begin(self, order: deque[int], now: float) -> tuple[int, list[_Part], int]:
        """The next micro-batch: the slot that has waited longest and has work. (slot, work of each busy rank,
        tokens of all ranks)."""
        policy = self._engine.policy
        for number in order:
            work: list[_Part] = []
            total = 0
            for rank in self._ranks:
                slot = rank.slots[number]
                if rank.waiting or rank.prefilling or not rank.growing_fits(slot, 1):
                    chunks = rank.schedule(slot)
                    while rank.handed:
                        self._handed(rank.handed.pop(), now)
                else:
                    chunks = []
                decodes = slot.count > 0 and (policy.mixed or not chunks)
                if decodes or chunks:
                    work.append(_Part(rank, slot, decodes, chunks))
                    total += slot.count * self._queries if decodes else 0
                    total += sum(chunk.tokens for chunk in chunks)
                else:
                    total += 1  # the dummy step
            if work:
                return number, work, total
        return -1, [], 0

    def _land(self, now: float, taken: list[_Taken]) -> None:
        """The end of a step: tokens, first tokens, finished sequences."""
        for rank, slot, steps, landing in taken:
            if steps:
                for request in rank.decoded(slot, steps):
                    self._finish[request] = now
                    self._answered(now)
            for request in landing:
                if math.isnan(self._first[request]):
                    self._first[request] = now
                if not rank.join(slot, request):
                    self._finish[request] = now
                    self._answered(now)

    # -------------------------------------------------------------- time

    def _time(self, work: list[_Part], tokens: int, now: float) -> tuple[int, float, float]:
        """(decode steps taken at once, µs through all stages, µs of the slowest stage)."""
        table = self._engine.table
        overheads = self._engine.overheads
        everyone = tokens / table.ranks
        for _, _, _, chunks in work:
            if chunks:
                break
        else:
            if self._jump:
                steps, latency = self._decode_steps(work, everyone, now)
                return steps, latency, latency
        latency = max(self._one_step(table.latency, part, everyone) for part in work)
        latency *= overheads.step_factor
        if table.stages == 1:
            return 1, latency, latency
        stage = max(self._one_step(table.stage, part, everyone) for part in work)
        return 1, latency, stage * overheads.step_factor

    def _one_step(self, curve: StepCurve, part: _Part, everyone: float) -> float:
        """One rank's step."""
        _, slot, decodes, chunks = part
        total = 0.0
        tokens = 0
        if decodes:
            count = slot.count
            size = count if chunks else self._engine.policy.padded(count)
            tokens = size * self._queries
            total = curve.decode_us(size, slot.context / size) * (1 + self._engine.draft_share)
            total += count * self._engine.overheads.sequence_us
        if chunks:
            for chunk in chunks:
                total += curve.chunk_us(chunk.tokens, chunk.prefix)
                tokens += chunk.tokens
            total += curve.mixed_us(size) - curve.alone_us(size) if decodes else 0.0
            total += curve.linear_us(tokens)
            total -= (len(chunks) - 1) * curve.chunk_floor_us
            total += len(chunks) * self._engine.overheads.sequence_us
        if curve.has_experts:
            with_chunks = bool(chunks)
            total += curve.expert_us(everyone, chunks=with_chunks) - curve.expert_us(tokens, chunks=with_chunks)
        return total

    def _decode_steps(self, work: list[_Part], everyone: float, now: float) -> tuple[int, float]:
        """Decode steps until something changes, and the time of all of them."""
        curve = self._engine.table.latency
        knots = curve.contexts
        overheads = self._engine.overheads
        gain, queries = self._engine.tokens_per_step, self._queries
        drafted = 1 + self._engine.draft_share
        steps = 1 << 60
        slowest, slope = -math.inf, 0.0
        lines: list[tuple[float, float]] = []
        for rank, slot, _, _ in work:
            count = slot.count
            steps = min(steps, slot.steps_to_next_end(), rank.steps_that_fit(slot))
            size = self._engine.policy.padded(count)
            values, slopes = curve.decode_line(size)
            context = slot.context / size
            grows = count * gain / size
            i = bisect_right(knots, context) - 1
            if i < 0:
                i = 0
            if i + 1 < len(knots):
                steps = min(steps, math.ceil((knots[i + 1] - context) / grows))
            time = (values[i] + slopes[i] * (context - knots[i])) * drafted + count * overheads.sequence_us
            if curve.has_experts:
                time += curve.expert_us(everyone, chunks=False) - curve.expert_us(size * queries, chunks=False)
            lines.append((time, slopes[i] * grows * drafted))
            if time > slowest or (time == slowest and lines[-1][1] > slope):
                slowest, slope = lines[-1]
        for time, rise in lines:
            if rise > slope:  # it overtakes the slowest
                steps = min(steps, int((slowest - time) / (rise - slope)) + 1)
        factor = overheads.step_factor
        first, rise = slowest * factor, slope * factor
        until = self._clients.next_us() - now
        total = steps * first + rise * (steps * (steps - 1) / 2)
        if total > until and steps > 1:
            steps = _steps_within(first, rise, until, steps)
            total = steps * first + rise * (steps * (steps - 1) / 2)
        return steps, total

    # -------------------------------------------------------------- what is kept

    def _sample(self, now: float) -> None:
        ranks = self._ranks
        self._samples.append(
            (
                now,
                self._busy_us,
                sum(rank.running for rank in ranks),
                sum(len(rank.waiting) for rank in ranks),
                max(rank.kv_used for rank in ranks) / self._engine.kv_tokens,
            )
        )

    def _outcome(self, end: float) -> Outcome:
        requests = self._requests
        preemptions = np.zeros(len(requests), np.int64)
        for rank in self._ranks:
            np.add.at(preemptions, np.array(rank.preempted, dtype=np.int64), 1)
        osl = np.ones_like(requests.osl) if self._engine.role == "prefill" else requests.osl
        return Outcome(
            isl=requests.isl,
            osl=osl,
            arrival_us=self._clients.sent_us,
            first_us=self._first,
            finish_us=self._finish,
            preemptions=preemptions,
            rank=self._rank_of,
            refused=self._refused,
            end_us=end,
            busy_us=self._busy_us,
            steps=self._steps,
            timeline=np.array(self._samples),
        )


def _landing(chunks: list[Chunk]) -> list[int]:
    return [chunk.request for chunk in chunks if chunk.last]


def _steps_within(first: float, rise: float, until: float, most: int) -> int:
    """The fewest steps, of at most ``most``, that take at least ``until``: steps of ``first``, ``first + rise``, …"""

    def total(steps: int) -> float:
        return steps * first + rise * (steps * (steps - 1) / 2)

    half = first - rise / 2
    root = half * half + 2 * rise * until
    guess = until / first if rise == 0 or root < 0 else 2 * until / (half + math.sqrt(root))
    steps = min(max(math.ceil(guess), 1), most)
    while steps > 1 and total(steps - 1) >= until:
        steps -= 1
    while steps < most and total(steps) < until:
        steps += 1
    return steps
