"""Fleets: how near to the best, how fast, and whether they hold (``make bench-fleet``; ``sizes``, ``published``,
``capacities`` and ``holding`` are the parts, which are also run alone: ``python -m tests.benchmarks.fleets sizes``).

* questions of the sizes that issue 16 names, made at random (seeded), each with its gap, CPU seconds and memory;
* Mélange's shape (10 × 10 sizes, 4 and 10 GPU types) beside its published formulation (arXiv:2404.14527, §5.3: every
slice of
  every size is sent whole to one type), written from the paper;
* AIBrix's way (the best fractions, rounded up for each type) beside the optimum;
* what engines carry of 400 classes on eight GPU types: how long it takes, and how good interpolation is;
* random services, replayed with seeds that no plan saw: whether promises hold (:mod:`tests.benchmarks.fleets_holding`),
  and days step by step (:mod:`tests.benchmarks.fleets_days`).

Writes ``costmodels/evidence/fleets.json`` and the tables of ``docs/fleets.md`` (:mod:`tests.benchmarks.fleets_told`).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from planner.solving.mix import clock
from planner.solving.mix.question import Block, Kinds, MixQuestion, Survive
from planner.solving.mix.solve import MixAnswer, solve_mix
from planner.solving.solvers import Floats, Highs, Problem, Row
from tests.benchmarks.cards import write
from tests.benchmarks.fleets_told import EVIDENCE, page

PAGE = Path(__file__).parents[2] / "docs" / "fleets.md"
START, END = "<!-- generated: tests/benchmarks/fleets.py -->", "<!-- end of what is generated -->"

HOUR_S = 3600.0


def question(
    classes: int, kinds: int, rps: float, *, steps: int = 1, tight: bool = False, engines: int = 0, seed: int = 0
) -> MixQuestion:
    """Classes of lengths from 50 to 60,000 and 20 to 3,000 tokens on engines of one to eight GPUs; ``tight``: each pool
    has half of what the cheapest engines would take; of several steps, half of the kinds are on spot and engines start
    in ten minutes."""
    rng = np.random.default_rng(seed)
    types = kinds // 2 if steps > 1 else kinds
    gpus = 2 ** rng.integers(0, 4, types)
    price = rng.uniform(1, 8, max(types // 3, 1))
    pool = np.arange(types) % len(price)
    cost = price[pool] * gpus
    isl, osl = np.exp(rng.uniform(4, 11, classes)), np.exp(rng.uniform(3, 8, classes))
    reads, writes = rng.uniform(0.5, 2, types), rng.uniform(0.5, 2, types)
    capacity = 1 / (isl[:, None] / (20_000 * cost * reads) + osl[:, None] / (1_500 * cost * writes))
    capacity[(isl > 40_000)[:, None] & (gpus < 2)[None, :]] = 0
    spot = np.zeros(types, np.int64)
    if steps > 1:
        capacity, gpus, pool = np.hstack([capacity, capacity]), np.tile(gpus, 2), np.tile(pool, 2)
        cost, spot = np.concatenate([cost, 0.45 * cost]), np.repeat([0, 1], types)
    works, base = [], rng.dirichlet(np.ones(classes))
    for t in range(steps):
        wave = np.sin(2 * np.pi * t / 24)
        mix = base * np.exp(0.5 * np.sin(2 * np.pi * t / 24 + np.linspace(0, 3, classes))) if steps > 1 else base
        rate = rps * (1 + 0.5 * wave if steps > 1 else 1) * mix / mix.sum()
        works.append(np.where(capacity > 0, rate[:, None] / np.maximum(capacity, 1e-9), np.inf))
    n = len(cost)
    made = Kinds(
        cost, gpus, np.full(n, 8), pool, np.full(n, -1), spot, np.full(n, 600.0 if steps > 1 else 0.0), np.zeros(n)
    )
    blocks = list(_halved(works, made, len(price))) if tight else []
    return MixQuestion(made, works, np.full(steps, HOUR_S), blocks, Survive(engines=engines), cyclic=steps > 1)


def _halved(works: list[Floats], kinds: Kinds, pools: int) -> Iterator[Block]:
    work = max(works, key=lambda each: float(np.where(np.isfinite(each), each, 1e9).sum()))
    best = np.where(np.isfinite(work), work * kinds.cost, np.inf).argmin(axis=1)
    used = np.zeros(len(kinds))
    np.add.at(used, best, work[np.arange(len(work)), best])
    for pool in range(pools):
        for spot in (0, 1):
            mine = np.flatnonzero((kinds.pool == pool) & (kinds.spot == spot))
            taken = float((used * kinds.gpus)[mine].sum())
            if taken > 0:
                yield Block(f"{pool} {spot}", mine, kinds.gpus[mine].astype(float), float(np.ceil(max(taken / 2, 8))))


SIZES = (
    ("400 classes × 30 kinds, 10,000 rps", {"classes": 400, "kinds": 30, "rps": 1e4}, 20, 1e-6),
    ("…, quotas, any engine lost", {"classes": 400, "kinds": 30, "rps": 1e4, "tight": True, "engines": 1}, 30, 1e-4),
    ("…, 1,000 rps", {"classes": 400, "kinds": 30, "rps": 1e3, "tight": True, "engines": 1}, 30, 1e-4),
    ("…, 100 rps", {"classes": 400, "kinds": 30, "rps": 1e2, "tight": True, "engines": 1}, 60, 1e-4),
    (
        "24 h, 400 × 60, half spot, 10,000 rps",
        {"classes": 400, "kinds": 60, "rps": 1e4, "steps": 24, "tight": True, "engines": 1},
        90,
        5e-3,
    ),
    (
        "24 h, 64 × 20, 1,000 rps",
        {"classes": 64, "kinds": 20, "rps": 1e3, "steps": 24, "tight": True, "engines": 1},
        30,
        2e-3,
    ),
    (
        "24 h, 64 × 20, 200 rps",
        {"classes": 64, "kinds": 20, "rps": 2e2, "steps": 24, "tight": True, "engines": 1},
        60,
        1e-2,
    ),
)


SEEDS = {"24 h, 64 × 20, 1,000 rps": (0, 1)}
"""Of questions that are made more than once: how hard one is depends on what is drawn."""


def sizes() -> list[dict[str, Any]]:
    """Each question: its gap (None: nothing found), CPU seconds and memory."""
    rows: list[dict[str, Any]] = []
    clock.SLOWEST = 1e3  # processor seconds alone, however busy the machine is
    for name, asked, limit, gap in SIZES:
        for seed in SEEDS.get(name, (0,)):
            cpu, wall = time.process_time(), time.perf_counter()
            found = solve_mix(question(**asked, seed=seed), seconds=limit, gap=gap)  # type: ignore[arg-type]
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            rows.append(
                {"question": name, "seed": seed, "gap": _gap(found), "cpu_s": round(cpu, 1), "wall_s": round(wall),
                 "peak_mb": round(peak)}
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def _gap(found: MixAnswer) -> float | None:
    return 0.0 if found.status == "optimal" else found.gap


# ------------------------------------------------------------------ Mélange and AIBrix


def published(work: Floats, cost: Floats, slices: int, seconds: float) -> tuple[float, float]:
    """(cost, CPU seconds) of Mélange's formulation: every size in ``slices`` parts, each sent whole to one type."""
    _groups, n = work.shape
    parts = np.repeat(work / slices, slices, axis=0)
    m = len(parts) * n
    columns = np.arange(m).reshape(len(parts), n)
    fits = np.isfinite(parts)
    rows = [Row(f"slice {i}", columns[i][fits[i]], np.ones(int(fits[i].sum())), "==", 1.0) for i in range(len(parts))]
    for v in range(n):
        mine = np.flatnonzero(fits[:, v])
        rows.append(Row(f"type {v}", np.append(columns[mine, v], m + v), np.append(parts[mine, v], -1.0), "<=", 0.0))
    upper = np.append(np.where(fits, 1.0, 0.0).ravel(), np.ceil(np.where(fits, parts, 0).sum(axis=0)) + 1)
    goal = np.append(np.zeros(m), cost)
    problem = Problem(goal, np.ones(m + n, np.bool_), np.zeros(m + n), upper, tuple(rows))
    cpu = time.process_time()
    found = Highs().solve(problem, seconds)
    assert found.objective is not None
    return found.objective, time.process_time() - cpu


def rounded_up(work: Floats, cost: Floats) -> float:
    """AIBrix's way: every size to the type that is cheapest for it, each type's engines rounded up."""
    worth = np.where(np.isfinite(work), work * cost, np.inf)
    best = worth.argmin(axis=1)
    used = np.zeros(len(cost))
    np.add.at(used, best, work[np.arange(len(work)), best])
    return float(np.ceil(used - 1e-9) @ cost)


def melange_shapes() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for types in (4, 10):
        for rps in (1.0, 8.0, 32.0):
            for slices in (1, 4):
                rng = np.random.default_rng(int(types * 100 + rps))
                cost = np.sort(rng.uniform(0.7, 8, types))
                isl, osl = (
                    each.ravel() for each in np.meshgrid(np.geomspace(25, 32_000, 10), np.geomspace(25, 2_000, 10))
                )
                speed = cost * rng.uniform(0.7, 1.4, types)
                capacity = 1 / (
                    isl[:, None] / (9_000 * speed) + osl[:, None] / (700 * speed * rng.uniform(0.7, 1.4, types))
                )
                capacity[(isl[:, None] > 8_000) & (np.arange(types)[None, :] < types // 3)] = 0
                rate = rps * rng.dirichlet(np.ones(100))
                work = np.where(capacity > 0, rate[:, None] / np.maximum(capacity, 1e-12), np.inf)
                n = np.zeros(types, np.int64)
                kinds = Kinds(cost, n + 1, n + 8, np.arange(types), n - 1, n, n * 0.0, n * 0.0)
                cpu = time.process_time()
                ours = solve_mix(MixQuestion(kinds, [work], np.array([HOUR_S])), seconds=30)
                cpu = time.process_time() - cpu
                assert ours.objective is not None
                theirs, their_cpu = published(work, cost, slices, 60.0)
                assert ours.objective <= theirs * (1 + 1e-9)
                rows.append(
                    {"types": types, "rps": rps, "slices": slices, "cost_over_its": round(ours.objective / theirs, 4),
                     "gap": _gap(ours), "cpu_s": round(cpu, 3), "its_cpu_s": round(their_cpu, 3),
                     "rounded_over_ours": round(rounded_up(work, cost) / ours.objective, 3)}
                )  # fmt: skip
                print(rows[-1], flush=True)
    return rows


CATALOGUE = ("A100-SXM", "H100-SXM", "H200", "B200", "B300", "L40S", "MI300X", "MI325X")

WORKED_OUT = 24
"""Classes of which the cells are worked out, to see how far interpolated ones are from them."""


def capacities() -> dict[str, Any]:
    """What engines carry of 400 classes on eight GPU types, every layout: CPU seconds, the first time and again, and
    how far interpolated cells are from those that are worked out."""
    from costmodels.kernels.kept import keeping
    from planner.contract.workload.classes import LengthClass
    from planner.contract.workload.workload import Workload
    from planner.serving.fleets.capacities import Capacities, service_request
    from planner.serving.fleets.engines import cluster_of
    from planner.serving.fleets.request import parse_fleet_request
    from planner.serving.planning import cost_models
    from profiles.descriptions import catalogue_with

    rng = np.random.default_rng(0)
    isl, osl = np.exp(rng.uniform(np.log(50), np.log(8_000), 400)), np.exp(rng.uniform(np.log(20), np.log(800), 400))
    classes = [
        LengthClass(isl_from=a, isl_to=a + 1, osl_from=b, osl_to=b + 1, isl=a, osl=b, rate_rps=0.1)
        for a, b in zip(isl.tolist(), osl.tolist(), strict=True)
    ]
    service = {
        "name": "s", "model": "Qwen/Qwen3-8B", "slo": "ttft_p90=1.5s,tpot_p90=60ms",
        "load": {"classes": [{"isl": 50, "osl": 20, "rate_rps": 1}, {"isl": 60, "osl": 20, "rate_rps": 1}]},
    }  # fmt: skip
    pools = [{"gpu": gpu, "as_needed": True} for gpu in CATALOGUE]
    request = parse_fleet_request(
        {"cluster": {"name": "c", "pools": pools}, "services": [service], "objective": "gpus"}
    )
    asked, cluster = request.services[0], cluster_of(request)
    some = Workload(isl=50, osl=20, rate_rps=1.0)
    cost = cost_models(service_request(request, asked, cluster, some), catalogue_with(()), None, (), lambda _: None)

    def made() -> Capacities:
        return Capacities(request, asked, cluster, cost, lambda _: None)

    made().of(classes[:1])  # forests are loaded
    took = []
    with keeping(120):
        for _ in range(2):
            cpu = time.process_time()
            keys, cells = made().of(classes)
            took.append(time.process_time() - cpu)
        sample = rng.choice(len(classes), WORKED_OUT, replace=False)
        exact_keys, exact = made()._worked_out(np.array([(classes[i].isl, classes[i].osl) for i in sample]))
    index = {key.key: k for k, key in enumerate(exact_keys)}
    off = [
        abs(cells[i, k] / exact[j, index[key.key]] - 1)
        for j, i in enumerate(sample) for k, key in enumerate(keys)
        if key.key in index and cells[i, k] > 0 and exact[j, index[key.key]] > 0
    ]  # fmt: skip
    return {
        "classes": len(classes), "gpus": list(CATALOGUE), "cpu_s": round(took[0], 1), "again_cpu_s": round(took[1], 2),
        "cells": len(off), "median": round(float(np.median(off)), 4), "p95": round(float(np.percentile(off, 95)), 4),
    }  # fmt: skip


def whether_they_hold() -> None:
    from tests.benchmarks.fleets_days import judge
    from tests.benchmarks.fleets_holding import holding

    holding()
    judge()


PARTS = {"sizes": sizes, "published": melange_shapes, "capacities": capacities, "holding": whether_they_hold}


def main(arguments: list[str]) -> None:
    for name, part in PARTS.items():
        if not arguments or name in arguments:
            made = part()
            if made is not None:
                known = json.loads(EVIDENCE.read_text("utf-8")) if EVIDENCE.exists() else {}
                write("fleets", {**known, name: made})
    before, rest = PAGE.read_text("utf-8").split(START)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{START}\n{page()}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
