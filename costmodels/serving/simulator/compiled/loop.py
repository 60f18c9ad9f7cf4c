"""The event loop: steps of the engine, one after the other or many at once, until every request is answered."""

from __future__ import annotations

import numpy as np

from costmodels.native.compiling import compiled
from costmodels.serving.simulator.compiled.clients import next_us, pass_on, receive
from costmodels.serving.simulator.compiled.pipeline import (
    enter,
    first_out,
    rotate,
    settled,
    steps_to_end,
    take_free,
)
from costmodels.serving.simulator.compiled.queues import push
from costmodels.serving.simulator.compiled.rank import grow, land, schedule
from costmodels.serving.simulator.compiled.state import (
    BUSY,
    DONE,
    FLYING,
    FREE,
    FULL,
    GIVEN_UP,
    LAST_DONE,
    LEFT,
    NEXT_SAMPLE,
    NOW,
    PROMPT_BUSY,
    PROMPT_STEPS,
    PROMPT_TOKENS,
    SAMPLED,
    SENDS,
    STEPS,
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
def _count_prompts(spec: Spec, s: State, stage: float) -> None:
    """Notes what prompts a step of so many µs holds."""
    tokens = 0
    for rank in range(spec.ranks):
        for i in range(s.ranks[rank].chunks):
            tokens += s.cut[rank, i].tokens
    if tokens:
        s.clock[PROMPT_BUSY] += stage
        s.clock[PROMPT_STEPS] += 1.0
        s.clock[PROMPT_TOKENS] += tokens


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
def _sample(spec: Spec, s: State, samples: Array) -> None:
    waiting, fullest = 0, 0.0
    for rank in range(spec.ranks):
        waiting += s.lists[2 * rank].size
        fullest = max(fullest, s.ranks[rank].kv_used)
    at = s.n[SAMPLED]
    samples[at, 0], samples[at, 1], samples[at, 2] = s.clock[NOW], s.clock[BUSY], _running(spec, s)
    samples[at, 3], samples[at, 4] = waiting, fullest / spec.kv_tokens
    samples[at, 5], samples[at, 6], samples[at, 7] = (
        s.clock[PROMPT_BUSY],
        s.clock[PROMPT_STEPS],
        s.clock[PROMPT_TOKENS],
    )
    s.n[SAMPLED] += 1


@compiled
def _start(spec: Spec, asked: Sent, seen: Seen, s: State) -> None:
    """The clients of an open loop have sent all, those of a closed one are to send their first."""
    for request in range(len(asked.sent_us)):
        if asked.closed:
            s.send_us[request], s.sends[request] = asked.sent_us[request], request
            s.n[SENDS] += 1
        else:
            pass_on(spec, seen, s, request, asked.sent_us[request])


@compiled
def loop(spec: Spec, through: Curve, slowest: Curve, asked: Sent, seen: Seen, s: State, samples: Array) -> int:
    """How it ended. ``samples`` are written, [many, 8]: when, µs in steps, sequences, requests that wait, share of the
    fullest cache; µs in steps that hold prompts, these steps, and the prompts' tokens in them."""
    if s.n[SAMPLED] == 0:
        _start(spec, asked, seen, s)
    while s.n[LEFT]:
        if s.n[SAMPLED] + 1 >= len(samples):
            return FULL
        now = s.clock[NOW]
        while s.n[FLYING] and s.stages[0].flight_done <= now:
            done, number = s.stages[0].flight_done, first_out(s)
            s.stages[s.n[FREE]].free = number
            s.n[FREE] += 1
            land(spec, asked, seen, s, number, done)
        if _looks(spec, s):
            receive(spec, asked, seen, s, now)
        if now >= s.clock[NEXT_SAMPLE]:
            _sample(spec, s, samples)
            s.clock[NEXT_SAMPLE] = now + asked.sample_us
            if len(asked.limit_us) and too_often(asked, seen, now):
                return GIVEN_UP
        if spec.jump and spec.stages > 1 and settled(spec, s):
            then, taken = rotate(spec, (through, slowest), asked, seen, s, now)
            s.n[STEPS] += taken
            if now < then < np.inf:
                s.clock[NOW] = then
                continue
        number, tokens = _begin(spec, asked, seen, s, now)
        if number < 0:
            if s.n[LEFT] == 0:  # the last one has just ended, or was refused
                break
            s.clock[NOW] = min(s.stages[0].flight_done if s.n[FLYING] else np.inf, next_us(s))
            if s.clock[NOW] == np.inf:
                return STUCK
            continue
        steps, latency, stage = _time(spec, through, slowest, s, number, tokens, now)
        s.n[STEPS] += steps
        s.n[UNSEEN] += steps
        s.clock[BUSY] += stage
        _count_prompts(spec, s, stage)
        quiet = _take(spec, s, number, steps)
        if spec.stages == 1:
            s.clock[NOW] = now + latency
            land(spec, asked, seen, s, number, s.clock[NOW])
        else:
            take_free(s, number)
            s.clock[LAST_DONE] = max(now + latency, s.clock[LAST_DONE] + stage)
            enter(s, number, s.clock[LAST_DONE], quiet)
            s.clock[NOW] = now + stage
    _sample(spec, s, samples)
    return DONE
