"""Reading a request's body: what is refused before anybody looks at its content."""

from __future__ import annotations

import asyncio
from email.message import Message
from typing import Any

from starlette.requests import ClientDisconnect, Request

from api.rest.problems import RefusedError
from api.service_settings import ServiceSettings
from profiles.markup import strict_json

_ONE = "send one request at a time, and fewer recorded tokens or requests in it"


async def read_json_body(request: Request, settings: ServiceSettings) -> bytes:
    """The body's bytes, once its headers say that they are JSON. Raises as :func:`read_body`, and
    RefusedError 415 for another media type, charset or coding."""
    _check_media_type(request)
    return await read_body(request, int(settings.body_limit_mib * 2**20), settings.body_timeout, _ONE)


async def read_body(request: Request, most: int, seconds: float, less: str) -> bytes:
    """The body's bytes; ``less``: what to do where they are too many.

    Raises:
        RefusedError: 413 past ``most`` bytes; 400 where it breaks off; 408 where it is not there in time.
    """
    try:
        return await asyncio.wait_for(_read(request, most, less), seconds)
    except TimeoutError as error:
        raise RefusedError(
            408,
            "body-timeout",
            "Body not in time",
            f"body: was not there after {seconds:g} s",
            "send it at once; the connection is closed",
            headers={"Connection": "close"},
        ) from error


async def _read(request: Request, most: int, less: str) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > most:
        raise _too_long(most, less)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise _too_long(most, less)
    except ClientDisconnect as error:
        raise RefusedError(400, "incomplete-body", "Incomplete body", "body: it broke off", "send it again") from error
    return bytes(body)


def _too_long(most: int, less: str) -> RefusedError:
    return RefusedError(
        413,
        "content-too-large",
        "Content too large",
        f"body: longer than {most} bytes",
        less,
    )


def check_identity(request: Request) -> None:
    """Raises RefusedError 415 for a body that is coded."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise RefusedError(
            415,
            "unsupported-media-type",
            "Unsupported media type",
            f"Content-Encoding: {coding[:80]!r} is not identity",
            "send the file as it is",
        )


def _check_media_type(request: Request) -> None:
    header = Message()
    header["Content-Type"] = request.headers.get("content-type", "")
    charset = str(header.get_param("charset", "utf-8")).lower()
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    wrong = None
    if given != "application/json":
        wrong = f"Content-Type: {given[:80]!r} is not application/json" if given else "Content-Type is missing"
    elif charset not in ("utf-8", "utf8"):
        wrong = f"Content-Type: charset {charset[:80]!r} is not utf-8"
    elif coding != "identity":
        wrong = f"Content-Encoding: {coding[:80]!r} is not identity"
    if wrong is not None:
        raise RefusedError(
            415,
            "unsupported-media-type",
            "Unsupported media type",
            wrong,
            "send the request as plain JSON, with Content-Type: application/json",
        )


def as_text(body: bytes) -> str:
    """``body`` in UTF-8. Raises ValueError where it is not."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1:,} is not valid utf-8") from error


def parse_json_body(body: bytes, schema: str) -> Any:
    """``body`` as JSON; ``schema`` names what it should be.

    Raises:
        RefusedError: 400, saying where it ends to be JSON.
    """
    try:
        return strict_json(as_text(body))
    except ValueError as error:
        raise RefusedError(
            400,
            "malformed-json",
            "Malformed JSON",
            f"body: not valid JSON ({error})",
            f"send a JSON object; GET /v1/schemas/{schema} says what it may hold",
        ) from error
