"""The REST service as a process of its own, with the real planner."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from service import ASKED, BODY_LIMIT, problem

from planner.serving.planning import plan
from planner.serving.request import parse_request

PATIENT = {"Prefer": "wait=300"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real server with the real planner, on a port of its own; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path / "server.log").open("w+")
    environment = {
        **os.environ,
        "SHARDWRIGHT_DATABASE_URL": f"sqlite:///{tmp_path / 'service.db'}",
        "SHARDWRIGHT_WORKERS": "1",
    }
    command = [sys.executable, "-m", "uvicorn", "--factory", "api.rest.app:create_app", "--port", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                if httpx.get(f"{address}/readyz", timeout=30, trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                log.seek(0)
                assert process.poll() is None, log.read()
                assert time.monotonic() < deadline, log.read()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def test_a_real_server_makes_the_same_plan_as_the_command_line(server: str) -> None:
    with httpx.Client(base_url=server, timeout=300, trust_env=False) as client:
        response = client.post("/v1/plans", json=ASKED, headers=PATIENT)
        assert response.status_code == 200, response.text
        assert response.content == plan(parse_request(ASKED)).to_json().encode()
        assert client.post("/v1/plans", json=ASKED).content == response.content
        problem(client.post("/v1/plans", json={**ASKED, "model": "Qwen/Qwen3-8C"}), 422, "unknown-name")
        impossible = {**ASKED, "slo": "ttft=1us"}
        assert (
            "binding"
            in problem(client.post("/v1/plans", json=impossible, headers=PATIENT), 409, "infeasible")["details"]
        )
        big = client.post("/v1/plans", content=b" " * 2 * BODY_LIMIT, headers={"Content-Type": "application/json"})
        problem(big, 413, "content-too-large")
