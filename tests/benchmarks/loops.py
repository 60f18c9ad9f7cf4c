"""How near the closed loop played array-wise is to the event simulator: ``python -m tests.benchmarks.loops``.

``costmodels/serving/closed_loop/protocol.py`` is what ``plan predict`` and the calibration on public runs use: it
plays the harnesses' protocol on thousands of configurations at once, for about a millisecond each, where the event
simulator takes seconds. It is an approximation of the simulator and of nothing else: both are asked here the same steps
(H200, the shipped measurements), with the same lengths (uniform in 80–100 % of the stated ones), as many requests
(ten per client), the same cache, and no front end. What is shown is the approximation ÷ the simulator. Neither is
compared with a run here, and nothing is fitted.

Writes ``costmodels/evidence/closed_loop.json``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from costmodels.kernels.cost_model import CostModel
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.serving.closed_loop.client import closed_loop_answers
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.closed_loop.protocol import GENERATIONS, SHORTEST
from costmodels.serving.frameworks.calibration import Calibration
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.served_model import ServedModel
from costmodels.serving.simulator.arrivals import closed_loop
from costmodels.serving.simulator.engine import Engine
from costmodels.serving.simulator.events import simulate
from costmodels.serving.simulator.step_table import step_tables_at
from costmodels.step.communication import Network
from profiles.hardware import default_node, find_fabric, find_gpu
from tests.benchmarks.cards import ratio_card, write
from tests.costmodels.lengths import uniform_lengths

GPU, ROUTING = "H200", "power_law_1.01"
FRAMEWORKS = ("vllm", "sglang", "trtllm")
ENGINES = {
    "Qwen3-32B TP4": ("Qwen/Qwen3-32B", (4, 1, 1, 1, 1)),
    "Qwen3-235B-A22B TP2 DP4 EP8": ("Qwen/Qwen3-235B-A22B", (2, 1, 4, 8, 1)),
    "Qwen3-32B TP2 PP2": ("Qwen/Qwen3-32B", (2, 2, 1, 1, 1)),
}
WORKLOADS = ((1024, 1024), (8192, 1024), (1024, 8192), (256, 128))
CONCURRENCIES = (1, 4, 16, 32, 64, 256)
LOADS = {"largest steps": (None, SHORTEST), "2,048 tokens a step": (2048, SHORTEST), "lengths alike": (2048, 1.0)}
"""Most tokens of a step (None: the framework's largest), and lengths from which share of the stated ones."""
WAITS = ("request_us", "request_us_per_token", "request_us_per_concurrent", "request_steps", "rank_steps", "first_us")
MEASURES = ("ttft_mean", "ttft_p99", "tpot_mean", "tpot_p99", "throughput")


class NoFrontEnd(ServedModel):
    """A served model whose requests wait for nothing but steps, as the simulator plays them."""

    @property
    def calibration(self) -> Calibration:
        return super().calibration.model_copy(update=dict.fromkeys(WAITS, 0.0))


def points(framework_name: str, engine_name: str, load_name: str) -> Iterator[dict[str, Any]]:
    """Approximation ÷ simulator at every workload and concurrency."""
    budget, shortest = LOADS[load_name]
    model_name, degrees = ENGINES[engine_name]
    model, framework = find_architecture(model_name), find_framework(framework_name)
    layouts, cost = Layouts.of([degrees]), CostModel(find_gpu(GPU), framework_name)
    node = default_node(cost.gpu)
    network = Network(node.gpus, find_fabric(node.default_fabric))
    served = NoFrontEnd(model, choose_precision(model), framework, cost, network)
    budget = budget or max(framework.limits.token_budgets)
    room = served.memory(layouts, np.array([budget]), sequences=framework.limits.max_sequences)
    for isl, osl in WORKLOADS:
        each = served.kv_bytes(layouts, isl + osl)[0]
        kv_tokens = float(room.kv_bytes[0] / each * (isl + osl))
        policy = framework.scheduler
        held = policy.held_tokens(isl, osl) * (1 + shortest) / 2
        sequences = int(min(kv_tokens / held, framework.limits.max_sequences))
        (tables,) = step_tables_at(
            ("value",),
            served,
            layouts,
            ROUTING,
            most_tokens=budget,
            most_sequences=framework.limits.max_sequences,
            longest_tokens=isl + osl,
        )
        limits = {"token_budget": budget, "max_sequences": framework.limits.max_sequences}
        engine = Engine(tables["value"], policy, kv_tokens, **limits)
        n = len(CONCURRENCIES)
        load = Load.of(
            np.array(CONCURRENCIES),
            np.full(n, isl),
            np.full(n, osl),
            np.full(n, budget),
            np.full(n, sequences * int(layouts.dp[0])),
            shortest,
        )
        many = layouts.take(np.zeros(n, np.int64))
        got = closed_loop_answers(served, many, load, ROUTING)
        for i, concurrency in enumerate(CONCURRENCIES):
            lengths = uniform_lengths(GENERATIONS * concurrency, isl, osl, below=1 - shortest, seed=0)
            started = time.process_time()
            truth = simulate(engine, closed_loop(*lengths, concurrency))
            took = time.process_time() - started
            ratios = {
                "ttft_mean": got.ttft.mean.value[i] / truth.mean_us("ttft"),
                "ttft_p99": got.ttft.p99[i] / truth.percentile_us("ttft", 0.99),
                "tpot_mean": got.tpot.mean.value[i] / truth.mean_us("tpot"),
                "tpot_p99": got.tpot.p99[i] / truth.percentile_us("tpot", 0.99),
                "throughput": got.output_tokens_per_s.value[i] / truth.output_tokens_per_s,
            }
            yield {
                "framework": framework_name,
                "engine": engine_name,
                "load": load_name,
                "isl": isl,
                "osl": osl,
                "concurrency": concurrency,
                "running_share": round(min(sequences * int(layouts.dp[0]) / concurrency, 1.0), 2),
                "ttft_ms": round(truth.mean_us("ttft") / 1e3, 2),
                "tpot_ms": round(truth.mean_us("tpot") / 1e3, 3),
                "preemptions": int(truth.preemptions.sum()),
                "cpu_s": round(took, 2),
                **{name: round(float(ratio), 3) for name, ratio in ratios.items()},
            }


def card(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """|ratio − 1|: median, 90th percentile, and the median of the ratio − 1, %."""
    out: dict[str, Any] = {"points": len(rows)}
    for name in MEASURES:
        out[name] = ratio_card(np.array([row[name] for row in rows]))
    return out


def main() -> None:
    rows: list[dict[str, Any]] = []
    for each in product(FRAMEWORKS, ENGINES, LOADS):
        rows += points(*each)
        print(*each, card(rows[-len(WORKLOADS) * len(CONCURRENCIES) :]), flush=True)
    regimes = {
        "everything": rows,
        **{f"{name}": [row for row in rows if row["framework"] == name] for name in FRAMEWORKS},
        **{f"{name}": [row for row in rows if row["engine"] == name] for name in ENGINES},
        **{f"{name}": [row for row in rows if row["load"] == name] for name in LOADS},
        **{f"{i}/{o}": [row for row in rows if (row["isl"], row["osl"]) == (i, o)] for i, o in WORKLOADS},
        **{f"concurrency {c}": [row for row in rows if row["concurrency"] == c] for c in CONCURRENCIES},
    }
    document = {
        "command": "python -m tests.benchmarks.loops",
        "setting": f"{GPU}; closed loop, {GENERATIONS} requests a client, lengths in {SHORTEST:.0%}–100 % or alike",
        "what": "costmodels/serving/closed_loop/protocol.py ÷ costmodels/serving/simulator/events.py",
        "regimes": {name: card(chosen) for name, chosen in regimes.items()},
    }
    for name, figures in document["regimes"].items():
        print(name, figures, flush=True)
    print(write("closed_loop", document, rows))


if __name__ == "__main__":
    main()
