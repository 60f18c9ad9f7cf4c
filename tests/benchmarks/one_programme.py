"""Whether the fleet's programme could stand for `plan`'s: one service, one class, one step asked of both.

`python -m tests.benchmarks.one_programme` writes the cost, the engines, the CPU-seconds and how many replays with seeds
that no plan saw hold, of each, into `costmodels/evidence/one_programme.json`. On 2026-11-27 all five cost the same, one
of them with prefill and decode apart, and hold in 20 of 20 replays each.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from planner.replay.report import simulate
from planner.replay.request import parse_simulation_request
from planner.serving.document.plan import Plan
from planner.serving.fleets.planning import _Modelled
from planner.serving.fleets.request import parse_fleet_request
from planner.serving.fleets.single import one_load
from planner.serving.planning import plan

CASES = (
    ("Qwen/Qwen3-8B", "8xH100", "isl=1000,osl=200,rate=20", "ttft=1s,tpot=50ms"),
    ("Qwen/Qwen3-8B", "8xL40S", "isl=500,osl=100,rate=20", "ttft=1s,tpot=50ms"),
    ("meta-llama/Llama-3.1-8B-Instruct", "8xH100+8xL40S", "isl=2000,osl=300,rate=30", "ttft=2s,tpot=60ms"),
    ("Qwen/Qwen3-30B-A3B", "16xH100", "isl=1000,osl=500,rate=60", "ttft=1s,tpot=30ms"),
    ("meta-llama/Llama-3.1-70B-Instruct", "16xH100", "isl=1000,osl=200,rate=10", "ttft=2s,tpot=60ms"),
)


EVIDENCE = Path(__file__).parents[2] / "costmodels" / "evidence" / "one_programme.json"

SEEDS, REQUESTS = range(101, 121), 3000
"""Of replays: seeds that no plan saw."""


def _judged(make: Callable[[], Plan], rate_rps: float) -> dict[str, Any]:
    begun = time.process_time()
    plan = make()
    cpu_s = time.process_time() - begun
    held = 0
    for seed in SEEDS:
        asked = {"plan": plan, "requests": REQUESTS, "seed": seed, "rate": rate_rps}
        report = simulate(parse_simulation_request(asked))
        held += all(each.share.value >= each.percentile / 100 for each in report.slo)
    engines = [f"{len(g.replicas)} x {g.role} {g.layout.label} on {g.gpu}" for g in plan.decision.engines]
    usd = plan.decision.usd_per_hour
    return {"usd_per_hour": usd, "cpu_s": round(cpu_s, 1), "held": held, "of": len(SEEDS), "engines": engines}


def main() -> None:
    rows = []
    for model, cluster, load, slo in CASES:
        service = {"name": "s", "model": model, "slo": slo, "load": load}
        request = parse_fleet_request({"cluster": cluster, "services": [service]})
        alone = one_load(request)
        assert alone is not None
        rate = alone.workload.rate_rps
        assert rate is not None
        row = {
            "asked": f"{model} on {cluster}, {load}, {slo}",
            "plan": _judged(lambda asked=alone: plan(asked), rate),  # type: ignore[misc]
            "fleet": _judged(lambda asked=request: _Modelled(asked, (), lambda _: None).plan(), rate),  # type: ignore[misc]
        }
        print(json.dumps(row, indent=2), flush=True)
        rows.append(row)
    EVIDENCE.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
