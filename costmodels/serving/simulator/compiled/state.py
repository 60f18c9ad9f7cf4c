"""What the compiled simulator is given, and what it changes.

Nothing here allocates per step: queues are linked lists over the requests (each is in one at a time), the steps at
which sequences end a heap a slot. A slot holds the decodes of one micro-batch of one attention rank, one a stage;
they advance together, so it keeps sums, and no step touches the sequences one by one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ENDLESS = 1 << 60
DONE, GIVEN_UP, STUCK, FULL = range(4)
"""How the loop ended; full: there is no room for another sample, and it goes on where it was when it is called
again."""
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


FOLLOWED = np.dtype(
    [
        ("number", _WHOLE),
        ("flying", _WHOLE),  # whether it was in the pipeline when the rotation began
        ("ready", _REAL),  # when it can go into the first stage again
        ("to_end", _WHOLE),  # steps until one of its sequences ends
        ("steps", _WHOLE),  # taken
        ("straight", _WHOLE),  # steps for which its times hold
    ]
)


class State(NamedTuple):
    """What changes. ``lists``: queue and prefills of each rank, then members of each slot in the order of joining, then
    prompts that end with its step. ``end_step``, ``end_request``: a heap a slot. ``asked``: micro-batches that could
    not take in a prompt since something changed. ``passed``: by the front end; ``sends``: a heap of what is to be sent.
    ``turns``, ``times``: of micro-batches while the pipeline rotates; the times of a step, all stages and the slowest,
    and by how much they rise. ``clock``, ``n``: times in µs and counts by the names below."""

    lists: Array
    requests: Array
    ranks: Array
    slots: Array
    cut: Array
    stages: Array
    asked: Array
    turns: Array
    times: Array
    end_step: Array
    end_request: Array
    passed_us: Array
    passed: Array
    send_us: Array
    sends: Array
    clock: Array
    n: Array


LEFT, NEXT, PASSED, TAKEN, SENDS, TURN, FREE, FLYING, UNSEEN, STEPS, SAMPLED = range(11)
NOW, RELEASED, LAST_DONE, BUSY, NEXT_SAMPLE, PROMPT_BUSY, PROMPT_STEPS, PROMPT_TOKENS = range(8)
"""Among them: µs in steps that hold prompts, how many these were, and tokens of prompts in them."""


def fresh(spec: Spec, asked: Sent) -> State:
    """An idle engine."""
    n, ranks, slots = len(asked.isl), spec.ranks, spec.ranks * spec.stages
    held, cut = max(min(spec.most, n), 1), max(min(spec.most, spec.budget, n), 1) + 1
    stages, clock, counts = np.zeros(spec.stages, STAGE), np.zeros(8), np.zeros(11, np.int64)
    stages["free"] = np.arange(spec.stages)
    clock[RELEASED] = -np.inf
    counts[LEFT], counts[NEXT], counts[FREE] = n, len(asked.sent_us), spec.stages
    return State(
        lists=np.zeros(2 * ranks + 2 * slots, LIST),
        requests=np.zeros(n, REQUEST),
        ranks=np.zeros(ranks, RANK),
        slots=np.zeros(slots, SLOT),
        cut=np.zeros((ranks, cut), CHUNK),
        stages=stages,
        asked=np.zeros(spec.stages, np.bool_),
        turns=np.zeros(spec.stages, FOLLOWED),
        times=np.zeros((spec.stages, 4)),
        end_step=np.zeros((slots, held), np.int64),
        end_request=np.zeros((slots, held), np.int64),
        passed_us=np.zeros(n),
        passed=np.zeros(n, np.int64),
        send_us=np.zeros(n),
        sends=np.zeros(n, np.int64),
        clock=clock,
        n=counts,
    )
