"""Documents that were made: lists, the bytes, and reasons for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from api.rest import cursors, openapi
from api.rest.cursors import PageSize
from api.rest.problems import RefusedError, bad_parameter, not_found
from api.rest.service import Service, checked_id, respond_document, when
from api.storage.documents import Filter, Stored
from planner.contract.kind import Kind
from planner.kinds import KINDS
from profiles.errors import UnknownName

_LIST = "The newest first. A page has `limit` documents; `next_cursor` is the cursor of the next."


_TIME = Query(
    max_length=40,
    description="when you asked: 2026-11-26T08:00:00Z",
    json_schema_extra={"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
)


_LINKS = {
    "document": openapi.link("get_document", id="$response.body#/documents/0/id"),
    "explanation": openapi.link("explain_document", id="$response.body#/documents/0/id"),
    "next": openapi.link("list_documents", cursor="$response.body#/next_cursor"),
}


class DocumentEntry(BaseModel):
    """A document without its content."""

    id: str
    kind: str
    schema_version: str
    model: str = Field(description="what it is about; empty where the request named none")
    created_at: datetime | None = Field(description="when you asked for it")
    path: str


class DocumentList(BaseModel):
    documents: list[DocumentEntry]
    next_cursor: str | None = Field(description="of the next page; null on the last")


def add(app: FastAPI, service: Service) -> None:
    """The routes below ``/v1/documents``, and the same by kind."""
    _add_one(app, service, "/v1/documents", None)
    for kind in service.kinds.values():
        _add_one(app, service, kind.route, kind)

    @app.get(
        "/v1/documents",
        name="list documents",
        summary="Your documents, of every kind",
        description=_LIST,
        response_model=DocumentList,
        responses={**openapi.usual_problems(), 200: {"description": "A page of them", "links": _LINKS}},
        tags=["documents"],
    )
    async def listed(
        request: Request,
        kind: Annotated[str | None, Query(max_length=64, json_schema_extra={"enum": [*KINDS, None]})] = None,
        model: Annotated[str | None, Query(max_length=256)] = None,
        since: Annotated[str | None, _TIME] = None,
        until: Annotated[str | None, _TIME] = None,
        limit: PageSize = 50,
        cursor: Annotated[str | None, Query(max_length=1024)] = None,
    ) -> Any:
        if kind is not None and kind not in KINDS:
            raise UnknownName("kind", kind, KINDS)
        wanted = Filter(kind, model, _at("since", since), _at("until", until))
        return await _page(service, request, wanted, limit, cursor)

    for kind in service.kinds.values():
        _add_of_kind(app, service, kind)


def _add_of_kind(app: FastAPI, service: Service, kind: Kind) -> None:
    @app.get(
        kind.route,
        name=f"list {kind.name}",
        summary=f"Your documents of kind {kind.name}",
        description=_LIST,
        response_model=DocumentList,
        responses=openapi.usual_problems(),
        tags=["documents"],
    )
    async def of_kind(
        request: Request,
        model: Annotated[str | None, Query(max_length=256)] = None,
        limit: PageSize = 50,
        cursor: Annotated[str | None, Query(max_length=1024)] = None,
    ) -> Any:
        return await _page(service, request, Filter(kind.name, model), limit, cursor)


async def _page(service: Service, request: Request, wanted: Filter, limit: int, cursor: str | None) -> Any:
    asker = await service.asker(request, "read")
    if wanted.model is not None and not wanted.model.isprintable():
        raise bad_parameter("model", "holds what no name does", "give a name as documents have it")
    under = [wanted.kind, wanted.model, wanted.since, wanted.until]
    place = cursors.read(cursor, under, list)
    if place is not None:
        wanted = Filter(wanted.kind, wanted.model, wanted.since, wanted.until, (float(place[0]), str(place[1])))
    found = await run_in_threadpool(service.planner.documents.listed, asker.owner, wanted, limit + 1)
    more = None
    if len(found) > limit:
        at, last = found[limit - 1]
        more = cursors.write([at, last.id], under)
    entries = [
        DocumentEntry(
            id=each.id,
            kind=each.kind,
            schema_version=each.schema_version,
            model=each.model,
            created_at=when(at),
            path=service.path_of(each.kind, each.id),
        )
        for at, each in found[:limit]
    ]
    return DocumentList(documents=entries, next_cursor=more)


def _at(name: str, given: str | None) -> float | None:
    if given is None:
        return None
    try:
        if "T" not in given.upper():
            raise ValueError("no time of day")
        said = datetime.fromisoformat(given)
        return (said if said.tzinfo else said.replace(tzinfo=UTC)).timestamp()
    except (OverflowError, ValueError, OSError) as error:
        raise bad_parameter(name, "is no time", "write for example 2026-11-26T08:00:00Z") from error


def _add_one(app: FastAPI, service: Service, route: str, kind: Kind | None) -> None:
    """One document, and its explanation; of ``kind`` alone where it is given."""
    of = "document" if kind is None else kind.name
    usual = openapi.usual_problems(s404="There is no such document, or it is someone else's")

    async def found(request: Request, id: str) -> Stored:
        asker = await service.asker(request, "read")
        stored = await service.document(checked_id("document", id), asker.owner)
        if stored is None or (kind is not None and stored.kind != kind.name):
            raise not_found("document", id)
        return stored

    async def get(request: Request, id: str) -> Response:
        """The bytes that were answered. They never change: ask with If-None-Match."""
        return respond_document(request, await found(request, id))

    async def explain(request: Request, id: str) -> Response:
        """What `--explain` prints, as text."""
        stored = await found(request, id)
        kind_of_it = service.kinds.get(stored.kind)
        if service.explain is None or kind_of_it is None or kind_of_it.media_type != "application/json":
            raise RefusedError(
                404, "not-found", "Not found", f"document {id!r}: has no explanation", "read the document itself"
            )
        document = kind_of_it.parse
        text = await run_in_threadpool(lambda: service.explain(document(stored.content.decode())))  # type: ignore[misc]
        return Response(text, 200, {"Cache-Control": "private, max-age=3600"}, "text/plain; charset=utf-8")

    app.add_api_route(
        f"{route}/{{id}}",
        get,
        methods=["GET"],
        name=f"get {of}",
        summary="A document" if kind is None else f"A document of kind {kind.name}",
        response_class=Response,
        responses={**openapi.document_responses(kind), **usual},
        tags=["documents"],
    )
    app.add_api_route(
        f"{route}/{{id}}/explanation",
        explain,
        methods=["GET"],
        name=f"explain {of}",
        summary="Why, for people",
        response_class=Response,
        responses={200: {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}, **usual},
        tags=["documents"],
    )
