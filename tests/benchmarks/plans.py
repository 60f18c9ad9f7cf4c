"""What a plan costs: ``python -m tests.benchmarks.plans``. CPU seconds, wall seconds and peak memory, each in a
fresh process; and of a second plan in that process (``again``).

The first run learns the forests into an empty cache (as after installation); the warm runs read them. Time is also
given as a
ratio to importing the numerical libraries alone in the same run, which says what of it is ours on any machine.
Writes ``costmodels/evidence/plans.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from tests.benchmarks.cards import write

CASES = {
    "Qwen3-32B on 16 H200 (the README's example)": ("Qwen/Qwen3-32B", "16xH200", "ttft=1s,tpot=30ms"),
    "Qwen3-235B-A22B on 16 H200": ("Qwen/Qwen3-235B-A22B", "16xH200", "ttft=2s,tpot=60ms"),
    "DeepSeek-V3 on 32 H200": ("deepseek-ai/DeepSeek-V3", "32xH200", "ttft=2s,tpot=100ms"),
}
BARS = {"warm_cpu_s": {"Qwen3-32B": 2.0, "other": 2.5}, "again_cpu_s": 1.0, "peak_mb": 600, "first_run_wall_s": 20}

PROGRAM = """
import resource, sys, time
from planner import plan
from costmodels.kernels.kept import keeping
asked = {"model": sys.argv[1], "cluster": sys.argv[2], "slo": sys.argv[3], "workload": "isl=4000,osl=500"}
with keeping(64):  # as the service does
    document = plan(asked)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    started = time.process_time()
    plan(asked)
    again = time.process_time() - started
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, document.proof.objective_value, again)
"""
IMPORTS = """
import resource
import numpy, pandas, pyarrow.parquet, scipy.spatial, pydantic, pulp, highspy
usage = resource.getrusage(resource.RUSAGE_SELF)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, 0, 0)
"""


def run(cache: str, program: str, *arguments: str) -> dict[str, float]:
    """One fresh process. Bytecode is kept, as an installation does."""
    environment = {**os.environ, "SHARDWRIGHT_CACHE": cache, "PYTHONPYCACHEPREFIX": f"{cache}/bytecode"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started = os.times()
    out = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, check=True, capture_output=True, text=True
    )
    cpu, peak, value, again = (float(x) for x in out.stdout.split())
    wall = os.times().elapsed - started.elapsed
    figures = {"cpu_s": cpu, "again_cpu_s": again, "wall_s": wall}
    rounded = {name: round(figure, 2) for name, figure in figures.items()}
    return {**rounded, "peak_mb": round(peak), "objective": round(value, 4)}


def main() -> None:
    document: dict[str, Any] = {"command": "python -m tests.benchmarks.plans", "bars": BARS, "cases": {}}
    with tempfile.TemporaryDirectory() as cache:
        libraries = min((run(cache, IMPORTS) for _ in range(3)), key=lambda r: r["cpu_s"])
        document["importing the libraries alone"] = libraries
        for name, case in CASES.items():
            first = run(cache, PROGRAM, *case)
            warm = min((run(cache, PROGRAM, *case) for _ in range(3)), key=lambda r: r["cpu_s"])
            ratio = round(warm["cpu_s"] / libraries["cpu_s"], 2)
            document["cases"][name] = {"first": first, "warm": warm, "warm_cpu_over_imports": ratio}
            print(name, json.dumps(document["cases"][name]), flush=True)
    print(write("plans", document))


if __name__ == "__main__":
    main()
