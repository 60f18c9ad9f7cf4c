"""How well experts are balanced: ``python -m tests.benchmarks.experts_balance [folder of recorded counts]``.

On recorded counts where the folder (default ``../shared/data/moe``) has them, and always on generated ones (lognormal
of standard deviation 0.7): one window against the greedy baseline, groups pinned to nodes, several windows at once,
windows held out, re-planning, and small layers against exhaustive search. CPU seconds on one core, bounds included.
Writes ``costmodels/evidence/experts_balance.json``.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from planner.experts.balance import Balanced, balance
from planner.experts.baseline import greedy
from planner.experts.placement import Floats, Loads, Placement, Topology
from planner.experts.replan import replan
from tests.benchmarks.cards import write
from tests.benchmarks.held_out_windows import hold_out, select
from tests.planner.experts.skewed import optimum, skewed, topology

SHAPES = ((32, 288), (64, 320), (72, 288))
"""GPUs and slots."""

GPUS_PER_NODE = 8
BARS = {
    "balancedness 32/288": 0.9995,
    "balancedness 64/320": 0.999,
    "balancedness 72/288": 0.997,
    "cpu_s": 1.0,
    "two windows 32/288": 0.995,
    "two windows 64/320": 0.985,
    "two windows cpu_s": 8.0,
    "held out, points above the baseline": 5.0,
}
SMALL = ((4, [3, 3]), (4, [2, 2, 2]), (5, [2, 2, 2]), (6, [3, 3, 3]), (6, [2, 2, 2, 2]), (5, [4, 4]), (5, [3, 2, 1]))

Result = TypeVar("Result")


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """The answer and the lesser CPU seconds of two calls."""
    seconds = []
    for _ in range(2):
        start = time.process_time()
        answer = call()
        seconds.append(time.process_time() - start)
    return answer, round(min(seconds), 3)


def recorded(folder: Path) -> Loads | None:
    """Every ``*.json`` of counts, one window each, dense layers left out."""
    files = sorted(folder.glob("*.json"))
    if not files:
        return None
    counts = np.array([json.loads(f.read_text())["logical_count"] for f in files], np.float64)
    used = np.flatnonzero((counts.sum(axis=2) > 0).all(axis=0))
    return Loads(counts[:, used], used, tuple(f.stem for f in files), np.full(len(files), 1 / len(files)))


def shape(gpus: int, slots: int, gpus_per_node: int = GPUS_PER_NODE) -> Topology:
    return Topology.uniform(gpus, slots // gpus, gpus_per_node)


def repeats(placement: Placement) -> int:
    """Copies beyond the first of an expert on a GPU."""
    rows = placement.physical_to_logical.reshape(placement.layers, placement.topology.gpus, -1)
    return sum(len(gpu) - len(set(gpu)) for layer in rows.tolist() for gpu in layer)


def ours(found: Balanced, cpu_s: float) -> dict[str, Any]:
    proof = found.certificate
    return {
        "balancedness": [round(float(b), 5) for b in proof.balancedness.mean(axis=1)],
        "worst_layer": round(float(proof.balancedness.min()), 5),
        "best_possible": round(float((proof.mean / proof.bound).mean()), 5),
        "gap_mean_pct": round(100 * float(proof.gap.mean()), 4),
        "gap_max_pct": round(100 * float(proof.gap.max()), 4),
        "repeats_on_a_gpu": repeats(found.placement),
        "cpu_s": cpu_s,
    }


def usual(counts: Floats, gpus: Topology, groups: int | None) -> dict[str, Any]:
    placement, cpu_s = timed(lambda: greedy(counts, gpus, groups))
    return {
        "balancedness": round(float(placement.balancedness(counts).mean()), 5),
        "repeats_on_a_gpu": repeats(placement),
        "cpu_s": cpu_s,
    }


def one_window(loads: Loads) -> dict[str, Any]:
    """Every window by itself: all experts anywhere, and groups of 32 pinned to 2, 4 and 8 nodes."""
    out: dict[str, Any] = {}
    for window, (gpus, slots) in itertools.product(range(loads.windows), SHAPES):
        single = select(loads, np.array([window]))
        cases = [(f"{gpus} GPUs, {slots} slots", shape(gpus, slots), None)]
        if (gpus, slots) == (64, 320):
            cases += [
                (f"64 GPUs, 320 slots, 8 groups pinned to {n} nodes", shape(64, 320, 64 // n), 8) for n in (2, 4, 8)
            ]
        for name, where, groups in cases:
            found, cpu_s = timed(lambda s=single, w=where, g=groups: balance(s, w, groups=g))  # type: ignore[misc]
            row = {"ours": ours(found, cpu_s), "baseline": usual(single.counts[0], where, groups)}
            row["cpu_ratio"] = round(cpu_s / max(row["baseline"]["cpu_s"], 1e-3), 1)
            out[f"{loads.names[window]}: {name}"] = row
            show(f"{loads.names[window]}: {name}", row)
    return out


def windows_together(loads: Loads) -> dict[str, Any]:
    """Every two windows with one placement, and the mean and the worst of all."""
    out: dict[str, Any] = {}
    for gpus, slots in SHAPES[:2]:
        for pair in itertools.combinations(range(min(loads.windows, 3)), 2):
            both, where = select(loads, np.array(pair)), shape(gpus, slots)
            found, cpu_s = timed(lambda b=both, w=where: balance(b, w))  # type: ignore[misc]
            mean = greedy(both.averaged().counts[0], where)
            name = f"{' + '.join(both.names)}: {gpus} GPUs, {slots} slots"
            out[name] = {
                "ours": ours(found, cpu_s),
                "baseline_on_average": mean.balancedness(both.counts).mean(axis=1).round(5).tolist(),
            }
            show(name, out[name])
    return out


def held_out(loads: Loads) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for gpus, slots in SHAPES:
        where = shape(gpus, slots, gpus // 4)
        scores = hold_out(loads, where)
        pinned = []  # as DeepSeek runs its own: 8 groups on 4 nodes
        for window in range(loads.windows):
            rest = select(loads, np.delete(np.arange(loads.windows), window)).averaged()
            pinned.append(greedy(rest.counts[0], where, 8).balancedness(loads.counts[window]).mean())
        name = f"{gpus} GPUs, {slots} slots"
        out[name] = {
            "windows": list(loads.names),
            "ours": scores.ours.round(4).tolist(),
            "ours_on_average": scores.average.round(4).tolist(),
            "baseline": scores.baseline.round(4).tolist(),
            "baseline_with_groups_on_4_nodes": np.round(pinned, 4).tolist(),
            "points_above_baseline": round(100 * float((scores.ours - scores.baseline).mean()), 2),
            "points_above_baseline_with_groups": round(100 * float((scores.ours - pinned).mean()), 2),
        }
        show(name, out[name])
    return out


def replanned(loads: Loads) -> dict[str, Any]:
    """The placement of the first window in use when the second comes; 64 GPUs, 320 slots."""
    where = shape(64, 320)
    current = balance(select(loads, np.array([0])), where).placement
    found, cpu_s = timed(lambda: replan(select(loads, np.array([1])), current))
    row = {
        "frontier_moves_and_slowest_over_mean": found.frontier[:: max(len(found.frontier) // 12, 1)].round(4).tolist(),
        "copies_for_all": found.copies,
        "cpu_s": cpu_s,
    }
    show("re-planning", row)
    return row


def small_layers() -> dict[str, Any]:
    """Random small layers, one and two windows, against every placement there is."""
    ratios, tight, refuted = [], [], 0
    for k, (experts, slots) in enumerate(SMALL):
        for windows in (1, 2):
            loads, gpus = skewed(experts, 30, windows, seed=100 + k), topology(slots)
            found, best = balance(loads, gpus).certificate, optimum(loads, gpus)
            ratios.append(found.value / best)
            tight.append(found.value_bound / best)
            refuted += int((found.value_bound > best * (1 + 1e-9)).sum())
    ratio = np.concatenate(ratios)
    row = {
        "layers": len(ratio),
        "optimal_pct": round(100 * float((ratio <= 1 + 1e-5).mean()), 1),
        "mean_above_optimum_pct": round(100 * float(ratio.mean() - 1), 3),
        "max_above_optimum_pct": round(100 * float(ratio.max() - 1), 2),
        "bound_over_optimum": round(float(np.concatenate(tight).mean()), 4),
        "bounds_above_the_optimum": refuted,
    }
    show("small layers", row)
    return row


def generated() -> Loads:
    return skewed(256, 58, 3, seed=0, spread=0.7)


def show(name: str, row: dict[str, Any]) -> None:
    print(name, json.dumps(row), flush=True)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/moe")
    document: dict[str, Any] = {"command": "python -m tests.benchmarks.experts_balance", "bars": BARS}
    for name, loads in (("recorded DeepSeek counts", recorded(folder)), ("generated", generated())):
        if loads is None:
            document[name] = f"no counts in {folder}"
            continue
        document[name] = {
            "one window": one_window(loads if name.startswith("recorded") else select(loads, np.arange(1))),
            "two windows at once": windows_together(loads),
            "held out": held_out(loads),
            "re-planning": replanned(loads),
        }
    document["small layers against exhaustive search"] = small_layers()
    print(write("experts_balance", document))


if __name__ == "__main__":
    main()
