"""Connections: a request's headers must come in time and within bounds, and what is no HTTP gets a problem document."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.problems import MEDIA_TYPE, URN, Problem

IDLE_S = 75
"""A connection without a request is closed after this; so long do gateways keep theirs."""

MOST_HEADERS = 64 * 1024
"""Bytes of a request before its body."""

_LINGER_S = 10.0
"""What a client gets to read its answer, where that came before its body had ended."""


def wire(headers_s: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which gives a request ``headers_s`` seconds for its headers."""

    class Wire(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._timer: asyncio.TimerHandle | None = None
            self._head: int | None = 0  # bytes so far of a request whose headers have not ended
            self._receiving = False
            super().connection_made(transport)  # type: ignore[arg-type]
            self._within(IDLE_S, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            self._at_ease()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._head is not None:
                self._head += len(data)
            super().data_received(data)
            if self._head is not None and self._head > MOST_HEADERS and not self.transport.is_closing():
                self._refuse(431, "headers-too-large", f"headers: longer than {MOST_HEADERS} bytes", "send fewer")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._head, self._receiving = self._head or 0, True
            self._within(headers_s, self._late)

        def on_headers_complete(self) -> None:
            self._at_ease()
            self._head = None
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._receiving, self._head = False, 0
            super().on_message_complete()
            if self.cycle.response_complete:  # uvicorn forgets its own timer when something comes
                self._within(IDLE_S, self.transport.close)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._receiving and not self.transport.is_closing():
                self._within(_LINGER_S, self.transport.close)

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, "malformed-http", "request: is not HTTP/1.1", "see that a client of HTTP sends it")

        def _late(self) -> None:
            hint = "send it at once; the connection is closed"
            self._refuse(408, "headers-timeout", f"headers: were not there after {headers_s:g} s", hint)

        def _refuse(self, status: int, kind: str, detail: str, hint: str) -> None:
            self._at_ease()
            title = detail.partition(":")[0].capitalize() + " refused"
            body = Problem(type=URN + kind, title=title, status=status, detail=detail, hint=hint).to_json().encode()
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
                f"content-length: {len(body)}\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode("ascii") + body)
            self.transport.close()

        def _within(self, seconds: float, then: Callable[[], Any]) -> None:
            self._at_ease()
            self._timer = self.loop.call_later(seconds, then)

        def _at_ease(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Wire
