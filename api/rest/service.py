"""What the routes share: the planner, who asks, and the answers that several of them give."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from api.rest.access import Access
from api.rest.problems import bad_parameter, not_found
from api.rest.recent import Recent
from api.service_settings import ServiceSettings
from api.storage.documents import Stored
from api.storage.jobs import Job
from api.work.planner import Asker, Planner
from planner.contract.kind import Kind
from planner.contract.published import Published

_ID = re.compile(r"[0-9a-f]{32}")

_RECENT_S = 2.0
"""A document that was read is asked for again after this: it never changes, but may have been forgotten."""

_MOST_RECENT = 64 * 2**20  # bytes

Explain = Callable[[Published], str]
"""A document for people, with its reasons."""


@dataclass
class Service:
    """One service: ``planner`` opens when it is first needed."""

    kinds: Mapping[str, Kind]
    settings: ServiceSettings
    planner: Planner
    explain: Explain | None = None

    def __post_init__(self) -> None:
        self.access = Access(self.planner, self.settings)
        self._recent: Recent[tuple[str, str], Stored | None] = Recent(
            lambda asked: self.planner.documents.find(*asked),
            _RECENT_S,
            _MOST_RECENT,
            lambda found: _MOST_RECENT if found is None else len(found.content),  # what is not there may come
        )

    async def asker(self, request: Request, scope: str) -> Asker:
        """Who asks, and may: ``scope`` is what the route needs.

        Raises:
            RefusedError: as :meth:`api.rest.access.Access.asker`; 422 for a parameter that the route does not have.
        """
        if not self.planner.started:
            await run_in_threadpool(self.planner.start)
        asker = await self.access.asker(request, scope)
        if request.scope["query_string"]:
            _check_known(request)
        return asker

    async def document(self, id_: str, owner: str) -> Stored | None:
        """As :meth:`api.storage.documents.Documents.find`."""
        return await self._recent.find((id_, owner))

    def path_of(self, kind: str, id_: str) -> str:
        return f"{self.kinds[kind].route}/{id_}" if kind in self.kinds else f"/v1/documents/{id_}"


def _check_known(request: Request) -> None:
    """A filter that is misspelt must not be one that is left out."""
    route = request.scope.get("route")
    known = [each.alias for each in route.dependant.query_params] if isinstance(route, APIRoute) else []
    for name in request.query_params:
        if name not in known:
            takes = f"this takes {', '.join(known)}" if known else "this takes none in its address"
            raise bad_parameter(name[:80], "is no parameter of this", takes)


def checked_id(what: str, id_: str) -> str:
    """``id_``, where it can be one. Raises RefusedError 404."""
    if not _ID.fullmatch(id_):
        raise not_found(what, id_)
    return id_


def when(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def respond_document(request: Request, stored: Stored, headers: Mapping[str, str] | None = None) -> Response:
    """A stored document, or 304 where the client has it."""
    etag = f'"{stored.etag}"'
    about = {"ETag": etag, "Cache-Control": "private, immutable, max-age=31536000", **(headers or {})}
    if request.method in ("GET", "HEAD") and _has(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=about)
    return Response(stored.content, 200, about, stored.media_type)


def _has(given: str | None, etag: str) -> bool:
    if given is None:
        return False
    return given.strip() == "*" or etag in (each.strip().removeprefix("W/") for each in given.split(","))


def job_fields(service: Service, job: Job) -> dict[str, Any]:
    """A job as programs see it."""
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "doing": job.doing,
        "percent": job.percent,
        "position": None if job.ahead is None else job.ahead + 1,
        "result": service.path_of(job.kind, job.document) if job.state == "done" else None,
        "problem": job.problem,
        "created_at": when(job.created),
        "started_at": when(job.started),
        "ended_at": when(job.ended),
    }
