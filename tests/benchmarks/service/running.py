"""A real ``plan serve`` with its workers, on a database of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from tests.api.databases import free_port

ROOT = Path(__file__).parents[3]


class Server:
    """``plan serve`` as a process. The port stays over restarts."""

    def __init__(self, folder: Path, url: str, **settings: object) -> None:
        self.folder, self.port = folder, free_port()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "SHARDWRIGHT_DATABASE_URL": url,
            **{f"SHARDWRIGHT_{name.upper()}": str(value).lower() for name, value in settings.items()},
        }
        self.log = folder / f"service-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, seconds: float = 300, *, ready: bool = True) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api.cli.main", "serve", "--port", str(self.port)],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + seconds
        while True:
            try:
                path = "readyz" if ready else "livez"
                if httpx.get(f"{self.address}/{path}", timeout=30, trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self.log.read_text("utf-8")[-2000:])
            time.sleep(0.1)

    def stop(self, how: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(90)

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        assert self.process is not None
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            try:
                found += [int(pid) for pid in task.read_text().split()]
            except OSError:
                continue
        return found

    def cpu_s(self) -> float:
        """Seconds that the service and its workers have computed. A worker that ended takes its own with it."""
        assert self.process is not None
        return sum(map(cpu_s, (self.process.pid, *self.workers())))

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)


def cpu_s(pid: int) -> float:
    """Seconds that a process has computed; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    """Resident memory of a process; 0 where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def plan_request(number: int, model: str = "Qwen/Qwen3-8B", cluster: str = "1xH200", isl: int = 2000) -> dict[str, Any]:
    """One of many plans, each another question."""
    return {
        "model": model,
        "cluster": cluster,
        "slo": "ttft=1s,tpot=30ms",
        "workload": f"isl={isl + number},osl=500",
    }


def long_request(number: int) -> dict[str, Any]:
    """One of many plans of about 2 CPU-s in a worker whose cost models are loaded."""
    return plan_request(number, "Qwen/Qwen3-30B-A3B", "128xH200", 4000)


def memory_request(number: int) -> dict[str, Any]:
    return {"model": "Qwen/Qwen3-32B", "gpu": "H100", "tp": 2, "max_model_len": 4096 + number}


def predictions_request(number: int) -> dict[str, Any]:
    row = {"model": "Qwen/Qwen3-8B", "gpu": "H200", "framework": "vllm", "osl": 200, "concurrency": 8}
    return {"configurations": [{**row, "isl": 1000 + number * 4 + each} for each in range(4)]}
