"""Micro-batches behind each other in the stages of a pipeline: when each comes and goes depends on the one before."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from costmodels.serving.simulator.compiled.clients import next_us
from costmodels.serving.simulator.compiled.rank import decoded, grow
from costmodels.serving.simulator.compiled.state import (
    ENDLESS,
    FLYING,
    FREE,
    Array,
    Curve,
    Seen,
    Sent,
    Spec,
    State,
    compiled,
)
from costmodels.serving.simulator.compiled.timing import decode_line


class Turns(NamedTuple):
    """The decodes of each micro-batch while the pipeline rotates, [stages]: ``flying``: whether it was in the pipeline
    at the start; ``ready``: when it can go into the first stage again; ``to_end``: steps until one of its sequences
    ends; ``steps``: taken."""

    numbers: Array
    flying: Array
    ready: Array
    to_end: Array
    steps: Array


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


@njit(error_model="numpy")
def rotate(
    spec: Spec, curves: tuple[Curve, Curve], asked: Sent, seen: Seen, s: State, clock: Array, now: float
) -> tuple[float, int]:
    """Lets the micro-batches follow each other as long as they hold the same decodes and nothing else: until a request
    comes, a sequence ends or a prompt in flight is through (the time of which is returned), or until the cache may not
    hold another round (when the first stage is free again). And how many steps were taken.

    Args:
        curves: of all stages, and of the slowest.
        clock: when the last one in the pipeline is done, and how long the slowest stage was busy; both move on.
    """
    until, turns = next_us(s), 0
    t = Turns(
        np.zeros(spec.stages, np.int64),
        np.zeros(spec.stages, np.int64),
        np.zeros(spec.stages),
        np.zeros(spec.stages, np.int64),
        np.zeros(spec.stages, np.int64),
    )
    numbers, flying, ready, to_end, steps = t.numbers, t.flying, t.ready, t.to_end, t.steps
    for i in range(s.n[FREE]):
        if steps_to_end(spec, s, s.stages[i].free) < ENDLESS:
            numbers[turns], ready[turns] = s.stages[i].free, now
            turns += 1
    for i in range(s.n[FLYING]):
        if not s.stages[i].flight_quiet:
            until = min(until, s.stages[i].flight_done)
            break
        numbers[turns], ready[turns], flying[turns] = s.stages[i].flight_number, s.stages[i].flight_done, 1
        turns += 1
    if turns == 0 or ready[0] >= until:
        return max(now, until), 0
    for i in range(turns):
        to_end[i] = steps_to_end(spec, s, numbers[i]) - flying[i]
    rounds = ENDLESS
    for rank in range(spec.ranks):
        decoding = 0
        for i in range(turns):
            decoding += s.slots[rank * spec.stages + numbers[i]].count
        if decoding:
            rounds = min(rounds, int((spec.grant - s.ranks[rank].kv_used) / (decoding * spec.gain)))
    # µs of each one's next step through all stages and in the slowest, by how much they rise, for how many steps.
    times, straight = np.zeros((turns, 4)), np.zeros(turns, np.int64)
    taken, i = 0, 0
    while True:
        start = max(ready[i], now)
        if start >= until:
            now = max(now, until)
            break
        if steps[i] == rounds:
            break
        if straight[i] == 0:
            straight[i] = _straightened(spec, curves, s, numbers[i], flying[i] + steps[i], times[i])
        latency, stage = times[i, 0], times[i, 2]
        clock[0] = max(clock[0] + stage, start + latency)
        now = start + stage
        clock[1] += stage
        ready[i] = clock[0]
        times[i, 0] += times[i, 1]
        times[i, 2] += times[i, 3]
        straight[i] -= 1
        steps[i] += 1
        taken += 1
        if steps[i] == to_end[i]:
            until = min(until, clock[0])
        i = (i + 1) % turns
    if taken:
        _settle(spec, asked, seen, s, t, min(taken, turns), taken)
    return now, taken


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
def _settle(spec: Spec, asked: Sent, seen: Seen, s: State, t: Turns, moved: int, taken: int) -> None:
    """Every step that was taken of the first ``moved``, one after the other, is landed but each one's last, which is in
    flight."""
    for i in range(moved):
        if t.flying[i]:
            first_out(s)
        else:
            take_free(s, t.numbers[i])
    for k in range(moved):
        i = (taken % moved + k) % moved
        for rank in range(spec.ranks):
            slot = rank * spec.stages + t.numbers[i]
            s.slots[slot].taken = -1
            if s.slots[slot].count:
                grow(spec, s, slot, t.steps[i])
                decoded(spec, asked, seen, s, slot, t.flying[i] + t.steps[i] - 1, t.ready[i])
                s.slots[slot].taken = 1
        enter(s, t.numbers[i], t.ready[i], t.steps[i] < t.to_end[i])
