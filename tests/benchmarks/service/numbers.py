"""Rates and times of the service."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from api.storage.database import Database
from api.storage.documents import Stored, keep
from api.storage.keys import Keys
from api.storage.schema import prepare
from tests.api.databases import Postgres, free_port
from tests.benchmarks.service.running import Server, cpu_s, long_request, memory_mib, plan_request

BARE = """
from fastapi import FastAPI
from starlette.responses import Response
app = FastAPI()
CONTENT = b"x" * 20_000
@app.get("/v1/plans/{id}")
async def get(id: str):
    return Response(CONTENT, media_type="application/json")
"""

QUIET = {"warm": "false", "log_level": "warning"}


def _url(folder: Path) -> str:
    return f"sqlite:///{folder / 'service.db'}"


def wrk(url: str, key: str | None, seconds: int = 8) -> dict[str, float]:
    """Requests a second and the latencies of 16 connections."""
    command = [
        "wrk",
        "-t1",
        "-c16",
        f"-d{seconds}",
        "--latency",
        *(["-H", f"Authorization: Bearer {key}"] if key else []),
    ]
    said = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    units = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    found = {"per_second": float(re.findall(r"Requests/sec:\s+([\d.]+)", said)[0])}
    for share in ("50", "99"):
        value, unit = re.findall(rf"{share}%\s+([\d.]+)(us|ms|s)", said)[0]
        found[f"p{share}_ms"] = float(value) * units[unit]
    found["other_than_2xx"] = float((re.findall(r"Non-2xx or 3xx responses: (\d+)", said) or ["0"])[0])
    return found


def stored(folder: Path) -> dict[str, Any]:
    """A stored plan of 20 kB with a key, against a bare FastAPI route in the same run."""
    if shutil.which("wrk") is None:
        return {"skipped": "wrk is not installed"}
    database = Database(_url(folder))
    prepare(database)
    key, text = Keys(database).create("bench", ["read"])
    with database.writing() as connection:
        keep(connection, Stored.of("a" * 32, "serving", "1.0", "application/json", b"x" * 20_000, "m"), key.id)
    database.close()
    (folder / "bare.py").write_text(BARE)
    port = free_port()
    bare = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "bare:app", "--port", str(port), "--no-access-log"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stderr=subprocess.DEVNULL,
    )
    try:
        with Server(folder, _url(folder), workers=1, quick_workers=0, **QUIET) as server:
            server.start()
            ours = wrk(f"{server.address}/v1/plans/{'a' * 32}", text)
            theirs = wrk(f"http://127.0.0.1:{port}/v1/plans/x", None)
    finally:
        bare.kill()
        bare.wait()
    return {
        "stored": ours,
        "bare": theirs,
        "ratio": round(ours["per_second"] / theirs["per_second"], 3),
        "p99_ratio": round(ours["p99_ms"] / theirs["p99_ms"], 2),
        "load": round(os.getloadavg()[0], 1),
    }


def cancels(folder: Path, count: int = 100) -> dict[str, Any]:
    """Seconds from DELETE until the solver's process is gone."""
    took = []
    with Server(folder, _url(folder), workers=1, quick_workers=0, **QUIET) as server:
        server.start()
        with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as client:
            for number in range(count):
                job = client.post("/v1/plans", json=plan_request(number), headers={"Prefer": "respond-async"})
                where = job.headers["location"]
                while client.get(where).json()["state"] != "running":
                    time.sleep(0.02)
                time.sleep(0.05)
                before = set(server.workers())
                started = time.monotonic()
                client.delete(where).raise_for_status()
                while any(Path(f"/proc/{pid}").exists() and _runs(pid) for pid in before):
                    time.sleep(0.005)
                took.append(time.monotonic() - started)
    return {"cancels": count, "most_s": round(max(took), 3), "median_s": round(statistics.median(took), 3)}


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def saturated(folder: Path, seconds: float = 10) -> dict[str, Any]:
    """/livez and a stored document while solvers keep both cores busy."""
    with Server(folder, _url(folder), workers=2, quick_workers=1, **QUIET) as server:
        server.start()
        with httpx.Client(base_url=server.address, timeout=120, trust_env=False) as client:
            path = client.post("/v1/memory", json={"model": "Qwen/Qwen3-8B", "gpu": "H200"}).headers["content-location"]
            for number in range(40):
                client.post("/v1/plans", json=plan_request(number), headers={"Prefer": "respond-async"})
            out: dict[str, Any] = {}
            for name, asked in (("livez", "/livez"), ("stored", path)):
                took, until = [], time.monotonic() + seconds
                while time.monotonic() < until:
                    started = time.perf_counter()
                    client.get(asked).raise_for_status()
                    took.append((time.perf_counter() - started) * 1e3)
                    time.sleep(0.005)
                out[name] = {
                    "requests": len(took),
                    "p50_ms": round(statistics.median(took), 2),
                    "p99_ms": round(statistics.quantiles(took, n=100)[98], 2),
                }
            out["still_waiting"] = len(client.get("/v1/jobs?state=queued").json()["jobs"])
    return out


def fairness(folder: Path) -> dict[str, Any]:
    """How many jobs of a caller with 500 queued begin before another's first."""
    database = Database(_url(folder))
    prepare(database)
    many, one = (Keys(database).create(name, ["read", "plan"])[1] for name in ("many", "one"))
    database.close()
    with Server(folder, _url(folder), workers=1, quick_workers=0, **QUIET) as server:
        server.start()
        with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as client:

            def ask(key: str, number: int) -> str:
                headers = {"Prefer": "respond-async", "Authorization": f"Bearer {key}"}
                return str(client.post("/v1/plans", json=plan_request(number), headers=headers).headers["location"])

            def job(key: str, path: str) -> dict[str, Any]:
                found: dict[str, Any] = client.get(path, headers={"Authorization": f"Bearer {key}"}).json()
                return found

            theirs = [ask(many, number) for number in range(500)]
            asked = time.time()
            mine = ask(one, 1000)
            while job(one, mine)["state"] == "queued":
                time.sleep(0.1)
            begun = job(one, mine)["started_at"]
            first = [job(many, path) for path in theirs[:60]]
            between = [
                each
                for each in first
                if each["started_at"] and _seconds(each["started_at"]) > asked and each["started_at"] < begun
            ]
    return {"queued_before": 500, "begun_between": len(between)}


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def predictions(folder: Path, rows: int = 2000, few: int = 10) -> dict[str, Any]:
    """Configurations a CPU-second, of the service (front and worker) and of `plan predict` on the same rows; and the
    same of requests with ``few`` configurations. CPU-seconds, so that other work on the machine says nothing."""
    base = {"model": "Qwen/Qwen3-8B", "gpu": "H200", "framework": "vllm"}
    asked = [
        {**base, "tp": 1, "isl": 500 + n % 400, "osl": 100 + n % 50, "concurrency": 1 + n % 32} for n in range(rows)
    ]
    request = folder / "request.json"
    request.write_text(json.dumps({"configurations": asked}))
    command = [sys.executable, "-m", "api.cli.main", "predict", "--request", str(request), "--quiet", "-o", "out.json"]
    waiting = {"Prefer": "wait=300"}
    with Server(folder, _url(folder), workers=1, quick_workers=0, log_level="warning") as server:
        server.start()
        with httpx.Client(base_url=server.address, timeout=600, trust_env=False) as client:
            client.post("/v1/predictions", json={"configurations": asked[:1]}, headers=waiting)
            began, started = server.cpu_s(), time.monotonic()
            answer = client.post("/v1/predictions", json={"configurations": asked}, headers=waiting)
            cpu, wall = server.cpu_s() - began, time.monotonic() - started
            assert answer.status_code == 200, answer.text[:300]
            began, started = server.cpu_s(), time.monotonic()
            for at in range(0, rows // 2, few):
                part = [{**row, "isl": row["isl"] + 1000} for row in asked[at : at + few]]
                client.post("/v1/predictions", json={"configurations": part}, headers=waiting).raise_for_status()
            few_cpu, few_wall = server.cpu_s() - began, time.monotonic() - started
        before = _children_cpu_s()
        subprocess.run(command, cwd=folder, env=server.environment, check=True, stdout=subprocess.DEVNULL)
        cli = _children_cpu_s() - before
    return {
        "rows": rows,
        "per_cpu_s": round(rows / cpu, 1),
        "per_second": round(rows / wall, 1),
        "cli_per_cpu_s": round(rows / cli, 1),
        "ratio": round(cli / cpu, 2),
        f"in_requests_of_{few}": {
            "per_cpu_s": round(rows // 2 / few_cpu, 1),
            "cpu_ms_a_request": round(few_cpu / (rows // 2 / few) * 1e3, 1),
            "ms_a_request": round(few_wall / (rows // 2 / few) * 1e3, 1),
        },
    }


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def instances(folder: Path, postgres: Postgres, jobs: int = 16) -> dict[str, Any]:
    """Jobs a minute of one instance and of two, one worker each, on one PostgreSQL. Beside them the CPU-seconds of a
    job and of whatever else the instances did, and the cores that their workers got: two instances are twice as fast
    only where the machine has two cores to give."""
    out: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    for count in (1, 2):
        url = postgres.fresh(f"instances{count}")
        servers = [Server(folder, url, workers=1, quick_workers=0, log_level="warning") for _ in range(count)]
        try:
            for server in servers:
                server.start()
            with httpx.Client(base_url=servers[0].address, timeout=120, trust_env=False) as client:
                workers = [pid for server in servers for pid in server.workers()]
                fronts = [server.process.pid for server in servers if server.process is not None]
                began, started = (sum(map(cpu_s, workers)), sum(map(cpu_s, fronts))), time.monotonic()
                paths = [
                    client.post("/v1/plans", json=long_request(n), headers={"Prefer": "respond-async"}).headers[
                        "location"
                    ]
                    for n in range(jobs)
                ]
                while any(client.get(path).json()["state"] != "done" for path in paths):
                    time.sleep(0.3)
                wall = time.monotonic() - started
                worked, front = sum(map(cpu_s, workers)) - began[0], sum(map(cpu_s, fronts)) - began[1]
            out[f"with_{count}"] = {
                "jobs_per_minute": round(jobs / wall * 60, 1),
                "cpu_s_a_job": round(worked / jobs, 2),
                "cores_of_workers": round(worked / wall, 2),
                "cores_of_fronts": round(front / wall, 3),
            }
        finally:
            for server in servers:
                server.__exit__()
    out["ratio"] = round(out["with_2"]["jobs_per_minute"] / out["with_1"]["jobs_per_minute"], 2)
    return out


def memory(folder: Path, count: int = 10_000) -> dict[str, Any]:
    """Memory, open files and threads of the front, and memory of its workers, over many answers: of `memory`, each
    another question, read again under its own address. Workers are begun anew every 500."""
    with Server(folder, _url(folder), workers=1, quick_workers=1, recycle=500, **QUIET) as server:
        server.start()
        assert server.process is not None
        pid, seen = server.process.pid, {}
        todo, lock = iter(range(count)), threading.Lock()
        done = 0

        def work() -> None:
            nonlocal done
            with httpx.Client(base_url=server.address, timeout=120, trust_env=False) as client:
                while True:
                    with lock:
                        number = next(todo, None)
                        if number is not None and number in (count // 10, count // 2, count - 1):
                            files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
                            threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
                            seen[number] = {
                                "mib": round(memory_mib(pid), 1),
                                "files": files,
                                "threads": threads,
                                "workers_mib": [round(memory_mib(worker)) for worker in server.workers()],
                            }
                    if number is None:
                        return
                    asked = {"model": "Qwen/Qwen3-8B", "gpu": "H200", "max_model_len": 1024 + number}
                    made = client.post("/v1/memory", json=asked, headers={"Prefer": "wait=60"}).raise_for_status()
                    if made.status_code == 202:  # both workers were being begun anew
                        made = client.post("/v1/memory", json=asked, headers={"Prefer": "wait=600"}).raise_for_status()
                    client.get(made.headers["content-location"]).raise_for_status()
                    with lock:
                        done += 1

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    first, last = seen[count // 10]["mib"], seen[count - 1]["mib"]
    return {"answers": done, "front": seen, "growth": round(last / first - 1, 4)}
