"""An event simulator of one serving engine: continuous batching, iteration by iteration.

Every step is scheduled as the framework's scheduler would (a :class:`Policy`), takes the time that
:class:`StepTable` says, and ends with its tokens, first tokens and finished sequences. Between two arrivals, ends,
chunks and overflows of the cache a batch of decodes does not change and its context grows evenly, so that the sum of
its steps has a closed form on the piecewise-linear tables: the simulator jumps. With pipeline stages,
micro-batches are in flight one behind the other, and when each enters and leaves depends on the one before it: then
these two times alone are stepped, and all else waits until something changes.

Attention ranks work in lock step: the slowest sets the time, the experts see everyone's tokens, and a rank without
work runs a dummy step of one token (vLLM and SGLang do so).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from itertools import cycle

import numpy as np

from costmodels.estimates import Floats
from costmodels.serving.simulator.arrivals import Requests
from costmodels.serving.simulator.clients import Clients
from costmodels.serving.simulator.engine import Engine, Overheads, refusals
from costmodels.serving.simulator.in_flight import InFlight, PartOfStep, TakenPart, Turn
from costmodels.serving.simulator.outcome import Outcome
from costmodels.serving.simulator.scheduler import Chunk, Rank
from costmodels.serving.simulator.timing import ENDLESS, Timing

__all__ = ["Engine", "GivenUp", "Overheads", "simulate"]


class GivenUp(Exception):
    """``give_up`` of :func:`simulate` has ended the run."""


Seen = Callable[[float, Floats, Floats], bool]
"""(now, first and last token of each request so far, µs; NaN: not yet) → whether the run is to end."""


def simulate(
    engine: Engine,
    requests: Requests,
    *,
    jump: bool = True,
    sample_us: float = 1e6,
    give_up: Seen | None = None,
) -> Outcome:
    """Serves ``requests`` to the last token.

    Args:
        jump: False: every step by itself, for comparison.
        sample_us: simulated time between the samples of the timeline.
        give_up: asked at every sample.

    Raises:
        GivenUp: ``give_up`` was true.
    """
    return _Run(engine, requests, jump, sample_us, give_up).run()


class _Run:
    def __init__(self, engine: Engine, requests: Requests, jump: bool, sample_us: float, give_up: Seen | None) -> None:
        self._engine = engine
        self._requests = requests
        self._queries = engine.table.latency.queries
        self._stages = engine.table.stages
        self._jump = jump
        self._timing = Timing(engine)
        osl = np.ones_like(requests.osl) if engine.role == "prefill" else requests.osl
        isl_list, osl_list = requests.isl.tolist(), osl.tolist()
        self._ranks = [Rank(engine, isl_list, osl_list) for _ in range(engine.table.ranks)]
        n = len(requests)
        self._refused = refusals(engine, requests)
        self._left = n  # requests not yet answered
        self._first = np.full(n, np.nan)
        self._finish = np.full(n, np.nan)
        self._rank_of = np.full(n, -1, np.int64)
        self._clients = Clients(requests, engine.overheads)
        self._turn = 0
        # Micro-batches: the free ones, the least recently used first; those in the pipeline, the first to come out
        # first; and those that could not take in a prompt since something changed.
        self._free = deque(range(self._stages))
        self._in_flight: deque[InFlight] = deque()
        self._asked: set[int] = set()
        self._last_done = 0.0
        self._busy_us = 0.0
        self._steps = 0
        self._samples: list[tuple[float, float, int, int, float]] = []
        self._sample_us = sample_us
        self._give_up = give_up
        self._unseen = 0  # steps since it last looked at the queue

    def _looks(self) -> bool:
        """Whether it is time to look at the queue: one that is idle looks at once."""
        polling = self._engine.policy.polling
        if polling == 1 or self._unseen >= polling or not any(rank.running for rank in self._ranks):
            self._unseen = 0
            return True
        return False

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
            self._asked.clear()

    def _answered(self, now: float) -> None:
        self._left -= 1
        self._clients.answered(now)

    # -------------------------------------------------------------- the loop

    def run(self) -> Outcome:
        now = 0.0
        next_sample = 0.0
        while self._left:
            while self._in_flight and self._in_flight[0].done <= now:
                landed = self._in_flight.popleft()
                self._free.append(landed.number)
                self._land(landed.done, landed.taken)
            if self._looks():
                self._receive(now)
            if now >= next_sample:
                self._sample(now)
                next_sample = now + self._sample_us
                if self._give_up is not None and self._give_up(now, self._first, self._finish):
                    raise GivenUp
            if self._jump and self._stages > 1 and self._settled():
                then = self._rotate(now)
                if now < then < math.inf:
                    now = then
                    continue
            number, work, tokens = self._begin(now)
            if not work:
                if not self._left:  # the last one has just ended, or was refused
                    break
                now = min(self._in_flight[0].done if self._in_flight else math.inf, self._clients.next_us())
                if now == math.inf:
                    raise RuntimeError("the simulation is stuck: requests wait and nothing can run")
                continue
            steps, latency, stage = self._time(work, tokens, now)
            self._steps += steps
            self._unseen += steps
            self._busy_us += stage
            taken = []
            for rank, slot, decodes, chunks in work:
                if decodes:
                    rank.grow(slot, steps)
                landing = [chunk.request for chunk in chunks if chunk.last]
                taken.append(TakenPart(rank, slot, steps if decodes else 0, landing))
            if self._stages == 1:
                now += latency
                self._land(now, taken)
            else:
                self._free.remove(number)
                self._last_done = max(now + latency, self._last_done + stage)
                quiet = all(x.steps and not x.landing and x.slot.steps_to_next_end() > 1 for x in taken)
                self._in_flight.append(InFlight(self._last_done, number, taken, quiet))
                now += stage
        self._sample(now)
        return self._outcome(now)

    def _settled(self) -> bool:
        """Whether no micro-batch can take in a prompt until something else happens: nobody waits, or each has been
        asked in vain. A prompt that does not fit will not: caches only fill, and the other limits stay."""
        if len(self._asked) == self._stages:
            return True
        return not any(rank.waiting or rank.prefilling for rank in self._ranks)

    def _handed(self, request: int, now: float) -> None:
        """A request has come to a decode engine with its first token."""
        self._first[request] = now
        if self._requests.osl[request] == 1:
            self._finish[request] = now
            self._answered(now)

    def _begin(self, now: float) -> tuple[int, list[PartOfStep], int]:
        """The next micro-batch: the slot that has waited longest and has work. (slot, work of each busy rank,
        tokens of all ranks)."""
        mixed, queries = self._engine.policy.mixed, self._queries
        for number in self._free:
            work: list[PartOfStep] = []
            total = 0
            changed = False
            for rank in self._ranks:
                slot = rank.slots[number]
                chunks: list[Chunk] = []
                if rank.waiting or rank.prefilling or not rank.growing_fits(slot, 1):
                    waiting = len(rank.waiting)
                    chunks = rank.schedule(slot)
                    changed |= bool(chunks) or len(rank.waiting) != waiting
                    while rank.handed:
                        self._handed(rank.handed.pop(), now)
                decodes = slot.count > 0 and (mixed or not chunks)
                if decodes or chunks:
                    work.append(PartOfStep(rank, slot, decodes, chunks))
                    if decodes:
                        total += slot.count * queries
                    for chunk in chunks:
                        total += chunk.tokens
                else:
                    total += 1  # the dummy step
            if changed:
                self._asked.clear()
            else:
                self._asked.add(number)
            if work:
                return number, work, total
        return -1, [], 0

    def _land(self, now: float, taken: list[TakenPart]) -> None:
        """The end of a step: tokens, first tokens, finished sequences."""
        for rank, slot, steps, landing in taken:
            ended = rank.decoded(slot, steps) if steps else []
            for request in landing:
                if math.isnan(self._first[request]):
                    self._first[request] = now
                if not rank.join(slot, request):
                    ended.append(request)
            for request in ended:
                self._finish[request] = now
                self._answered(now)
            if landing or ended:
                self._asked.clear()

    # -------------------------------------------------------------- time

    def _time(self, work: list[PartOfStep], tokens: int, now: float) -> tuple[int, float, float]:
        """(decode steps taken at once, µs through all stages, µs of the slowest stage)."""
        everyone = tokens / len(self._ranks)
        if self._jump and self._stages == 1 and not any(part.chunks for part in work):
            steps, latency = self._decode_steps(work, everyone, now)
            return steps, latency, latency
        latency = stage = 0.0
        for _, slot, decodes, chunks in work:
            through, slowest = self._timing.step_us(slot, chunks, everyone, decodes=decodes)
            latency, stage = max(latency, through), max(stage, slowest)
        return 1, latency, stage

    def _decode_steps(self, work: list[PartOfStep], everyone: float, now: float) -> tuple[int, float]:
        """Decode steps until something changes, and the time of all of them."""
        first, rise, _, _, steps = self._timing.decode_line([part.slot for part in work], everyone)
        for rank, slot, _, _ in work:
            steps = min(steps, slot.steps_to_next_end(), max(rank.steps_that_fit(slot.count), 1))
        until = self._clients.next_us() - now
        if (polling := self._engine.policy.polling) > 1:
            steps, until = min(steps, max(polling - self._unseen, 1)), math.inf
        total = steps * first + rise * (steps * (steps - 1) / 2)
        if total > until and steps > 1:
            steps = _steps_within(first, rise, until, steps)
            total = steps * first + rise * (steps * (steps - 1) / 2)
        return steps, total

    # -------------------------------------------------------------- pipelines

    def _rotate(self, now: float) -> float:
        """Lets the micro-batches of a pipeline follow each other as long as they hold the same decodes and nothing
        else: until a request comes, a sequence ends or a prompt in flight is through (the time of which is returned),
        or until the cache may not hold another round (when the first stage is free again)."""
        until = self._clients.next_us()
        turns = []
        for number in self._free:
            slots = [rank.slots[number] for rank in self._ranks if rank.slots[number].count]
            if slots:
                turns.append(Turn(number, slots, now, 0))
        for step in self._in_flight:
            if not step.quiet:
                until = min(until, step.done)
                break
            turns.append(Turn(step.number, [part.slot for part in step.taken], step.done, 1))
        if not turns or turns[0].ready >= until:
            return max(now, until)
        rounds = ENDLESS
        for rank in self._ranks:
            decoding = 0
            for turn in turns:
                decoding += rank.slots[turn.number].count
            if decoding:
                rounds = min(rounds, rank.steps_that_fit(decoding))
        last, busy, taken = self._last_done, 0.0, 0
        for turn in cycle(turns):
            start = turn.ready if turn.ready > now else now
            if start >= until:
                now = max(now, until)
                break
            if turn.steps == rounds:
                break
            if not turn.straight:
                self._straighten(turn)
            behind, through = last + turn.stage, start + turn.latency
            last = through if through > behind else behind
            now = start + turn.stage
            busy += turn.stage
            turn.ready = last
            turn.latency += turn.latency_rise
            turn.stage += turn.stage_rise
            turn.straight -= 1
            turn.steps += 1
            taken += 1
            if turn.steps == turn.to_end:
                until = min(until, last)
        self._last_done = last
        self._busy_us += busy
        self._steps += taken
        if taken:
            self._settle(turns[:taken], taken)
        return now

    def _straighten(self, turn: Turn) -> None:
        """Gives the turn's next steps their times."""
        ahead = turn.in_flight + turn.steps
        tokens = sum([slot.count for slot in turn.slots]) * self._queries
        everyone = 1 + (tokens - len(turn.slots)) / len(self._ranks)  # dummy steps of one token
        line = self._timing.decode_line(turn.slots, everyone, ahead)
        turn.latency, turn.latency_rise, turn.stage, turn.stage_rise, turn.straight = line

    def _settle(self, turns: list[Turn], taken: int) -> None:
        """Every step of the turns (``taken`` in all, one after the other) is landed but its last one, which is in
        flight."""
        for turn in turns:
            if turn.in_flight:
                self._in_flight.popleft()
            else:
                self._free.remove(turn.number)
        following = taken % len(turns)
        for turn in turns[following:] + turns[:following]:
            parts = []
            for rank in self._ranks:
                slot = rank.slots[turn.number]
                if slot.count:
                    rank.grow(slot, turn.steps)
                    rank.decoded(slot, turn.in_flight + turn.steps - 1)
                    parts.append(TakenPart(rank, slot, 1, []))
            self._in_flight.append(InFlight(turn.ready, turn.number, parts, turn.steps < turn.to_end))

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
