"""Whether fleets hold (``python -m tests.benchmarks.fleets holding``, a part of ``make bench-fleet``).

Random services (two or three GPU types, 20 to 200 classes, p90 and p99) are planned as `plan fleet` does and replayed
as `plan simulate` does, with seeds that no plan saw: at the planned load; at more of it, until the promise breaks; and,
planned with ``survive: {engines: 1}``, with one engine of the worst kind lost while the replay runs. Beside it what the
formulas alone would buy (`--no-simulation`): every engine full, and no room for the tail.

``HOLDING_S`` seconds at most (of the wall): services that were not begun by then stand as they were judged before.
``python -m tests.benchmarks.fleets_holding 10 20`` judges those of these numbers.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from costmodels.kernels.kept import keeping
from planner.replay.report import simulate
from planner.replay.request import parse_simulation_request
from planner.serving.document.plan import Plan
from planner.serving.fleets.planning import plan_fleet
from planner.serving.fleets.request import parse_fleet_request
from tests.benchmarks.cards import rows_text

EVIDENCE = Path(__file__).parents[2] / "costmodels" / "evidence" / "fleets_holding.json"

HOLDING_S = float(os.environ.get("HOLDING_S", "inf"))

SERVICES, SEEDS = 30, (11, 12, 13, 14, 15)

LASTS_S, WITH_LOSS_S = 120.0, 600.0
"""Of a replay, several times what a request takes; with a loss longer: what its requests, sent again, leave behind is
worked off in a minute or two by engines that are full but for the tail's room."""

FEWEST, MOST = 5_000, 90_000
"""Requests of a replay."""

MORE = {90: 1.08, 99: 1.15}
"""Load at which a fleet of ten engines or more is to break, ÷ what it was planned for."""

TRIED = (*(1 + 0.01 * i for i in range(1, 17)), 1.18, 1.2, 1.25, 1.3, 1.4, 1.5)

FLUID = 10
"""Services of which the fluid optimum is replayed, too."""

SETTINGS = (
    ("Qwen/Qwen3-8B", ("H100", "L40S"), "ttft_p{p}=1.5s,tpot_p{p}=60ms"),
    ("meta-llama/Llama-3.1-8B-Instruct", ("H100", "L40S", "H200"), "ttft_p{p}=1s,tpot_p{p}=40ms"),
    ("Qwen/Qwen3-30B-A3B", ("A100", "H100"), "ttft_p{p}=2s,tpot_p{p}=50ms"),
)
"""Models, GPU types and promises, which services take in turns."""

PROMPTS, OUTPUTS = (50, 8_000), (20, 800)


@dataclass
class Service:
    """One service: what was planned, and what replays made of it. ``held``: of the seeds; ``breaks``: the load that
    breaks the promise at the first seed, ÷ the planned one (None: more than all that were tried)."""

    number: int
    model: str
    percentile: int
    classes: int
    rps: float
    engines: int = 0
    held: int = 0
    breaks: float | None = None
    shares: list[float] = field(default_factory=list)
    loss_engines: int = 0
    lost: str = ""
    loss_held: int = 0
    fluid_held: int | None = None


def request_of(number: int, **more: Any) -> tuple[dict[str, Any], Service]:
    """The fleet request of a service."""
    rng = np.random.default_rng(900 + number)
    model, types, promise = SETTINGS[number % len(SETTINGS)]
    percentile = 90 if number // len(SETTINGS) % 2 == 0 else 99
    prompts, outputs = int(rng.integers(5, 15)), int(rng.integers(4, 15))
    isl, osl = (np.unique(np.rint(np.geomspace(*ends, count + 1)).astype(int)).tolist()
                for ends, count in ((PROMPTS, prompts), (OUTPUTS, outputs)))  # fmt: skip
    rps = float(rng.choice([10, 40, 120, 240]))
    rates = rng.lognormal(0, 1, (len(isl) - 1, len(osl) - 1))
    rates *= rps / rates.sum()
    classes = [
        {"isl_from": isl[i], "isl_to": isl[i + 1], "osl_from": osl[j], "osl_to": osl[j + 1], "rate_rps": float(rate)}
        for (i, j), rate in np.ndenumerate(rates)
    ]
    pools = [{"gpu": gpu, "as_needed": True} for gpu in types]
    service = {"name": "s", "model": model, "slo": promise.format(p=percentile), "load": {"classes": classes}}
    asked = {"cluster": {"name": "c", "pools": pools}, "services": [service], **more}
    return asked, Service(number, model, percentile, len(classes), rps)


def _engines(plan: Plan) -> dict[str, int]:
    return plan.decision.schedule[0].engines


def _requests(service: Service, seconds: float) -> int:
    return int(np.clip(service.rps * seconds, FEWEST, MOST))


def _share(plan: Plan, service: Service, seed: int, **more: Any) -> float:
    """The least share of requests that meet a bound, less what was promised: 0 or more holds."""
    requests = _requests(service, WITH_LOSS_S if "fail" in more else LASTS_S)
    report = simulate(parse_simulation_request({"plan": plan, "requests": requests, "seed": seed, **more}))
    return min(each.share.value - each.percentile / 100 for each in report.slo)


def judged(number: int) -> Service:
    """Plans and replays one service."""
    asked, service = request_of(number)
    plan = plan_fleet(parse_fleet_request(asked))
    service.engines = sum(_engines(plan).values())
    service.shares = [round(_share(plan, service, seed), 5) for seed in SEEDS]
    service.held = sum(share >= 0 for share in service.shares)
    tried = list(TRIED)
    while tried:  # bisected: what carries more carries less, too
        middle = len(tried) // 2
        broke = _share(plan, service, SEEDS[0], rate=service.rps * tried[middle]) < 0
        service.breaks = round(tried[middle], 2) if broke else service.breaks
        tried = tried[:middle] if broke else tried[middle + 1 :]
    asked, _ = request_of(number, survive={"engines": 1})
    plan = plan_fleet(parse_fleet_request(asked))
    service.loss_engines = sum(_engines(plan).values())
    at_s = 0.1 * _requests(service, WITH_LOSS_S) / service.rps
    losses = {f"1*{group}@{at_s:g}": 0.0 for group, count in _engines(plan).items() if count}
    for loss in losses:
        losses[loss] = _share(plan, service, SEEDS[0], fail=loss)
    service.lost = min(losses, key=lambda loss: losses[loss])
    held = [losses[service.lost], *(_share(plan, service, seed, fail=service.lost) for seed in SEEDS[1:])]
    service.loss_held = sum(share >= 0 for share in held)
    if number < FLUID:
        asked, _ = request_of(number, simulation=False)
        plan = plan_fleet(parse_fleet_request(asked))
        service.fluid_held = sum(_share(plan, service, seed) >= 0 for seed in SEEDS)
    return service


def told(services: list[Service]) -> list[str]:
    """What they showed, in words and a table."""
    n, large = len(services) * len(SEEDS), [each for each in services if each.engines >= 10]
    held, after = sum(each.held for each in services), sum(each.loss_held for each in services)
    fluid = [each.fluid_held for each in services if each.fluid_held is not None]
    within = sum(each.breaks is not None and each.breaks <= MORE[each.percentile] for each in large)
    words = (
        f"{len(services)} of {SERVICES} random services (two or three GPU types, {min(s.classes for s in services)}–"
        f"{max(s.classes for s in services)} classes), each replayed with {len(SEEDS)} seeds that no plan saw: "
        f"**{held} of {n} replays hold** at the planned load ({held / n:.1%}), {after} of {n} ({after / n:.1%}) where "
        f"one engine may be lost and the worst one is, a tenth of the way through; of what the formulas alone would "
        f"buy, with no room for the tail, {sum(fluid)} of {len(fluid) * len(SEEDS)}. Of {len(large)} fleets of ten "
        f"engines or more {within} break at 8 % (p90) or 15 % (p99) more load, or before."
    )
    rows = ["| service | promise | classes | engines | holds | breaks at | with a loss: engines | holds | formulas |"]
    rows += ["|---|---|---|---|---|---|---|---|---|"]
    for s in services:
        formulas = "" if s.fluid_held is None else s.fluid_held
        breaks = "more" if s.breaks is None else f"{s.breaks:g}"
        rows.append(
            f"| {s.model.split('/')[1]}, {s.rps:g} rps | p{s.percentile} | {s.classes} | {s.engines} | {s.held} of "
            f"{len(SEEDS)} | {breaks} | {s.loss_engines} | {s.loss_held} | {formulas} |"
        )
    return [words, "", *rows]


def holding(first: int = 0, end: int = SERVICES) -> list[str]:
    """Judges services ``first`` to ``end``; the evidence holds them beside the others."""
    until = time.perf_counter() + HOLDING_S
    with keeping(120):
        for number in range(first, end):
            if time.perf_counter() > until:
                break
            cpu = time.process_time()
            one = judged(number)
            print(f"{time.process_time() - cpu:.0f} CPU s", one, flush=True)
            every = {each.number: each for each in (*known(), one)}
            text = rows_text([asdict(every[number]) for number in sorted(every)])
            EVIDENCE.write_text(text + "\n", "utf-8")
    return told(known())


def known() -> list[Service]:
    """What the evidence holds."""
    return [Service(**each) for each in json.loads(EVIDENCE.read_text("utf-8"))] if EVIDENCE.exists() else []


if __name__ == "__main__":
    print("\n".join(holding(*map(int, sys.argv[1:]))))
