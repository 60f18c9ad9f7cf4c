"""``python -m tests.benchmarks.launchers.fronts [--routers PYTHON]``: the fronts that exports write, started on the
loopback before engines that answer at once: every engine gets requests, prefill before decode, nginx keeps the plan's
shares."""

from __future__ import annotations

import argparse
import http.server
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from planner.contract.engine import Layout, Role
from planner.exports.registry import exported
from tests.planner.exports.made import MODELS, asked, layout, planned

FIRST, REQUESTS, SHARED = 18000, 40, 5000
ROUTERS = {"vllm": "vllm-router", "sglang": "sglang-router"}
"""PyPI's packages that the fronts run."""


class Engines:
    """Servers on ports that count what they are asked."""

    def __init__(self, ports: list[int]) -> None:
        self.seen: list[tuple[int, dict[str, Any]]] = []
        engines = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self._answer({"data": [{"id": "m", "object": "model"}], "object": "list"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
                engines.seen.append((self.server.server_port, body))  # type: ignore[attr-defined]
                choice = {"index": 0, "text": "a", "finish_reason": "stop"}
                transfer = {"remote_engine_id": "e", "remote_host": "127.0.0.1", "remote_port": 1}
                self._answer({"id": "x", "choices": [choice], "kv_transfer_params": transfer})

            def _answer(self, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.servers = [http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) for port in ports]
        for server in self.servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()


def through(command: str, folder: Path, path: str, ports: list[int], requests: int) -> list[tuple[int, dict[str, Any]]]:
    """What engines on ``ports`` are asked when a front that ``command`` starts gets so many requests."""
    engines = Engines(ports)
    with open(folder / "front.log", "w") as log:
        environment = {**os.environ, "PATH": f"{path}:/usr/sbin:{os.environ['PATH']}", "HERE": str(folder)}
        front = subprocess.Popen(["sh", "-c", f"exec {command}"], stdout=log, stderr=log, env=environment, cwd=folder)
        try:
            _wait(f"http://127.0.0.1:{FIRST}/health")
            for number in range(requests):
                body = json.dumps({"model": "m", "prompt": f"p {number}", "max_tokens": 5}).encode()
                request = urllib.request.Request(f"http://127.0.0.1:{FIRST}/v1/completions", data=body)
                request.add_header("content-type", "application/json")
                urllib.request.urlopen(request, timeout=10).read()
        finally:
            front.terminate()
            try:
                front.wait(timeout=20)
            except subprocess.TimeoutExpired:  # SGLang's router waits for what is open
                front.kill()
                front.wait()
            engines.close()
    return engines.seen


def _wait(url: str) -> None:
    for _ in range(60):
        try:
            urllib.request.urlopen(url, timeout=1)
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(url)


def _front(
    framework: str, parts: list[tuple[Role, Layout, int]], folder: Path, weights: list[float] | None = None
) -> str:
    """The command of the front, its files in ``folder``."""
    plan = planned(framework, MODELS["dense"], parts, weights=weights)
    files = exported("shell", asked(plan, nodes=("127.0.0.1",), first_port=FIRST))[1]
    for name, text in files.items():
        if name.startswith("front/"):
            (folder / Path(name).name).write_text(text)
    found = re.search(r"# front\n(.*?) \\\n  >", files["front/start.sh"], re.DOTALL)
    assert found
    return found[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routers", type=Path, help="an interpreter with vllm-router and sglang-router")
    given = parser.parse_args()
    part, failed = layout(tp=2), 0
    roles: dict[str, list[tuple[Role, Layout, int]]] = {
        "aggregated": [("aggregated", part, 3)],
        "disaggregated": [("prefill", part, 1), ("decode", part, 2)],
    }
    ports = [FIRST + 1, FIRST + 2, FIRST + 3]
    for framework, package in ROUTERS.items():
        for name, parts in roles.items():
            if given.routers is None:
                print(f"{package}, {name}: not run (name an interpreter that has it: --routers)")
                continue
            with tempfile.TemporaryDirectory() as made:
                folder = Path(made)
                command = _front(framework, parts, folder)
                seen = through(command, folder, str(given.routers.absolute().parent), ports, REQUESTS)
            counts = Counter(port for port, _ in seen)
            good = set(counts) == set(ports)
            if name == "disaggregated":
                good &= counts[ports[0]] == REQUESTS and counts[ports[1]] + counts[ports[2]] == REQUESTS
                if framework == "vllm":  # in turn: one token from the prefill engine, then the rest
                    good &= [port == ports[0] for port, _ in seen] == [True, False] * REQUESTS
            print(f"{package}, {name}: {dict(sorted(counts.items()))}: {'as planned' if good else 'WRONG'}")
            failed += not good
    if shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        print("nginx: not run (it is not installed)")
        return int(failed > 0)
    weights = [0.55, 0.3, 0.15]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        command = _front("trtllm", roles["aggregated"], folder, weights)
        counts = Counter(port for port, _ in through(command, folder, "", ports, SHARED))
    shares = [counts[port] / SHARED for port in ports]
    good = all(abs(share - weight) <= 0.02 for share, weight in zip(shares, weights, strict=True))
    print(f"nginx: {SHARED} requests, shares {shares} for {weights}: {'as planned' if good else 'WRONG'}")
    return int(failed > 0 or not good)


if __name__ == "__main__":
    raise SystemExit(main())
