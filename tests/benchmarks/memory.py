"""How near the memory of engines is to what they log when they start: ``make bench-memory`` (``python -m
tests.benchmarks.memory [LOGS.csv]``).

The logs are 42 starts of vLLM 0.19.0 on H100-80GB (llm-d-planner pull request 205, Apache-2.0; ``data/``). Each model
is left out in turn: what was fitted to logs of this release (bytes of a logit, buffers of the model's width, what
libraries take) is fitted to the other models' alone, and its rows are predicted with that. What is read from code
(which buffers there are, that ranks gather logits) stays, and was chosen with all logs in sight. Each row is shown; the
summary goes to ``costmodels/evidence/memory.json``.
"""

from __future__ import annotations

import csv
import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.serving.cache_pages import Pages, layer_caches
from costmodels.serving.frameworks.facts import ByNeighbours, MemoryBudget
from costmodels.serving.frameworks.framework import Framework, find_framework
from costmodels.serving.memory import GIB, Loaded, StepLimits, engine_memory
from profiles.hardware import find_gpu
from tests.benchmarks.cards import write

LOGS = Path(__file__).parent / "data" / "vllm_start_logs_h100.csv"

FITTED: dict[str, Sequence[float]] = {
    "logit_bytes": range(8, 21),
    "torch_gib": [each / 100 for each in range(16)],
    "hidden_copies": [each / 4 for each in range(8, 21)],
}
"""Facts of a release that logs tell, and the values tried."""


@dataclass(frozen=True)
class Log:
    """One start, GiB where nothing else is said."""

    model: str
    loaded: Loaded
    layouts: Layouts
    limits: StepLimits
    max_model_len: int
    weights: float
    activation: float
    other: float
    graphs: float
    cache: float
    tokens: int
    requests: float

    @property
    def neighbours(self) -> str:
        """Which of :class:`ByNeighbours` its GPUs are."""
        if int(self.layouts.tp[0]) > 1:
            return "split"
        return "stage" if int(self.layouts.pp[0]) > 1 else "alone"

    @property
    def label(self) -> str:
        precision = self.loaded.precision
        return f"{self.model} {precision.weights}/{precision.kv} TP{self.layouts.tp[0]} PP{self.layouts.pp[0]}"


def logs(path: Path = LOGS) -> list[Log]:
    """The starts in a file."""
    found = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            model = find_architecture(row["model"])
            weights = {"torch.float32": "fp32"}.get(row["dtype"], "fp8" if row["quantization"] == "fp8" else None)
            precision = choose_precision(model, weights, "fp8" if row["kv_cache_dtype"] == "fp8" else None)
            tp, pp = int(float(row["tp"])), int(float(row["pp"]))
            framework = find_framework(f"{row['framework']}@{row['version']}")
            sequences, budget = int(row["max_num_seqs_default"]), np.array([int(row["max_num_batched_tokens_default"])])
            found.append(
                Log(
                    row["model"],
                    Loaded(model, precision, framework, find_gpu("H100")),
                    Layouts.of([(tp, pp, 1, 1, tp)]),
                    StepLimits(budget, sequences, float(row["gpu_memory_utilization"])),
                    int(float(row["max_model_len"])),
                    float(row["weight_memory_gib"]),
                    float(row["activation_memory_gib"]),
                    float(row["non_torch_forward_gib"]),
                    float(row["cuda_graph_actual_gib"]),
                    float(row["kv_cache_memory_gib"]),
                    int(float(row["kv_cache_tokens"])),
                    float(row["max_concurrency"]),
                )
            )
    return found


def with_facts(log: Log, facts: MemoryBudget) -> Loaded:
    framework: Framework = log.loaded.framework.model_copy(update={"memory": facts})
    return dataclasses.replace(log.loaded, framework=framework)


def fitted_without(model: str, every: Iterable[Log], start: MemoryBudget) -> MemoryBudget:
    """The facts of a release as the logs of other models tell them."""
    others = [log for log in every if log.model != model]
    by_kind = {kind: [log.other for log in others if log.neighbours == kind] for kind in ByNeighbours.model_fields}
    told = {kind: statistics.median(values) for kind, values in by_kind.items() if values}
    outside = start.outside_torch_gib.model_copy(update=told)
    facts = start.model_copy(update={"outside_torch_gib": outside})
    distinct = {(log.label, log.activation): log for log in others}.values()  # lengths change nothing of a start

    def error(name: str) -> Callable[[float], float]:
        def of(value: float) -> float:
            tried = facts.model_copy(update={name: value})
            return sum(abs(activation(log, tried) - log.activation) for log in distinct)

        return of

    for _ in range(3):
        for name, values in FITTED.items():
            facts = facts.model_copy(update={name: min(values, key=error(name))})
    return facts


def activation(log: Log, facts: MemoryBudget) -> float:
    parts = engine_memory(with_facts(log, facts), log.layouts, log.limits, "first")
    return float(parts.activation_bytes[0]) / GIB


def main(arguments: Sequence[str]) -> None:
    every = logs(Path(arguments[0]) if arguments else LOGS)
    rows: list[dict[str, object]] = []
    print(
        f"{'GiB, predicted − logged':62} {'weights':>8} {'activ.':>7} {'other':>6} {'graphs':>7} {'cache':>7}  tokens"
    )
    for model in dict.fromkeys(log.model for log in every):
        shipped = next(log for log in every if log.model == model).loaded.framework.memory
        facts = fitted_without(model, every, shipped)
        for log in (log for log in every if log.model == model):
            loaded = with_facts(log, facts)
            parts = engine_memory(loaded, log.layouts, log.limits, "first")
            tight = engine_memory(loaded, log.layouts, log.limits, "tightest")
            pages = Pages.of(layer_caches(loaded.model, loaded.precision, log.layouts), 16)
            tokens = pages.logged_tokens(float(tight.kv_bytes[0])) / log.tokens
            named = {
                "weights": parts.weights_bytes,
                "activation": parts.activation_bytes,
                "other": parts.other_bytes,
                "graphs": parts.graph_bytes,
                "cache": parts.kv_bytes,
            }
            errors = {name: float(value[0]) / GIB - getattr(log, name) for name, value in named.items()}
            shown = " ".join(f"{value:+7.2f}" for value in errors.values())
            print(f"{log.label:62} {shown}  × {tokens:.3f}")
            rows.append(
                {"row": log.label, **{name: round(value, 3) for name, value in errors.items()}, "tokens": tokens}
            )
    summary: dict[str, object] = {"release": "vLLM 0.19.0", "rows": len(rows), "models_left_out": True}
    for name in ("weights", "activation", "other", "graphs", "cache"):
        values = [abs(float(str(row[name]))) for row in rows]
        summary[name] = {"mean_gib": round(statistics.mean(values), 3), "worst_gib": round(max(values), 3)}
        print(f"{name:10} mean {statistics.mean(values):.3f} GiB, worst {max(values):.3f} GiB")
    off = [abs(float(str(row["tokens"])) - 1) for row in rows]
    summary["logged_tokens"] = {
        "median_pct": round(100 * statistics.median(off), 2),
        "worst_pct": round(100 * max(off), 2),
    }
    print(f"tokens     median {statistics.median(off):.2%}, worst {max(off):.2%}")
    print(write("memory", summary, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
