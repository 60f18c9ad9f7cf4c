"""A prediction as the columns that tables and views show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from costmodels.estimates import Floats
from costmodels.origins import HOW
from costmodels.training.flops import model_flops
from costmodels.training.memory import PARTS, SPREAD
from planner.training.configuration import TrainingConfiguration
from planner.training.places import mean_peak, room
from planner.training.prediction import Predicted

TIMES = (
    *("iteration_s", "iteration_s_low", "iteration_s_high", "tokens_per_s_gpu", "model_tflops_gpu", "mfu"),
    *("bubble_share", "exposed_communication_share"),
)
MEMORY = (
    *("memory_bytes_per_gpu", "memory_bytes_per_gpu_low", "memory_bytes_per_gpu_high"),
    *("memory_reserved_bytes_per_gpu", "fits"),
)


def memory_columns(answer: Predicted, configurations: Sequence[TrainingConfiguration]) -> dict[str, list[object]]:
    """Of the fullest rank of each layout."""
    allocated = answer.memory.allocated.max(axis=1)
    down, up = SPREAD
    fits = answer.memory.fits(room(configurations[0].places))
    return {
        "memory_bytes_per_gpu": [round(value) for value in allocated],
        "memory_bytes_per_gpu_low": [round(value) for value in allocated * np.exp(-down)],
        "memory_bytes_per_gpu_high": [round(value) for value in allocated * np.exp(up)],
        "memory_reserved_bytes_per_gpu": [round(value) for value in answer.memory.reserved.max(axis=1)],
        "fits": ["true" if each else "false" for each in fits],
    }


def stage_rows(answer: Predicted, row: int = 0) -> list[dict[str, int]]:
    """Memory of each stage of one layout by part, bytes of a GPU, and whether it fits."""
    memory, stages = answer.memory, int(answer.layouts.pp[row])
    names = (*PARTS, "allocated", "reserved", "communication", "context")
    return [
        {"stage": stage, **{f"{name}_bytes": round(float(getattr(memory, name)[row, stage])) for name in names}}
        for stage in range(stages)
    ]


def time_columns(answer: Predicted, configurations: Sequence[TrainingConfiguration]) -> dict[str, list[object]]:
    if answer.times is None:
        return {}
    seconds = answer.times.total.scaled(1e-6)
    batch = np.array([c.global_batch for c in configurations], dtype=np.float64)
    gpus = np.array([c.gpus for c in configurations], dtype=np.float64)
    flops = model_flops(answer.setting, 1) * batch
    rate = flops / (seconds.value * gpus)
    shares: dict[str, Floats] = {
        "iteration_s": seconds.value,
        "iteration_s_low": seconds.low,
        "iteration_s_high": seconds.high,
        "tokens_per_s_gpu": batch * answer.setting.sequence / (seconds.value * gpus),
        "model_tflops_gpu": rate / 1e12,
        "mfu": rate / mean_peak(configurations[0].places, configurations[0].precision),
        "bubble_share": answer.times.bubble_share,
        "exposed_communication_share": answer.times.exchange_share,
    }
    columns: dict[str, list[object]] = {
        name: [float(f"{value:.6g}") for value in values] for name, values in shares.items()
    }
    columns["how"] = [HOW[code] for code in answer.times.total.how]
    return columns
