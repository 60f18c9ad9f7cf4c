"""One replicate of a row, step by step: queues, watts, telemetry, control. Compiled; who calls it is
:mod:`planner.power.simulator`.

Every server holds a fluid of work: prefill in seconds at full clock, decode in sequences and tokens. What a step does
is what the clock allows, so a capped server works longer and nothing is lost. Times are seconds, watts are of whole
servers. A replicate draws nothing: all randomness comes in, so it is the same alone and in any batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

BLOCK_STEPS = 300  # a stretch's first block is its warm-up
"""Of the maxima that are kept."""

MOST_PENDING = 8192
"""Sampled requests in flight at once; more are not followed (and counted)."""


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
    for each further sequence of an engine; watts are above ``base_watts``, all engines at it; ``shares``: [kinds], of
    the decode's time that a prefill takes from it (0: they have GPUs of their own)."""

    prefill_speed: Array
    token_s: Array
    token_slope_s: Array
    prefill_watts: Array
    decode_watts: Array
    decode_slope_watts: Array
    shares: Array


class Requests(NamedTuple):
    """In the order they come, [n] each: the step, the server, how many (``merged``), seconds of prefill at full clock
    of them together, output tokens of one, and whether its latency is followed."""

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
    [levels, columns], index of the clock (a column is a priority, or a priority's decode or prefill). ``lead``: how
    much of a reading's rise above its mean of the last ten is added to it (0: nothing). ``foresight``: seconds ahead
    that prompts which wait are added to readings for (0: not)."""

    up: Array
    step: Array
    down: Array
    back: Array
    clocks: Array
    lead: float
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
    prefill seconds offered, done, left, tokens offered, done, left, not followed, joules, most watts within a second,
    commands; ``latency_s``, ``latency_of`` (index of the request), and how many in ``followed``."""

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


BRAKES, WORK_IN, WORK_DONE, WORK_LEFT, TOKENS_IN, TOKENS_DONE, TOKENS_LEFT, LOST, JOULES, MOST_WATTS, COMMANDS = range(
    11
)


@njit(cache=True, error_model="numpy")
def next_level(level: int, reading: float, in_effect: bool, ladder: Ladder) -> int:
    """The level that one reading leads to: up by thresholds, else down by hysteresis."""
    brake = len(ladder.up) - 1
    if level < brake and reading > ladder.up[brake]:
        return brake
    new = level
    for each in range(level + 1, brake):
        if reading > ladder.up[each] or (each == level + 1 and in_effect and reading > ladder.step[each]):
            new = each
    if new != level:
        return new
    while new > 0 and reading < ladder.down[new]:
        new = ladder.back[new]
    return new


@njit(cache=True, error_model="numpy")
def worn(wear: float, load: float, loads: Array, holds: Array) -> float:
    """The wear of a breaker after a second at ``load`` (share of its budget): each second takes 1 ÷ the seconds that it
    holds the load, straight between the logarithms of its curve and on beyond its end; below its first load it cools as
    fast as it heats there."""
    points = len(loads)
    x = np.log(max(load, 1e-9))
    if x < loads[0]:
        return max(wear - float(np.exp(-holds[0])), 0.0)
    at = 0
    while at < points - 2 and x > loads[at + 1]:
        at += 1
    # Heat goes with the square of the current.
    slope = -2.0 if points == 1 else (holds[at + 1] - holds[at]) / (loads[at + 1] - loads[at])
    return min(wear + float(np.exp(-(holds[at] + slope * (x - loads[at])))), 1.0)


@njit(cache=True, error_model="numpy")
def run(
    servers: Servers,
    tables: Tables,
    requests: Requests,
    ladder: Ladder,
    control: Control,
    supply: Supply,
    log: Log,
) -> None:
    """Runs the replicate and fills ``log``."""
    n, steps = len(servers.kind), len(log.watts)
    kinds, group_of, prefill_of, leaf_of = servers.kind, servers.group, servers.prefill_group, servers.leaf
    base, engines_of, most = servers.base_watts, servers.engines, servers.most_sequences
    prefill_speed, token_s, token_slope_s = tables.prefill_speed, tables.token_s, tables.token_slope_s
    prefill_watts, decode_watts, decode_slope = tables.prefill_watts, tables.decode_watts, tables.decode_slope_watts
    taken, lead = tables.shares, ladder.lead
    work_done, tokens_done, joules, most_watts = 0.0, 0.0, 0.0, 0.0
    nodes, leaves = supply.below.shape
    groups, levels = ladder.clocks.shape[1], len(ladder.up)
    queue, waiting, waiting_tokens = np.zeros(n), np.zeros(n), np.zeros(n)
    running, tokens, progress = np.zeros(n), np.zeros(n), np.zeros(n)
    offered, done = np.zeros(n), np.zeros(n)
    clock = ladder.clocks[0].copy()
    due_step, due_clock = np.full(groups, -1), np.zeros(groups, np.int64)
    level, since = 0, -control.delay - 1
    leaf_watts, leaf_sum = np.zeros(leaves), np.zeros(leaves)
    leaf_waits, wear, waits = np.zeros(leaves), np.zeros(nodes), 0.0
    watched, foresight = supply.points.sum() > 0, ladder.foresight
    follow_of, follow_from = np.zeros(MOST_PENDING, np.int64), np.zeros(MOST_PENDING)
    follow_target, follow_decodes = np.zeros(MOST_PENDING), np.zeros(MOST_PENDING, np.bool_)
    pending, next_request, readings, other_sum, usual = 0, 0, 0, 0.0, -1.0
    for step in range(steps):
        for group in range(groups):
            if due_step[group] >= 0 and step >= due_step[group]:
                reading = min(readings, len(control.fails) - 1)
                sure = due_clock[group] == ladder.clocks[levels - 1, group]  # the brake has wires of its own
                if control.fails[reading, group] and not sure:
                    due_step[group] = step + control.delay  # noticed when it should have acted, and sent again
                    if control.delay == 0:
                        due_step[group] = step + 1
                else:
                    clock[group], due_step[group] = due_clock[group], -1
        while next_request < len(requests.step) and requests.step[next_request] <= step:
            i = requests.server[next_request]
            work = requests.work_s[next_request]
            length = requests.tokens[next_request] * requests.merged[next_request]
            queue[i] += work
            offered[i] += work
            waiting[i] += requests.merged[next_request]
            waiting_tokens[i] += length
            log.totals[WORK_IN] += work
            log.totals[TOKENS_IN] += length
            if requests.followed[next_request]:
                if pending < MOST_PENDING:
                    follow_of[pending], follow_from[pending] = next_request, step
                    follow_target[pending], follow_decodes[pending] = offered[i], False
                    pending += 1
                else:
                    log.totals[LOST] += 1.0
            next_request += 1
        leaf_watts[:] = 0.0
        if foresight > 0.0:
            leaf_waits[:] = 0.0
        spread = 0.0
        for i in range(n):
            kind, c, p = kinds[i], clock[group_of[i]], clock[prefill_of[i]]
            engines, share, hot = engines_of[i], taken[kind], prefill_watts[kind, p]
            busy, alive = 0.0, running[i]
            if queue[i] > 0.0 and alive < most[i]:
                can = engines * prefill_speed[kind, p]
                if queue[i] <= can:
                    work, part = queue[i], 1.0
                    queue[i] = 0.0
                else:
                    work, part = can, can / queue[i]
                    queue[i] -= work
                busy = work / can
                alive += part * waiting[i]
                tokens[i] += part * waiting_tokens[i]
                waiting[i] -= part * waiting[i]
                waiting_tokens[i] -= part * waiting_tokens[i]
                done[i] += work
                work_done += work
            left = 1.0 - share * busy
            watts = base[i] + busy * hot
            if alive > 1e-9:
                each = alive / engines
                decodes = 1.0
                if each < 1.0:
                    decodes, each = each, 0.0
                else:
                    each -= 1.0
                ahead = left / (token_s[kind, c] + token_slope_s[kind, c] * each)
                answered = alive * ahead
                if answered < tokens[i]:
                    alive -= alive * answered / tokens[i]
                    tokens[i] -= answered
                    tokens_done += answered
                else:
                    tokens_done += tokens[i]
                    tokens[i], alive = 0.0, 0.0
                progress[i] += ahead
                decoding = decodes * (decode_watts[kind, c] + decode_slope[kind, c] * each)
                watts += left * decoding
                hot -= share * decoding
            else:
                progress[i] += left / token_s[kind, c]
            spread += busy * (1.0 - busy) * hot * hot
            if foresight > 0.0:
                full = min(queue[i] / (engines * prefill_speed[kind, p]) / foresight, 1.0)
                leaf_waits[leaf_of[i]] += max(full - busy, 0.0) * max(hot, 0.0)
            running[i] = alive
            leaf_watts[leaf_of[i]] += watts
        total = supply.other_watts[step]
        for leaf in range(leaves):
            total += leaf_watts[leaf]
            leaf_sum[leaf] += leaf_watts[leaf]
        other_sum += supply.other_watts[step]
        log.watts[step] = total
        if foresight > 0.0:
            waits = leaf_waits.sum()
            if len(log.foreseen) > 0:
                log.foreseen[step] = total + waits
        if watched:
            for node in range(nodes):
                if supply.points[node] == 0:
                    continue
                watts = supply.other_watts[step] if node == 0 else 0.0
                for leaf in range(leaves):
                    if supply.below[node, leaf]:
                        watts += leaf_watts[leaf]
                last = supply.points[node]
                wear[node] = worn(
                    wear[node], watts / supply.budgets[node], supply.loads[node, :last], supply.holds[node, :last]
                )
                log.wear[step // BLOCK_STEPS, node] = max(log.wear[step // BLOCK_STEPS, node], wear[node])
        joules += total
        most_watts = max(most_watts, total + np.sqrt(spread))
        log.level_steps[level] += 1
        k = 0
        while k < pending:
            which = follow_of[k]
            i = requests.server[which]
            if not follow_decodes[k] and done[i] >= follow_target[k] - 1e-9:
                follow_decodes[k] = True
                follow_target[k] = progress[i] + requests.tokens[which]
            if follow_decodes[k] and progress[i] >= follow_target[k]:
                speed = tables.token_s[servers.kind[i], clock[servers.group[i]]]
                over = (progress[i] - follow_target[k]) * speed  # of the step that was not needed
                at = log.followed[0]
                if at < len(log.latency_s):
                    log.latency_s[at] = max(step + 1 - follow_from[k] - min(over, 1.0), 0.0)
                    log.latency_of[at] = which
                    log.followed[0] += 1
                pending -= 1
                follow_of[k], follow_from[k] = follow_of[pending], follow_from[pending]
                follow_target[k], follow_decodes[k] = follow_target[pending], follow_decodes[pending]
            else:
                k += 1
        if (step + 1) % control.period:
            continue
        worst, coming, block = 0.0, 0.0, step // BLOCK_STEPS
        at, asked = min(readings, len(control.error) - 1), not control.by_breaker
        for node in range(nodes):
            watts = other_sum if node == 0 else 0.0
            ahead = 0.0
            for leaf in range(leaves):
                if supply.below[node, leaf]:
                    watts += leaf_sum[leaf]
                    ahead += leaf_waits[leaf]
            share = watts / control.period / supply.budgets[node]
            worst = max(worst, share)
            coming = max(coming, share + ahead / supply.budgets[node])
            log.peak[block, node] = max(log.peak[block, node], share)
            if not asked:
                read = share * control.error[at]
                last = supply.points[node]
                if last == 0:
                    asked = read > ladder.up[levels - 1]
                else:
                    each = worn(0.0, read, supply.loads[node, :last], supply.holds[node, :last])
                    asked = wear[node] + (control.period + control.brake + 1) * each >= 1.0
        leaf_sum[:] = 0.0
        other_sum = 0.0
        seen = worst * control.error[at]
        readings += 1
        usual = seen if usual < 0.0 else usual + 0.1 * (seen - usual)
        if foresight > 0.0 and seen < ladder.up[levels - 1]:  # what waits asks for caps, never for the brake
            seen = min(seen + coming - worst, ladder.up[levels - 1])
        if lead > 0.0 and seen < ladder.up[levels - 1]:
            seen = min(seen + lead * max(seen - usual, 0.0), ladder.up[levels - 1])
        if not asked:
            seen = min(seen, ladder.up[levels - 1])
        new = next_level(level, seen, step - since >= control.delay, ladder)
        if new == level:
            continue
        braked = new == levels - 1
        if braked:
            log.totals[BRAKES] += 1.0
            log.braked[block] += 1.0
        for group in range(groups):
            wanted = ladder.clocks[new, group]
            holds = due_clock[group] if due_step[group] >= 0 else clock[group]
            if wanted != holds:
                wait = control.brake if braked else np.ceil(control.late[at, group] * control.delay)
                due_step[group], due_clock[group] = step + 1 + int(wait), wanted
                log.totals[COMMANDS] += 1.0
        level, since = new, step
    log.totals[WORK_DONE], log.totals[TOKENS_DONE] = work_done, tokens_done
    log.totals[JOULES], log.totals[MOST_WATTS] = joules, most_watts
    for i in range(n):
        log.totals[WORK_LEFT] += queue[i]
        log.totals[TOKENS_LEFT] += tokens[i] + waiting_tokens[i]
