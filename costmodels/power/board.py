"""Board power of a GPU that runs engine steps: between idle and TDP, by how busy tensor cores and memory
are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from costmodels.estimates import Estimates, Floats
from costmodels.facts import read_numbers
from costmodels.origins import ROOFLINE
from profiles.hardware import Gpu


@dataclass(frozen=True)
class PowerFacts:
    """See ``board.yaml``: shares of TDP."""

    base: float
    compute: float
    memory: float
    residual_low: float
    residual_high: float


@cache
def power_facts() -> PowerFacts:
    return read_numbers(Path(__file__).parent / "board.yaml", PowerFacts)


def board_power(gpu: Gpu, compute_share: Floats, memory_share: Floats) -> Estimates:
    """Watts of one GPU under load, shape [n].

    Args:
        compute_share, memory_share: shape [n], roofline compute and memory time ÷ actual time.
    """
    facts = power_facts()
    share = facts.base + facts.compute * compute_share + facts.memory * memory_share
    idle = gpu.idle_watts / gpu.tdp_watts

    def watts(shares: Floats) -> Floats:
        return np.clip(shares, idle, 1.0) * gpu.tdp_watts

    n = len(share)
    return Estimates(
        watts(share),
        watts(np.minimum(share, 1.0) + facts.residual_low),
        watts(share + facts.residual_high),
        np.full(n, ROOFLINE, np.int8),
        np.full(n, gpu.name == "B200"),
    )
