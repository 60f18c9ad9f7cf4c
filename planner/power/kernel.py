"""One replicate of a row, step by step: queues, watts, telemetry, control. Compiled; who calls it is
:mod:`planner.power.simulator`.

Every server holds a fluid of work: prefill in seconds at full clock, decode in sequences and tokens. What a step does
is what the clock allows, so a capped server works longer and nothing is lost. Times are seconds, watts are of whole
servers. A replicate draws nothing: all randomness comes in, so it is the same alone and in any batch."""

from __future__ import annotations

import numpy as np

from costmodels.native.compiling import compiled
from planner.power import readings
from planner.power.arrays import (
    BLOCK_STEPS,
    BRAKES,
    COMMANDS,
    END_STEPS,
    ENDS,
    JOULES,
    LOST,
    MOST_PENDING,
    MOST_READING,
    MOST_WATTS,
    TOKENS_DONE,
    TOKENS_IN,
    TOKENS_LEFT,
    WORK_DONE,
    WORK_IN,
    WORK_LEFT,
    Array,
    Control,
    Followed,
    Ladder,
    Log,
    Requests,
    Scratch,
    Servers,
    State,
    Supply,
    Tables,
)

next_level, worn = compiled(readings.next_level), compiled(readings.worn)


@compiled
def _act(
    step: int,
    reading: int,
    clock: Array,
    told: Array,
    due_step: Array,
    due_clock: Array,
    brake: Array,
    control: Control,
) -> None:
    """Commands that are due act, or are lost. ``told``: the clock of the last command that acted; it holds again when
    the brake, which has wires of its own, is let go and that command is lost."""
    for group in range(len(clock)):
        if due_step[group] >= 0 and step >= due_step[group]:
            if due_clock[group] == brake[group]:
                clock[group], due_step[group] = brake[group], -1
            elif control.fails[reading, group]:
                clock[group] = told[group]
                due_step[group] = step + max(control.delay, 1)  # noticed when it should have acted, and sent again
            else:
                clock[group], told[group], due_step[group] = due_clock[group], due_clock[group], -1


@compiled
def _arrive(
    step: int, first: int, requests: Requests, state: State, follow: Followed, pending: int, totals: Array
) -> tuple[int, int]:
    """(the next request, followed ones): those of this second are in the queues, of servers that are there."""
    while first < len(requests.step) and requests.step[first] <= step:
        i = requests.server[first]
        if i >= len(state.queue):
            first += 1
            continue
        work = requests.work_s[first]
        length = requests.tokens[first] * requests.merged[first]
        state.queue[i] += work
        state.offered[i] += work
        state.waiting[i] += requests.merged[first]
        state.waiting_tokens[i] += length
        totals[WORK_IN] += work
        totals[TOKENS_IN] += length
        if requests.followed[first]:
            if pending < MOST_PENDING:
                follow.of[pending], follow.since[pending] = first, step
                follow.target[pending], follow.decodes[pending] = state.offered[i], False
                pending += 1
            else:
                totals[LOST] += 1.0
        first += 1
    return first, pending


@compiled
def _work(
    servers: Servers,
    tables: Tables,
    clock: Array,
    foresight: float,
    state: State,
    leaf_watts: Array,
    leaf_waits: Array,
    totals: Array,
) -> float:
    """A second of all servers; the variance of its watts within it. ``leaf_waits``: watts of what waits for the
    policy's ``foresight``."""
    queue, waiting, waiting_tokens = state.queue, state.waiting, state.waiting_tokens
    tokens, progress, ends = state.tokens, state.progress, state.ends
    spread, work_done, tokens_done = 0.0, totals[WORK_DONE], totals[TOKENS_DONE]
    for i in range(len(servers.kind)):
        kind, c, p = servers.kind[i], clock[servers.group[i]], clock[servers.prefill_group[i]]
        engines, share, hot = servers.engines[i], tables.shares[kind], tables.prefill_watts[kind, p]
        busy, alive, alone = 0.0, state.running[i], tables.token_s[kind, c]
        state.token_s[i] = alone
        if queue[i] > 0.0 and alive < servers.most_sequences[i]:
            can = engines * tables.prefill_speed[kind, p]
            if queue[i] <= can:
                work, part = queue[i], 1.0
                queue[i] = 0.0
            else:
                work, part = can, can / queue[i]
                queue[i] -= work
            busy = work / can
            joins = part * waiting[i]
            alive += joins
            if joins > 0.0 and tables.ends_exactly[kind]:
                now = progress[i] / END_STEPS
                end = int(max(now + waiting_tokens[i] / waiting[i] / END_STEPS - 0.5, now))
                ends[i, min(end, int(now) + ENDS - 1) & (ENDS - 1)] += joins
            tokens[i] += part * waiting_tokens[i]
            waiting[i] -= part * waiting[i]
            waiting_tokens[i] -= part * waiting_tokens[i]
            state.done[i] += work
            work_done += work
        left = 1.0 - share * busy
        watts = busy * hot
        if alive > 1e-9:
            ahead = left / (alone + tables.token_slope_s[kind, c] * max(alive / engines - 1.0, 0.0))
            mean = alive
            if tables.ends_exactly[kind]:
                now = progress[i] / END_STEPS
                for end in range(int(now), int(now + ahead / END_STEPS)):
                    gone = min(ends[i, end & (ENDS - 1)], alive)
                    ends[i, end & (ENDS - 1)] = 0.0
                    alive -= gone
                    mean -= gone * (1.0 - min(max((end + 1 - now) * END_STEPS / ahead, 0.0), 1.0))
            answered = mean * ahead
            if alive > 1e-9 and answered < tokens[i]:
                if not tables.ends_exactly[kind]:
                    alive -= alive * answered / tokens[i]
                tokens[i] -= answered
                tokens_done += answered
            else:
                tokens_done += tokens[i]
                if alive > 1e-9 and tables.ends_exactly[kind]:  # the last of a stretch's steps were not needed
                    ends[i, :] = 0.0
                tokens[i], alive = 0.0, 0.0
            progress[i] += ahead
            decodes, each = min(mean / engines, 1.0), max(mean / engines, 1.0)
            decoding = tables.decode_watts[kind, c] + tables.decode_slope_watts[kind, c] * (each - 1.0)
            decoding = decodes * (decoding + tables.decode_root_watts[kind, c] * (np.sqrt(each) - 1.0))
            watts += left * decoding
            hot -= share * decoding
        else:
            progress[i] += left / alone
        spread += busy * (1.0 - busy) * hot * hot
        if foresight > 0.0:
            full = min(queue[i] / (engines * tables.prefill_speed[kind, p]) / foresight, 1.0)
            leaf_waits[servers.leaf[i]] += max(full - busy, 0.0) * max(hot, 0.0)
        state.running[i] = alive
        leaf_watts[servers.leaf[i]] += servers.base_watts[i] + min(watts, tables.limit_watts[kind])
    totals[WORK_DONE], totals[TOKENS_DONE] = work_done, tokens_done
    return spread


@compiled
def _below(supply: Supply, node: int, leaf_watts: Array, other: float) -> float:
    """Watts of a node: its leaves', and at the root what is not simulated."""
    watts = other if node == 0 else 0.0
    for leaf in range(len(leaf_watts)):
        if supply.below[node, leaf]:
            watts += leaf_watts[leaf]
    return watts


@compiled
def _wear(supply: Supply, leaf_watts: Array, other: float, wear: Array, most: Array) -> None:
    """Heats the breakers for a second. ``most``: [nodes] the highest so far."""
    for node in range(len(wear)):
        last = supply.points[node]
        if last > 0:
            load = _below(supply, node, leaf_watts, other) / supply.budgets[node]
            wear[node] = worn(wear[node], load, supply.loads[node, :last], supply.holds[node, :last])
            most[node] = max(most[node], wear[node])


@compiled
def _answer(step: int, requests: Requests, state: State, follow: Followed, pending: int, log: Log) -> int:
    """How many are still followed: latencies of those that are answered by the end of the second are written."""
    k = 0
    while k < pending:
        which = follow.of[k]
        i = requests.server[which]
        if not follow.decodes[k] and state.done[i] >= follow.target[k] - 1e-9:
            follow.decodes[k] = True
            follow.target[k] = state.progress[i] + requests.tokens[which]
        if follow.decodes[k] and state.progress[i] >= follow.target[k]:
            over = (state.progress[i] - follow.target[k]) * state.token_s[i]  # of the step that was not needed
            at = log.followed[0]
            if at < len(log.latency_s):
                log.latency_s[at] = max(step + 1 - follow.since[k] - min(over, 1.0), 0.0)
                log.latency_of[at] = which
                log.followed[0] += 1
            pending -= 1
            follow.of[k], follow.since[k] = follow.of[pending], follow.since[pending]
            follow.target[k], follow.decodes[k] = follow.target[pending], follow.decodes[pending]
        else:
            k += 1
    return pending


@compiled
def _trips(supply: Supply, node: int, wear: float, load: float, seconds: float) -> bool:
    """Whether a node's breaker trips when it carries ``load`` for so many seconds more."""
    last = supply.points[node]
    return wear + seconds * worn(0.0, load, supply.loads[node, :last], supply.holds[node, :last]) >= 1.0


@compiled
def run(
    servers: Servers,
    tables: Tables,
    requests: Requests,
    ladder: Ladder,
    control: Control,
    supply: Supply,
    scratch: Scratch,
    log: Log,
) -> int:
    """Runs the replicate and fills ``log``; 0."""
    steps, (nodes, leaves) = len(log.watts), supply.below.shape
    groups, brake = ladder.clocks.shape[1], len(ladder.up) - 1
    state, follow, clock, told, due_step, due_clock, leaf_watts, leaf_sum, leaf_waits, wear, hottest = scratch
    level, since, other_sum = 0, -control.delay - 1, 0.0
    watched, foresight = supply.points.sum() > 0, ladder.foresight
    pending, next_request, readings = 0, 0, 0
    last_reading, acts = len(control.error) - 1, control.period + control.brake + 1.0
    for step in range(steps):
        block, other = step // BLOCK_STEPS, supply.other_watts[step]
        _act(step, min(readings, last_reading), clock, told, due_step, due_clock, ladder.clocks[brake], control)
        next_request, pending = _arrive(step, next_request, requests, state, follow, pending, log.totals)
        leaf_watts[:] = 0.0
        leaf_waits[:] = 0.0
        spread = _work(servers, tables, clock, foresight, state, leaf_watts, leaf_waits, log.totals)
        for leaf in range(leaves):
            leaf_sum[leaf] += leaf_watts[leaf]
        other_sum += other
        total = _below(supply, 0, leaf_watts, other)
        log.watts[step] = total
        if len(log.foreseen) > 0:
            log.foreseen[step] = _below(supply, 0, leaf_waits, total)
        if watched:
            _wear(supply, leaf_watts, other, wear, log.wear[block])
        log.totals[JOULES] += total
        log.totals[MOST_WATTS] = max(log.totals[MOST_WATTS], total + np.sqrt(spread))
        log.level_steps[level] += 1
        pending = _answer(step, requests, state, follow, pending, log)
        if (step + 1) % control.period:
            continue
        at = min(readings, last_reading)
        worst, coming, asked, hot = 0.0, 0.0, not control.by_breaker, False
        for node in range(nodes):
            share = _below(supply, node, leaf_sum, other_sum) / control.period / supply.budgets[node]
            worst = max(worst, share)
            coming = max(coming, share + _below(supply, node, leaf_waits, 0.0) / supply.budgets[node])
            log.peak[block, node] = max(log.peak[block, node], share)
            if not control.by_breaker:
                continue
            read = share * control.error[at]
            if supply.points[node] == 0:
                asked = asked or read > ladder.up[brake]
                continue
            # What it carried at most since it was cold, it may carry again before the next brake acts.
            hottest[node] = max(hottest[node], read) if wear[node] > 0.0 else read
            if level == brake:
                hot = hot or (
                    wear[node] > 0.0 and _trips(supply, node, wear[node], hottest[node], acts + control.period)
                )
            elif np.log(max(read, 1e-9)) >= supply.loads[node, 0]:
                asked = asked or _trips(supply, node, wear[node], hottest[node], acts)
        leaf_sum[:] = 0.0
        other_sum = 0.0
        seen = worst * control.error[at]
        readings += 1
        log.totals[MOST_READING] = max(log.totals[MOST_READING], seen)
        if foresight > 0.0 and seen < ladder.up[brake]:  # what waits asks for caps, never for the brake
            seen = min(seen + coming - worst, ladder.up[brake])
        if not asked:
            seen = min(seen, ladder.up[brake])
        new = level if hot else next_level(level, seen, step - since >= control.delay, ladder)
        if new == level:
            continue
        if new == brake:
            log.totals[BRAKES] += 1.0
            log.braked[block] += 1.0
        for group in range(groups):
            wanted = ladder.clocks[new, group]
            holds = due_clock[group] if due_step[group] >= 0 else clock[group]
            if wanted != holds:
                wait = control.brake if new == brake else np.ceil(control.late[at, group] * control.delay)
                due_step[group], due_clock[group] = step + 1 + int(wait), wanted
                log.totals[COMMANDS] += 1.0
        level, since = new, step
    for i in range(len(state.queue)):
        log.totals[WORK_LEFT] += state.queue[i]
        log.totals[TOKENS_LEFT] += state.tokens[i] + state.waiting_tokens[i]
    return 0
