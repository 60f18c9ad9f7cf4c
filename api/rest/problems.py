"""One error shape everywhere: RFC 9457 problem documents (``application/problem+json``).

``type`` is a URN made of the error's class name, ``detail`` and ``hint`` are the same two lines that the
command line prints, and ``details`` holds what a program may want of them (field, nearest names, ...).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from profiles.errors import ShardwrightError

MEDIA_TYPE = "application/problem+json"
URN = "urn:shardwright:problem:"

logger = logging.getLogger(__name__)


class Problem(BaseModel):
    """What is wrong, and what to do about it (RFC 9457)."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description=f"{URN}<kind>", examples=[f"{URN}unknown-name"])
    title: str = Field(description="the kind of problem, in words", examples=["Unknown name"])
    status: int = Field(description="the HTTP status", ge=400, le=599, examples=[422])
    detail: str = Field(
        description="what is wrong, naming the field and the value",
        examples=["model: 'Qwen/Qwen3-33B' is not known"],
    )
    hint: str = Field(description="what to do about it", examples=["nearest: Qwen/Qwen3-32B"])
    details: dict[str, object] = Field(
        default_factory=dict,
        description="the same for programs; which keys there are depends on type",
        examples=[{"field": "model", "value": "Qwen/Qwen3-33B", "nearest": ["Qwen/Qwen3-32B"]}],
    )


class RefusedError(Exception):
    """A request that is refused before its content is looked at: status, kind, title, detail and hint."""

    def __init__(self, status: int, kind: str, title: str, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.problem = Problem(type=URN + kind, title=title, status=status, detail=detail, hint=hint)


def respond(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """``problem`` as a response. ASCII only: a lone surrogate in a message cannot break its encoding."""
    text = json.dumps(problem.model_dump(), allow_nan=False) + "\n"
    return Response(text, problem.status, dict(headers or {}), MEDIA_TYPE)


def problem_of(error: ShardwrightError, status: int | None = None) -> Problem:
    """The problem document of one of our own errors; ``status`` where it is not the error's usual one."""
    return Problem(
        type=URN + kind_of(type(error)),
        title=error.title,
        status=error.http_status if status is None else status,
        detail=error.message,
        hint=error.hint,
        details={key: value for key, value in error.details.items() if _is_json(value)},
    )


def kind_of(error: type[ShardwrightError]) -> str:
    """``UnknownName`` → ``unknown-name``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", error.__name__).lower()


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


_HTTP = {
    404: ("not-found", "Not found", "GET /openapi.json lists what there is"),
    405: ("method-not-allowed", "Method not allowed", "the Allow header lists what is"),
}


async def _shardwright_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ShardwrightError)
    if error.http_status >= 500:
        logger.error("%s %s: %s", request.method, request.url.path, error.message, exc_info=error)
    return respond(problem_of(error))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return respond(error.problem)


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
    return respond(
        Problem(
            type=URN + "internal-error",
            title="Internal error",
            status=500,
            detail=f"{request.method} {request.url.path}: the server failed",
            hint="this is a defect: please report it, with the request; the server's log has the traceback",
        )
    )


def install(app: FastAPI) -> None:
    """Makes every error of ``app`` a problem document."""
    app.add_exception_handler(ShardwrightError, _shardwright_error)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_parameter)
    app.add_exception_handler(Exception, _unexpected)
