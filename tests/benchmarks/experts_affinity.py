"""Inter-layer affinity: crossings found, bounds, held-out gains, CPU seconds; and the frontier of balance against them.

    python -m tests.benchmarks.experts_affinity [--routes mixtral_top2_routes.jsonl] [--plot frontier.png]

Recorded Mixtral routes are used where they lie in ``../shared/data/moe`` or are named; everything else is generated.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np

from costmodels.models.registry import find_architecture
from planner.experts import exact
from planner.experts.affinity import LoadLimit, near, relabelled
from planner.experts.balance import balance
from planner.experts.crossings import Distance, crossings, crossings_bound
from planner.experts.model import moe_model
from planner.experts.placement import Floats, Ints, Loads, Placement, Routes, Topology
from planner.experts.routes import loads_of_routes, read_routes
from tests.benchmarks.cards import write
from tests.benchmarks.planted import planted_loads, planted_routes

RECORDED = Path(__file__).parents[2].parent / "shared" / "data" / "moe" / "mixtral_8x7b_gsm8k_top2_routing.jsonl"
MODEL = "mistralai/Mixtral-8x7B-v0.1"
TOLERANCES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routes", type=Path, default=RECORDED)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    document: dict[str, Any] = {"command": "python -m tests.benchmarks.experts_affinity"}
    sources = {"generated, 32 layers × 8 experts": _generated_halves()}
    if asked.routes.exists():
        recorded = read_routes(asked.routes, moe_model(find_architecture(MODEL)))
        sources[f"recorded, {asked.routes.name}"] = (recorded.all, *recorded.halves)
    document["small"] = [
        _small(name, *routes, *shape) for name, routes in sources.items() for shape in ((8, 1), (4, 2))
    ]
    document["planted"] = [_planted(*shape) for shape in ((4, 0.7, 64), (4, 0.7, 8), (5, 0.7, 64))]
    document["frontier"] = {name: _frontier(routes[0]) for name, routes in sources.items()}
    document["frontier_planted"] = _planted_frontier()
    for part in ("small", "planted"):
        for row in document[part]:
            print(row)
    for name, points in {**document["frontier"], "planted": document["frontier_planted"]}.items():
        print(name, points)
    print(write("experts_affinity", document))
    if asked.plot is not None:
        _draw({**document["frontier"], "planted, 61 × 256 with copies": document["frontier_planted"]}, asked.plot)


def _generated_halves() -> tuple[Routes, Routes, Routes]:
    """Routes of groups that do not balance: near and balanced are at odds, as in recorded ones."""
    _, group = planted_loads(32, 4, 2, 0.3, seed=3)
    loads = np.exp(np.random.default_rng(3).normal(0.0, 0.3, group.shape))
    first, second = (planted_routes(loads, group, 0.3, top_k=2, tokens=124, seed=seed) for seed in (4, 5))
    both = Routes(
        first.transitions + second.transitions,
        first.coactivation + second.coactivation,
        first.layer_index,
        first.tokens + second.tokens,
        2,
    )
    return both, first, second


# ------------------------------------------------------------------ small: the exact optimum


def _small(name: str, every: Routes, first: Routes, second: Routes, gpus: int, slots: int) -> dict[str, Any]:
    """The optimum, an independent proof of it, and what a fit on one half is worth on the other."""
    topology = Topology.uniform(gpus, slots)
    default = Placement(topology, np.tile(np.arange(8), (32, 1)), 8, every.layer_index)
    started = time.process_time()
    best = _optimum(default, every.transitions)
    seconds = time.process_time() - started
    return {
        "routes": name,
        "gpus": gpus,
        "experts_per_gpu": slots,
        "default": _share(default, every.transitions),
        "optimum": _share(best, every.transitions),
        "independent_optimum": _independent(every.transitions, slots),
        "cpu_s": round(seconds, 3),
        "heldout_default": _mean(_share(default, half.transitions) for half in (first, second)),
        "heldout_fitted": _mean(
            _share(_optimum(default, fit.transitions), score.transitions)
            for fit, score in ((first, second), (second, first))
        ),
    }


def _optimum(default: Placement, transitions: Floats) -> Placement:
    distance = Distance(1.0)
    if int(default.topology.slots.max()) == 1:
        return relabelled(default, transitions, distance)
    found = exact.nearest(default.topology, transitions, distance, None, default.layer_index)
    assert found is not None
    return found


def _independent(transitions: Floats, slots: int) -> float:
    """By another way: unlabelled partitions of 8 experts into groups of ``slots``, every matching of the groups of
    neighbouring layers tried, and a dynamic programme over the partitions."""
    groups = list(itertools.combinations(range(8), slots))
    number = {group: i for i, group in enumerate(groups)}
    partitions = np.array([[number[g] for g in p] for p in _partitions(tuple(range(8)), slots)])
    member = np.array([[float(e in group) for e in range(8)] for group in groups])
    matchings = list(itertools.permutations(range(8 // slots)))
    kept = np.zeros(len(partitions))
    for table in transitions:
        mass = (member @ table @ member.T)[partitions[:, None, :, None], partitions[None, :, None, :]]
        step = np.max([sum(mass[:, :, i, j] for i, j in enumerate(m)) for m in matchings], axis=0)
        kept = (kept[:, None] + step).max(axis=0)
    return round(1 - float(kept.max() / transitions.sum()), 6)


def _partitions(items: tuple[int, ...], size: int) -> list[list[tuple[int, ...]]]:
    if not items:
        return [[]]
    out = []
    for others in itertools.combinations(items[1:], size - 1):
        group = (items[0], *others)
        out += [[group, *rest] for rest in _partitions(tuple(i for i in items if i not in group), size)]
    return out


# ------------------------------------------------------------------ large: planted affinity


def _planted_case(slots: int, sigma: float, gpus_per_node: int) -> tuple[Loads, Floats, Topology, Ints]:
    counts, group = planted_loads(61, 64, 4, sigma, seed=1)
    routes = planted_routes(counts, group, 0.5, top_k=8, tokens=20_000, seed=2)
    loads = Loads(counts[None], np.arange(61), ("planted",), np.ones(1))
    return loads, routes.transitions, Topology.uniform(64, slots, gpus_per_node), group


def _planted(slots: int, sigma: float, gpus_per_node: int) -> dict[str, Any]:
    loads, transitions, topology, _ = _planted_case(slots, sigma, gpus_per_node)
    distance = Distance.of(topology, 0.11)
    balanced = balance(loads, topology).placement
    started = time.process_time()
    found = near(balanced, transitions, distance, LoadLimit.near(balanced, loads.counts, 0.01))
    seconds = time.process_time() - started
    bound = crossings_bound(found, transitions, distance, as_balanced=True)
    total = float(transitions.sum())
    return {
        "layers": 61,
        "experts": 256,
        "gpus": 64,
        "slots_per_gpu": slots,
        "gpus_per_node": gpus_per_node,
        "follow": 0.5,
        "cost_balance_only": round(float(crossings(balanced, transitions, distance).cost.sum()) / total, 6),
        "cost": round(float(crossings(found, transitions, distance).cost.sum()) / total, 6),
        "cost_bound": round(float(bound.sum()) / total, 6),
        "between_gpus": _share(found, transitions),
        "balancedness_balance_only": round(float(balanced.balancedness(loads.counts).mean()), 5),
        "balancedness": round(float(found.balancedness(loads.counts).mean()), 5),
        "cpu_s": round(seconds, 2),
    }


# ------------------------------------------------------------------ the frontier


def _frontier(routes: Routes) -> list[dict[str, float]]:
    """Balance against crossings, exactly, two of eight experts on each of four GPUs."""
    topology = Topology.uniform(4, 2)
    loads = loads_of_routes(routes, "routes")
    balanced = balance(loads, topology).placement
    points = []
    for tolerance in TOLERANCES:
        limit = LoadLimit.near(balanced, loads.counts, tolerance)
        found = exact.nearest(topology, routes.transitions, Distance(1.0), limit, routes.layer_index)
        assert found is not None
        points.append(_point(tolerance, found, loads, routes.transitions))
    return points


def _planted_frontier() -> list[dict[str, float]]:
    loads, transitions, topology, _ = _planted_case(5, 0.7, 64)
    balanced = balance(loads, topology).placement
    points = []
    for tolerance in TOLERANCES[1::2]:
        found = near(balanced, transitions, Distance(1.0), LoadLimit.near(balanced, loads.counts, tolerance))
        points.append(_point(tolerance, found, loads, transitions))
    return points


def _point(tolerance: float, found: Placement, loads: Loads, transitions: Floats) -> dict[str, float]:
    balancedness = round(float(found.balancedness(loads.counts).mean()), 5)
    return {"tolerance": tolerance, "balancedness": balancedness, "between_gpus": _share(found, transitions)}


def _draw(lines: dict[str, list[dict[str, float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for name, points in lines.items():
        axis.plot([p["between_gpus"] for p in points], [p["balancedness"] for p in points], "o-", label=name)
    axis.set_xlabel("transitions between GPUs, share of all")
    axis.set_ylabel("balancedness (mean ÷ slowest GPU)")
    axis.legend(fontsize="small")
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _share(placement: Placement, transitions: Floats) -> float:
    crossed = crossings(placement, transitions, Distance(1.0))
    return round(crossed.share(crossed.between_gpus), 6)


def _mean(values: Any) -> float:
    return round(float(np.mean(list(values))), 6)


if __name__ == "__main__":
    main()
