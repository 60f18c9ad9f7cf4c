"""``bench.sh`` run against a small server that speaks the protocol, with clients that write what the frameworks' own
write: a row for every load, with the columns that ``plan predict --measured`` reads."""

from __future__ import annotations

import csv
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from planner.exports.bench import SHARES
from planner.exports.registry import exported
from tests.planner.exports.made import MODELS, asked, layout, planned

RATE = 0.08
"""Requests a second: so few that every load sends the least number of requests."""
FEWEST = 20

CLIENT = """\
import json, sys, time, urllib.request
words = sys.argv[1:]
said = {word: words[place + 1] for place, word in enumerate(words[:-1]) if word.startswith("--")}
url, output = said["--base-url"], said.get("--result-filename") or said["--output-file"]
count, first, total = int(said["--num-prompts"]), [], []
for number in range(count):
    body = {"model": said["--model"], "prompt": "x " * int(said["--random-input-len"]), "stream": True,
            "max_tokens": int(said["--random-output-len"])}
    started = time.perf_counter()
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode())
    request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request) as answer:
        answer.readline()
        first.append((time.perf_counter() - started) * 1e3)
        answer.read()
    total.append((time.perf_counter() - started) * 1e3)
e2e = "e2el" if "vllm" in sys.argv[0] or "--save-result" in words else "e2e_latency"
found = {"request_throughput": float(said["--request-rate"]), "output_throughput": count * 2.0}
for name, values in (("ttft", first), ("tpot", [2.0, 4.0]), (e2e, total)):
    values = sorted(values)
    found |= {f"mean_{name}_ms": sum(values) / len(values), f"median_{name}_ms": values[len(values) // 2],
              f"p99_{name}_ms": values[-1]}
with open(output, "a") as file:
    file.write(json.dumps(found) + "\\n")
"""


class Server(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list[dict[str, Any]]] = []

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        Server.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b'data: {"choices": [{"text": "a"}]}\n\ndata: [DONE]\n\n')


@pytest.fixture
def url() -> Iterator[str]:
    Server.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("framework", ["vllm", "sglang", "trtllm"])
def test_a_sweep_becomes_a_row_for_every_load(framework: str, url: str, tmp_path: Path) -> None:
    plan = planned(framework, MODELS["dense"], [("aggregated", layout(tp=4), 2)])
    work = plan.request.workload.model_copy(update={"rate_rps": RATE})
    plan = plan.model_copy(update={"request": plan.request.model_copy(update={"workload": work})}).sealed()
    script = tmp_path / "bench.sh"
    script.write_text(exported("slurm", asked(plan))[1]["bench.sh"])
    (tmp_path / "client.py").write_text(CLIENT)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("vllm", "python"):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/client.py "$@"\n')
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    table = tmp_path / "out.csv"
    done = subprocess.run(
        ["sh", script, url, table], env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert f"plan predict {table} --measured" in done.stdout
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [float(row["request_rate"]) for row in rows] == pytest.approx(
        [RATE * share / 2 for share in SHARES]  # of each of two engines
    )
    assert len(Server.asked) == FEWEST * len(SHARES)
    assert all(len(each["prompt"].split()) == 4000 and each["max_tokens"] == 500 for each in Server.asked)
    for row in rows:
        assert {name: row[name] for name in ("model", "tp", "isl", "osl", "num_gpus")} == {
            "model": MODELS["dense"],
            "tp": "4",
            "isl": "4000",
            "osl": "500",
            "num_gpus": "4",
        }
        assert float(row["tpot_ms_mean"]) == 3.0
        assert 0 < float(row["ttft_ms_p50"]) <= float(row["ttft_ms_p99"]) <= float(row["e2e_ms_p99"])
        assert float(row["requests_per_s"]) == pytest.approx(float(row["request_rate"]))
        assert float(row["output_tokens_per_s"]) == FEWEST


def test_a_plan_of_requests_that_differ_says_what_is_sent() -> None:
    plan = planned("vllm", MODELS["dense"], [("aggregated", layout(tp=4), 1)])
    work = plan.request.workload.model_copy(update={"spread": (0.5, 1.0)})
    varied = plan.model_copy(update={"request": plan.request.model_copy(update={"workload": work})}).sealed()
    said = "# its requests are 3,000 in, 375 out each; the plan's: 4,000 tokens in, 500 out, each between 50 and 100 %"
    assert said in exported("slurm", asked(varied))[1]["bench.sh"]
    assert "# its requests" not in exported("slurm", asked(plan))[1]["bench.sh"]


def test_a_client_that_fails_leaves_no_row(tmp_path: Path) -> None:
    plan = planned("vllm", MODELS["dense"], [("aggregated", layout(tp=4), 1)])
    script = tmp_path / "bench.sh"
    script.write_text(exported("slurm", asked(plan))[1]["bench.sh"])
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "vllm").write_text("#!/bin/sh\nexit 3\n")
    (programs / "vllm").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", script, "http://127.0.0.1:1"], env=environment, capture_output=True, cwd=tmp_path)
    assert done.returncode == 3
    assert not (tmp_path / "measured.csv").exists()
