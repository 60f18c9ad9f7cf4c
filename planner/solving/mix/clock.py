"""Until when a search goes on: seconds of its own processor time, as long as no more than twice as many pass on the
wall. On a machine that is not busy the two are the same; on a busy one an answer takes longer, and is not worse."""

from __future__ import annotations

import time

SLOWEST = 2.0
"""Seconds on the wall for one of processor time, at most."""


class Deadline:
    """``seconds`` from now."""

    def __init__(self, seconds: float) -> None:
        self._cpu, self._wall = time.thread_time(), time.perf_counter()
        self.seconds = max(seconds, 0.0)

    @property
    def left(self) -> float:
        """Seconds; negative once it has passed."""
        return self.seconds - max(time.thread_time() - self._cpu, (time.perf_counter() - self._wall) / SLOWEST)

    def wall(self, seconds: float) -> float:
        """How long ``seconds`` take on the wall, as it has gone so far: for what keeps to a clock of its own."""
        cpu, wall = time.thread_time() - self._cpu, time.perf_counter() - self._wall
        return seconds * min(max(wall / max(cpu, 1e-3), 1.0), SLOWEST) if wall > 0.05 else seconds

    def part(self, share: float) -> Deadline:
        """A share of what is left."""
        return Deadline(share * self.left)
