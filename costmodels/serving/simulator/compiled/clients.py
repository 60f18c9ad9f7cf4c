"""The way of requests to the scheduler: clients that send them, and the front end that passes them on, in the order of
sending."""

from __future__ import annotations

import numpy as np

from costmodels.native.compiling import compiled
from costmodels.serving.simulator.compiled.queues import drop, push, sift
from costmodels.serving.simulator.compiled.state import (
    LEFT,
    NEXT,
    PASSED,
    RELEASED,
    SENDS,
    TAKEN,
    TURN,
    Seen,
    Sent,
    Spec,
    State,
)


@compiled
def pass_on(spec: Spec, seen: Seen, s: State, request: int, sent: float) -> None:
    """The front end takes a request and will pass it on."""
    seen.sent_us[request] = sent
    s.clock[RELEASED] = max(s.clock[RELEASED], sent) + spec.serial_us
    s.passed_us[s.n[PASSED]], s.passed[s.n[PASSED]] = s.clock[RELEASED] + spec.request_us, request
    s.n[PASSED] += 1


@compiled
def next_us(s: State) -> float:
    """When the next request reaches the engine, or is sent; infinite where nothing is under way."""
    coming = s.passed_us[s.n[TAKEN]] if s.n[TAKEN] < s.n[PASSED] else np.inf
    return min(coming, s.send_us[0]) if s.n[SENDS] else coming


@compiled
def answered(asked: Sent, s: State, now: float) -> None:
    """A request was answered: in a closed loop its client sends the next."""
    s.n[LEFT] -= 1
    if asked.closed and s.n[NEXT] < len(asked.isl):
        at = s.n[SENDS]
        s.send_us[at], s.sends[at] = now, s.n[NEXT]
        s.n[SENDS] += 1
        s.n[NEXT] += 1
        sift(s.send_us, s.sends, s.n[SENDS], at)


@compiled
def receive(spec: Spec, asked: Sent, seen: Seen, s: State, now: float) -> None:
    """Takes in the requests that have reached the engine."""
    while True:
        while s.n[SENDS] and s.send_us[0] <= now:
            sent, request = s.send_us[0], s.sends[0]
            drop(s.send_us, s.sends, s.n[SENDS], 0)
            s.n[SENDS] -= 1
            pass_on(spec, seen, s, request, sent)
        if s.n[TAKEN] == s.n[PASSED] or s.passed_us[s.n[TAKEN]] > now:
            return
        request = s.passed[s.n[TAKEN]]
        s.n[TAKEN] += 1
        if asked.refused[request]:
            answered(asked, s, now)
            continue
        rank = s.n[TURN] % spec.ranks
        if spec.shortest_queue:
            rank = 0
            for other in range(1, spec.ranks):
                if s.lists[2 * other].size + s.ranks[other].running < s.lists[2 * rank].size + s.ranks[rank].running:
                    rank = other
        s.n[TURN] += 1
        seen.rank[request] = rank
        push(s, 2 * rank, request, False)
        s.asked[:] = False
