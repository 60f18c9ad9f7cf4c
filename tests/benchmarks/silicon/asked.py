"""What is asked of the cost model about every row, once: the kernels' time of each step of its closed loop, by part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from costmodels.estimates import Floats, Ints
from costmodels.kernels.cost_model import CostModel
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.operations.registry import families
from costmodels.serving.closed_loop.loop_grid import GridQuestions, grid_questions
from costmodels.serving.frameworks.calibration import NEUTRAL, Calibration
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.served_model import ServedModel
from costmodels.serving.step import StepTimes
from costmodels.step.communication import Network
from planner.serving.prediction_table import ROUTING
from profiles.errors import ShardwrightError
from profiles.hardware import default_node, find_fabric, find_gpu

PARTS = ("gemm", "attention_prefill", "attention_decode", "moe", "communication", "elementwise")
DECODE_LEVELS, LEVELS = 4, 7
UNLIMITED = 10**6


@dataclass(frozen=True)
class Asked:
    """Of ``n`` rows: ``parts_ms`` [n, LEVELS, PARTS] of one step, the grid it belongs to, layers of the model, most
    sequences that the engine holds, and half the width (log) of the kernels' interval in a step of the full batch."""

    table: pd.DataFrame
    parts_ms: Floats
    decode_batch: Floats
    prompts: Floats
    chunks: Floats
    mixed: np.ndarray
    layers: Ints
    most_running: Ints
    kernels_log: Floats

    def take(self, index: Ints) -> Asked:
        rest = {name: getattr(self, name)[index] for name in self.__dataclass_fields__ if name != "table"}
        return Asked(self.table.iloc[index].reset_index(drop=True), **rest)

    def __len__(self) -> int:
        return len(self.table)


def ask(table: pd.DataFrame, progress: bool = True) -> tuple[Asked, dict[str, int]]:
    """Asks about every row. Returns what is known of the rows that can be predicted, and how many cannot, by
    reason."""
    n = len(table)
    parts = np.full((n, LEVELS, len(PARTS)), np.nan)
    decode_batch, prompts, chunks = np.zeros((n, DECODE_LEVELS)), np.zeros((n, LEVELS - DECODE_LEVELS)), np.zeros(n)
    mixed, layers, running, sure = np.zeros(n, bool), np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n)
    left_out: dict[str, int] = {}
    keys = ["framework", "gpu", "checkpoint", "precision", "weights", "kv"]
    costs: dict[tuple[str, str], CostModel] = {}
    for (framework, gpu, checkpoint, precision, weights, kv), group in table.groupby(keys, dropna=False):
        rows = group.index.to_numpy()
        chosen = None if pd.isna(precision) else str(precision)
        try:
            cache = None if weights == "bf16" else "fp8" if pd.isna(kv) else str(kv)
            times, questions, count, limit, width = _group(group, framework, gpu, checkpoint, chosen, cache, costs)
        except ShardwrightError as error:
            left_out[error.message] = left_out.get(error.message, 0) + len(rows)
            continue
        parts[rows] = times
        decode_batch[rows], prompts[rows], chunks[rows] = questions.decode_batch, questions.prompts, questions.chunks
        mixed[rows], layers[rows], running[rows], sure[rows] = questions.mixed, count, limit, width
        if progress:
            print(f"  {framework} {gpu} {checkpoint} {weights}: {len(rows)} rows", flush=True)
    whole = Asked(table, parts, decode_batch, prompts, chunks, mixed, layers, running, sure)
    return whole.take(np.flatnonzero(layers > 0)), left_out


def _group(
    group: pd.DataFrame,
    framework_name: str,
    gpu_name: str,
    checkpoint: str,
    precision_name: str | None,
    kv: str | None,
    costs: dict[tuple[str, str], CostModel],
) -> tuple[Floats, GridQuestions, int, Ints, Floats]:
    model, gpu, framework = find_architecture(checkpoint), find_gpu(gpu_name), find_framework(framework_name)
    families().require_measured_widths(model)
    precision = choose_precision(model, precision_name, kv)
    cost = costs.setdefault((framework_name, gpu_name), CostModel(gpu, framework_name))
    node = default_node(gpu)
    served = ServedModel(model, precision, framework, cost, Network(node.gpus, find_fabric(node.default_fabric)))
    names = ("tp", "pp", "dp", "ep", "moe_tp")
    layouts = Layouts(*(group[name].to_numpy(dtype=np.int64) for name in names))
    isl, osl, concurrency, budget = (
        group[name].to_numpy(dtype=np.int64) for name in ("isl", "osl", "concurrency", "token_budget")
    )
    shortest = group["shortest"].to_numpy()
    fraction = float(group["memory_fraction"].fillna(framework.limits.memory_fraction).iloc[0])
    room = served.memory(layouts, np.minimum(budget, 2 * max(framework.limits.token_budgets)), memory_fraction=fraction)
    lengths = (1 + shortest) / 2 * framework.scheduler.held_tokens(isl, osl)
    held = room.sequences(served.kv_bytes(layouts, lengths))
    # The row is there, so the model fitted, whatever our account of its memory says.
    limit = np.where(held > 1, np.minimum(held, framework.limits.max_sequences) * layouts.dp, UNLIMITED)
    running = np.minimum(concurrency, limit)
    questions = grid_questions(layouts, running, budget, isl, osl, shortest, mixed=framework.scheduler.mixed)

    def asked(calibration: Calibration = NEUTRAL) -> StepTimes:
        return served.step(questions.layouts, questions.batch, ROUTING, calibration=calibration)

    def parts(times: StepTimes) -> dict[str, Floats]:
        return {name: values.reshape(LEVELS, -1).T / 1e3 for name, values in times.parts.items()}

    times = asked()
    every = parts(times)
    without = NEUTRAL.model_copy(update={"factors": {**NEUTRAL.factors, "attention_prefill": 0.0}})
    decoding = parts(asked(without))["attention"]
    every["attention_decode"] = decoding
    every["attention_prefill"] = every["attention"] - decoding
    step = times.latency.take(np.arange(len(layouts)) + (DECODE_LEVELS - 1) * len(layouts))
    width = np.log(step.high / step.low) / 2
    return np.stack([every[name] for name in PARTS], axis=2), questions, model.layers, limit, width
