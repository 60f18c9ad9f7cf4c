"""Whether plans keep their word: ``python -m tests.benchmarks.promises [--requests 200] [--plans 60]``.

Random requests (model, GPUs, framework, lengths, bounds near what the engines can do, rates from hardly any to nearly
all that the cluster carries) are planned, and

* every plan is replayed with 50,000 requests and three seeds that its maker did not see: a promise is broken where
  fewer requests are within the limit than it says, by more than four standard errors of the replay and of the plan;
* every layout is held against the answer, as ``plan simulate --engines`` sees it: one that holds every bound where no
  plan was found is a false refusal; one that does on fewer GPUs than the plan of a rate is a dearer plan than needed;
* the ends of the intervals (p90, at the plan's own rate) are held against those that ``plan simulate`` gives for
  20,000 requests, the median of five seeds, or of more where these are apart; how far is told beside;
* plans whose slowest mode needs more than 10,000 requests of a kind of engine are counted, with their CPU time.

Every request is a line of ``costmodels/evidence/points/promises.jsonl``, written as soon as it is done; a run goes on
where the last one of the same programme and constants ended (``--keep``: of whichever).
``costmodels/evidence/promises.json`` sums up all lines.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from api.cli.engines import document_of_shapes
from costmodels.serving.frameworks.framework import find_framework
from planner.contract.models import architecture_of
from planner.replay.gateway import replay, warm_up
from planner.replay.loads import drawn_load
from planner.replay.planned_engines import PlannedEngine, planned_engines
from planner.replay.report import simulate, transfer_us
from planner.replay.request import SimulationRequest
from planner.replay.running import Running
from planner.serving.confirmation.trial import MOST, SETTLES
from planner.serving.document.plan import Plan
from planner.serving.document.prediction import GroupPrediction
from planner.serving.planning import plan
from profiles.errors import ShardwrightError
from tests.benchmarks.cards import POINTS, write

MODELS = {
    "meta-llama/Llama-3.1-8B": ("H100", "A100", "L40S", "H200"),
    "Qwen/Qwen3-32B": ("H100", "H200", "B200"),
    "meta-llama/Llama-3.3-70B-Instruct": ("H100", "H200", "B200"),
    "Qwen/Qwen3-30B-A3B": ("H100", "H200"),
    "openai/gpt-oss-120b": ("H100", "H200"),
    "mistralai/Mixtral-8x7B-v0.1": ("H100", "A100"),
}
REPLAYED, SEEDS = 50_000, (101, 202, 303)
ENDS_OF, MANY_SEEDS = 20_000, (5, 25, 100)
METRICS = ("ttft", "tpot")
NEAR = 1.1
ALONE, FILLS = 5_000, 10
"""Requests that a layout is judged by, or so many times as many as are there at once where each takes as long as it
may: a layout that still fills holds every bound."""

CLEARLY = 1.2
"""Of the rate at which a layout must hold to count as overlooked: at the rate itself it may hold by luck."""

HARDLY_ANY = 0.001
"""Requests per second at which layouts are judged where even the most that a cluster carries has no plan."""

Row = dict[str, Any]


def drawn(number: int) -> Row:
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


def planned(number: int) -> tuple[Row, Plan | ShardwrightError]:
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


# ------------------------------------------------------------------ what is promised


class Kept(NamedTuple):
    """What a replay shows of a promise."""

    name: str
    ms: float
    limit_ms: float
    holds: bool


def replayed(document: Plan, requests: int, seed: int) -> Any:
    """The report of so many requests at the plan's own rate."""
    rate = document.prediction.request_rate_rps.value
    served = document.request.workload.rate_rps or rate
    return simulate(SimulationRequest(plan=document, rate=min(rate, served), requests=requests, seed=seed))


def kept(document: Plan, seed: int, engines: Sequence[PlannedEngine], running: Running) -> list[Kept]:
    """Each promise in :data:`REPLAYED` requests at the plan's own rate, as ``plan simulate`` judges it; steps as
    predicted, which is what is promised."""
    rate = document.prediction.request_rate_rps.value
    load = drawn_load(document, min(rate, document.request.workload.rate_rps or rate), REPLAYED, seed=seed)
    fleet = replay(list(engines), load, seed, transfer_us(running, engines, load), ends=("value",))["value"]
    seen = fleet.requests.take(warm_up(fleet.requests))
    return [
        Kept(
            f"{bound.metric}_p{bound.percentile:g}",
            seen.percentile_us(bound.metric, bound.percentile / 100) / 1e3,
            bound.limit_ms,
            seen.attainment({bound.metric: bound.limit_ms * 1e3}) >= bound.percentile / 100,
        )
        for bound in running.slo.bounds
        if len(seen.of(bound.metric))
    ]


def broken(document: Plan, promises: Sequence[Kept]) -> list[str]:
    """Promises that the replay does not keep, beyond what chance makes of percentiles."""
    errors = {
        label: ms
        for engine in document.prediction.engines
        if engine.simulation is not None
        for label, ms in engine.simulation.standard_errors_ms.items()
    }
    out = []
    for name, ms, limit_ms, holds in promises:
        noise = 4 * errors.get(name, 0.0)
        if not holds and ms > limit_ms + noise:
            out.append(f"{name} {ms:.4g} > {limit_ms:g} ms (+{noise:.3g})")
    return out


def ends(document: Plan) -> Row:
    """Of each metric, plan ÷ simulate at the low end, the value and the high end of p90, simulate's the median of its
    seeds; and the furthest that one of these is from their median."""
    reports: list[Any] = []
    for seeds in MANY_SEEDS:
        reports += [replayed(document, ENDS_OF, 1000 + seed) for seed in range(len(reports), seeds)]
        ratios: Row = {}
        apart = 1.0
        for metric in METRICS:
            mine = getattr(document.prediction, f"{metric}_ms")
            if mine is None or getattr(reports[0], f"{metric}_ms") is None:
                continue
            for end in ("low", "value", "high"):
                its = np.array([getattr(getattr(report, f"{metric}_ms").p90, end) for report in reports])
                ratios.setdefault(metric, {})[end] = round(getattr(mine.p90, end) / float(np.median(its)), 4)
                apart = max(apart, *np.exp(np.abs(np.log(its / np.median(its)))).tolist())
        if apart <= NEAR:
            break
    worst = max(max(r, 1 / r) for each in ratios.values() for r in each.values())
    return {"ratios": ratios, "worst": round(worst, 4), "seeds_apart": round(apart, 4)}


def held(engine: GroupPrediction, osl: float) -> float:
    """Requests in one engine on average."""
    latency = engine.e2e_ms or engine.ttft_ms
    stay_ms = latency.mean.value if latency else osl * engine.tpot_ms.mean.value if engine.tpot_ms else 0.0
    return engine.load_rps * stay_ms / 1e3


# ------------------------------------------------------------------ what was not found


def shapes(request: Row) -> list[tuple[int, str]]:
    """(GPUs, engines) of every aggregated fleet of one layout on the cluster, the smallest first."""
    count = int(request["cluster"].partition("x")[0])
    model = architecture_of(request["model"])
    whole = find_framework(request["framework"]).parallelism.expert_splits != "any"
    layouts = []
    for tp in (1, 2, 4, 8):
        layouts.append((tp, f"TP{tp}"))
        if model.is_moe and tp > 1:
            layouts += [(tp, f"TP{tp} EP{tp}"), (tp, f"DP{tp} EP{tp}" if whole else f"DP{tp} TP1 EP{tp}")]
    return sorted((n * size, f"{n}x{name}") for size, name in layouts for n in range(1, count // size + 1))


def holds(request: Row, engines: str) -> Row | None:
    """What a fleet of that shape does at more than the request's rate, where it holds every bound; None where it does
    not, or does not run."""
    work, _, rate = request["workload"].partition(",rate=")
    gpu = request["cluster"].partition("x")[2]
    try:
        asked = {"model": request["model"], "gpu": gpu, "framework": request["framework"]}
        document = document_of_shapes(engines, asked)
        asked_rps = float(rate or HARDLY_ANY) * CLEARLY
        sent = SimulationRequest(plan=document, workload=f"{work},rate={asked_rps}", slo=request["slo"], requests=ALONE)  # type: ignore[arg-type]
        stay_s = sent.workload.osl * max(bound.limit_ms for bound in sent.slo.bounds if bound.metric == "tpot") / 1e3
        report = simulate(sent.model_copy(update={"requests": max(ALONE, round(FILLS * asked_rps * stay_s))}))
    except ShardwrightError:
        return None
    if report.falls_behind or not all(each.holds and each.simulated is not None for each in report.slo):
        return None
    return {"engines": engines, **{f"{each.metric}_p{each.percentile:g}": each.simulated.value for each in report.slo}}  # type: ignore[union-attr]


def overlooked(request: Row, below: int | None) -> list[Row]:
    """Fleets that hold where none was found, or on fewer GPUs than ``below``."""
    found = []
    for gpus, engines in shapes(request):
        if below is not None and gpus >= below:
            break
        if (seen := holds(request, engines)) is not None:
            found.append(seen)
            break
    return found


# ------------------------------------------------------------------ one line, and all of them


def made_by() -> str:
    """What answers depend on: the constants, and the programme."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for folder in ("costmodels/serving", "planner/serving", "planner/replay"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def line(number: int, *, with_ends: bool) -> Row:
    """All that is asked of the request of that number."""
    started = time.process_time()
    request, answer = planned(number)
    row: Row = {
        "number": number,
        "request": " ".join(str(value) for value in request.values()),
        "made_by": made_by(),
        "cpu_s": round(time.process_time() - started, 2),
    }
    if isinstance(answer, ShardwrightError):
        row |= {"refused": answer.message, "hint": answer.hint, "overlooked": overlooked(request, None)}
        return row
    row["engines"] = [f"{len(g.replicas)}x{g.layout.label} {g.role}" for g in answer.decision.engines]
    row["rps"], row["utilisation"] = answer.prediction.request_rate_rps.value, answer.prediction.utilisation
    row["slowest"] = round(max(SETTLES * held(each, answer.request.workload.osl) for each in answer.prediction.engines))
    if with_ends:
        row |= ends(answer)
    running = Running.of(answer)
    engines = planned_engines(running)
    row["broken"] = [
        {"seed": seed, "promises": found}
        for seed in SEEDS
        if (found := broken(answer, kept(answer, seed, engines, running)))
    ]
    if answer.request.workload.rate_rps is not None:
        row["overlooked"] = overlooked(request, answer.decision.gpus_used)
    return row


def summed_up(rows: list[Row]) -> Row:
    """The evidence."""
    plans = [row for row in rows if "refused" not in row]
    refused = [row for row in rows if "refused" in row]
    seen = [row for row in plans if "worst" in row]
    far = [row for row in seen if row["worst"] > NEAR]
    return {
        "command": "python -m tests.benchmarks.promises",
        "made_by": sorted({row["made_by"] for row in rows}),
        "requests": len(rows),
        "plans": len(plans),
        "refused": len(refused),
        "false_refusals": [row for row in refused if row["overlooked"]],
        "dearer_than_needed": [
            {name: row[name] for name in ("request", "engines", "overlooked")} for row in plans if row.get("overlooked")
        ],
        "broken": [{"request": row["request"], "broken": row["broken"]} for row in plans if row["broken"]],
        "intervals": len(seen),
        "intervals_within_10_percent": len(seen) - len(far),
        "intervals_whose_seeds_are_within_10_percent": sum(row["seeds_apart"] <= NEAR for row in seen),
        "beyond": [
            {name: row[name] for name in ("request", "utilisation", "ratios", "worst", "seeds_apart")} for row in far
        ],
        "slow": (slow := sum(row["slowest"] > MOST for row in plans)),
        "slow_pct": round(100 * slow / len(rows), 1),
        "slow_cpu_s_most": max((row["cpu_s"] for row in plans if row["slowest"] > MOST), default=None),
        "cpu_s_median": float(np.median([row["cpu_s"] for row in rows])),
        "cpu_s_p95": float(np.quantile([row["cpu_s"] for row in rows], 0.95)),
        "cpu_s_most": max(row["cpu_s"] for row in rows),
    }


def known(path: Path) -> dict[int, Row]:
    """Lines that a run before has left, by number, the last of each."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {row["number"]: row for row in map(json.loads, lines)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--plans", type=int, default=60, help="the first so many requests' intervals are compared")
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--keep", action="store_true", help="lines of other programmes and constants, too")
    parser.add_argument("--only", default="", help="numbers, joined by commas")
    asked = parser.parse_args()
    POINTS.mkdir(exist_ok=True)
    path = POINTS / "promises.jsonl"
    rows, made = known(path), made_by()
    numbers = [int(each) for each in asked.only.split(",") if each] or range(asked.first, asked.first + asked.requests)
    for number in numbers:
        if number in rows and (asked.keep or rows[number]["made_by"] == made):
            continue
        row = rows[number] = line(number, with_ends=number < asked.plans)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        write("promises", summed_up([rows[each] for each in sorted(rows)]))
        marks = "".join(f" {name.upper()} {row[name]}" for name in ("broken", "overlooked") if row.get(name))
        print(
            number, row["request"], "|", row.get("refused", row.get("engines")), row.get("worst", ""), marks, flush=True
        )
    print(json.dumps({k: len(v) if isinstance(v, list) else v for k, v in summed_up(list(rows.values())).items()}))


if __name__ == "__main__":
    main()
