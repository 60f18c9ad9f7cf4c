"""The event loop: steps of the engine, one after the other or many at once, until every request is answered."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from costmodels.serving.simulator.compiled.clients import next_us, pass_on, receive
from costmodels.serving.simulator.compiled.pipeline import (
    enter,
    first_out,
    rotate,
    settled,
    steps_to_end,
    take_free,
)
from costmodels.serving.simulator.compiled.rank import grow, land, schedule
from costmodels.serving.simulator.compiled.state import (
    DONE,
    FLYING,
    FREE,
    GIVEN_UP,
    LEFT,
    NEXT,
    SENDS,
    STUCK,
    TPOT,
    TTFT,
    UNSEEN,
    Array,
    Curve,
    Seen,
    Sent,
    Spec,
    State,
    compiled,
    push,
)
from costmodels.serving.simulator.compiled.timing import decode_line, step_us, steps_within


@compiled
def _running(spec: Spec, s: State) -> int:
    """Sequences of all ranks."""
    running = 0
    for rank in range(spec.ranks):
        running += s.ranks[rank].running
    return running


@compiled
def _looks(spec: Spec, s: State) -> bool:
    """Whether it is time to look at the queue: one that is idle looks at once."""
    if spec.polling == 1 or s.n[UNSEEN] >= spec.polling or _running(spec, s) == 0:
        s.n[UNSEEN] = 0
        return True
    return False


@compiled
def too_often(asked: Sent, seen: Seen, now: float) -> bool:
    """Whether some limit's percentile cannot hold any more, whatever comes."""
    for k in range(len(asked.limit_us)):
        metric, limit = asked.limit_metric[k], asked.limit_us[k]
        count = missed = 0
        for i in range(asked.limit_from, len(asked.isl)):
            tokens = asked.osl[i] - 1
            if metric == TPOT and tokens == 0:
                continue
            count += 1
            first = now if np.isnan(seen.first_us[i]) else seen.first_us[i]
            finish = now if np.isnan(seen.finish_us[i]) else seen.finish_us[i]
            if metric == TTFT:
                missed += first - asked.sent_us[i] > limit
            elif metric == TPOT:
                missed += finish - first > limit * tokens
            else:
                missed += finish - asked.sent_us[i] > limit
        # Beyond the order statistic that the percentile lies above, or at.
        if count and missed >= count - int((count - 1) * asked.limit_share[k]):
            return True
    return False


@compiled
def _begin(spec: Spec, asked: Sent, seen: Seen, s: State, now: float) -> tuple[int, int]:
    """The next micro-batch: the slot that has waited longest and has work, −1 without any; tokens of all ranks."""
    for at in range(s.n[FREE]):
        number, total, changed, busy = s.stages[at].free, 0, False, False
        for rank in range(spec.ranks):
            slot = rank * spec.stages + number
            s.ranks[rank].chunks = 0
            fits = s.ranks[rank].kv_used + s.slots[slot].count * spec.gain <= spec.grant
            if s.lists[2 * rank].size or s.lists[2 * rank + 1].size or not fits:
                waiting = s.lists[2 * rank].size
                schedule(spec, asked, seen, s, slot, now)
                changed |= s.ranks[rank].chunks > 0 or s.lists[2 * rank].size != waiting
            s.ranks[rank].decodes = s.slots[slot].count > 0 and (spec.mixed or s.ranks[rank].chunks == 0)
            s.ranks[rank].works = s.ranks[rank].decodes or s.ranks[rank].chunks > 0
            if s.ranks[rank].works:
                busy = True
                if s.ranks[rank].decodes:
                    total += s.slots[slot].count * spec.queries
                for i in range(s.ranks[rank].chunks):
                    total += s.cut[rank, i].tokens
            else:
                total += 1  # the dummy step
        if changed:
            s.asked[:] = False
        else:
            s.asked[number] = True
        if busy:
            return number, total
    return -1, 0


@compiled
def _time(
    spec: Spec, through: Curve, slowest: Curve, s: State, number: int, tokens: int, now: float
) -> tuple[int, float, float]:
    """(decode steps taken at once, µs through all stages, µs of the slowest stage)."""
    everyone = tokens / spec.ranks
    cut = False
    for rank in range(spec.ranks):
        cut |= s.ranks[rank].chunks > 0
    if spec.jump and spec.stages == 1 and not cut:
        return _decode_steps(spec, through, s, everyone, now)
    latency = stage = 0.0
    for rank in range(spec.ranks):
        if s.ranks[rank].works:
            slot = rank * spec.stages + number
            own = step_us(spec, through, s, slot, everyone)
            latency = max(latency, own)
            stage = max(stage, own if spec.stages == 1 else step_us(spec, slowest, s, slot, everyone))
    return 1, latency, stage


@compiled
def _decode_steps(spec: Spec, through: Curve, s: State, everyone: float, now: float) -> tuple[int, float, float]:
    """Decode steps until something changes, and the time of all of them."""
    first, rise, steps = decode_line(spec, through, s, 0, everyone, 0)
    steps = min(steps, steps_to_end(spec, s, 0))
    for rank in range(spec.ranks):
        if s.slots[rank].count:
            fit = int((spec.grant - s.ranks[rank].kv_used) / (s.slots[rank].count * spec.gain))
            steps = min(steps, max(fit, 1))
    until = next_us(s) - now
    if spec.polling > 1:
        steps, until = min(steps, max(spec.polling - s.n[UNSEEN], 1)), np.inf
    total = steps * first + rise * (steps * (steps - 1) / 2)
    if total > until and steps > 1:
        steps = steps_within(first, rise, until, steps)
        total = steps * first + rise * (steps * (steps - 1) / 2)
    return steps, total, total


@compiled
def _take(spec: Spec, s: State, number: int, steps: int) -> bool:
    """Notes what a step holds; whether nothing but tokens comes of it."""
    quiet = True
    for rank in range(spec.ranks):
        slot = rank * spec.stages + number
        s.slots[slot].taken = -1
        if not s.ranks[rank].works:
            continue
        s.slots[slot].taken = 0
        if s.ranks[rank].decodes:
            grow(spec, s, slot, steps)
            s.slots[slot].taken = steps
        for i in range(s.ranks[rank].chunks):
            if s.cut[rank, i].last:
                push(s, 2 * spec.ranks + spec.ranks * spec.stages + slot, s.cut[rank, i].request, False)
                quiet = False
        quiet &= s.ranks[rank].decodes and s.end_step[slot, 0] - s.slots[slot].step > 1
    return quiet


@compiled
def _sample(spec: Spec, s: State, now: float, busy_us: float, into: Array) -> None:
    into[0], into[1], into[2] = now, busy_us, _running(spec, s)
    waiting, fullest = 0, 0.0
    for rank in range(spec.ranks):
        waiting += s.lists[2 * rank].size
        fullest = max(fullest, s.ranks[rank].kv_used)
    into[3], into[4] = waiting, fullest / spec.kv_tokens


@compiled
def _start(spec: Spec, asked: Sent, seen: Seen, s: State) -> None:
    """Everything is free; the clients of an open loop have sent all, those of a closed one are to send their first."""
    s.n[LEFT], s.n[NEXT], s.n[FREE] = len(asked.isl), len(asked.sent_us), spec.stages
    for request in range(len(asked.sent_us)):
        if asked.closed:
            s.send_us[request], s.sends[request] = asked.sent_us[request], request
            s.n[SENDS] += 1
        else:
            pass_on(spec, seen, s, request, asked.sent_us[request])


@njit(error_model="numpy")
def _run(
    spec: Spec, through: Curve, slowest: Curve, asked: Sent, seen: Seen, s: State
) -> tuple[int, float, float, int, Array]:
    """(how it ended, when, µs in steps, steps, samples) and ``seen``."""
    _start(spec, asked, seen, s)
    now, next_sample, last_done, busy_us, steps_taken = 0.0, 0.0, 0.0, 0.0, 0
    samples, sampled = np.zeros((64, 5)), 0
    clock = np.zeros(2)
    while s.n[LEFT]:
        while s.n[FLYING] and s.stages[0].flight_done <= now:
            done, number = s.stages[0].flight_done, first_out(s)
            s.stages[s.n[FREE]].free = number
            s.n[FREE] += 1
            land(spec, asked, seen, s, number, done)
        if _looks(spec, s):
            receive(spec, asked, seen, s, now)
        if now >= next_sample:
            if sampled + 1 >= len(samples):
                samples = np.concatenate((samples, np.zeros_like(samples)))
            _sample(spec, s, now, busy_us, samples[sampled])
            sampled += 1
            next_sample = now + asked.sample_us
            if len(asked.limit_us) and too_often(asked, seen, now):
                return GIVEN_UP, now, busy_us, steps_taken, samples[:sampled]
        if spec.jump and spec.stages > 1 and settled(spec, s):
            clock[0], clock[1] = last_done, busy_us
            then, taken = rotate(spec, (through, slowest), asked, seen, s, clock, now)
            last_done, busy_us, steps_taken = clock[0], clock[1], steps_taken + taken
            if now < then < np.inf:
                now = then
                continue
        number, tokens = _begin(spec, asked, seen, s, now)
        if number < 0:
            if s.n[LEFT] == 0:  # the last one has just ended, or was refused
                break
            now = min(s.stages[0].flight_done if s.n[FLYING] else np.inf, next_us(s))
            if now == np.inf:
                return STUCK, now, busy_us, steps_taken, samples[:sampled]
            continue
        steps, latency, stage = _time(spec, through, slowest, s, number, tokens, now)
        steps_taken += steps
        s.n[UNSEEN] += steps
        busy_us += stage
        quiet = _take(spec, s, number, steps)
        if spec.stages == 1:
            now += latency
            land(spec, asked, seen, s, number, now)
        else:
            take_free(s, number)
            last_done = max(now + latency, last_done + stage)
            enter(s, number, last_done, quiet)
            now += stage
    _sample(spec, s, now, busy_us, samples[sampled])
    return DONE, now, busy_us, steps_taken, samples[: sampled + 1]


def _kept() -> Callable[[Spec, Curve, Curve, Sent, Seen, State], tuple[int, float, float, int, Array]]:
    """The loop, compiled and kept on disk. Numba looks at one file to tell whether what it kept is still true, so the
    name under which it is kept stands for all of them."""

    def run(spec: Spec, through: Curve, slowest: Curve, asked: Sent, seen: Seen, s: State) -> Any:
        return _run(spec, through, slowest, asked, seen, s)

    sources = b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
    run.__qualname__ = f"run_{sha256(sources).hexdigest()[:16]}"
    found: Callable[..., Any]
    try:
        found = njit(cache=True, error_model="numpy")(run)
    except RuntimeError:  # no folder to keep it in, neither beside the code nor in the user's cache
        found = njit(error_model="numpy")(run)
    return found


run = _kept()
