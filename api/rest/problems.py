"""Every error of the service is a problem document (:mod:`api.problems`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from api.problems import MEDIA_TYPE, URN, Problem, internal, problem_of
from api.work.crew import QueueFull
from profiles.errors import ShardwrightError

logger = logging.getLogger(__name__)

RETRY_S = 5
"""When to try again what is not available now."""


class RefusedError(Exception):
    """A request that is refused before its content is looked at: status, kind, title, detail and hint."""

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        hint: str,
        *,
        headers: Mapping[str, str] | None = None,
        pointer: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.problem = Problem(type=URN + kind, title=title, status=status, detail=detail, hint=hint, pointer=pointer)
        self.headers = dict(headers or {})


def respond(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """``problem`` as a response; what is not available now says when to try again."""
    retry = {"Retry-After": str(RETRY_S)} if problem.status == 503 else {}
    return Response(problem.to_json(), problem.status, {**retry, **(headers or {})}, MEDIA_TYPE)


_HTTP = {
    404: ("not-found", "Not found", "GET /openapi.json lists what there is"),
    405: ("method-not-allowed", "Method not allowed", "the Allow header lists what is"),
}


def not_found(what: str, id_: str) -> RefusedError:
    """An id that is not there, or is someone else's: the two are not told apart."""
    return RefusedError(
        404,
        "not-found",
        "Not found",
        f"{what} {id_[:80]!r}: not found",
        "what was made with a key is seen only with it",
    )


def bad_parameter(name: str, detail: str, hint: str) -> RefusedError:
    """A query parameter or header that is wrong."""
    return RefusedError(422, "input-error", "Bad input", f"{name}: {detail}", hint)


async def _shardwright_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ShardwrightError)
    if error.http_status >= 500:
        told = error if error.http_status == 500 else None  # a database that is away is no defect of ours
        logger.error("%s %s: %s", request.method, request.url.path, error.message, exc_info=told)
    return respond(problem_of(error, asked=getattr(request.state, "asked", None)))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return respond(error.problem, error.headers)


async def _full(request: Request, error: Exception) -> Response:
    return respond(
        Problem(
            type=URN + "queue-full",
            title="Queue full",
            status=503,
            detail=f"{request.method} {request.url.path}: so many jobs wait that no more are taken",
            hint="try again after the seconds of Retry-After",
        )
    )


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind, title, hint = _HTTP.get(error.status_code, ("http-error", error.detail, "correct the request"))
    return respond(
        Problem(
            type=URN + kind,
            title=title,
            status=error.status_code,
            detail=f"{request.method} {request.url.path}: {title[0].lower()}{title[1:]}",
            hint=hint,
        ),
        error.headers,
    )


async def _bad_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    problem = Problem(
        type=URN + "input-error",
        title="Bad input",
        status=422,
        detail=f"{field}: {first['msg']}",
        hint="GET /openapi.json says what is accepted",
        details={"field": field},
    )
    return respond(problem)


async def _unexpected(request: Request, error: Exception) -> Response:
    # The traceback goes to the server's log (uvicorn writes it), never to the client.
    return respond(internal(f"{request.method} {request.url.path}"))


def install(app: FastAPI) -> None:
    """Makes every error of ``app`` a problem document."""
    app.add_exception_handler(ShardwrightError, _shardwright_error)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(QueueFull, _full)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_parameter)
    app.add_exception_handler(Exception, _unexpected)
