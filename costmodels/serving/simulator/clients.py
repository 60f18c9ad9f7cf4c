"""The way of requests to the scheduler: clients that send them, and the front end that passes them on."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush

import numpy as np

from costmodels.serving.simulator.arrivals import Requests
from costmodels.serving.simulator.engine import Overheads


class Clients:
    """Sends ``requests`` and passes them through the front end, in the order of sending.

    Attributes:
        sent_us: when each was sent, shape [n]; in a closed loop as far as they were.
    """

    def __init__(self, requests: Requests, overheads: Overheads) -> None:
        self._overheads = overheads
        self._requests = len(requests)
        self._closed = requests.concurrency is not None
        self.sent_us = np.zeros(len(requests))
        # To be sent (a heap, of the closed loop), and passed on by the front end (when, request).
        self._sends: list[tuple[float, int]] = []
        self._passed: deque[tuple[float, int]] = deque()
        self._released = -math.inf
        times = requests.arrival_us.tolist()
        self._next = len(times)
        if self._closed:
            self._sends = [(sent, request) for request, sent in enumerate(times)]
        else:
            for request, sent in enumerate(times):
                self._pass(request, sent)

    def next_us(self) -> float:
        """When :meth:`due` has something next; infinite where nothing is under way."""
        coming = self._passed[0][0] if self._passed else math.inf
        return min(coming, self._sends[0][0]) if self._sends else coming

    def due(self, now: float) -> Iterator[int]:
        """The requests that have reached the scheduler by ``now``."""
        sends, passed = self._sends, self._passed
        while True:
            while sends and sends[0][0] <= now:
                sent, request = heappop(sends)
                self._pass(request, sent)
            if not passed or passed[0][0] > now:
                return
            yield passed.popleft()[1]

    def answered(self, now: float) -> None:
        """A request was answered: in a closed loop its client sends the next."""
        if self._closed and self._next < self._requests:
            heappush(self._sends, (now, self._next))
            self._next += 1

    def _pass(self, request: int, sent: float) -> None:
        self.sent_us[request] = sent
        self._released = max(self._released, sent) + self._overheads.serial_us
        self._passed.append((self._released + self._overheads.request_us, request))
