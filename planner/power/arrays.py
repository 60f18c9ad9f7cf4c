"""What the kernel of :mod:`planner.power.kernel` takes, writes and works on, as arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


BLOCK_STEPS = 300  # a stretch's first block is its warm-up
"""Of the maxima that are kept."""

ENDS, END_STEPS = 1024, 32
"""Sequences of engines end with a stretch of so many decode steps; of so many stretches (longer answers end with the
last)."""

MOST_PENDING = 8192
"""Sampled requests in flight at once; more are not followed (and counted)."""

BRAKES, WORK_IN, WORK_DONE, WORK_LEFT, TOKENS_IN, TOKENS_DONE, TOKENS_LEFT, LOST = range(8)
JOULES, MOST_WATTS, COMMANDS, MOST_READING = range(8, 12)
TOTALS = 12


class Servers(NamedTuple):
    """What stands in the row, [servers] each; ``kind`` indexes :class:`Tables`, ``group`` the column of a ladder's
    clocks that decode goes by and ``prefill_group`` prefill's, ``leaf`` the lowest nodes of the supply tree."""

    kind: Array
    group: Array
    prefill_group: Array
    leaf: Array
    base_watts: Array
    engines: Array
    most_sequences: Array


class Tables(NamedTuple):
    """What a kind of server does at each clock, [kinds, clocks] each.

    ``prefill_speed``: prefill seconds done in a second; ``token_s`` and ``token_slope_s``: of a decode step, alone and
    for each further sequence of an engine; watts are above ``base_watts``, all engines at it, those of decode with one
    sequence, for each further one, and for the root of all beyond one's; ``limit_watts``: [kinds], at most over a
    second; ``ends_exactly``: [kinds], whether sequences end after their decode steps, as an engine's do (else they ebb
    away with the tokens that are left); ``shares``: [kinds], of the decode's time that a prefill takes from it (0:
    they have GPUs of their own)."""

    prefill_speed: Array
    token_s: Array
    token_slope_s: Array
    prefill_watts: Array
    decode_watts: Array
    decode_slope_watts: Array
    decode_root_watts: Array
    limit_watts: Array
    ends_exactly: Array
    shares: Array


class Requests(NamedTuple):
    """In the order they come, [n] each: the step, the server (those that are not there get none), how many
    (``merged``), seconds of prefill at full clock of them together, output tokens of one, and whether its latency is
    followed."""

    step: Array
    server: Array
    work_s: Array
    tokens: Array
    merged: Array
    followed: Array


class Ladder(NamedTuple):
    """A policy as levels, the first its usual clocks, the last the brake.

    ``up``: [levels], a reading above it (share of budget) asks for the level; ``step``: the same, from the level below
    alone and once that has taken effect; ``down``: a reading below it leaves the level for ``back``; ``clocks``:
    [levels, columns], index of the clock (a column is a priority, or a priority's decode or prefill). ``foresight``:
    seconds ahead that prompts which wait are added to readings for (0: not)."""

    up: Array
    step: Array
    down: Array
    back: Array
    clocks: Array
    foresight: float


class Control(NamedTuple):
    """Steps between readings; steps until a cap and a brake act; and what happens by chance: factor of each reading,
    [readings]; ``late``: share of the delay that each command takes, ``fails``: whether it is lost, [readings, groups].
    ``by_breaker``: the brake waits until a breaker whose curve is known would trip before the next reading's acts.
    """

    period: int
    delay: int
    brake: int
    error: Array
    late: Array
    fails: Array
    by_breaker: bool


class Supply(NamedTuple):
    """``budgets``: [nodes] watts, from the root; ``below``: [nodes, leaves], whether a leaf hangs under a node;
    ``other_watts``: [steps], of what is not simulated (training), as the root's; ``loads`` and ``holds``: [nodes,
    points], logarithms of the breakers' curves, of which the first ``points`` [nodes] count."""

    budgets: Array
    below: Array
    other_watts: Array
    loads: Array
    holds: Array
    points: Array


class Log(NamedTuple):
    """What a replicate writes: ``watts`` [steps]; ``foreseen`` [steps or 0], watts with what waits for the policy's
    foresight; ``peak`` [blocks, nodes], highest reading of each; ``wear`` [blocks, nodes], how far the breaker was on
    its way to trip (1: it tripped); ``braked`` [blocks], brakes of each; ``level_steps`` [levels]; ``totals``: brakes,
    prefill seconds offered, done, left, tokens offered, done, left, not followed, joules, most watts within a
    second, commands, highest reading (with its error); ``latency_s``, ``latency_of`` (index of the
    request), and how many in ``followed``."""

    watts: Array
    foreseen: Array
    peak: Array
    wear: Array
    level_steps: Array
    totals: Array
    latency_s: Array
    latency_of: Array
    followed: Array
    braked: Array


class State(NamedTuple):
    """Of the servers, [servers] each: prefill seconds that wait, requests and tokens that wait with them, sequences and
    tokens in decode, decode steps made, prefill seconds offered and done, seconds of a decode step of one sequence.
    ``ends``: [servers, :data:`ENDS`], sequences that end with each stretch of decode steps."""

    queue: Array
    waiting: Array
    waiting_tokens: Array
    running: Array
    tokens: Array
    progress: Array
    offered: Array
    done: Array
    token_s: Array
    ends: Array


class Followed(NamedTuple):
    """Requests that are followed, [pending] each: which, since when, up to which prefill seconds or decode steps of its
    server, and whether it is in decode."""

    of: Array
    since: Array
    target: Array
    decodes: Array


class Scratch(NamedTuple):
    """What the kernel works on; beside servers and requests ``clock`` and ``told`` [columns], of now and of the last
    command that acted;
    ``due_step`` and ``due_clock`` [columns], of the command on its way (-1: none); ``leaf_watts``,
    ``leaf_sum`` and ``leaf_waits`` [leaves], of a second, since the last reading, and of what waits; ``wear`` and
    ``hottest`` [nodes]."""

    state: State
    follow: Followed
    clock: Array
    told: Array
    due_step: Array
    due_clock: Array
    leaf_watts: Array
    leaf_sum: Array
    leaf_waits: Array
    wear: Array
    hottest: Array


def fresh(servers: Servers, tables: Tables, ladder: Ladder, supply: Supply) -> Scratch:
    """A row at rest, with its usual clocks."""
    n, columns, (nodes, leaves) = len(servers.kind), ladder.clocks.shape[1], supply.below.shape
    of, followed = np.zeros((9, n)), np.zeros((2, MOST_PENDING))
    ends = np.zeros((n, ENDS if tables.ends_exactly.any() else 1))
    state = State(of[0], of[1], of[2], of[3], of[4], of[5], of[6], of[7], of[8], ends)
    follow = Followed(np.zeros(MOST_PENDING, np.int64), followed[0], followed[1], np.zeros(MOST_PENDING, np.bool_))
    return Scratch(
        state,
        follow,
        ladder.clocks[0].copy(),
        ladder.clocks[0].copy(),
        np.full(columns, -1),
        np.zeros(columns, np.int64),
        *np.zeros((3, leaves)),
        *np.zeros((2, nodes)),
    )
