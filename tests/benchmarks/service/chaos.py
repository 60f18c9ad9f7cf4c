"""1,000 requests of 20 callers while workers, the service and its database are killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select

from api.storage.database import Database
from api.storage.tables import jobs
from tests.api.databases import Postgres
from tests.benchmarks.service.running import Server, cpu_s, memory_request, plan_request, predictions_request

CALLERS = 20
ENDED = ("done", "failed", "cancelled")

KILLS, ENOUGH_HITS = 80, 30
"""Workers that are killed, one after each 80th of the answers; and how many of them must have been running a job."""

_BEGUN_CPU_S = 1.0
"""What a worker computes before its first job is under way: imports, and loading its cost models."""


def question(number: int) -> tuple[str, dict[str, Any]]:
    """A mix: one in 50 a plan (2 CPU-s), three in ten predictions (0.3), the rest memory (0.01)."""
    if number % 50 == 0:
        return "/v1/plans", plan_request(number)
    if number % 10 < 3:
        return "/v1/predictions", predictions_request(number)
    return "/v1/memory", memory_request(number)


class Caller(threading.Thread):
    """Asks its share, again and again until each question has its end."""

    def __init__(self, address: str, numbers: range, deadline: float) -> None:
        super().__init__(daemon=True)
        self.address, self.numbers, self.deadline = address, numbers, deadline
        self.ends: Counter[str] = Counter()

    def run(self) -> None:
        with httpx.Client(base_url=self.address, timeout=60, trust_env=False) as client:
            for number in self.numbers:
                self.ends[self.one(client, number)] += 1

    def one(self, client: httpx.Client, number: int) -> str:
        path, body = question(number)
        headers = {"Prefer": "wait=5", "Idempotency-Key": f"n{number}"}
        job = None
        while time.monotonic() < self.deadline:
            try:
                answer = client.get(job) if job else client.post(path, json=body, headers=headers)
            except httpx.TransportError:
                time.sleep(0.3)
                continue
            if answer.status_code == 503:
                time.sleep(0.5)
            elif answer.status_code == 202:
                job = answer.headers["location"]
            elif job and answer.status_code == 200:
                state = answer.json()["state"]
                if state in ENDED:
                    return str(state) if state != "failed" else str(answer.json()["problem"]["type"]).rpartition(":")[2]
                time.sleep(0.3)
            elif answer.status_code == 200:
                return "done"
            else:
                return str(answer.json()["type"]).rpartition(":")[2]
        return "lost"


def chaos(folder: Path, postgres: Postgres | None, requests: int, seconds: float) -> dict[str, Any]:
    """What came of it.

    Args:
        postgres: the database; None: SQLite on a small disk of its own, which is full once, where one can be made.
    """
    disk = _small_disk(folder) if postgres is None else None
    url = postgres.fresh("chaos") if postgres else f"sqlite:///{(disk or folder) / 'chaos.db'}"
    settings = {"workers": 2, "warm": "false", "grace": 5, "log_level": "warning"}
    with Server(folder, url, **settings) as server:
        server.start()
        deadline = time.monotonic() + seconds
        callers = [Caller(server.address, range(n, requests, CALLERS), deadline) for n in range(CALLERS)]
        for caller in callers:
            caller.start()
        began, disasters = time.monotonic(), _disasters(server, postgres, disk)
        rng = random.Random(0)
        last, killed = 0, 0
        while any(caller.is_alive() for caller in callers) and time.monotonic() < deadline:
            answered = sum(sum(caller.ends.values()) for caller in callers)
            if disasters and answered > last + 0.15 * requests:
                disasters.pop(0)()
                last = answered
            if answered >= killed * requests / KILLS and (pid := _busy(server, rng)) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
            time.sleep(0.05)
        for caller in callers:
            caller.join(60)
        server.stop()
        told = sum((caller.ends for caller in callers), Counter[str]())
        found_jobs = _in_database(url)
    if disk is not None:
        subprocess.run(["umount", "-l", str(disk)], check=False)
    lost = told["lost"] + requests - sum(told.values())
    hits = found_jobs["kills_of_running_jobs"]
    held = not (lost or disasters or found_jobs["finished_twice"] or found_jobs["left_open"]) and hits >= ENOUGH_HITS
    return {
        "held": held,
        "database": "postgresql" if postgres else "sqlite" + (" (disk full once)" if disk else ""),
        "requests": requests,
        "seconds": round(time.monotonic() - began, 1),
        "ends": dict(told),
        "lost": lost,
        "disasters_left": len(disasters),
        "kills": killed,
        **found_jobs,
    }


def _busy(server: Server, rng: random.Random) -> int | None:
    """A worker that has begun and computes just now."""
    before = {pid: cpu_s(pid) for pid in server.workers()}
    time.sleep(0.1)
    busy = [pid for pid, began in before.items() if began > _BEGUN_CPU_S and cpu_s(pid) > began]
    return rng.choice(busy) if busy else None


def _disasters(server: Server, postgres: Postgres | None, disk: Path | None) -> list[Any]:
    def restarted() -> None:
        server.stop()
        server.start(ready=False)

    def killed() -> None:
        server.stop(signal.SIGKILL)
        server.start(ready=False)

    def database() -> None:
        if postgres is not None:
            postgres.stop()
            time.sleep(1)
            postgres.start()
        elif disk is not None:
            filler = disk / "filler"
            try:
                with filler.open("wb") as file:
                    while True:
                        file.write(b"\0" * 65536)
                        file.flush()
            except OSError:
                time.sleep(3)
            filler.unlink()

    return [restarted, database, killed]


def _small_disk(folder: Path) -> Path | None:
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(disk)], check=False, capture_output=True
    )
    return disk if mounted.returncode == 0 else None


def _in_database(url: str) -> dict[str, Any]:
    """How many kills hit a running job, and whether any question was finished twice."""
    database = Database(url)
    with database.reading() as connection:
        hits = connection.execute(select(func.coalesce(func.sum(jobs.c.tries), 0))).scalar_one()
        died = connection.execute(select(func.count()).where(jobs.c.problem.contains("worker-died"))).scalar_one()
        twice = connection.execute(
            select(jobs.c.document)
            .where(jobs.c.state == "done")
            .group_by(jobs.c.owner, jobs.c.document)
            .having(func.count() > 1)
        ).all()
        open_ = connection.execute(select(func.count()).where(jobs.c.state.in_(("queued", "running")))).scalar_one()
    database.close()
    return {"kills_of_running_jobs": int(hits) + int(died), "finished_twice": len(twice), "left_open": int(open_)}
