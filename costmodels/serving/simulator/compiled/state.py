"""What the compiled simulator is given, and what it changes.

Nothing here allocates per step: queues are linked lists over the requests (each is in one at a time), the steps at
which sequences end a heap a slot. A slot holds the decodes of one micro-batch of one attention rank, one a stage;
they advance together, so it keeps sums, and no step touches the sequences one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

_Function = TypeVar("_Function", bound=Callable[..., Any])


_PART: dict[str, Any] = {
    "error_model": "numpy",
    "forceinline": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "_nrt": False,
}
"""Parts are copied into the loop: passing the state to them would count and copy arrays, at fifty times the cost."""


def compiled(function: _Function) -> _Function:
    """A part of the loop, which alone calls it. It allocates nothing."""
    part: _Function = njit(**_PART)(function)
    return part


ENDLESS = 1 << 60
DONE, GIVEN_UP, STUCK = range(3)
TTFT, TPOT, E2E = range(3)


class Curve(NamedTuple):
    """A :class:`~costmodels.serving.simulator.step_table.StepCurve` as arrays; ``expert`` has no columns where experts
    see the tokens of their own rank alone."""

    tokens: Array
    linear: Array
    alone_knots: Array
    alone: Array
    decodes: Array
    mixed: Array
    contexts: Array
    decode: Array
    chunks: Array
    prefixes: Array
    chunk: Array
    expert: Array
    beside: float


class Spec(NamedTuple):
    """An engine: its limits, its scheduler, its host. ``waste``: tokens of a sequence's last block that may be empty,
    at most; ``gain``: tokens of a sequence in a step; ``drafted``: a step with its drafts ÷ without; ``grant``: of
    the cache as sums of fractional gains are compared with it."""

    ranks: int
    stages: int
    queries: int
    budget: int
    most: int
    waste: int
    graph_most: int
    polling: int
    grant: float
    kv_tokens: float
    cached_share: float
    reserve_share: float
    gain: float
    drafted: float
    sequence_us: float
    factor: float
    request_us: float
    serial_us: float
    prefill_first: bool
    mixed: bool
    chunked: bool
    shortest_queue: bool
    with_cache: bool
    first_token_here: bool
    jump: bool
    graph_sizes: Array


class Sent(NamedTuple):
    """The requests, [n], in the order of sending; in a closed loop ``sent_us`` are the first ones'. ``refused``: not 0.
    ``limit_*``: see :class:`costmodels.serving.simulator.capacity.Missed`."""

    isl: Array
    osl: Array
    sent_us: Array
    refused: Array
    closed: bool
    sample_us: float
    limit_metric: Array
    limit_share: Array
    limit_us: Array
    limit_from: int


class Seen(NamedTuple):
    """What is written of each request, [n]."""

    sent_us: Array
    first_us: Array
    finish_us: Array
    rank: Array
    preemptions: Array


_WHOLE, _REAL, _TRUTH = np.int64, np.float64, np.bool_

LIST = np.dtype([("head", _WHOLE), ("tail", _WHOLE), ("size", _WHOLE)])

REQUEST = np.dtype(
    [
        ("after", _WHOLE),  # in the list that it is in
        ("before", _WHOLE),
        ("made", _WHOLE),  # tokens, before it was preempted
        ("evicted", _TRUTH),  # while it decoded
        ("admitted", _WHOLE),  # tokens of cache that it joined its slot with,
        ("joined_with", _WHOLE),  # tokens that it had made then,
        ("first_step", _WHOLE),  # and the slot's step
        ("done", _WHOLE),  # tokens of its prompt,
        ("target", _WHOLE),  # of so many
    ]
)

RANK = np.dtype(
    [
        ("kv_used", _REAL),
        ("outstanding", _REAL),  # tokens that admitted sequences have still to make
        ("running", _WHOLE),
        ("chunks", _WHOLE),  # of the step that is put together
        ("works", _TRUTH),
        ("decodes", _TRUTH),
    ]
)

SLOT = np.dtype(
    [
        ("count", _WHOLE),
        ("context", _REAL),  # tokens of its sequences together
        ("step", _WHOLE),  # decode steps so far
        ("taken", _WHOLE),  # of the step in flight; −1: has no part in it
    ]
)

CHUNK = np.dtype([("request", _WHOLE), ("tokens", _WHOLE), ("prefix", _WHOLE), ("last", _TRUTH)])

STAGE = np.dtype(
    [
        ("free", _WHOLE),  # micro-batches, the least recently used first
        ("flight_number", _WHOLE),  # micro-batches in the pipeline, the first to come out first
        ("flight_done", _REAL),
        ("flight_quiet", _TRUTH),  # whether nothing but tokens comes of it
    ]
)


class State(NamedTuple):
    """What changes. ``lists``: queue and prefills of each rank, then members of each slot in the order of joining, then
    prompts that end with its step. ``end_step``, ``end_request``: a heap a slot. ``asked``: micro-batches that could
    not take in a prompt since something changed. ``passed``: by the front end; ``sends``: a heap of what is to be sent.
    ``n``: counts by the names below."""

    lists: Array
    requests: Array
    ranks: Array
    slots: Array
    cut: Array
    stages: Array
    asked: Array
    end_step: Array
    end_request: Array
    passed_us: Array
    passed: Array
    send_us: Array
    sends: Array
    released: Array
    n: Array


LEFT, NEXT, PASSED, TAKEN, SENDS, TURN, FREE, FLYING, UNSEEN = range(9)


def fresh(spec: Spec, asked: Sent) -> State:
    """An idle engine."""
    n, ranks, slots = len(asked.isl), spec.ranks, spec.ranks * spec.stages
    held, cut = max(min(spec.most, n), 1), max(min(spec.most, spec.budget, n), 1) + 1
    stages = np.zeros(spec.stages, STAGE)
    stages["free"] = np.arange(spec.stages)
    return State(
        lists=np.zeros(2 * ranks + 2 * slots, LIST),
        requests=np.zeros(n, REQUEST),
        ranks=np.zeros(ranks, RANK),
        slots=np.zeros(slots, SLOT),
        cut=np.zeros((ranks, cut), CHUNK),
        stages=stages,
        asked=np.zeros(spec.stages, np.bool_),
        end_step=np.zeros((slots, held), np.int64),
        end_request=np.zeros((slots, held), np.int64),
        passed_us=np.zeros(n),
        passed=np.zeros(n, np.int64),
        send_us=np.zeros(n),
        sends=np.zeros(n, np.int64),
        released=np.full(1, -np.inf),
        n=np.zeros(9, np.int64),
    )


# ------------------------------------------------------------------ lists and heaps


@compiled
def push(s: State, where: int, request: int, front: bool) -> None:
    if s.lists[where].size == 0:
        s.lists[where].head = s.lists[where].tail = request
        s.requests[request].before = s.requests[request].after = -1
    elif front:
        s.requests[request].before, s.requests[request].after = -1, s.lists[where].head
        s.requests[s.lists[where].head].before = request
        s.lists[where].head = request
    else:
        s.requests[request].before, s.requests[request].after = s.lists[where].tail, -1
        s.requests[s.lists[where].tail].after = request
        s.lists[where].tail = request
    s.lists[where].size += 1


@compiled
def remove(s: State, where: int, request: int) -> None:
    before, after = s.requests[request].before, s.requests[request].after
    if before >= 0:
        s.requests[before].after = after
    else:
        s.lists[where].head = after
    if after >= 0:
        s.requests[after].before = before
    else:
        s.lists[where].tail = before
    s.lists[where].size -= 1


@compiled
def sift(keys: Array, items: Array, n: int, at: int) -> None:
    """Moves the entry ``at`` of a heap of ``n`` to its place, up or down; the smallest (key, item) comes first."""
    key, item = keys[at], items[at]
    while at > 0:
        up = (at - 1) // 2
        if keys[up] < key or (keys[up] == key and items[up] <= item):
            break
        keys[at], items[at] = keys[up], items[up]
        at = up
    while True:
        low = 2 * at + 1
        if low >= n:
            break
        if low + 1 < n and (keys[low + 1] < keys[low] or (keys[low + 1] == keys[low] and items[low + 1] < items[low])):
            low += 1
        if key < keys[low] or (key == keys[low] and item <= items[low]):
            break
        keys[at], items[at] = keys[low], items[low]
        at = low
    keys[at], items[at] = key, item


@compiled
def drop(keys: Array, items: Array, n: int, at: int) -> None:
    """Takes the entry ``at`` out of a heap of ``n``."""
    keys[at], items[at] = keys[n - 1], items[n - 1]
    if at < n - 1:
        sift(keys, items, n - 1, at)
