"""The routes that take requests: one ``POST`` a kind, made from the registry."""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import replace

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from api.problems import Problem
from api.rest import openapi
from api.rest.body import parse_json_body, read_json_body
from api.rest.jobs import respond_job
from api.rest.problems import RefusedError, bad_parameter, not_found, respond
from api.rest.service import Service, respond_document
from api.storage.answers import FirstAnswer
from api.storage.documents import Stored
from api.storage.jobs import Job
from api.work.planner import POLL_S, Asker
from planner.contract.kind import Kind

LONGEST_WAIT_S = 600.0

_WAIT = re.compile(r"wait=([0-9]{1,9})")


def add(app: FastAPI, kind: Kind, service: Service) -> None:
    """The route of ``kind``."""

    async def make(request: Request) -> Response:
        asker = await service.asker(request, "plan")
        asker = replace(asker, urgency=_urgency(request))
        patience, applied = _patience(request, service.settings.wait)
        again = _idempotency_key(request)
        body = await read_json_body(request, service.settings)
        found = await run_in_threadpool(_asked, request, service, kind, body, asker, again)
        if isinstance(found, Job):
            found = await _waited(service, found, asker, patience)
        return await _answered(request, service, found, asker, applied)

    app.add_api_route(
        kind.route,
        make,
        methods=["POST"],
        name=f"make {kind.name}",
        summary=f"{kind.title[0].upper()}{kind.title[1:].partition(':')[0]}",
        description=f"{kind.title[0].upper()}{kind.title[1:]}. The same request has the same bytes for an answer, as "
        "long as package and measurements are the same.",
        response_class=Response,
        responses=openapi.kind_responses(),
        openapi_extra=openapi.ASKING,
        tags=["documents"],
    )


def _asked(
    request: Request, service: Service, kind: Kind, body: bytes, asker: Asker, again: str | None
) -> Stored | Job:
    planner = service.planner
    asked = hashlib.sha256(kind.route.encode() + b"\n" + body).hexdigest()
    first = None if again is None else planner.answers.find(asker.owner, again)
    if first is not None:
        if first.asked != asked:
            raise RefusedError(
                422,
                "idempotency-key-reused",
                "Idempotency key reused",
                f"Idempotency-Key: {again!r} was sent with another request",
                "use a new key for a new request",
            )
        found: Stored | Job | None = None
        if first.document is not None:
            found = planner.documents.find(first.document, asker.owner)
        elif first.job is not None:
            found = planner.jobs.find(first.job, asker.owner)
        if found is not None:
            return found
    request.state.asked = fields = parse_json_body(body, kind.request_name)
    found = planner.ask(kind, fields, asker)
    if again is not None:
        is_job = isinstance(found, Job)
        answer = FirstAnswer(asked, found.id if is_job else None, None if is_job else found.id)
        planner.answers.keep(asker.owner, again, answer)
    return found


def _idempotency_key(request: Request) -> str | None:
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1 or not re.fullmatch(r"[\x21-\x7e]{1,255}", given[0]):
        raise bad_parameter("Idempotency-Key", "is no key", "send 1 to 255 visible ASCII characters, once")
    return given[0]


async def _waited(service: Service, job: Job, asker: Asker, seconds: float) -> Job:
    """The job when it has ended, or as it is after ``seconds``."""
    planner, deadline = service.planner, asyncio.get_running_loop().time() + seconds
    async with planner.watched(job.id) as changed:
        while True:
            changed.clear()
            now = await run_in_threadpool(planner.jobs.find, job.id, asker.owner)
            job = now or job
            left = deadline - asyncio.get_running_loop().time()
            if job.is_over or left <= 0 or planner.closing.is_set():
                return job
            try:
                await asyncio.wait_for(changed.wait(), min(left, POLL_S))
            except TimeoutError:
                continue


async def _answered(
    request: Request, service: Service, found: Stored | Job, asker: Asker, applied: dict[str, str]
) -> Response:
    """200 with the document, 202 with the job, or the problem that the job ended with."""
    if isinstance(found, Job):
        if found.state == "failed":
            return respond(Problem(**(found.problem or {})))
        if found.state != "done":
            return respond_job(service, found, 202, applied)
        stored = await run_in_threadpool(service.planner.documents.find, found.document, asker.owner)
        if stored is None:  # forgotten since
            raise not_found("document", found.document)
        found = stored
    return respond_document(request, found, {"Content-Location": service.path_of(found.kind, found.id), **applied})


def _patience(request: Request, usual: float) -> tuple[float, dict[str, str]]:
    """(seconds that the caller waits, the header that says what was made of ``Prefer``)."""
    words = [each.strip().lower() for line in request.headers.getlist("prefer") for each in line.split(",")]
    waits = [found for each in words if (found := _WAIT.fullmatch(each.partition(";")[0].strip()))]
    is_async = any(each.partition(";")[0].strip() == "respond-async" for each in words)
    if waits:
        seconds = float(waits[0][1])
        applied = f"wait={waits[0][1]}" if seconds <= LONGEST_WAIT_S else f"wait={LONGEST_WAIT_S:.0f}"
        return min(seconds, LONGEST_WAIT_S), {"Preference-Applied": applied}
    return (0.0, {"Preference-Applied": "respond-async"}) if is_async else (usual, {})


def _urgency(request: Request) -> int:
    """RFC 9218: ``Priority: u=0`` is the most urgent of a caller's own jobs, 7 the least, 3 the rest."""
    given = request.headers.get("priority", "")
    for each in given.split(","):
        name, _, value = each.strip().partition("=")
        if name == "u":
            if not re.fullmatch("[0-7]", value):
                raise bad_parameter("Priority", f"u={value[:20]!r} is not 0 to 7", "u=0 is the most urgent, 3 usual")
            return int(value)
    return 3
