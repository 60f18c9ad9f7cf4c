"""The simulator's twin for the tests: one step at a time, every sequence by itself, all sums made anew.

Nothing is shared with the simulator but the step times and the policies' data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from costmodels.serving.frameworks.policies import Policy
from costmodels.serving.simulator.arrivals import Requests
from costmodels.serving.simulator.engine import Engine, refusals
from costmodels.serving.simulator.step_table import Grid, StepCurve, StepTable

GRID = Grid((1, 4, 16, 64, 256, 1024), (1, 4, 16, 64), (1, 64, 512, 4096), (1, 16, 64, 256), (0, 256, 2048), 1)


def curve(
    linear: object,
    decode: object = 0.0,
    chunk: object = 0.0,
    alone: object = None,
    expert: object = None,
    mixed_us: float = 0.0,
    beside: float = 1.0,
    queries: int = 1,
) -> StepCurve:
    """A curve of the given times (numbers or arrays that broadcast to the grid)."""
    grid = Grid(GRID.tokens, GRID.decodes, GRID.contexts, GRID.chunks, GRID.prefixes, queries)

    def full(values: object, *shape: int) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, dtype=np.float64), shape)

    return StepCurve(
        grid,
        full(linear, len(grid.tokens)),
        full(linear if alone is None else alone, len(grid.alone)),
        full(decode, len(grid.decodes), len(grid.contexts)),
        full(chunk, len(grid.chunks), len(grid.prefixes)),
        None if expert is None else full(expert, 2, len(grid.tokens)),
        full(mixed_us, len(grid.decodes)),
        beside,
    )


def constant_table(step_us: float, ranks: int = 1, stages: int = 1) -> StepTable:
    """Every step takes the same time, whatever is in it."""
    latency = curve(step_us * stages)
    return StepTable(ranks, stages, latency, curve(step_us) if stages > 1 else latency)


def rising_table(seed: int, ranks: int = 1, stages: int = 1, queries: int = 1) -> StepTable:
    """Times that rise with everything, at random."""
    rng = np.random.default_rng(seed)

    def rising(*shape: int, scale: float) -> np.ndarray:
        values = rng.uniform(0, scale, shape)
        for axis in range(len(shape)):
            values = np.cumsum(values, axis)
        return values

    parts = (
        500 + rising(len(GRID.tokens), scale=400.0),
        rising(len(GRID.decodes), len(GRID.contexts), scale=60.0),
        rising(len(GRID.chunks), len(GRID.prefixes), scale=60.0),
        500 + rising(len(GRID.alone), scale=300.0),
        rising(2, len(GRID.tokens), scale=100.0) if ranks > 1 else None,
    )
    mixed, beside = float(rng.uniform(0, 50)), float(rng.uniform(0.7, 1.5))
    latency = curve(*parts, mixed_us=mixed, beside=beside, queries=queries)
    if stages == 1:
        return StepTable(ranks, 1, latency, latency)
    share = [None if part is None else part / stages * 1.1 for part in parts]
    return StepTable(ranks, stages, latency, curve(*share, mixed_us=mixed / stages, beside=beside, queries=queries))


@dataclass(eq=False)
class Sequence:
    request: int
    prompt: int  # tokens to have in the cache before it decodes
    done: int  # of them
    made: int  # output tokens before this admission
    steps: int = 0  # decode steps since, begun
    seen: int = 0  # of them, done
    needed: int = 0
    decoding: bool = False

    def cache(self, gain: float, waste: int) -> float:
        return self.prompt + waste + self.steps * gain


@dataclass
class Rank:
    slots: list[list[Sequence]]  # what decodes in each micro-batch, in order of joining
    waiting: list[int] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)  # prompts in progress, in order

    @property
    def everyone(self) -> list[Sequence]:
        return self.admitted + [s for slot in self.slots for s in slot]


@dataclass
class Seen:
    first: np.ndarray
    finish: np.ndarray
    sent: np.ndarray
    preemptions: np.ndarray
    steps: int = 0
    kv_most: float = 0.0
    kv_left: float = 0.0


def naive(engine: Engine, requests: Requests) -> Seen:
    n = len(requests)
    policy: Policy = engine.policy
    waste, gain = policy.block_tokens - 1, engine.tokens_per_step
    queries, stages = engine.table.latency.queries, engine.table.stages
    osl = np.ones(n, int) if engine.role == "prefill" else requests.osl
    isl = requests.isl
    seen = Seen(np.full(n, np.nan), np.full(n, np.nan), np.zeros(n), np.zeros(n, int))
    refused = refusals(engine, requests)
    made_before: dict[int, int] = {}
    ranks = [Rank([[] for _ in range(stages)]) for _ in range(engine.table.ranks)]
    to_send = [(float(t), i) for i, t in enumerate(requests.arrival_us)]
    following = len(to_send)
    released, arriving = -math.inf, []
    over, now, left, turn = engine.overheads, 0.0, n, 0

    def answered(at: float) -> None:
        nonlocal left, following
        left -= 1
        if requests.concurrency is not None and following < n:
            to_send.append((at, following))
            following += 1

    def cache_of(rank: Rank) -> float:
        return sum(s.cache(gain, waste) for s in rank.everyone)

    def outstanding(rank: Rank) -> float:
        return sum(osl[s.request] - s.made - (1 + s.steps * gain if s.decoding else 0) for s in rank.everyone)

    def start_decoding(rank: Rank, number: int, s: Sequence, at: float) -> None:
        if math.isnan(seen.first[s.request]):
            seen.first[s.request] = at
        s.needed = math.ceil((osl[s.request] - s.made - 1) / gain)
        if s in rank.admitted:
            rank.admitted.remove(s)
        if s.needed == 0:
            seen.finish[s.request] = at
            answered(at)
        else:
            s.decoding = True
            rank.slots[number].append(s)

    def step_us(curve: StepCurve, decodes: list[Sequence], chunks: list[tuple[int, float]], everyone: float) -> float:
        contexts = [s.prompt + 1 + s.seen * gain for s in decodes]
        if all(tokens == 1 for tokens, _ in chunks):
            contexts += [prefix + 1 for _, prefix in chunks]
            chunks = []
        count = len(contexts)
        size = count if chunks or not count else policy.padded(count)
        context = sum(contexts) / size if size else 0.0
        time = curve.step_us(size, context, chunks, everyone)
        if count:
            time += engine.draft_share * curve.decode_us(size, context)
        return (time + (count + len(chunks)) * over.sequence_us) * over.step_factor

    def begin(number: int) -> list[tuple[Rank, list[Sequence], list[tuple[Sequence, int, int]]]]:
        """What each rank would do next in the micro-batch."""
        plans = []
        for rank in ranks:
            slot = rank.slots[number]
            preempted = False
            while slot and cache_of(rank) + len(slot) * gain > engine.kv_tokens + 1e-6:
                started = [s for s in rank.admitted if s.done < s.prompt]
                victim = started[-1] if started else slot[-1]
                if victim.decoding:
                    made_before[victim.request] = int(victim.made + 1 + victim.steps * gain)
                    slot.remove(victim)
                else:
                    rank.admitted.remove(victim)
                seen.preemptions[victim.request] += 1
                rank.waiting.insert(0, victim.request)
                preempted = True
            budget = engine.token_budget - (0 if policy.prefill_first else len(slot) * queries)
            chunks = []

            def take(s: Sequence, budget: int, chunks: list = chunks) -> int:
                tokens = min(s.prompt - s.done, budget)
                chunks.append((s, tokens, s.done))
                s.done += tokens
                return tokens

            for s in rank.admitted:
                if budget > 0 and s.done < s.prompt:
                    budget -= take(s, budget)
            unfinished = any(s.done < s.prompt for s in rank.admitted)
            while rank.waiting and budget > 0 and not preempted and not unfinished:
                request = rank.waiting[0]
                before = made_before.get(request, 0)
                prompt = int(isl[request]) + before
                if len(rank.everyone) >= engine.max_sequences:
                    break
                if not policy.chunked and prompt - int(isl[request] * engine.cached_share) > budget:
                    break
                kept = policy.reserve_share * (outstanding(rank) + osl[request] - before)
                growth = (len(slot) + 1) * gain
                if cache_of(rank) + prompt + waste + max(kept, growth) > engine.kv_tokens + 1e-6:
                    break
                rank.waiting.pop(0)
                fresh = engine.role == "decode" and request not in made_before
                s = Sequence(request, prompt, 0, before)
                if fresh and not engine.first_token_here:
                    made_before[request] = 0
                    start_decoding(rank, number, s, now)
                    budget -= queries if s.decoding else 0
                    continue
                s.done = prompt - 1 if fresh else min(int(isl[request] * engine.cached_share), prompt - 1)
                rank.admitted.append(s)
                budget -= take(s, budget)
                unfinished = s.done < s.prompt
            plans.append((rank, list(slot) if policy.mixed or not chunks else [], chunks))
        return plans

    free, in_flight, last_done = list(range(stages)), [], 0.0
    while left:
        while in_flight and in_flight[0][0] <= now:
            done, number, plans = in_flight.pop(0)
            free.append(number)
            for rank, decodes, chunks in plans:
                for s in decodes:
                    s.seen += 1
                    if s.steps >= s.needed:
                        rank.slots[number].remove(s)
                        seen.finish[s.request] = done
                        answered(done)
                for s, tokens, prefix in chunks:
                    if prefix + tokens == s.prompt:
                        start_decoding(rank, number, s, done)
        progress = True
        while progress:
            progress = False
            for item in sorted(to_send):
                if item[0] <= now:
                    to_send.remove(item)
                    seen.sent[item[1]] = item[0]
                    released = max(released, item[0]) + over.serial_us
                    arriving.append((released + over.request_us, item[1]))
                    progress = True
            while arriving and arriving[0][0] <= now:
                _, request = arriving.pop(0)
                progress = True
                if refused[request]:
                    answered(now)
                    break
                which = turn % len(ranks)
                if len(ranks) > 1 and policy.dispatch == "shortest_queue":
                    loads = [len(r.waiting) + len(r.everyone) for r in ranks]
                    which = loads.index(min(loads))
                turn += 1
                ranks[which].waiting.append(request)
        for number in free:
            plans = begin(number)
            if any(decodes or chunks for _, decodes, chunks in plans):
                break
        else:
            now = min([t for t, _ in to_send + arriving] + [done for done, _, _ in in_flight], default=math.inf)
            if now == math.inf:
                break  # what was left came with its last token
            continue
        free.remove(number)
        tokens = [len(d) * queries + sum(c[1] for c in chunks) or 1 for _, d, chunks in plans]
        latency, stage = (
            max(
                step_us(curve, decodes, [(c[1], c[2]) for c in chunks], sum(tokens) / len(ranks))
                for _, decodes, chunks in plans
                if decodes or chunks
            )
            for curve in (engine.table.latency, engine.table.stage)
        )
        for rank, decodes, _ in plans:
            for s in decodes:
                s.steps += 1
            seen.kv_most = max(seen.kv_most, cache_of(rank))
        last_done = max(now + latency, last_done + stage)
        in_flight.append((last_done, number, plans))
        now += stage
        seen.steps += 1
    seen.kv_left = sum(cache_of(rank) for rank in ranks)
    return seen
