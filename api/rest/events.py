"""Server-sent events: a job as it changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from api.storage.jobs import Job
from api.work.planner import POLL_S, Asker, Planner

QUIET_S = 15.0
"""A comment goes out after this, so that nobody between takes the connection for dead."""


def event_stream(planner: Planner, job: Job, asker: Asker, written: Callable[[Job], str]) -> Response:
    """A stream of ``job``'s changes, the first at once, until it has ended or the service ends."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(planner, job, asker, written), 200, headers, "text/event-stream")


async def _events(planner: Planner, job: Job, asker: Asker, written: Callable[[Job], str]) -> AsyncIterator[bytes]:
    clock = asyncio.get_running_loop().time
    said, number, spoke = "", 0, clock()
    yield b"retry: 1000\n\n"
    async with planner.watched(job.id) as changed:
        while not planner.closing.is_set():
            changed.clear()
            now = await run_in_threadpool(planner.jobs.find, job.id, asker.owner)
            if now is None:
                return
            text = written(now)
            if text != said:
                said, number, spoke = text, number + 1, clock()
                yield f"id: {number}\nevent: job\ndata: {text}\n\n".encode()
            elif clock() - spoke > QUIET_S:
                spoke = clock()
                yield b": still here\n\n"
            if now.is_over:
                return
            try:
                await asyncio.wait_for(changed.wait(), POLL_S)
            except TimeoutError:
                continue
