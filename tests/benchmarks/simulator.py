"""How fast the simulator is, and how far the closed form is from it: ``python -m tests.benchmarks.simulator``.

Three questions, on the shipped measurements (H200, vLLM):

* tables: error of the interpolated step times against the steps themselves on random batches, and what a table costs.
* speed: CPU seconds for 10,000 requests of 500 output tokens, beside the same simulation step by step.
* agreement: the steady state at a grid of models × layouts × workloads × concurrencies against the simulator at the
  same rate (Poisson). Nothing is fitted to it.

Writes ``costmodels/evidence/simulator.json``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from costmodels.architecture import Architecture
from costmodels.communication import Network
from costmodels.layouts import Layouts
from costmodels.library import CostModel
from costmodels.memory import kv_bytes_per_sequence, memory
from costmodels.operators import Batch
from costmodels.precision import Precision, choose_precision
from costmodels.registry import find_architecture
from costmodels.serving.arrivals import constant_lengths, open_loop
from costmodels.serving.frameworks import find_framework
from costmodels.serving.policies import find_policy
from costmodels.serving.simulator import Engine, simulate
from costmodels.serving.steady import Steady, steady_state
from costmodels.serving.step import step_times
from costmodels.serving.step_table import StepTable, step_tables
from profiles.hardware import default_node, find_fabric, find_gpu
from tests.benchmarks.cards import write

ROUTING = "power_law_1.01"
FRAMEWORK = "vllm"
ENGINES = {
    "Qwen3-32B TP4": ("Qwen/Qwen3-32B", (4, 1, 1, 1, 1)),
    "Qwen3-32B TP2 PP2": ("Qwen/Qwen3-32B", (2, 2, 1, 1, 1)),
    "Qwen3-235B-A22B TP8 EP8": ("Qwen/Qwen3-235B-A22B", (8, 1, 1, 8, 1)),
    "Qwen3-235B-A22B TP2 DP4 EP8": ("Qwen/Qwen3-235B-A22B", (2, 1, 4, 8, 1)),
    "DeepSeek-V3 TP8 EP8": ("deepseek-ai/DeepSeek-V3", (8, 1, 1, 8, 1)),
}
WORKLOADS = ((1000, 500), (4000, 500), (8000, 100))
CONCURRENCIES = (4, 16, 64, 128)
BUDGET = 8192
REQUESTS = 3000


@dataclass(frozen=True)
class Case:
    """One engine."""

    model: Architecture
    precision: Precision
    layouts: Layouts  # one

    @property
    def pieces(self) -> tuple[Architecture, Precision, CostModel, Network]:
        return self.model, self.precision, cost(), network()

    def table(self, longest: int = 65_536) -> StepTable:
        limits = {"most_tokens": BUDGET, "most_sequences": 1024, "longest_tokens": longest}
        return step_tables(*self.pieces, find_framework(FRAMEWORK), self.layouts, ROUTING, **limits)[0]

    def kv_tokens(self) -> float:
        parts = memory(
            self.model,
            self.precision,
            self.layouts,
            cost().gpu,
            memory_fraction=0.9,
            token_budget=np.array([BUDGET]),
            sequences=256,
        )
        per_token = kv_bytes_per_sequence(self.model, self.precision, self.layouts, 4096)[0] / 4096
        return float(parts.kv_bytes[0] / per_token)


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
    return Case(architecture, choose_precision(architecture), Layouts.of([layout]))


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    answer = work()
    return time.process_time() - started, answer


# --- tables -----------------------------------------------------------------------------------------------


def random_batch(n: int, ranks: int) -> tuple[np.ndarray, Batch]:
    """(kind: 0 decodes, 1 chunks, 2 both; the batches). The only chunk of a step may go on a prompt."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, n)
    decodes = np.where(kind == 1, 0, np.exp(rng.uniform(0, np.log(500), n)).astype(int))
    prefills = np.where(kind == 0, 0, rng.integers(1, 4, n))
    chunk = np.where(prefills > 0, np.exp(rng.uniform(np.log(16), np.log(2500), n)).astype(int), 0)
    prefix = np.where(prefills == 1, rng.integers(0, 16_000, n) * rng.integers(0, 2, n), 0)
    context = np.exp(rng.uniform(np.log(100), np.log(20_000), n)).astype(int)
    own = (prefills * chunk + decodes).astype(float)
    expert_tokens = own * rng.uniform(0.5, 1.5, n) if ranks > 1 else own
    return kind, Batch(prefills, chunk, prefix, decodes, context, expert_tokens)


def table_errors(name: str, n: int = 2000) -> dict[str, Any]:
    """Error of the table on random batches, %, by what is in them."""
    it = case(name)
    kind, batch = random_batch(n, int(it.layouts.dp[0]))
    layouts = it.layouts.take(np.zeros(n, np.int64))
    truth = step_times(*it.pieces, find_framework(FRAMEWORK), layouts, batch, ROUTING).latency.value
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
    limits = {"most_tokens": BUDGET, "most_sequences": 1024, "longest_tokens": 8192}
    build = lambda layouts: step_tables(*it.pieces, find_framework(FRAMEWORK), layouts, ROUTING, **limits)  # noqa: E731
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
        engine = Engine(it.table(), find_policy(FRAMEWORK), it.kv_tokens(), BUDGET, 1024)
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


def closed_form(it: Case, isl: int, osl: int) -> Steady:
    n = len(CONCURRENCIES)
    layouts = it.layouts.take(np.zeros(n, np.int64))
    budget, concurrency = np.full(n, BUDGET), np.array(CONCURRENCIES)
    return steady_state(*it.pieces, find_framework(FRAMEWORK), layouts, budget, concurrency, isl, osl, ROUTING)


def agreement() -> list[dict[str, Any]]:
    """Closed form ÷ simulator at every stable point of the grid."""
    out = []
    for name in ENGINES:
        it = case(name)
        engine = Engine(it.table(), find_policy(FRAMEWORK), it.kv_tokens(), BUDGET, 1024)
        for isl, osl in WORKLOADS:
            steady = closed_form(it, isl, osl)
            at_p99 = {"ttft": steady.ttft_percentile_us(0.99), "tpot": steady.tpot_percentile_us(0.99)}
            for i, concurrency in enumerate(CONCURRENCIES):
                fits = concurrency * (isl + osl) < 0.9 * engine.kv_tokens
                if not steady.stable[i] or not fits or steady.queue_busy[i] > 0.95:
                    continue
                rate = float(steady.rate_rps.value[i])
                outcome = simulate(engine, open_loop(*constant_lengths(REQUESTS, isl, osl), rate, seed=1))
                middle = outcome.trimmed(0.2, 0.1)
                finish = np.sort(outcome.finish_us)
                served = (REQUESTS * 0.6 - 1) / (finish[int(REQUESTS * 0.8)] - finish[int(REQUESTS * 0.2)]) * 1e6
                sent = (REQUESTS - 1) / float(outcome.arrival_us[-1] - outcome.arrival_us[0]) * 1e6
                row = {
                    "engine": name,
                    "isl": isl,
                    "osl": osl,
                    "concurrency": concurrency,
                    "rate_rps": round(rate, 3),
                    "prefill_busy": round(float(steady.queue_busy[i]), 3),
                    "served_over_sent": round(served / sent, 3),
                }
                for metric, mean in (("tpot", steady.tpot_us), ("ttft", steady.ttft_us)):
                    row[f"{metric}_mean"] = round(float(mean.value[i]) / middle.mean_us(metric), 3)  # type: ignore[arg-type]
                    row[f"{metric}_p99"] = round(float(at_p99[metric][i]) / middle.percentile_us(metric, 0.99), 3)  # type: ignore[arg-type]
                out.append(row)
        print(name, len(out), flush=True)
    return out


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """|ratio − 1| by the kind of layout and how busy prefill is: median and 90th percentile."""
    kinds: dict[str, Callable[[str], bool]] = {
        "one rank, one stage": lambda engine: "PP" not in engine and "DP" not in engine,
        "pipeline": lambda engine: "PP" in engine,
        "attention data parallel": lambda engine: "DP" in engine,
    }
    bands = (("prefill busy < 50 %", 0.0, 0.5), ("prefill busy 50–95 %", 0.5, 0.95))
    out: dict[str, Any] = {}
    for (kind, chosen), (band, low, high) in product(kinds.items(), bands):
        label = f"{kind}, {band}"
        mine = [row for row in rows if chosen(row["engine"]) and low <= row["prefill_busy"] < high]
        if not mine:
            continue
        out[label] = {"points": len(mine)}
        for name in ("served_over_sent", "tpot_mean", "ttft_mean", "tpot_p99", "ttft_p99"):
            ratio = np.array([row[name] for row in mine])
            gap = np.abs(ratio - 1)
            out[label][name] = {
                "median_pct": round(100 * float(np.median(gap)), 1),
                "p90_pct": round(100 * float(np.quantile(gap, 0.9)), 1),
                "bias_pct": round(100 * float(np.median(ratio - 1)), 1),
            }
        print(label, out[label], flush=True)
    return out


def main() -> None:
    document: dict[str, Any] = {
        "command": "python -m tests.benchmarks.simulator",
        "setting": f"H200, {FRAMEWORK}, {BUDGET} tokens a step; Poisson arrivals, constant lengths",
        "tables": {name: table_errors(name) for name in ENGINES},
        "table_cost": table_cost(),
    }
    for name, card in document["tables"].items():
        print(name, card, flush=True)
    print(document["table_cost"], flush=True)
    document["speed"] = speed()
    rows = agreement()
    document["agreement"] = summary(rows)
    document["points"] = rows
    print(write("simulator", document))


if __name__ == "__main__":
    main()
