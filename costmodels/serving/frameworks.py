"""The serving frameworks as data: defaults, limits and overheads (``frameworks.yaml``)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from profiles.errors import DataError, UnknownName


class Framework(BaseModel):
    """One serving framework; the YAML file has the sources."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    full_name: str
    token_budgets: tuple[int, ...] = Field(min_length=1)  # most tokens in one step: values the planner tries
    max_sequences: int = Field(gt=0)
    expert_splits: Literal["all_or_nothing", "any"]
    memory_fraction: float = Field(gt=0, le=1)
    step_overhead_us: float = Field(ge=0)
    step_spread: float = Field(ge=0)  # half-width (log) of a step's 80 % interval beyond what its kernels explain
    fitted_on: str
    source: str


@cache
def frameworks() -> dict[str, Framework]:
    path = Path(__file__).parent / "frameworks.yaml"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {name: Framework(name=name, **fields) for name, fields in document.items()}
    except (OSError, AttributeError, TypeError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path.name}: cannot be read ({error})", "reinstall shardwright") from error


def find_framework(name: str) -> Framework:
    if name not in frameworks():
        raise UnknownName("framework", name, frameworks())
    return frameworks()[name]
