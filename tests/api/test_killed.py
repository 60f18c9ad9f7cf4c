"""The service with everything killed: workers, the service, its database. Real processes, the real planner."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from databases import Postgres

from tests.benchmarks.service.running import Server, plan_request

pytestmark = pytest.mark.slow
LATER = {"Prefer": "respond-async"}


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as made:
        yield made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    settings = {"workers": 1, "quick_workers": 0, "warm": "false", "grace": 0}
    with Server(tmp_path, f"sqlite:///{tmp_path / 'service.db'}", **settings) as made:
        made.start()
        yield made


def state(client: httpx.Client, job: str) -> str:
    return str(client.get(job).json()["state"])


def until(client: httpx.Client, job: str, wanted: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while (now := state(client, job)) != wanted:
        assert time.monotonic() < deadline, now
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_job_is_tried_once_more_and_then_fails(server: Server, client: httpx.Client) -> None:
    job = client.post("/v1/plans", json=plan_request(1), headers=LATER).headers["location"]
    for _ in range(2):
        until(client, job, "running")
        [worker] = server.workers()
        os.kill(worker, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while worker in server.workers() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
    until(client, job, "failed")
    assert client.get(job).json()["problem"]["type"].endswith("worker-died")
    other = client.post("/v1/plans", json=plan_request(2), headers=LATER).headers["location"]
    until(client, other, "done")


def test_cancelling_ends_the_solver_within_a_second(server: Server, client: httpx.Client) -> None:
    job = client.post("/v1/plans", json=plan_request(3), headers=LATER).headers["location"]
    until(client, job, "running")
    [worker] = server.workers()
    started = time.monotonic()
    assert client.delete(job).json()["state"] == "cancelled"
    while alive(worker):
        assert time.monotonic() - started < 1
        time.sleep(0.01)
    assert state(client, job) == "cancelled"


def test_workers_end_with_their_service_and_the_job_goes_on(server: Server, client: httpx.Client) -> None:
    job = client.post("/v1/plans", json=plan_request(4), headers=LATER).headers["location"]
    until(client, job, "running")
    workers = server.workers()
    server.stop(signal.SIGKILL)
    started = time.monotonic()
    while any(alive(worker) for worker in workers):
        assert time.monotonic() - started < 10
        time.sleep(0.05)
    server.start()
    until(client, job, "done")


def test_a_service_that_stops_hands_its_jobs_back(server: Server, client: httpx.Client) -> None:
    job = client.post("/v1/plans", json=plan_request(5), headers=LATER).headers["location"]
    until(client, job, "running")
    assert server.stop() == 0
    server.start()
    started = time.monotonic()
    until(client, job, "running", 20)
    assert time.monotonic() - started < 9, "handed back: no lease has to run out"
    until(client, job, "done")


def test_a_database_that_goes_away_comes_back(tmp_path: Path, postgres_server: Postgres) -> None:
    url = postgres_server.fresh("away")
    with Server(tmp_path, url, workers=1, quick_workers=0, warm="false") as server:
        server.start()
        with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as client:
            job = client.post("/v1/plans", json=plan_request(6), headers=LATER).headers["location"]
            until(client, job, "running")
            postgres_server.stop()
            try:
                refused = client.get(job)
                assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
                assert client.get("/readyz").status_code == 503
                assert client.get("/livez").status_code == 200
            finally:
                postgres_server.start()
            until(client, job, "done")
