"""Whether the fleet's programme could stand for `plan`'s: one service, one class, one step asked of both.

`python -m tests.benchmarks.one_programme` prints the cost, the engines and the CPU-seconds of each. On 2026-11-26 four
of five cost the same; of one the fleet's leaves room for tails that `plan` does not leave (19.2 for 16.0 USD/h). It
took 0.7 to 3.4 times the CPU, more in four of five: so both stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable

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


def _told(name: str, make: Callable[[], Plan]) -> None:
    begun = time.process_time()
    found = make()
    engines = [f"{len(g.replicas)} x {g.role} {g.layout.label} on {g.gpu}" for g in found.decision.engines]
    print(f"  {name}: {found.decision.usd_per_hour:.2f} USD/h, {time.process_time() - begun:.1f} CPU-s, {engines}")


def main() -> None:
    for model, cluster, load, slo in CASES:
        service = {"name": "s", "model": model, "slo": slo, "load": load}
        request = parse_fleet_request({"cluster": cluster, "services": [service]})
        alone = one_load(request)
        assert alone is not None
        print(f"{model} on {cluster}, {load}")
        _told("plan", lambda asked=alone: plan(asked))  # type: ignore[misc]
        _told("fleet", lambda asked=request: _Modelled(asked, (), lambda _: None).plan())  # type: ignore[misc]


if __name__ == "__main__":
    main()
