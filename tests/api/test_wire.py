"""Connections that drip, never end or speak no HTTP, and what is remembered between requests."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from service import StubPlanner, served

from api.cli.serving import check_tls
from api.rest.app import create_app
from api.rest.recent import Recent
from api.rest.wire import MOST_HEADERS
from api.service_settings import ServiceSettings
from profiles.errors import InputError

POST = b"POST /v1/plans HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SECONDS = 0.4


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    settings = ServiceSettings(database_url="sqlite://", workers=1, quick_workers=0, body_timeout=SECONDS)
    with served(create_app(StubPlanner().kinds(), settings), SECONDS) as address:
        yield address


def told(server: str, first: bytes, drip: bytes = b"") -> tuple[str, dict[str, Any], float]:
    """(status line, problem, seconds) of what the server says to ``first``, and then ``drip`` again and again."""
    host, _, port = server.removeprefix("http://").partition(":")
    began, got = time.monotonic(), b""
    with socket.create_connection((host, int(port)), timeout=20) as made:
        made.sendall(first)
        made.settimeout(0.05)
        while time.monotonic() - began < 20:
            try:
                if not (part := made.recv(65536)):
                    break
                got += part
            except TimeoutError:
                if drip:
                    made.sendall(drip)
            except OSError:  # what was not read is thrown away
                break
    head, _, body = got.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0].decode(), json.loads(body), time.monotonic() - began


@pytest.mark.parametrize(
    ("first", "drip", "status", "kind"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"", 408, "headers-timeout"),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"X: 1\r\n", 408, "headers-timeout"),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * 2 * MOST_HEADERS, b"", 431, "headers-too-large"),
        (b"\x16\x03\x01 hello\r\n\r\n", b"", 400, "malformed-http"),
        (POST + b"Content-Length: 1000\r\n\r\n{", b" ", 408, "body-timeout"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", 408, "body-timeout"),
    ],
)
def test_what_does_not_come_in_time_or_is_no_http_is_refused(
    server: str, first: bytes, drip: bytes, status: int, kind: str
) -> None:
    line, problem, seconds = told(server, first, drip)
    assert line.startswith(f"HTTP/1.1 {status} ")
    assert (problem["type"], problem["status"]) == (f"urn:shardwright:problem:{kind}", status)
    assert seconds < SECONDS + 5


def test_requests_in_one_go_are_answered_in_turn(server: str) -> None:
    ask = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
    line, _, _ = told(server, ask + b"Connection: close\r\n\r\n")
    assert line.endswith("200 OK")
    host, _, port = server.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as made:
        made.sendall((ask + b"\r\n") * 3 + ask + b"Connection: close\r\n\r\n")
        got = b""
        while part := made.recv(65536):
            got += part
    assert got.count(b"200 OK") == 4


def test_what_is_asked_often_is_looked_up_once_at_a_time_and_by_nobody_who_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("api.rest.recent.time", SimpleNamespace(monotonic=lambda: clock.now))
    looks, may = [0], threading.Event()

    def look(_: str) -> int:
        assert may.wait(20)
        looks[0] += 1
        return looks[0]

    async def ask() -> None:
        recent = Recent(look, 10, 100)
        many = asyncio.gather(*(recent.find("a") for _ in range(20)))
        may.set()
        assert set(await many) == {1}
        clock.now = 4.9
        assert await recent.find("a") == 1
        may.clear()
        clock.now = 9.9  # looked up again meanwhile, once: nobody waits
        assert [await recent.find("a") for _ in range(5)] == [1] * 5
        clock.now = 10.1  # too old: whoever asks waits for it
        late = asyncio.gather(*(recent.find("a") for _ in range(5)))
        may.set()
        assert set(await late) == {2}

    asyncio.run(ask())
    assert looks == [2]


def test_what_is_not_there_or_heavy_is_looked_up_again_and_errors_reach_who_asks() -> None:
    looks: list[str] = []

    def look(key: str) -> str | None:
        looks.append(key)
        if key == "broken":
            raise LookupError(key)
        return None if key == "none" else key

    async def ask() -> None:
        recent: Recent[str, str | None] = Recent(look, 60, 8, lambda found: 8 if found is None else len(found))
        for key in ("none", "none", "longer than all", "longer than all", "a", "a"):
            await recent.find(key)
        for _ in range(2):
            with pytest.raises(LookupError):
                await recent.find("broken")
        for number in range(20):
            await recent.find(str(number % 10))

    asyncio.run(ask())
    assert looks[:7] == ["none", "none", "longer than all", "longer than all", "a", "broken", "broken"]
    assert len(looks) > 17, "only so much is remembered"


def test_what_is_too_old_does_not_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("api.rest.recent.time", SimpleNamespace(monotonic=lambda: clock.now))

    async def ask() -> int:
        recent: Recent[int, bytes] = Recent(lambda _: b"x" * 1000, 2, 2**30, len)
        for number in range(1000):
            clock.now = number / 10
            await recent.find(number)
        return len(recent)

    assert asyncio.run(ask()) <= 21


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    settings = ServiceSettings(tls_cert=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / "cert.pem"))
    with pytest.raises(InputError, match=r"tls_cert: .*cert.pem with its key cannot be used"):
        check_tls(settings)
    with pytest.raises(InputError, match=r"tls_cert .*none.pem: cannot be read"):
        check_tls(settings.model_copy(update={"tls_cert": str(tmp_path / "none.pem")}))
    check_tls(ServiceSettings())
