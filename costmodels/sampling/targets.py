"""What real models ask of the kernels: the questions on which a cost model has to be right, each with its weight."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats
from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.kernel_models import deduplicated
from costmodels.models.architecture import Architecture
from costmodels.models.precision import Precision, choose_precision, missing_hardware
from costmodels.models.registry import find_architecture, registered
from costmodels.operations.collective import COLLECTIVE
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Batch, StepWork
from costmodels.operations.registry import families
from costmodels.operations.roofline import WEIGHT_BYTES, code
from costmodels.step.operators import step_work
from profiles.errors import Unsupported
from profiles.hardware import Gpu

MOST_TARGETS = 600
"""Targets of one operation: more change the choice of rows no further and cost time in proportion."""

TENSOR_PARALLEL = (1, 2, 4, 8)
CHUNKS = (256, 1024, 2048, 8192)  # prompt tokens of a prefill step: up to the frameworks' largest token budget
DECODES = (1, 8, 32, 128, 256)  # sequences of a decode step: up to the frameworks' default limit
CONTEXTS = (512, 4096, 16384)
WEIGHTS_SHARE = 0.8  # of the memory: what more weights leave holds no cache worth serving from
ROUTING = "power_law_1.01"


@dataclass(frozen=True)
class Targets:
    """Questions to one operation: coded shape columns of shape [n], and each one's share of the time of all steps."""

    columns: dict[str, NDArray[np.generic]]
    weights: Floats


def targets(cost: CostModel, operations: Collection[str], most: int = MOST_TARGETS) -> dict[str, Targets]:
    """By operation, what the bundled models ask of the GPU of ``cost``, in steps that prefill and steps that decode.

    Every step counts alike, a question by its share of the predicted time that the step spends in ``operations``.
    Precisions are the published one, and fp8 for 16-bit checkpoints where the GPU has it. Operations that nobody asks
    are left out.
    """
    asked: dict[str, list[tuple[dict[str, NDArray[np.generic]], NDArray[np.int64], Floats]]] = {}
    steps = 0
    for work in _steps(cost.gpu):
        for operation, columns, step, count in _questions(work):
            if operation in operations:
                asked.setdefault(operation, []).append((columns, step + steps, count))
        steps += work.candidates
    spent = np.zeros(steps)
    parts = {}
    for operation, pieces in asked.items():
        names = families().kernel(operation).columns
        columns = {name: np.concatenate([piece[0][name] for piece in pieces]) for name in names}
        step = np.concatenate([piece[1] for piece in pieces])
        time_us = cost.estimate(operation, columns).value * np.concatenate([piece[2] for piece in pieces])
        np.add.at(spent, step, time_us)
        parts[operation] = (columns, step, time_us)
    out = {}
    for operation, (columns, step, time_us) in parts.items():
        unique, back = deduplicated(operation, columns)
        share = np.bincount(back, weights=time_us / spent[step] / steps).astype(np.float64)
        out[operation] = _thinned(Targets(unique, share), most)
    return out


def _thinned(all_of: Targets, most: int) -> Targets:
    """Systematic resampling: as many of each question as its weight says, all together ``most``."""
    total = float(all_of.weights.sum())
    if len(all_of.weights) <= most:
        return all_of
    steps = (np.arange(most) + 0.5) / most * total
    drawn = np.minimum(np.searchsorted(np.cumsum(all_of.weights), steps), len(all_of.weights) - 1)
    kept, times = np.unique(drawn, return_counts=True)
    weights = times.astype(np.float64) * total / most
    return Targets({name: values[kept] for name, values in all_of.columns.items()}, weights)


def _steps(gpu: Gpu) -> Iterator[StepWork]:
    for entry in registered():
        model = find_architecture(entry.name)
        try:
            families().require_measured_widths(model)
        except Unsupported:
            continue
        for precision in _precisions(model, gpu):
            layouts = _layouts(model, precision, gpu)
            if layouts:
                yield _work(model, precision, layouts)


def _precisions(model: Architecture, gpu: Gpu) -> Iterator[Precision]:
    names = [None, "fp8"] if model.weight_precision in ("bf16", "fp16", "fp32") else [None]
    for name in names:
        precision = choose_precision(model, name)
        if missing_hardware(precision, gpu) is None:
            yield precision


def _layouts(model: Architecture, precision: Precision, gpu: Gpu) -> list[tuple[int, int, int, int, int]]:
    """Tensor parallel, for mixtures of experts also expert parallel, as far as heads divide and weights fit."""
    heads = [group.attention.heads for group in model.layer_groups]
    weights_bytes = model.parameters * WEIGHT_BYTES[precision.weights]
    out = []
    for tp in TENSOR_PARALLEL:
        if any(count % tp for count in heads) or weights_bytes / tp > WEIGHTS_SHARE * gpu.memory_bytes:
            continue
        out.append((tp, 1, 1, 1, tp))
        if model.is_moe and tp > 1:
            out.append((tp, 1, 1, tp, 1))
    return out


def _work(model: Architecture, precision: Precision, layouts: list[tuple[int, int, int, int, int]]) -> StepWork:
    batches = [(1, chunk, 0, 0) for chunk in CHUNKS]
    batches += [(0, 0, n, c) for n, c in product(DECODES, CONTEXTS) if c <= model.max_context_tokens]
    every = list(product(layouts, batches))
    prefills, chunk, decodes, context = np.array([batch for _, batch in every], dtype=np.int64).T
    tokens = prefills * chunk + decodes
    todo = Batch(prefills, chunk, np.zeros_like(chunk), decodes, np.maximum(context, 1), tokens.astype(np.float64))
    return step_work(model, precision, Layouts.of([layout for layout, _ in every]), todo, ROUTING)


def _questions(
    work: StepWork,
) -> Iterator[tuple[str, dict[str, NDArray[np.generic]], NDArray[np.int64], Floats]]:
    """(operation, columns, step, count) of everything that ``work`` asks."""
    for operation, pieces in work.asked.items():
        for piece in pieces:
            yield operation, dict(piece.columns), piece.candidate, piece.count
    for exchange in work.exchanges:
        n = len(exchange.ranks)
        columns: dict[str, NDArray[np.generic]] = {
            "dtype": np.full(n, code("dtype", "bf16")),
            "kind": np.full(n, exchange.kind),
            "message_bytes": exchange.message_bytes.astype(np.int64),
            "num_gpus": exchange.ranks,
        }
        yield COLLECTIVE.name, columns, exchange.candidate, exchange.count
