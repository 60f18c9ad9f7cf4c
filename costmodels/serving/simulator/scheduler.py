"""What one attention rank of an engine does between steps: queue, admission, chunks, cache, preemption.

Nothing here knows of time; a sequence is the index of its request. Decoding sequences advance together, so a
slot keeps sums and a heap of the step at which each ends, and no step touches the sequences one by one.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush
from typing import NamedTuple

from costmodels.serving.simulator.engine import Engine

_ROUNDING = 1e-6
"""Tokens: sums of fractional gains (speculation) are compared with the cache no more finely than this."""


class Chunk(NamedTuple):
    """Part of a prompt in one step; ``last`` yields the sequence's next token."""

    request: int
    tokens: int
    prefix: int
    last: bool


class DecodingSequence(NamedTuple):
    """A sequence that decodes: the cache it was admitted with, its tokens so far, and its first and last
    step in its slot's count."""

    admitted_tokens: int
    made: int
    first_step: int
    last_step: int


class Slot:
    """The decodes of one micro-batch (one a pipeline stage): ``count`` sequences of ``context`` tokens in all."""

    __slots__ = ("context", "count", "ends", "in_flight", "members", "step")

    def __init__(self) -> None:
        self.count = 0
        self.context = 0.0
        self.step = 0  # decode steps so far
        self.members: dict[int, DecodingSequence] = {}  # in the order of joining
        self.ends: list[tuple[int, int]] = []  # heap of (last step, request); may hold preempted ones
        self.in_flight = False

    def steps_to_next_end(self) -> int:
        """Decode steps until a sequence ends."""
        ends, members = self.ends, self.members
        while True:  # the slot holds at least one sequence, so there is an end
            last, request = ends[0]
            member = members.get(request)
            if member is not None and member.last_step == last:
                return last - self.step
            heappop(ends)


class Rank:
    """One attention rank of ``engine``: its queue, its cache and its slots, one a pipeline stage.

    To a decode engine requests come with the cache of their prompt, and with their first token where it is not computed
    here; else the prompt's last token is computed for it.

    Args:
        isl, osl: of every request.
    """

    def __init__(self, engine: Engine, isl: list[int], osl: list[int]) -> None:
        self._policy = engine.policy
        self._isl, self._osl = isl, osl
        self._kv_tokens = engine.kv_tokens + _ROUNDING
        self._budget = engine.token_budget
        self._most = engine.max_sequences
        self.tokens_per_step = engine.tokens_per_step
        self._queries = engine.table.latency.queries
        self._cached_share = engine.cached_share
        self._with_cache = engine.role == "decode"
        self._first_token_here = engine.first_token_here
        # A sequence's last block is partly empty: at most so many tokens of it.
        self._waste = engine.policy.block_tokens - 1
        self.slots = [Slot() for _ in range(engine.table.stages)]
        self.waiting: deque[int] = deque()
        self.prefilling: deque[list[int]] = deque()  # [request, tokens done, tokens to do]
        self._made: dict[int, int] = {}  # tokens that preempted requests have made
        self.running = 0
        self.kv_used = 0.0
        self._outstanding = 0.0  # tokens that admitted sequences have still to make
        self.preempted: list[int] = []
        self.handed: list[int] = []  # taken up with their first token, since the list was last emptied

    @property
    def load(self) -> int:
        return len(self.waiting) + self.running

    def growing_fits(self, slot: Slot, steps: int) -> bool:
        """Whether the cache holds ``steps`` further decode steps of ``slot``."""
        return self.kv_used + slot.count * self.tokens_per_step * steps <= self._kv_tokens

    def steps_that_fit(self, sequences: int) -> int:
        """Decode steps of so many sequences until the cache is full."""
        return int((self._kv_tokens - self.kv_used) / (sequences * self.tokens_per_step))

    def schedule(self, slot: Slot) -> list[Chunk]:
        """The chunks of the next step in ``slot``; makes room for its decodes first."""
        preempted = False
        while slot.count and not self.growing_fits(slot, 1):
            self._preempt_latest(slot)
            preempted = True
        policy = self._policy
        budget = self._budget
        if not policy.prefill_first:
            budget -= slot.count * self._queries
        chunks: list[Chunk] = []
        while self.prefilling and budget > 0:
            budget -= self._next_chunk(chunks, budget)
            if not chunks[-1].last:
                return chunks
        while self.waiting and budget > 0 and not preempted and self._fits(self.waiting[0], slot, budget):
            request = self.waiting.popleft()
            tokens = self._isl[request] + self._made.get(request, 0)
            self.running += 1
            self.kv_used += tokens + self._waste
            self._outstanding += self._osl[request] - self._made.get(request, 0)
            fresh = self._with_cache and request not in self._made
            if fresh and not self._first_token_here:
                self.handed.append(request)
                budget -= self._queries if self.join(slot, request) else 0
                continue
            cached = tokens - 1 if fresh else min(int(self._isl[request] * self._cached_share), tokens - 1)
            self.prefilling.append([request, cached, tokens])
            budget -= self._next_chunk(chunks, budget)
        return chunks

    def _next_chunk(self, chunks: list[Chunk], budget: int) -> int:
        """Adds a chunk of the first prompt that is being prefilled; its tokens."""
        entry = self.prefilling[0]
        request, done, target = entry
        tokens = min(target - done, budget)
        entry[1] = done + tokens
        if entry[1] == target:
            self.prefilling.popleft()
        chunks.append(Chunk(request, tokens, done, entry[1] == target))
        return tokens

    def _fits(self, request: int, slot: Slot, budget: int) -> bool:
        if self.running >= self._most:
            return False
        made = self._made.get(request, 0)
        tokens = self._isl[request] + made
        if not self._policy.chunked and tokens - int(self._isl[request] * self._cached_share) > budget:
            return False
        reserved = self._policy.reserve_share * (self._outstanding + self._osl[request] - made)
        growth = (slot.count + 1) * self.tokens_per_step  # of the step that is being put together
        return self.kv_used + tokens + self._waste + max(reserved, growth) <= self._kv_tokens

    def join(self, slot: Slot, request: int) -> bool:
        """A prompt is done: its token is made, and the sequence decodes on in ``slot``. False: it was the
        last token, and the sequence is gone."""
        before = self._made.get(request, 0)
        made = before + 1
        admitted = self._isl[request] + before
        steps = math.ceil((self._osl[request] - made) / self.tokens_per_step)
        self._outstanding -= 1
        if steps == 0:
            self.running -= 1
            self.kv_used -= admitted + self._waste
            return False
        last = slot.step + steps
        slot.members[request] = DecodingSequence(admitted, made, slot.step, last)
        heappush(slot.ends, (last, request))
        slot.count += 1
        slot.context += admitted + 1
        return True

    def grow(self, slot: Slot, steps: int) -> None:
        """Takes the cache that ``steps`` decode steps of ``slot`` fill."""
        tokens = slot.count * self.tokens_per_step * steps
        self.kv_used += tokens
        self._outstanding -= tokens

    def decoded(self, slot: Slot, steps: int) -> list[int]:
        """``steps`` decode steps are done; the requests that end with them."""
        slot.step += steps
        slot.context += slot.count * self.tokens_per_step * steps
        ended: list[int] = []
        while slot.ends and slot.ends[0][0] <= slot.step:
            last, request = heappop(slot.ends)
            member = slot.members.get(request)
            if member is not None and member.last_step == last:
                del slot.members[request]
                self._leave(slot, request, member)
                ended.append(request)
        return ended

    def _leave(self, slot: Slot, request: int, member: DecodingSequence) -> None:
        gained = (slot.step - member.first_step) * self.tokens_per_step
        slot.count -= 1
        slot.context -= member.admitted_tokens + 1 + gained
        self.running -= 1
        self.kv_used -= member.admitted_tokens + self._waste + gained
        self._outstanding -= self._osl[request] - member.made - gained

    def _preempt_latest(self, slot: Slot) -> None:
        """The sequence that came last loses its cache and waits at the head of the queue to be computed again."""
        if self.prefilling:
            request, _, target = self.prefilling.pop()
            self.running -= 1
            self.kv_used -= target + self._waste
            self._outstanding -= self._osl[request] - self._made.get(request, 0)
        else:
            request, member = slot.members.popitem()
            self._leave(slot, request, member)
            self._made[request] = int(member.made + (slot.step - member.first_step) * self.tokens_per_step)
        self.preempted.append(request)
        self.waiting.appendleft(request)
