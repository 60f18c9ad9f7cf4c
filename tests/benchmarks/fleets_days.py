"""Whether days hold step by step (``python -m tests.benchmarks.fleets_days``, a part of ``make bench-fleet``).

Random days whose rates and mixtures of lengths change from step to step are planned as `plan fleet` does, in its
default time limit, and replayed as `plan simulate` does with seeds that no plan saw; the promise is asked of the
requests of each step by themselves. ``python -m tests.benchmarks.fleets_days 1 3`` judges those of these numbers.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from costmodels.kernels.kept import keeping
from planner.replay.request import parse_simulation_request
from planner.replay.scheduled import scheduled
from planner.serving.document.plan import Plan
from planner.serving.fleets.planning import plan_fleet
from planner.serving.fleets.request import parse_fleet_request
from tests.benchmarks.cards import rows_text

EVIDENCE = Path(__file__).parents[2] / "costmodels" / "evidence" / "fleets_days.json"

SEEDS = (21, 22, 23)

DAY_S = 86_400.0

PROMPTS, OUTPUTS = np.geomspace(30, 8_000, 7), np.geomspace(20, 2_000, 5)

QWEN, LLAMA, EXPERTS = "Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-30B-A3B"


@dataclass(frozen=True)
class Setting:
    """A day: of each service its model; the promise, GPU types, steps, the mean rate of a service."""

    models: tuple[str, ...]
    slo: str
    types: tuple[str, ...]
    steps: int
    rps: float
    spot: bool = False
    lost: int = 0


SETTINGS = (
    Setting((QWEN,), "ttft_p90=1.5s,tpot_p90=60ms", ("H100", "L40S"), 24, 30),
    Setting((LLAMA,), "ttft_p99=1s,tpot_p99=40ms", ("H100", "L40S", "H200"), 24, 25),
    Setting((EXPERTS, QWEN), "ttft_p90=2s,tpot_p90=50ms", ("A100", "H100"), 24, 12),
    Setting((QWEN,), "ttft_p90=1.5s,tpot_p90=60ms", ("H100", "L40S"), 24, 30, spot=True, lost=1),
    Setting((LLAMA,), "ttft_p90=1s,tpot_p90=40ms", ("H100", "L40S", "A100"), 96, 20),
)


@dataclass
class Day:
    """``said``: whether the plan says that it holds (None: it does not know); ``held``: steps of replays that do, of
    ``steps``; ``worst``: the least share of a step's requests within a bound, less what was promised."""

    number: int
    usd_per_hour: float
    gap: float | None
    cpu_s: float
    said: list[bool | None] = field(default_factory=list)
    steps: int = 0
    held: int = 0
    worst: float = 1.0


def request_of(number: int) -> dict[str, Any]:
    """The fleet request of a day: mixtures that move between three, at rates that rise and fall."""
    setting, rng = SETTINGS[number], np.random.default_rng(700 + number)
    prompts, outputs = (np.rint(ends).astype(int).tolist() for ends in (PROMPTS, OUTPUTS))
    services = []
    for s, model in enumerate(setting.models):
        base, day, twice = (rng.normal(0, 1, (len(prompts) - 1, len(outputs) - 1)) for _ in range(3))
        steps = []
        for t in range(setting.steps):
            phase = 2 * np.pi * (t / setting.steps + 0.3 * s)
            share = np.exp(base + 0.9 * np.sin(phase) * day + 0.9 * np.cos(2 * phase) * twice)
            rate = setting.rps * (1 + 0.6 * np.sin(phase + 1)) * rng.lognormal(0, 0.05)
            classes = [
                {"isl_from": prompts[i], "isl_to": prompts[i + 1], "osl_from": outputs[j], "osl_to": outputs[j + 1],
                 "rate_rps": float(rate * part / share.sum())}
                for (i, j), part in np.ndenumerate(share)
            ]  # fmt: skip
            start, end = (DAY_S * edge / setting.steps for edge in (t, t + 1))
            steps.append({"start_s": start, "end_s": end, "classes": classes})
        services.append({"name": f"s{s}", "model": model, "slo": setting.slo, "load": {"steps": steps}})
    pools: list[dict[str, Any]] = [{"gpu": gpu, "as_needed": True, "startup_s": 300} for gpu in setting.types]
    if setting.spot:
        pools[0] = {
            "gpu": setting.types[0],
            "gpus": 32,
            "spot_gpus": 16,
            "spot_usd_per_gpu_hour": 1.25,
            "startup_s": 300,
        }
    survive = {"survive": {"engines": setting.lost}} if setting.lost else {}
    return {"cluster": {"name": "c", "pools": pools}, "services": services, **survive}


def shares(plan: Plan, seed: int) -> list[float]:
    """Of each service, step and bound, the share of requests that meet it, less what was promised."""
    replayed = scheduled(parse_simulation_request({"plan": plan, "seed": seed}), plan, (), None)
    seen, load = replayed.outcome.requests, replayed.load
    starts = np.array([step.start_s for step in plan.decision.schedule])
    step = np.searchsorted(starts, load.requests.arrival_us / 1e6, side="right") - 1
    found = []
    for s, service in enumerate(plan.request.services):
        for bound in service.slo.bounds:
            waits = seen.first_us - seen.arrival_us
            each = (seen.finish_us - seen.first_us) / np.maximum(seen.osl - 1, 1)
            met = np.where(seen.osl > 1, each, 0.0) if bound.metric == "tpot" else waits
            within = met <= bound.limit_ms * 1e3  # not a number where a request was refused: it misses
            for t in range(len(starts)):
                mine = (step == t) & (load.service == s)
                if mine.any():
                    found.append(float(within[mine].mean()) - bound.percentile / 100)
    return found


def judged(number: int) -> Day:
    """Plans and replays one day."""
    cpu = time.process_time()
    plan = plan_fleet(parse_fleet_request(request_of(number)))
    usd, gap = plan.decision.usd_per_hour, plan.proof.gap
    assert usd is not None
    day = Day(number, round(usd, 3), gap, round(time.process_time() - cpu, 1))
    day.said = [service.holds for service in plan.prediction.services]
    for seed in SEEDS:
        # A step holds where all of its bounds do, of all services.
        every = np.array(shares(plan, seed)).reshape(-1, len(plan.decision.schedule)).min(axis=0)
        day.steps, day.held = day.steps + len(every), day.held + int((every >= 0).sum())
        day.worst = round(min(day.worst, float(every.min())), 4)
    return day


def known() -> list[Day]:
    """What the evidence holds."""
    return [Day(**each) for each in json.loads(EVIDENCE.read_text("utf-8"))] if EVIDENCE.exists() else []


def told(days: list[Day]) -> list[str]:
    """What they showed, in words and a table."""
    held, steps = sum(each.held for each in days), sum(each.steps for each in days)
    rows = ["| day | promise | GPU types | USD/h | gap | CPU s | the plan says | steps that hold | worst |"]
    rows += ["|---|---|---|---|---|---|---|---|---|"]
    for each in days:
        setting = SETTINGS[each.number]
        more = [*(["spot"] if setting.spot else []), *(["any engine lost"] if setting.lost else [])]
        names = " and ".join(model.split("/")[1] for model in setting.models)
        said = ", ".join({True: "holds", False: "misses", None: "not known"}[one] for one in each.said)
        gap = "none" if each.gap is None else f"{each.gap:.1%}"
        rows.append(
            f"| {', '.join((f'{names}, {setting.steps} steps', *more))} | {setting.slo} | {', '.join(setting.types)} | "
            f"{each.usd_per_hour:.2f} | {gap} | {each.cpu_s:g} | {said} | {each.held} of {each.steps} | "
            f"{each.worst:+.3f} |"
        )
    words = (
        f"{len(days)} of {len(SETTINGS)} days whose rates and mixtures change from step to step (`python -m "
        f"tests.benchmarks.fleets_days`), replayed with {len(SEEDS)} seeds that no plan saw, each step judged by "
        f"itself: **{held} of {steps} steps hold**. *Worst*: the least share of a step's requests within a bound, less "
        "what was promised. *Not known*, *misses*: the time limit ended, on a machine that others used, before the "
        "engines of some kind had been simulated in all of their steps, or before the fleet was mended where they miss."
    )
    return [words, "", *rows]


def judge(first: int = 0, end: int = len(SETTINGS)) -> list[str]:
    """Judges days ``first`` to ``end``; the evidence holds them beside the others."""
    with keeping(120):
        for number in range(first, end):
            one = judged(number)
            print(one, flush=True)
            every = {each.number: each for each in (*known(), one)}
            EVIDENCE.write_text(rows_text([asdict(every[number]) for number in sorted(every)]) + "\n", "utf-8")
    return told(known())


if __name__ == "__main__":
    print("\n".join(judge(*map(int, sys.argv[1:]))))
