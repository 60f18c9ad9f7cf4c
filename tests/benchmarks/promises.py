"""Whether plans keep their word: ``python -m tests.benchmarks.promises [--requests 200] [--plans 60]``.

Random requests (model, GPUs, framework, lengths, bounds near what the engines can do, rates from hardly any to nearly
all that the cluster carries) are planned, and

* every plan is replayed with 50,000 requests and three seeds that its maker did not see: a promise is broken where
  fewer requests are within the limit than it says, by more than four standard errors of the replay and of the plan;
* every request that finds no plan is held against ``plan predict``: a layout that holds every bound at that rate,
  alone, is a false refusal;
* the ends of the intervals (p90, at the plan's own rate) are held against those that ``plan simulate`` gives for
  20,000 requests.

Writes ``costmodels/evidence/promises.json``; all of it takes hours, so parts can be asked for (``--from``).
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

import numpy as np

from planner.replay.report import simulate
from planner.replay.request import SimulationRequest
from planner.serving.document.plan import Plan
from planner.serving.planning import plan
from profiles.errors import ShardwrightError
from tests.benchmarks.cards import write

MODELS = {
    "meta-llama/Llama-3.1-8B": ("H100", "A100", "L40S", "H200"),
    "Qwen/Qwen3-32B": ("H100", "H200", "B200"),
    "meta-llama/Llama-3.3-70B-Instruct": ("H100", "H200", "B200"),
    "Qwen/Qwen3-30B-A3B": ("H100", "H200"),
    "openai/gpt-oss-120b": ("H100", "H200"),
    "mistralai/Mixtral-8x7B-v0.1": ("H100", "A100"),
}
REPLAYED, SEEDS = 50_000, (101, 202, 303)
ENDS_OF = 20_000
METRICS = ("ttft", "tpot")


def drawn(number: int) -> dict[str, Any]:
    """The request of that number: the same on every machine."""
    rng = random.Random(number)
    model = rng.choice(sorted(MODELS))
    isl, osl = rng.choice([200, 500, 1000, 2000, 4000, 8000]), rng.choice([50, 150, 300, 500, 1000])
    percentile = rng.choice(["", "_p95", "_p99"])
    ttft = rng.choice([0.3, 0.5, 1, 2, 5]) * max(isl / 2000, 0.5)
    slo = f"ttft{percentile}={ttft:g}s,tpot{percentile}={rng.choice([20, 30, 50, 100])}ms"
    return {
        "model": model,
        "cluster": f"{rng.choice([2, 4, 8])}x{rng.choice(MODELS[model])}",
        "framework": rng.choice(["vllm", "vllm", "sglang"]),
        "slo": slo,
        "workload": f"isl={isl},osl={osl}",
        "disaggregation": rng.choice(["auto", "auto", "never"]),
    }


def planned(number: int) -> tuple[dict[str, Any], Plan | ShardwrightError]:
    """The request at a rate of its own, and its plan; at every fifth, as much as the cluster carries."""
    asked, rng = drawn(number), random.Random(-number - 1)
    try:
        if number % 5:
            most = plan({**asked, "simulation": False}).prediction.request_rate_rps.value
            rate = max(most * 10 ** rng.uniform(-4, 0), 0.0001)
            asked["workload"] += f",rate={rate:.4g}"
        return asked, plan(asked)
    except ShardwrightError as error:
        return asked, error


def replayed(document: Plan, requests: int, seed: int) -> Any:
    """The report of so many requests at the plan's own rate."""
    rate = document.prediction.request_rate_rps.value
    served = document.request.workload.rate_rps or rate
    return simulate(SimulationRequest(plan=document, rate=min(rate, served), requests=requests, seed=seed))


def broken(document: Plan, report: Any) -> list[str]:
    """Promises that the replay does not keep, beyond what chance makes of percentiles."""
    out = []
    errors = {
        label: ms
        for engine in document.prediction.engines
        if engine.simulation is not None
        for label, ms in engine.simulation.standard_errors_ms.items()
    }
    for promise in report.slo:
        name = f"{promise.metric}_p{promise.percentile:g}"
        if promise.holds or promise.simulated is None:
            continue
        noise = 4 * errors.get(name, 0.0)
        if promise.simulated.value > promise.limit_ms + noise:
            out.append(f"{name} {promise.simulated.value:.4g} > {promise.limit_ms:g} ms (+{noise:.3g})")
    return out


def ends(document: Plan) -> dict[str, dict[str, float]]:
    """Of each metric, plan ÷ simulate at the low end, the value and the high end of p90."""
    report = replayed(document, ENDS_OF, 7)
    out = {}
    for metric in METRICS:
        mine, its = getattr(document.prediction, f"{metric}_ms"), getattr(report, f"{metric}_ms")
        if mine is not None and its is not None:
            out[metric] = {end: getattr(mine.p90, end) / getattr(its.p90, end) for end in ("low", "value", "high")}
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--plans", type=int, default=60, help="whose intervals are compared")
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--no-replay", action="store_true")
    asked = parser.parse_args()
    refused, broke, apart, seconds, made = [], [], [], [], 0
    for number in range(asked.first, asked.first + max(asked.requests, asked.plans)):
        started = time.process_time()
        request, answer = planned(number)
        seconds.append(time.process_time() - started)
        words = f"{number}: " + " ".join(str(value) for value in request.values())
        if isinstance(answer, ShardwrightError):
            refused.append({"request": words, "message": answer.message})
            print(words, "|", answer.message, flush=True)
            continue
        made += 1
        if made <= asked.plans:
            ratios = ends(answer)
            worst = max(abs(np.log(r)) for each in ratios.values() for r in each.values())
            apart.append({"request": words, "ratios": ratios, "worst": float(np.exp(worst))})
            shown = {m: {e: round(r, 3) for e, r in each.items()} for m, each in ratios.items()}
            engines = [f"{len(g.replicas)}x{g.layout.label}{g.role[0]}" for g in answer.decision.engines]
            print(f"{np.exp(worst):.2f}", words, *engines, f"{answer.prediction.utilisation:.2f}", shown, flush=True)
        if not asked.no_replay and number < asked.first + asked.requests:
            for seed in SEEDS:
                found = broken(answer, replayed(answer, REPLAYED, seed))
                if found:
                    broke.append({"request": words, "seed": seed, "promises": found})
                    print("BROKEN", words, seed, found, flush=True)
    near = sum(each["worst"] <= 1.1 for each in apart)
    print(f"{made} plans, {len(refused)} refused, {len(broke)} replays broken, {near} of {len(apart)} intervals near")
    write(
        "promises",
        {
            "command": "python -m tests.benchmarks.promises",
            "plans": made,
            "refused": refused,
            "broken": broke,
            "intervals_within_10_percent": near,
            "intervals": apart,
            "cpu_s_median": float(np.median(seconds)),
        },
    )


if __name__ == "__main__":
    main()
