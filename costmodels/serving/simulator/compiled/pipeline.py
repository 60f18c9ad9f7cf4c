"""Micro-batches behind each other in the stages of a pipeline: when each comes and goes depends on the one before."""

from __future__ import annotations

from costmodels.native.compiling import compiled
from costmodels.serving.simulator.compiled.clients import next_us
from costmodels.serving.simulator.compiled.rank import decoded, grow
from costmodels.serving.simulator.compiled.state import (
    BUSY,
    ENDLESS,
    FLYING,
    FREE,
    LAST_DONE,
    Array,
    Curve,
    Seen,
    Sent,
    Spec,
    State,
)
from costmodels.serving.simulator.compiled.timing import decode_line


@compiled
def take_free(s: State, number: int) -> None:
    """A micro-batch is not free any more."""
    at = 0
    while s.stages[at].free != number:
        at += 1
    for i in range(at, s.n[FREE] - 1):
        s.stages[i].free = s.stages[i + 1].free
    s.n[FREE] -= 1


@compiled
def enter(s: State, number: int, done: float, quiet: bool) -> None:
    """A micro-batch is in the pipeline until ``done``; ``quiet``: nothing but tokens comes of it."""
    at = s.n[FLYING]
    s.stages[at].flight_done, s.stages[at].flight_number, s.stages[at].flight_quiet = done, number, quiet
    s.n[FLYING] += 1


@compiled
def first_out(s: State) -> int:
    """The micro-batch that comes out first; it is in the pipeline no more."""
    number = s.stages[0].flight_number
    for i in range(s.n[FLYING] - 1):
        s.stages[i].flight_done, s.stages[i].flight_number = s.stages[i + 1].flight_done, s.stages[i + 1].flight_number
        s.stages[i].flight_quiet = s.stages[i + 1].flight_quiet
    s.n[FLYING] -= 1
    return int(number)


@compiled
def steps_to_end(spec: Spec, s: State, number: int) -> int:
    """Decode steps until a sequence of a micro-batch ends."""
    steps = ENDLESS
    for rank in range(spec.ranks):
        slot = rank * spec.stages + number
        if s.slots[slot].count:
            steps = min(steps, s.end_step[slot, 0] - s.slots[slot].step)
    return steps


@compiled
def settled(spec: Spec, s: State) -> bool:
    """Whether no micro-batch can take in a prompt until something else happens: nobody waits, or each has been asked in
    vain. A prompt that does not fit will not: caches only fill, and the other limits stay."""
    if s.asked.all():
        return True
    waiting = 0
    for rank in range(spec.ranks):
        waiting += s.lists[2 * rank].size + s.lists[2 * rank + 1].size
    return waiting == 0


@compiled
def rotate(spec: Spec, curves: tuple[Curve, Curve], asked: Sent, seen: Seen, s: State, now: float) -> tuple[float, int]:
    """Lets the micro-batches follow each other as long as they hold the same decodes and nothing else: until a request
    comes, a sequence ends or a prompt in flight is through (the time of which is returned), or until the cache may not
    hold another round (when the first stage is free again). And how many steps were taken.

    Args:
        curves: of all stages, and of the slowest.
    """
    until, turns = next_us(s), 0
    for i in range(s.n[FREE]):
        if steps_to_end(spec, s, s.stages[i].free) < ENDLESS:
            _follow(s, turns, s.stages[i].free, 0, now)
            turns += 1
    for i in range(s.n[FLYING]):
        if not s.stages[i].flight_quiet:
            until = min(until, s.stages[i].flight_done)
            break
        _follow(s, turns, s.stages[i].flight_number, 1, s.stages[i].flight_done)
        turns += 1
    if turns == 0 or s.turns[0].ready >= until:
        return max(now, until), 0
    for i in range(turns):
        s.turns[i].to_end = steps_to_end(spec, s, s.turns[i].number) - s.turns[i].flying
    rounds = ENDLESS
    for rank in range(spec.ranks):
        decoding = 0
        for i in range(turns):
            decoding += s.slots[rank * spec.stages + s.turns[i].number].count
        if decoding:
            rounds = min(rounds, int((spec.grant - s.ranks[rank].kv_used) / (decoding * spec.gain)))
    taken, i = 0, 0
    while True:
        start = max(s.turns[i].ready, now)
        if start >= until:
            now = max(now, until)
            break
        if s.turns[i].steps == rounds:
            break
        if s.turns[i].straight == 0:
            s.turns[i].straight = _straightened(
                spec, curves, s, s.turns[i].number, s.turns[i].flying + s.turns[i].steps, s.times[i]
            )
        latency, stage = s.times[i, 0], s.times[i, 2]
        s.clock[LAST_DONE] = max(s.clock[LAST_DONE] + stage, start + latency)
        now = start + stage
        s.clock[BUSY] += stage
        s.turns[i].ready = s.clock[LAST_DONE]
        s.times[i, 0] += s.times[i, 1]
        s.times[i, 2] += s.times[i, 3]
        s.turns[i].straight -= 1
        s.turns[i].steps += 1
        taken += 1
        if s.turns[i].steps == s.turns[i].to_end:
            until = min(until, s.clock[LAST_DONE])
        i = (i + 1) % turns
    if taken:
        _settle(spec, asked, seen, s, min(taken, turns), taken)
    return now, taken


@compiled
def _follow(s: State, turn: int, number: int, flying: int, ready: float) -> None:
    """A micro-batch is one of those that rotate."""
    s.turns[turn].number, s.turns[turn].flying, s.turns[turn].ready = number, flying, ready
    s.turns[turn].steps = s.turns[turn].straight = 0


@compiled
def _straightened(spec: Spec, curves: tuple[Curve, Curve], s: State, number: int, ahead: int, times: Array) -> int:
    """Gives a micro-batch's next steps their times; for how many steps they hold."""
    tokens, ranks = 0, 0
    for rank in range(spec.ranks):
        count = s.slots[rank * spec.stages + number].count
        if count:
            tokens += count * spec.queries
            ranks += 1
    everyone = 1 + (tokens - ranks) / spec.ranks  # dummy steps of one token
    times[0], times[1], holds = decode_line(spec, curves[0], s, number, everyone, ahead)
    times[2], times[3], through = decode_line(spec, curves[1], s, number, everyone, ahead)
    return min(holds, through)


@compiled
def _settle(spec: Spec, asked: Sent, seen: Seen, s: State, moved: int, taken: int) -> None:
    """Every step that was taken of the first ``moved``, one after the other, is landed but each one's last, which is in
    flight."""
    for i in range(moved):
        if s.turns[i].flying:
            first_out(s)
        else:
            take_free(s, s.turns[i].number)
    for k in range(moved):
        i = (taken % moved + k) % moved
        for rank in range(spec.ranks):
            slot = rank * spec.stages + s.turns[i].number
            s.slots[slot].taken = -1
            if s.slots[slot].count:
                grow(spec, s, slot, s.turns[i].steps)
                decoded(spec, asked, seen, s, slot, s.turns[i].flying + s.turns[i].steps - 1, s.turns[i].ready)
                s.slots[slot].taken = 1
        enter(s, s.turns[i].number, s.turns[i].ready, s.turns[i].steps < s.turns[i].to_end)
