"""The constants of training and the sustained factor of each GPU type: see ``calibration.yaml``, which has sources."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from profiles.hardware import Gpu
from profiles.shipped import shipped


@dataclass(frozen=True)
class Sustained:
    """Time under sustained load ÷ that of short bursts, with its 80 % interval."""

    factor: float
    low: float
    high: float
    known: bool


@dataclass(frozen=True)
class TrainingCalibration:
    elementwise_bandwidth: float
    attention_backward: float
    fabric: float
    hidden_cost: float
    expert_overhead: float
    spread_dense: float
    spread_fp8: float
    spread_experts: float
    spread_unmeasured_gpu: float


@cache
def training_calibration() -> TrainingCalibration:
    def parse(document: dict[str, Any]) -> TrainingCalibration:
        spreads = {f"spread_{name}": float(value) for name, value in document["spread"].items()}
        return TrainingCalibration(**{k: float(v) for k, v in document["constants"].items()}, **spreads)

    return shipped(Path(__file__).parent / "calibration.yaml", parse)


@cache
def sustained_elsewhere() -> Sustained:
    """Of a GPU type whose catalogue entry says nothing: what the others say."""

    def parse(document: dict[str, Any]) -> Sustained:
        entry = document["sustained_elsewhere"]
        return Sustained(float(entry["factor"]), float(entry["low"]), float(entry["high"]), known=False)

    return shipped(Path(__file__).parent / "calibration.yaml", parse)


def sustained_factor(gpu: Gpu) -> Sustained:
    own = gpu.sustained
    return sustained_elsewhere() if own is None else Sustained(own.factor, own.low, own.high, known=True)
