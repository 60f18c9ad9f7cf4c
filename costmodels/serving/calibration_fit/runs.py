"""What is asked of the cost model about every row, once: the kernels' time of each step of its closed loop, by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd

from costmodels.estimates import Floats, Ints
from costmodels.kernels.cost_model import CostModel
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.operations.registry import families
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.closed_loop.loop_grid import GridQuestions, grid_questions
from costmodels.serving.frameworks.calibration import NEUTRAL, Calibration
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.served_model import ServedModel
from costmodels.serving.step import StepTimes
from costmodels.step.communication import Network
from profiles.errors import ShardwrightError
from profiles.hardware import default_node, find_fabric, find_gpu

PARTS = ("gemm", "attention_prefill", "attention_decode", "moe", "communication", "elementwise")
DECODE_LEVELS, LEVELS = 4, 7
UNLIMITED = 10**6


@dataclass(frozen=True)
class MeasuredRuns:
    """What ``n`` measured rows of a table are predicted from.

    Attributes:
        parts_ms: [n, LEVELS, PARTS], of one step.
        decode_batch, prompts, chunks, mixed: of the grid that the steps belong to.
        layers: of the model. ``most_running``: sequences that the engine holds at once.
        kernels_log: half the width (log) of the kernels' interval in a step of the full batch.
        campaigns: all there are, those without rows included.
    """

    table: pd.DataFrame
    parts_ms: Floats
    decode_batch: Floats
    prompts: Floats
    chunks: Floats
    mixed: np.ndarray
    layers: Ints
    most_running: Ints
    kernels_log: Floats
    campaigns: tuple[str, ...]

    @property
    def campaign(self) -> Ints:
        """Index of each row's, [n]."""
        return self.table["campaign"].map(self.campaigns.index).to_numpy(np.int64)

    def take(self, index: Ints) -> MeasuredRuns:
        common = ("table", "campaigns")
        rest = {field.name: getattr(self, field.name)[index] for field in fields(self) if field.name not in common}
        return replace(self, table=self.table.iloc[index].reset_index(drop=True), **rest)

    def __len__(self) -> int:
        return len(self.table)


def ask(
    table: pd.DataFrame, campaigns: Sequence[str], routing: str, progress: Callable[[str], None] = lambda _: None
) -> tuple[MeasuredRuns, dict[str, int]]:
    """Asks about every row. Returns what is known of the rows that can be predicted, and how many cannot, by
    reason.

    Args:
        table: closed-loop runs: framework, gpu, checkpoint, precision, weights, kv, campaign, the degrees of the
            layout, isl, osl, shortest, concurrency, token_budget, memory_fraction, drafted, gate_steps, gate_enough and
            gate_free_running, family; measured ttft_ms and tpot_ms.
        campaigns: all there are; the first's constants are the framework's own.
        routing: how tokens spread over experts.
        progress: called with a line of text after each group of rows.
    """
    n = len(table)
    parts = np.full((n, LEVELS, len(PARTS)), np.nan)
    decode_batch, prompts, chunks = np.zeros((n, DECODE_LEVELS)), np.zeros((n, LEVELS - DECODE_LEVELS)), np.zeros(n)
    mixed, layers, running, sure = np.zeros(n, bool), np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n)
    left_out: dict[str, int] = {}
    keys = ["framework", "gpu", "checkpoint", "precision", "weights", "kv"]
    costs: dict[tuple[str, str], CostModel] = {}
    for (framework, gpu, checkpoint, precision, weights, kv), group in table.groupby(keys, dropna=False):
        rows = group.index.to_numpy()
        chosen = None if pd.isna(precision) else str(precision)  # type: ignore[call-overload]
        try:
            cache = None if weights == "bf16" else "fp8" if pd.isna(kv) else str(kv)  # type: ignore[call-overload]
            names = (str(framework), str(gpu), str(checkpoint), chosen, cache)
            times, questions, count, limit, width = _group(group, names, costs, routing)
        except ShardwrightError as error:
            left_out[error.message] = left_out.get(error.message, 0) + len(rows)
            continue
        parts[rows] = times
        decode_batch[rows], prompts[rows], chunks[rows] = questions.decode_batch, questions.prompts, questions.chunks
        mixed[rows], layers[rows], running[rows], sure[rows] = questions.mixed, count, limit, width
        progress(f"  {framework} {gpu} {checkpoint} {weights}: {len(rows)} rows")
    whole = MeasuredRuns(table, parts, decode_batch, prompts, chunks, mixed, layers, running, sure, tuple(campaigns))
    return whole.take(np.flatnonzero(layers > 0)), left_out


def _group(
    group: pd.DataFrame,
    names: tuple[str, str, str, str | None, str | None],
    costs: dict[tuple[str, str], CostModel],
    routing: str,
) -> tuple[Floats, GridQuestions, int, Ints, Floats]:
    framework_name, gpu_name, checkpoint, precision_name, kv = names
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
    load = Load.of(concurrency, isl, osl, budget, limit, shortest)
    questions = grid_questions(layouts, running, load, mixed=framework.scheduler.mixed)

    def asked(calibration: Calibration = NEUTRAL) -> StepTimes:
        return served.step(questions.layouts, questions.batch, routing, calibration=calibration)

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
