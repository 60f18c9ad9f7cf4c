"""How fast the simulator is, and how far the closed form is from it: ``python -m tests.benchmarks.simulator``.

Four questions, on the shipped measurements (H200, vLLM):

* tables: error of the interpolated step times against the steps themselves on random batches, and what a table costs.
* speed: CPU seconds for 10,000 requests of 500 output tokens, beside the same simulation step by step.
* agreement: the steady state at a grid of models × layouts × workloads × token budgets × loads against the simulator at
  the same rate (Poisson), and the rate against it at the same concurrency. Nothing is fitted to it.
* capacity: the highest rate within an SLO, by the closed form and by bisection on the simulator.

Writes ``costmodels/evidence/simulator.json``; with names of parts behind the command only these anew.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from costmodels.estimates import Floats
from costmodels.kernels.cost_model import CostModel
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.request_shape import RequestShape
from costmodels.serving.served_model import ServedModel
from costmodels.serving.simulator.arrivals import Requests, open_loop
from costmodels.serving.simulator.capacity import capacity_rps, keeps_up
from costmodels.serving.simulator.events import Engine, Limit, simulate
from costmodels.serving.simulator.outcome import Outcome
from costmodels.serving.simulator.step_table import StepTable
from costmodels.serving.steady.steady_state import Steady, steady_state
from costmodels.step.communication import Network
from profiles.hardware import default_node, find_fabric, find_gpu
from tests.benchmarks.cards import EVIDENCE, ratio_card, write
from tests.costmodels.lengths import constant_lengths
from tests.costmodels.tables_of_steps import random_steps, step_tables

ROUTING = "power_law_1.01"
FRAMEWORK = "vllm"
ENGINES = {
    "Llama-3.1-8B": ("meta-llama/Llama-3.1-8B", (1, 1, 1, 1, 1)),
    "Qwen3-32B TP4": ("Qwen/Qwen3-32B", (4, 1, 1, 1, 1)),
    "Qwen3-235B-A22B TP8 EP8": ("Qwen/Qwen3-235B-A22B", (8, 1, 1, 8, 1)),
    "DeepSeek-V3 TP8 EP8": ("deepseek-ai/DeepSeek-V3", (8, 1, 1, 8, 1)),
    "Qwen3-32B TP2 PP2": ("Qwen/Qwen3-32B", (2, 2, 1, 1, 1)),
    "Qwen3-32B PP4": ("Qwen/Qwen3-32B", (1, 4, 1, 1, 1)),
    "Qwen3-235B-A22B TP4 PP2 EP4": ("Qwen/Qwen3-235B-A22B", (4, 2, 1, 4, 1)),
    "Qwen3-30B-A3B DP4 EP4": ("Qwen/Qwen3-30B-A3B", (1, 1, 4, 4, 1)),
    "Qwen3-235B-A22B TP2 DP4 EP8": ("Qwen/Qwen3-235B-A22B", (2, 1, 4, 8, 1)),
    "DeepSeek-V3 TP2 DP8 EP16": ("deepseek-ai/DeepSeek-V3", (2, 1, 8, 16, 1)),
}
WORKLOADS = ((200, 200), (1000, 500), (4000, 500), (8000, 100), (500, 1500), (16_000, 500))
BUDGETS = (8192, 2048)
"""In turn, from one workload and one engine to the next."""

SHARES = (0.1, 0.35, 0.6, 0.8, 0.95)
"""Of the highest rate that the closed form has for the engine."""

REQUESTS = 2000
MOST_SEQUENCES = 1024
FULL_CACHE = 0.95

TABLES = (
    "Qwen3-32B TP4",
    "Qwen3-32B TP2 PP2",
    "Qwen3-235B-A22B TP8 EP8",
    "Qwen3-235B-A22B TP2 DP4 EP8",
    "DeepSeek-V3 TP8 EP8",
)
"""Engines whose step tables are compared with the steps themselves."""

CAPACITY_ENGINES = (
    "Qwen3-32B TP4",
    "Qwen3-235B-A22B TP8 EP8",
    "Llama-3.1-8B",
    "Qwen3-32B TP2 PP2",
    "Qwen3-30B-A3B DP4 EP4",
)
CAPACITY_WORKLOADS = ((200, 200), (1000, 500), (4000, 500), (8000, 100))
CAPACITY_REQUESTS = 1500

TOLERANCES = {
    "rate": 0.05,
    "tpot_mean": 0.10,
    "tpot_p90": 0.10,
    "tpot_p99": 0.15,
    "ttft_mean": 0.10,
    "ttft_p90": 0.15,
    "ttft_p99": 0.25,
}
"""How near the closed form should be to the simulator, as a share of it."""

BANDS = ((0.0, 0.5), (0.5, 0.85), (0.85, 1.01))
"""Of the share of time that prefill is busy, by which errors are reported."""


@dataclass(frozen=True)
class Case:
    """One engine."""

    served: ServedModel
    layouts: Layouts  # one

    def table(self, budget: int = BUDGETS[0], longest: int = 65_536) -> StepTable:
        limits = {"most_tokens": budget, "most_sequences": 1024, "longest_tokens": longest}
        return step_tables(self.served, self.layouts, ROUTING, **limits)[0]

    def kv_tokens(self) -> float:
        return float(self.served.cache_tokens(self.layouts, np.array([BUDGETS[0]]), 4096)[0])


@cache
def cost() -> CostModel:
    return CostModel(find_gpu("H200"), FRAMEWORK, progress=lambda text: print(text, flush=True))


@cache
def network() -> Network:
    node = default_node(cost().gpu)
    return Network(node.gpus, find_fabric(node.default_fabric))


def case(name: str) -> Case:
    model, layout = ENGINES[name]
    architecture = find_architecture(model)
    framework = find_framework(FRAMEWORK)
    served = ServedModel(architecture, choose_precision(architecture), framework, cost(), network())
    return Case(served, Layouts.of([layout]))


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    answer = work()
    return time.process_time() - started, answer


# --- tables -----------------------------------------------------------------------------------------------


def table_errors(name: str, n: int = 2000) -> dict[str, Any]:
    """Error of the table on random batches, %, by what is in them."""
    it = case(name)
    kind, batch = random_steps(n, 0)
    if it.layouts.dp[0] == 1:
        batch = replace(batch, expert_tokens=(batch.prefills * batch.chunk + batch.decodes).astype(float))
    layouts = it.layouts.take(np.zeros(n, np.int64))
    truth = it.served.step(layouts, batch, ROUTING).latency.value
    curve = it.table().latency
    got = [
        curve.step_us(
            int(batch.decodes[i]),
            float(batch.context[i]),
            [(int(batch.chunk[i]), float(batch.prefix[i]))] * int(batch.prefills[i]),
            float(batch.expert_tokens[i]),
        )
        for i in range(n)
    ]
    error = np.array(got) / truth - 1
    return {
        label: {
            "median_pct": round(100 * float(np.median(np.abs(error[chosen]))), 2),
            "p95_pct": round(100 * float(np.quantile(np.abs(error[chosen]), 0.95)), 2),
            "bias_pct": round(100 * float(error[chosen].mean()), 2),
        }
        for label, chosen in (("decodes", kind == 0), ("chunks", kind == 1), ("both", kind == 2))
    }


def table_cost() -> dict[str, Any]:
    """CPU milliseconds of a table, alone and among many."""
    it = case("Qwen3-235B-A22B TP8 EP8")
    sizes = (1, 2, 4, 8)
    many = Layouts.of([(tp, pp, dp, tp * dp, 1) for tp in sizes for pp in sizes for dp in sizes if tp * dp <= 16])
    limits = {"most_tokens": BUDGETS[0], "most_sequences": 1024, "longest_tokens": 8192}
    build = lambda layouts: step_tables(it.served, layouts, ROUTING, **limits)  # noqa: E731
    build(it.layouts)  # forests are loaded
    alone, _ = cpu_seconds(lambda: build(it.layouts))
    together, _ = cpu_seconds(lambda: build(many))
    return {"alone_ms": round(alone * 1e3, 1), "layouts": len(many), "each_ms": round(together / len(many) * 1e3, 2)}


# --- speed ------------------------------------------------------------------------------------------------


def speed() -> list[dict[str, Any]]:
    """10,000 requests at several loads, jumping and step by step."""
    out = []
    for name, rates in (
        ("Qwen3-32B TP4", (8.0, 11.0)),
        ("Qwen3-235B-A22B TP2 DP4 EP8", (12.0,)),
        ("Qwen3-32B TP2 PP2", (8.0,)),
    ):
        it = case(name)
        engine = Engine(it.table(), find_framework(FRAMEWORK).scheduler, it.kv_tokens(), BUDGETS[0], MOST_SEQUENCES)
        for rate in rates:
            load = open_loop(*constant_lengths(10_000, 1000, 500), rate, seed=1)
            fast, outcome = min((cpu_seconds(lambda: simulate(engine, load)) for _ in range(3)), key=lambda x: x[0])  # noqa: B023
            slow, _ = cpu_seconds(lambda: simulate(engine, load, jump=False))  # noqa: B023
            out.append(
                {
                    "engine": name,
                    "rate_rps": rate,
                    "decoding_mean": round(float(outcome.timeline[:, 2].mean()), 1),
                    "steps": outcome.steps,
                    "cpu_s": round(fast, 3),
                    "step_by_step_cpu_s": round(slow, 3),
                    "ratio": round(slow / fast, 1),
                }
            )
            print(out[-1], flush=True)
    return out


# --- agreement --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """One engine under one load, by the simulator."""

    rate_rps: float
    outcome: Outcome  # of the requests in the middle
    concurrency: float  # that decode in each attention rank, on average


def closed_form(it: Case, budget: int, isl: int, osl: int, concurrency: Floats) -> Steady:
    n = len(concurrency)
    layouts = it.layouts.take(np.zeros(n, np.int64))
    return steady_state(it.served, RequestShape(isl, osl, ROUTING), layouts, np.full(n, budget), concurrency)


def at_rates(it: Case, budget: int, isl: int, osl: int, most: float, rates: Floats) -> Steady:
    """The closed form at these rates, each at the concurrency that gives it (the highest, where none does)."""
    asked = np.geomspace(0.01, most, 120)
    ladder = closed_form(it, budget, isl, osl, asked)
    stable = ladder.stable
    rate = np.maximum.accumulate(ladder.rate_rps.value[stable])
    return closed_form(it, budget, isl, osl, np.interp(rates, rate, asked[stable]))


def arrivals(n: int, isl: int, osl: int, rate: float) -> Requests:
    """Poisson's, stretched to just this rate: near saturation a rate that is 1 % off shows as 10 %."""
    made = open_loop(*constant_lengths(n, isl, osl), rate, seed=1)
    return Requests(made.isl, made.osl, made.arrival_us * (n / rate * 1e6 / made.arrival_us[-1]))


def served(engine: Engine, isl: int, osl: int, rate: float, n: int) -> Served | None:
    """None where the engine does not keep up or its cache fills up, which the planner sees to."""
    outcome = simulate(engine, arrivals(n, isl, osl, rate))
    full = float(outcome.timeline[:, 4].max()) > FULL_CACHE
    if full or outcome.preemptions.any() or not keeps_up(outcome):
        return None
    middle = outcome.trimmed(0.2, 0.1)
    decoding = rate * middle.mean_us("tpot") * (osl - 1) / 1e6
    return Served(rate, middle, decoding / engine.table.ranks)


def compared(it: Case, budget: int, isl: int, osl: int, seen: list[Served], most: float) -> list[dict[str, Any]]:
    """Closed form ÷ simulator: latencies at the same rate, the rate at the same concurrency."""
    steady = at_rates(it, budget, isl, osl, most, np.array([one.rate_rps for one in seen]))
    alike = closed_form(it, budget, isl, osl, np.array([one.concurrency for one in seen])).rate_rps.value
    front = steady.ttft_parts_us["front end"]  # is not simulated
    quantiles = {"tpot": steady.tpot_percentile_us, "ttft": lambda p: steady.ttft_percentile_us(p) - front}
    means = {"tpot": steady.tpot_us.value, "ttft": steady.ttft_us.value - front}
    rows = []
    for i, one in enumerate(seen):
        row: dict[str, Any] = {
            "isl": isl,
            "osl": osl,
            "budget": budget,
            "concurrency": round(one.concurrency, 2),
            "rate_rps": round(one.rate_rps, 3),
            "prefill_busy": round(float(steady.queue_busy[i]), 3),
            "rate": round(float(alike[i]) / one.rate_rps, 3),
        }
        for metric in ("tpot", "ttft"):
            row[f"{metric}_mean"] = round(float(means[metric][i]) / one.outcome.mean_us(metric), 3)  # type: ignore[arg-type]
            for p in (0.9, 0.99):
                truth = one.outcome.percentile_us(metric, p)  # type: ignore[arg-type]
                row[f"{metric}_p{100 * p:.0f}"] = round(float(quantiles[metric](p)[i]) / truth, 3)
        rows.append(row)
    return rows


def agreement() -> tuple[list[dict[str, Any]], int]:
    """(closed form ÷ simulator at every point of the grid that is served, points that are not)."""
    out, dropped = [], 0
    for (e, name), (w, (isl, osl)) in product(enumerate(ENGINES), enumerate(WORKLOADS)):
        it = case(name)
        budget = BUDGETS[(e + w) % len(BUDGETS)]
        engine = Engine(it.table(budget), find_framework(FRAMEWORK).scheduler, it.kv_tokens(), budget, MOST_SEQUENCES)
        most = min(engine.kv_tokens / (isl + osl), MOST_SEQUENCES)
        ladder = closed_form(it, budget, isl, osl, np.geomspace(0.01, most, 120))
        top = float(ladder.rate_rps.value[ladder.stable].max())
        seen = []
        for share in SHARES:
            one = served(engine, isl, osl, top * share, REQUESTS)
            if one is not None:
                seen.append(one)
            dropped += one is None
        if seen:
            out += [{"engine": name} | row for row in compared(it, budget, isl, osl, seen, most)]
        print(name, isl, osl, len(out), dropped, flush=True)
    return out, dropped


def kind_of(engine: str) -> str:
    if "PP" in engine:
        return "pipeline"
    return "attention data parallel" if "DP" in engine else "one rank, one stage"


def errors(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """|ratio − 1| of every metric: median, 90th percentile, median with its sign, and the share within tolerance."""
    out: dict[str, Any] = {"points": len(rows)}
    for name, tolerance in TOLERANCES.items():
        out[name] = ratio_card(np.array([row[name] for row in rows]), tolerance)
    return out


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Errors by the kind of layout and how busy prefill is."""
    out: dict[str, Any] = {}
    for kind, (low, high) in product(dict.fromkeys(map(kind_of, ENGINES)), BANDS):
        mine = [row for row in rows if kind_of(row["engine"]) == kind and low <= row["prefill_busy"] < high]
        if mine:
            out[f"{kind}, prefill busy {100 * low:.0f}–{100 * high:.0f} %"] = errors(mine)
    out["all, prefill busy below 85 %"] = errors([row for row in rows if row["prefill_busy"] < 0.85])
    for label, card in out.items():
        print(label, card, flush=True)
    return out


# --- capacity ---------------------------------------------------------------------------------------------


def capacities() -> dict[str, Any]:
    """Highest rate within an SLO: closed form ÷ bisection on the simulator."""
    out = []
    for (e, name), (w, (isl, osl)) in product(enumerate(CAPACITY_ENGINES), enumerate(CAPACITY_WORKLOADS)):
        it = case(name)
        budget = BUDGETS[(e + w) % len(BUDGETS)]
        engine = Engine(it.table(budget), find_framework(FRAMEWORK).scheduler, it.kv_tokens(), budget, MOST_SEQUENCES)
        asked = np.geomspace(0.01, min(0.9 * engine.kv_tokens / (isl + osl), MOST_SEQUENCES), 150)
        steady = closed_form(it, budget, isl, osl, asked)
        ttft = steady.ttft_percentile_us(0.9) - steady.ttft_parts_us["front end"]
        tpot = steady.tpot_percentile_us(0.9)
        # An SLO that neither an idle engine misses nor a full one meets.
        limits = [Limit("ttft", 0.9, 3 * float(ttft[0])), Limit("tpot", 0.9, 2 * float(tpot[0]))]
        within = steady.stable & (ttft <= limits[0].limit_us) & (tpot <= limits[1].limit_us)
        predicted = float(steady.rate_rps.value[within].max())
        simulated = capacity_rps(engine, *constant_lengths(CAPACITY_REQUESTS, isl, osl), limits)
        row = {"engine": name, "isl": isl, "osl": osl, "budget": budget, "simulated_rps": round(simulated, 3)}
        out.append(row | {"ratio": round(predicted / simulated, 3)} if simulated else row)
        print(out[-1], flush=True)
    ratio = np.array([row["ratio"] for row in out if "ratio" in row])
    quantiles = dict(zip(("p10", "median", "p90"), np.quantile(ratio, (0.1, 0.5, 0.9)).round(3).tolist(), strict=True))
    return {"slo": "TTFT p90 below 3, TPOT p90 below 2 times those of an idle engine", **quantiles, "points": out}


def tables() -> dict[str, Any]:
    return {name: table_errors(name) for name in TABLES}


def agreements() -> dict[str, Any]:
    rows, dropped = agreement()
    return {"tolerances": TOLERANCES, "points_not_served": dropped, "errors": summary(rows), "points": rows}


PARTS: dict[str, Callable[[], Any]] = {
    "tables": tables,
    "table_cost": table_cost,
    "speed": speed,
    "agreement": agreements,
    "capacity": capacities,
}


def main(asked: list[str]) -> None:
    path = EVIDENCE / "simulator.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    document: dict[str, Any] = {
        "command": "python -m tests.benchmarks.simulator",
        "setting": f"H200, {FRAMEWORK}; Poisson arrivals, constant lengths; tables, speed: {BUDGETS[0]} tokens a step",
    }
    for name, measure in PARTS.items():
        document[name] = measure() if name in (asked or PARTS) else before.get(name)
        print(name, "done", flush=True)
    points = document["agreement"].pop("points", ())  # not in git: left as they are where they were not made anew
    print(write("simulator", document, points))


if __name__ == "__main__":
    main(sys.argv[1:])
