"""The constants of training, and what lasting load costs a GPU: see ``calibration.yaml``, which has sources."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from profiles.hardware import Gpu, LastingLoad
from profiles.shipped import shipped


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
def lasting_load_elsewhere() -> LastingLoad:
    def parse(document: dict[str, Any]) -> LastingLoad:
        entry = document["lasting_load_elsewhere"]
        return LastingLoad(factor=entry["factor"], low=entry["low"], high=entry["high"])

    return shipped(Path(__file__).parent / "calibration.yaml", parse)


def lasting_load(gpu: Gpu) -> LastingLoad:
    """Of ``gpu``; where nothing tells, what the types say of which something is known."""
    return gpu.lasting_load or lasting_load_elsewhere()
