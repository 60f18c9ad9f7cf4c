"""What was looked up a moment ago, so that the database is not asked for every request."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from fastapi.concurrency import run_in_threadpool

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values that are looked up in threads, at most once at a time for each key.

    Args:
        look: a value, from a thread.
        seconds: how old one may be that is handed out. After half of this it is looked up again meanwhile, so that
            nobody waits for what is asked often.
        most: how much is remembered, each value weighing as ``weight`` says; one of a fourth of this is not.
            What is too old goes whenever something is looked up.
    """

    def __init__(
        self, look: Callable[[K], V], seconds: float, most: int, weight: Callable[[V], int] = lambda _: 1
    ) -> None:
        self._look, self._seconds, self._most, self._weight = look, seconds, most, weight
        self._held: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._asked: dict[K, asyncio.Task[V]] = {}
        self._weighs = 0

    def __len__(self) -> int:
        return len(self._held)

    async def find(self, key: K) -> V:
        """The value of ``key``. Raises what looking it up does."""
        held = self._held.get(key)
        age = math.inf if held is None else time.monotonic() - held[0]
        if held is not None and age < self._seconds / 2:
            return held[1]
        asked = self._asked.get(key)
        if asked is None or asked.get_loop() is not asyncio.get_running_loop():
            asked = self._asked[key] = asyncio.create_task(self._looked_up(key))
            asked.add_done_callback(lambda task: self._over(key, task))
        if held is not None and age < self._seconds:
            return held[1]
        return await asyncio.shield(asked)

    async def _looked_up(self, key: K) -> V:
        at = time.monotonic()
        found = await run_in_threadpool(self._look, key)
        self._drop(key)
        weight = self._weight(found)
        if weight < self._most // 4:
            self._held[key] = at, found
            self._weighs += weight
            while self._weighs > self._most:
                self._drop(next(iter(self._held)))
        while self._held and at - next(iter(self._held.values()))[0] >= self._seconds:  # the oldest stands first
            self._drop(next(iter(self._held)))
        return found

    def _over(self, key: K, task: asyncio.Task[V]) -> None:
        if self._asked.get(key) is task:
            del self._asked[key]
        if not task.cancelled():
            task.exception()  # whoever waits for it is told

    def _drop(self, key: K) -> None:
        gone = self._held.pop(key, None)
        if gone is not None:
            self._weighs -= self._weight(gone[1])
