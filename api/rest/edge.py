"""The outermost layer: what every response carries, and what is written down of every request."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.rest.logs import Audit, request_id
from api.rest.metrics import Metrics

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
SECURELY = {"Strict-Transport-Security": "max-age=31536000"}


class Edge:
    """Wraps the application: request ids, headers, metrics, and the audit log."""

    def __init__(self, app: ASGIApp, metrics: Metrics, audit: Audit, *, tls: bool) -> None:
        self._app, self._metrics, self._audit = app, metrics, audit
        self._headers = _raw(ALWAYS | (SECURELY if tls else {}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        state: dict[str, Any] = scope.setdefault("state", {})
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        id_ = given if _ID.fullmatch(given) else secrets.token_hex(8)
        token = request_id.set(id_)
        status, headers = 500, []
        is_head = scope["method"] == "HEAD"  # what GET answers, without its body
        asked = {**scope, "method": "GET"} if is_head else scope
        streams = asyncio.Event()  # a body whose end nobody waits for

        async def answer(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], message["headers"]
                headers += self._headers
                headers.append((b"x-request-id", id_.encode()))
                if all(name != b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                if (allowance := state.get("allowance")) is not None:
                    headers += _raw(allowance.headers())
            elif is_head:
                if streams.is_set():
                    return
                if message.get("more_body"):
                    streams.set()
                message = {**message, "body": b"", "more_body": False}
            await send(message)

        try:
            if is_head:
                await _until(streams, self._app(asked, receive, answer))
            else:
                await self._app(asked, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(asked.get("route"), "path", "none")
            self._metrics.asked(scope["method"], route, status, seconds)
            self._audit.write(scope, id_, status, seconds, headers)
            request_id.reset(token)


async def _until(over: asyncio.Event, work: Awaitable[None]) -> None:
    """``work``, ended when ``over`` is set."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(over.wait())
    try:
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
