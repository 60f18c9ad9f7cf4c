"""The serving frameworks as data: defaults, limits and overheads (``frameworks.yaml``)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from costmodels.serving.frameworks.calibration import Calibration, calibrations
from profiles.errors import UnknownName
from profiles.hardware import Gpu
from profiles.shipped import shipped


class StandIn(BaseModel):
    """Which measured rows speak for an operation in a precision, where a framework runs it by default otherwise than
    the pack timed it under its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operation: Literal["gemm", "moe"]
    precision: str  # of dense layers, or of experts
    from_capability: float  # CUDA compute capability from which it holds
    measured_as: str
    measured_under: str
    why: str


class Framework(BaseModel):
    """One serving framework; the YAML file has the sources."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    full_name: str
    token_budgets: tuple[int, ...] = Field(min_length=1)  # most tokens in one step: values the planner tries
    max_sequences: int = Field(gt=0)
    expert_splits: Literal["all_or_nothing", "any"]
    memory_fraction: float = Field(gt=0, le=1)
    mixes_prompts_with_decodes: bool
    stand_ins: tuple[StandIn, ...] = ()
    source: str

    @property
    def calibration(self) -> Calibration:
        """What its engine takes beyond its kernels."""
        return calibrations()[self.name]

    def stand_in(self, operation: str, gpu: Gpu, precision: str) -> StandIn | None:
        """What speaks for ``operation`` in ``precision`` on ``gpu``, or None: its own rows of that precision."""
        capability = gpu.compute_capability or 0.0
        for entry in self.stand_ins:
            if (entry.operation, entry.precision) == (operation, precision) and capability >= entry.from_capability:
                return entry
        return None


@cache
def frameworks() -> dict[str, Framework]:
    return shipped(
        Path(__file__).parent / "frameworks.yaml",
        lambda document: {name: Framework(name=name, **fields) for name, fields in document.items()},
    )


def find_framework(name: str) -> Framework:
    if name not in frameworks():
        raise UnknownName("framework", name, frameworks())
    return frameworks()[name]
