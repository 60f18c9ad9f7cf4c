"""What one attention rank of an engine does between steps: admission, chunks, cache, preemption."""

from __future__ import annotations

import math

import numpy as np

from costmodels.native.compiling import compiled
from costmodels.serving.simulator.compiled.clients import answered
from costmodels.serving.simulator.compiled.queues import drop, push, remove, sift
from costmodels.serving.simulator.compiled.state import Seen, Sent, Spec, State


@compiled
def leave(spec: Spec, asked: Sent, s: State, slot: int, request: int) -> float:
    """A sequence's tokens in this slot; it and its cache are gone."""
    rank = slot // spec.stages
    gained = (s.slots[slot].step - s.requests[request].first_step) * spec.gain
    remove(s, 2 * spec.ranks + slot, request)
    s.slots[slot].count -= 1
    s.slots[slot].context -= s.requests[request].admitted + 1 + gained
    s.ranks[rank].running -= 1
    s.ranks[rank].kv_used -= s.requests[request].admitted + spec.waste + gained
    s.ranks[rank].outstanding -= asked.osl[request] - s.requests[request].joined_with - gained
    return float(gained)


@compiled
def _preempt_latest(spec: Spec, asked: Sent, seen: Seen, s: State, slot: int) -> None:
    """The sequence that came last loses its cache and waits at the head of the queue to be computed again."""
    rank = slot // spec.stages
    prefills = 2 * rank + 1
    if s.lists[prefills].size:
        request = s.lists[prefills].tail
        remove(s, prefills, request)
        s.ranks[rank].running -= 1
        s.ranks[rank].kv_used -= s.requests[request].target + spec.waste
        s.ranks[rank].outstanding -= asked.osl[request] - s.requests[request].made
    else:
        request = s.lists[2 * spec.ranks + slot].tail
        for at in range(s.slots[slot].count):
            if s.end_request[slot, at] == request:
                drop(s.end_step[slot], s.end_request[slot], s.slots[slot].count, at)
                break
        gained = leave(spec, asked, s, slot, request)
        s.requests[request].made = int(s.requests[request].joined_with + gained)
        s.requests[request].evicted = True
    seen.preemptions[request] += 1
    push(s, 2 * rank, request, True)


@compiled
def join(spec: Spec, asked: Sent, s: State, slot: int, request: int) -> bool:
    """A prompt is done: its token is made, and the sequence decodes on in ``slot``. False: it was the last token, and
    the sequence is gone."""
    rank, before = slot // spec.stages, s.requests[request].made
    tokens = asked.isl[request] + before
    steps = math.ceil((asked.osl[request] - before - 1) / spec.gain)
    s.ranks[rank].outstanding -= 1
    if steps == 0:
        s.ranks[rank].running -= 1
        s.ranks[rank].kv_used -= tokens + spec.waste
        return False
    at = s.slots[slot].count
    s.requests[request].admitted, s.requests[request].joined_with, s.requests[request].first_step = (
        tokens,
        before + 1,
        s.slots[slot].step,
    )
    s.end_step[slot, at], s.end_request[slot, at] = s.slots[slot].step + steps, request
    push(s, 2 * spec.ranks + slot, request, False)
    s.slots[slot].count += 1
    sift(s.end_step[slot], s.end_request[slot], s.slots[slot].count, at)
    s.slots[slot].context += tokens + 1
    return True


@compiled
def _next_chunk(s: State, rank: int, budget: int) -> int:
    """Adds a chunk of the first prompt that is being prefilled; its tokens."""
    at, request = s.ranks[rank].chunks, s.lists[2 * rank + 1].head
    tokens = min(s.requests[request].target - s.requests[request].done, budget)
    s.cut[rank, at].request, s.cut[rank, at].tokens = request, tokens
    s.cut[rank, at].prefix = s.requests[request].done
    s.requests[request].done += tokens
    s.cut[rank, at].last = s.requests[request].done == s.requests[request].target
    if s.cut[rank, at].last:
        remove(s, 2 * rank + 1, request)
    s.ranks[rank].chunks += 1
    return int(tokens)


@compiled
def _fits(spec: Spec, asked: Sent, s: State, slot: int, budget: int) -> bool:
    """Whether the first that waits can be admitted."""
    rank = slot // spec.stages
    if s.ranks[rank].running >= spec.most:
        return False
    request = s.lists[2 * rank].head
    made = s.requests[request].made
    tokens = asked.isl[request] + made
    if not spec.chunked and tokens - int(asked.isl[request] * spec.cached_share) > budget:
        return False
    reserved = spec.reserve_share * (s.ranks[rank].outstanding + asked.osl[request] - made)
    growth = (s.slots[slot].count + 1) * spec.gain  # of the step that is being put together
    return bool(s.ranks[rank].kv_used + tokens + spec.waste + max(reserved, growth) <= spec.grant)


@compiled
def schedule(spec: Spec, asked: Sent, seen: Seen, s: State, slot: int, now: float) -> None:
    """The chunks of the next step in ``slot``; makes room for its decodes first. A request that comes to a decode
    engine with its first token takes part at once."""
    rank, preempted, budget = slot // spec.stages, False, spec.budget
    s.ranks[rank].chunks = 0
    while s.slots[slot].count and s.ranks[rank].kv_used + s.slots[slot].count * spec.gain > spec.grant:
        _preempt_latest(spec, asked, seen, s, slot)
        preempted = True
    if not spec.prefill_first:
        budget -= s.slots[slot].count * spec.queries
    while s.lists[2 * rank + 1].size and budget > 0:
        budget -= _next_chunk(s, rank, budget)
        if not s.cut[rank, s.ranks[rank].chunks - 1].last:
            return
    while s.lists[2 * rank].size and budget > 0 and not preempted and _fits(spec, asked, s, slot, budget):
        request = s.lists[2 * rank].head
        remove(s, 2 * rank, request)
        tokens = asked.isl[request] + s.requests[request].made
        s.ranks[rank].running += 1
        s.ranks[rank].kv_used += tokens + spec.waste
        s.ranks[rank].outstanding += asked.osl[request] - s.requests[request].made
        handed = spec.with_cache and not s.requests[request].evicted
        if handed and not spec.first_token_here:
            if join(spec, asked, s, slot, request):
                budget -= spec.queries
            seen.first_us[request] = now
            if asked.osl[request] == 1:
                seen.finish_us[request] = now
                answered(asked, s, now)
            continue
        cached = tokens - 1 if handed else min(int(asked.isl[request] * spec.cached_share), tokens - 1)
        s.requests[request].done, s.requests[request].target = cached, tokens
        push(s, 2 * rank + 1, request, False)
        budget -= _next_chunk(s, rank, budget)


@compiled
def grow(spec: Spec, s: State, slot: int, steps: int) -> None:
    """Takes the cache that ``steps`` decode steps of ``slot`` fill."""
    tokens = s.slots[slot].count * spec.gain * steps
    s.ranks[slot // spec.stages].kv_used += tokens
    s.ranks[slot // spec.stages].outstanding -= tokens


@compiled
def decoded(spec: Spec, asked: Sent, seen: Seen, s: State, slot: int, steps: int, now: float) -> bool:
    """``steps`` decode steps are done by ``now``; whether requests ended with them."""
    s.slots[slot].step += steps
    s.slots[slot].context += s.slots[slot].count * spec.gain * steps
    ended = False
    while s.slots[slot].count and s.end_step[slot, 0] <= s.slots[slot].step:
        request = s.end_request[slot, 0]
        drop(s.end_step[slot], s.end_request[slot], s.slots[slot].count, 0)
        leave(spec, asked, s, slot, request)
        seen.finish_us[request] = now
        answered(asked, s, now)
        ended = True
    return ended


@compiled
def land(spec: Spec, asked: Sent, seen: Seen, s: State, number: int, now: float) -> None:
    """The end of a step of one micro-batch: tokens, first tokens, finished sequences."""
    for rank in range(spec.ranks):
        slot = rank * spec.stages + number
        if s.slots[slot].taken < 0:
            continue
        changed = s.slots[slot].taken > 0 and decoded(spec, asked, seen, s, slot, s.slots[slot].taken, now)
        s.slots[slot].taken = -1
        landing = 2 * spec.ranks + spec.ranks * spec.stages + slot
        while s.lists[landing].size:
            request = s.lists[landing].head
            remove(s, landing, request)
            if np.isnan(seen.first_us[request]):
                seen.first_us[request] = now
            if not join(spec, asked, s, slot, request):
                seen.finish_us[request] = now
                answered(asked, s, now)
            changed = True
        if changed:
            s.asked[:] = False
