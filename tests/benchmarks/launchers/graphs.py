"""``python -m tests.benchmarks.launchers.graphs --dynamo PYTHON [--vllm PYTHON] [--sglang PYTHON]``: the graphs that
exports write, by Dynamo itself. The arguments of every worker of the matrix through the parser of Dynamo's own worker;
and its frontend before mockers (their discovery by files) that are started with a graph's roles, replicas and limits:
every engine gets requests, prefill as many as there are."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from planner.contract.engine import Layout, Role
from planner.exports.registry import exported
from planner.launchers import launchers
from profiles.errors import Unsupported
from tests.benchmarks.launchers.commands import checkpoint
from tests.planner.exports.made import MODELS, asked, layout, matrix, planned

PORT, REQUESTS, SPEEDUP = 18900, 24, "100"
ROLES: dict[str, list[tuple[Role, Layout, int]]] = {
    "aggregated": [("aggregated", layout(tp=2), 3)],
    "disaggregated": [("prefill", layout(tp=2), 1), ("decode", layout(tp=2), 2)],
}
MOCKED = {
    "--max-num-seqs": "--max-num-seqs",
    "--max-running-requests": "--max-num-seqs",
    "--max-batch-size": "--max-num-seqs",
    "--max-num-batched-tokens": "--max-num-batched-tokens",
    "--max-num-tokens": "--max-num-batched-tokens",
    "--chunked-prefill-size": "--sglang-chunked-prefill-size",
    "--max-model-len": "--max-model-len",
    "--context-length": "--max-model-len",
    "--max-seq-len": "--max-model-len",
    "--gpu-memory-utilization": "--gpu-memory-utilization",
    "--mem-fraction-static": "--mem-fraction-static",
    "--free-gpu-memory-fraction": "--free-gpu-memory-fraction",
    "--disaggregation-mode": "--disaggregation-mode",
}
"""Options of workers that the mocker (PyPI's ai-dynamo 1.6.1) has, too, and its names for them."""
TOKENIZER = """\
import json, sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
words = {"<unk>": 0, "</s>": 1, "<s>": 2} | {chr(code): code for code in range(32, 127)}
made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
made.pre_tokenizer, made.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
made.save(f"{sys.argv[1]}/tokenizer.json")
said = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "</s>", "bos_token": "<s>"}
json.dump({**said, "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"},
          open(f"{sys.argv[1]}/tokenizer_config.json", "w"))
json.dump({"eos_token_id": 1, "bos_token_id": 2}, open(f"{sys.argv[1]}/generation_config.json", "w"))
"""


def components(files: dict[str, str]) -> Iterator[tuple[str, int, list[str]]]:
    """(name, replicas, command) of each component of an exported graph."""
    for each in yaml.safe_load(files["graph.yaml"])["spec"]["components"]:
        container = each["podTemplate"]["spec"]["containers"][0]
        yield each["name"], each["replicas"], [*container["command"], *container["args"]]


def parsed(framework: str, python: Path, packages: str, folder: Path) -> Counter[str]:
    """What the parser of Dynamo's worker says of every worker of the matrix; "": it takes it."""
    lines = []
    for _, plan in matrix(framework):
        model = checkpoint(plan.request.model, folder)
        try:
            files = exported("dynamo", asked(plan, checkpoint=str(model), draft_model=str(model)))[1]
        except Unsupported:
            continue
        for name, _, command in components(files):
            if name != "Frontend":
                words = [word.replace("$(POD_IP)", "127.0.0.1") for word in command[3:]]
                lines.append(json.dumps(words))
    worker = Path(__file__).with_name("graphs_worker.py")
    ran = subprocess.run(
        [str(python), "-I", str(worker), framework, packages],
        input="\n".join(lines),
        capture_output=True,
        text=True,
    )
    answers = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('"')]
    if len(answers) != len(lines):
        return Counter({ran.stderr.strip()[-400:] or "it ended": len(lines)})
    return Counter(answers)


def served(framework: str, parts: list[tuple[Role, Layout, int]], python: Path, folder: Path) -> dict[str, list[int]]:
    """Requests that each engine of each role got of those that went to the frontend."""
    model = checkpoint(MODELS["dense"], folder)
    subprocess.run([str(python), "-c", TOKENIZER, str(model)], check=True)
    plan = planned(framework, MODELS["dense"], parts)
    files = exported("dynamo", asked(plan, checkpoint=str(model)))[1]
    discovery = folder / f"discovery-{framework}-{len(parts)}"
    discovery.mkdir()
    environment = {
        **os.environ,
        "DYN_DISCOVERY_BACKEND": "file",
        "DYN_FILE_KV": str(discovery),
        "DYN_REQUEST_PLANE": "tcp",
        "DYN_EVENT_PLANE": "zmq",
        "DYN_LOG": "warn",
    }
    ports: dict[str, list[int]] = {}
    with ExitStack() as running:
        log = running.enter_context(open(folder / "log", "w+"))
        for name, replicas, command in components(files):
            for _ in range(replicas):
                own = dict(environment)
                if name == "Frontend":
                    words = [*command[1:], "--http-port", str(PORT)]
                else:
                    port = PORT + 1 + sum(map(len, ports.values()))
                    own["DYN_SYSTEM_PORT"] = str(port)
                    role = command[command.index("--disaggregation-mode") + 1] if len(parts) > 1 else "aggregated"
                    ports.setdefault(role, []).append(port)
                    words = ["-m", "dynamo.mocker", *_mocked(framework, command, model)]
                started = subprocess.Popen([str(python), *words], stdout=log, stderr=log, env=own)
                running.callback(_ended, started)
        try:
            _until(lambda: b'"served"' in _read(PORT, "/v1/models"))
            _until(lambda: all(_read(port, "/metrics") for each in ports.values() for port in each))
        except TimeoutError:
            print((folder / "log").read_text()[-2000:])
            raise
        for number in range(REQUESTS):
            _complete(number)
        return {role: [_requests(port) for port in each] for role, each in ports.items()}


def _mocked(framework: str, command: list[str], model: Path) -> list[str]:
    words = ["--engine-type", framework, "--model-path", str(model), "--model-name", "served"]
    for at, word in enumerate(command):
        if word in MOCKED:
            words += [MOCKED[word], command[at + 1]]
    return [*words, "--speedup-ratio", SPEEDUP]


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read(port: int, path: str) -> bytes:
    try:
        found: bytes = urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).read()
        return found
    except OSError:
        return b""


def _until(true: Any) -> None:
    for _ in range(120):
        if true():
            return
        time.sleep(0.5)
    raise TimeoutError


def _complete(number: int) -> None:
    """One request; the frontend answers 503 until it knows all roles."""
    body = json.dumps({"model": "served", "prompt": f"number {number}", "max_tokens": 5}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/completions", data=body)
    request.add_header("content-type", "application/json")
    said = json.loads(urllib.request.urlopen(request, timeout=30).read())
    assert said["usage"]["completion_tokens"] == 5, said


def _requests(port: int) -> int:
    counter = r'dynamo_component_requests_total\{[^}]*dynamo_endpoint="generate"[^}]*\} (\d+)'
    found = re.findall(counter, _read(port, "/metrics").decode())
    return sum(map(int, found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dynamo", type=Path, required=True, help="an interpreter with ai-dynamo")
    parser.add_argument("--vllm", type=Path, help="an interpreter with vLLM")
    parser.add_argument("--sglang", type=Path, help="an interpreter with SGLang")
    given = parser.parse_args()
    where = "import sysconfig; print(sysconfig.get_path('platlib'))"
    packages = subprocess.run([str(given.dynamo), "-c", where], capture_output=True, text=True, check=True).stdout
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for framework in launchers():
            python = {"vllm": given.vllm, "sglang": given.sglang, "trtllm": given.dynamo}[framework]
            if python is None:
                print(f"dynamo.{framework}: not run (name an interpreter that has it: --{framework})")
                continue
            counts = parsed(framework, python, packages.strip(), folder)
            failed |= set(counts) != {""}
            said = dict(counts - Counter({"": counts[""]}))
            print(f"dynamo.{framework}: {counts['']} of {counts.total()} workers taken; {said}", flush=True)
        for framework in launchers():
            for title, parts in ROLES.items():
                seen = served(framework, parts, given.dynamo, folder)
                entry = seen.get("aggregated") or seen["prefill"]
                good = sum(entry) == REQUESTS and all(map(all, seen.values()))
                good &= "decode" not in seen or sum(seen["decode"]) == REQUESTS
                failed |= not good
                said = "as planned" if good else "WRONG"
                print(f"dynamo.frontend before {framework} mockers, {title}: {seen}: {said}", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
