"""A client of the REST service that runs it in this process, and a planner that is none."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from api.rest.wire import wire
from api.service_settings import ServiceSettings
from planner.contract.kind import Kind
from planner.kinds import KINDS
from planner.serving.document.plan import Plan, parse_plan
from planner.serving.request import PlanRequest

PLAN: Plan = parse_plan((Path(__file__).parents[1] / "planner/serving/fixtures/plan-1.0.json").read_text("utf-8"))

BODY_LIMIT = int(ServiceSettings.model_fields["body_limit_mib"].default * 2**20)

ASKED: dict[str, Any] = {
    "model": "Qwen/Qwen3-8B",
    "cluster": "1xH200",
    "slo": "ttft=1s,tpot=30ms",
    "workload": "isl=4000,osl=500",
}


class StubPlanner:
    """Answers every request for a plan with :data:`PLAN`, or raises ``error``."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.requests: list[PlanRequest] = []

    def kinds(self) -> dict[str, Kind]:
        """The registry, with this for plans and each other kind's example for an answer."""
        others = {
            name: replace(kind, make=lambda _, kind=kind: kind.parse(json.dumps(kind.example())))
            for name, kind in KINDS.items()
        }
        forms = tuple(replace(form, make=lambda _: PLAN) for form in KINDS["serving"].forms)
        return {**others, "serving": replace(KINDS["serving"], make=self, forms=forms)}

    def __call__(self, request: PlanRequest) -> Plan:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        return PLAN


class Client:
    """Sends requests to ``app`` without a network. (starlette's own client warns about httpx.)"""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def open(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with self.open() as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def plan(self, **options: Any) -> httpx.Response:
        return self.request("POST", "/v1/plans", **options)


@contextmanager
def served(app: FastAPI, headers_s: float = 60) -> Iterator[str]:
    """``app`` on a port of this process; its address."""
    config = uvicorn.Config(app, log_level="error", port=0, http=wire(headers_s))
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        while httpx.get(f"{address}/livez", timeout=30, trust_env=False).status_code != 200:
            time.sleep(0.01)
        yield address
        server.should_exit = True
        thread.join(30)


def problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """The problem document of ``response``, once its shape is checked."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert list(document) == ["type", "title", "status", "detail", "hint", "pointer", "details"]
    assert document["type"] == f"urn:shardwright:problem:{kind}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert document["hint"]
    return document
