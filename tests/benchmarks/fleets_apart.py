"""Fleets whose requests are prefilled apart from where they are decoded (``python -m
tests.benchmarks.fleets_apart``): random services on two or three GPU types, planned with engines that do both, engines
of one role, and with whichever costs less; those of one role replayed with seeds that no plan saw.

Writes its table of ``docs/fleets.md``. ``APART_S``: seconds of the wall after which no further service is begun.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parents[2] / "docs" / "fleets.md"
START, END = "<!-- generated: tests/benchmarks/fleets_apart.py -->", "<!-- end of fleets_apart -->"

SERVICES, SEEDS = 12, (1, 2, 3)

APART_S = float(os.environ.get("APART_S", "inf"))


def service(number: int) -> tuple[dict[str, Any], str, float]:
    """(a fleet's request, what it is in words, requests per second)."""
    rng = np.random.default_rng(900 + number)
    percentile = int(rng.choice([90, 99]))
    edges = np.unique(np.rint(np.geomspace(50, 8_000, int(rng.integers(3, 7)))).astype(int))
    rates = rng.dirichlet(np.ones(len(edges) - 1)) * float(rng.choice([8, 30, 120]))
    classes = []
    for low, high, rate in zip(edges.tolist(), edges[1:].tolist(), rates.tolist(), strict=False):
        osl_to = int(rng.integers(150, 500))
        classes.append({"isl_from": low, "isl_to": high, "osl_from": 50, "osl_to": osl_to, "rate_rps": rate})
    tpot, ttft = int(rng.choice([15, 25, 60])), float(rng.choice([0.5, 1.5]))
    slo = f"ttft_p{percentile}={ttft}s,tpot_p{percentile}={tpot}ms"
    types = ("H100", "L40S", "H200")[: 2 + number % 2]
    fleet = {
        "cluster": {"name": "c", "pools": [{"gpu": gpu, "as_needed": True} for gpu in types]},
        "services": [{"name": "s", "model": "Qwen/Qwen3-8B", "slo": slo, "load": {"classes": classes}}],
    }
    said = f"{rates.sum():.0f} rps, {len(classes)} ranges, TTFT {ttft:g} s and TPOT {tpot} ms at p{percentile}"
    return fleet, said, float(rates.sum())


def table() -> list[str]:
    from planner.replay.report import simulate
    from planner.replay.request import parse_simulation_request
    from planner.serving.fleets.planning import plan_fleet
    from planner.serving.fleets.request import parse_fleet_request

    rows = [
        "| service | together, USD/h | apart | `auto` | CPU s, together / auto | replays that hold |",
        "|---" * 6 + "|",
    ]
    until, held, replays = time.perf_counter() + APART_S, 0, 0
    for number in range(SERVICES):
        if time.perf_counter() > until:
            break
        fleet, said, rate = service(number)
        usd, cpu, plan = {}, {}, None
        for way in ("never", "always", "auto"):
            begun = time.process_time()
            plan = plan_fleet(parse_fleet_request({**fleet, "disaggregation": way}))
            usd[way], cpu[way] = plan.decision.usd_per_hour, time.process_time() - begun
            if way == "always":
                apart = plan
        requests = int(min(20_000, max(4_000, 600 * rate)))
        kept = 0
        for seed in SEEDS:
            report = simulate(parse_simulation_request({"plan": apart, "requests": requests, "seed": seed}))
            kept += all(each.holds for each in report.slo)
        held, replays = held + kept, replays + len(SEEDS)
        rows.append(
            f"| {said} | {usd['never']:.2f} | {usd['always']:.2f} | {usd['auto']:.2f} "
            f"| {cpu['never']:.1f} / {cpu['auto']:.1f} | {kept} of {len(SEEDS)} |"
        )
        print(rows[-1], flush=True)
    return [
        *rows,
        "",
        f"Of engines that prefill and decode apart {held} of {replays} replays hold at the planned load.",
    ]


def main() -> None:
    rows = "\n".join(table())
    before, rest = PAGE.read_text("utf-8").split(START)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{START}\n{rows}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
