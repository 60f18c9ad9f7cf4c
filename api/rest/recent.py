"""Documents that were read a moment ago: they never change, so they are handed out again without the database."""

from __future__ import annotations

import time
from collections import OrderedDict

from fastapi.concurrency import run_in_threadpool

from api.storage.documents import Documents, Stored

RECENT_S = 2.0
"""After this the database is asked again: a document may have been forgotten."""

MOST_BYTES = 64 * 2**20


class Recent:
    """The documents that were read last, by who may see them."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, str], tuple[float, Stored]] = OrderedDict()
        self._bytes = 0

    async def find(self, documents: Documents, id_: str, owner: str) -> Stored | None:
        """As :meth:`api.storage.documents.Documents.find`."""
        held = self._held.get((owner, id_))
        if held is not None and time.monotonic() - held[0] < RECENT_S:
            return held[1]
        stored = await run_in_threadpool(documents.find, id_, owner)
        self._drop((owner, id_))
        if stored is not None and len(stored.content) < MOST_BYTES // 4:
            self._held[owner, id_] = (time.monotonic(), stored)
            self._bytes += len(stored.content)
            while self._bytes > MOST_BYTES:
                self._drop(next(iter(self._held)))
        return stored

    def _drop(self, key: tuple[str, str]) -> None:
        gone = self._held.pop(key, None)
        if gone is not None:
            self._bytes -= len(gone[1].content)
