"""The serving frameworks as data: one YAML file each, in this folder (``vllm.yaml`` says how it is read)."""

from __future__ import annotations

import datetime as dt
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from costmodels.serving.frameworks.calibration import Calibration, calibrations
from costmodels.serving.frameworks.connector import KvConnector
from costmodels.serving.frameworks.history import Basis, Entry, Release, part_at
from costmodels.serving.frameworks.names import CALIBRATION, FOLDER, framework_names
from costmodels.serving.frameworks.policies import Policy
from profiles.errors import DataError, UnknownName
from profiles.hardware import Gpu
from profiles.shipped import shipped


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Facts):
    """Batch limits and memory with which the planner starts engines."""

    token_budgets: tuple[int, ...] = Field(min_length=1)  # most tokens in one step: values the planner tries
    max_sequences: int = Field(gt=0)
    memory_fraction: float = Field(gt=0, le=1)


class Parallelism(_Facts):
    """Which layouts the framework has words for, and where it puts their ranks.

    Attributes:
        expert_splits: whether experts are shared out over all GPUs of a stage or none, or any divisor of them.
        tensor_and_data_parallel_attention: whether attention replicas may have several GPUs each.
        scatters_attention_replicas: whether the attention replicas of a stage lie pipeline stages apart, so that they
            are on more nodes than they fill.
    """

    expert_splits: Literal["all_or_nothing", "any"]
    tensor_and_data_parallel_attention: bool
    scatters_attention_replicas: bool


class Precisions(_Facts):
    """Precisions of checkpoints that the framework loads, or makes while loading."""

    runs: frozenset[str]


class CommandLine(_Facts):
    """How the framework spells what a plan decides; a launcher knows the meaning.

    Attributes:
        checked_on: the day on which the names were compared with the sources.
        program: argument vector up to the model.
        port: what the server listens on unless told otherwise.
        flags: one per decision; None: the framework has no such flag (a model that is positional).
        kv: our KV precision → the framework's word.
        quantize: weight precision that the framework makes while loading a 16-bit checkpoint → its word. Any other
            conversion needs a checkpoint that was quantised beforehand.
    """

    checked_on: dt.date
    program: tuple[str, ...] = Field(min_length=1)
    port: int
    flags: dict[str, str | None]
    kv: dict[str, str]
    quantize: dict[str, str]


class StandIn(_Facts):
    """Which measured rows speak for an operation in a precision, where a framework runs it by default otherwise than
    the pack timed it under its name."""

    operation: Literal["gemm", "moe"]
    precision: str  # of dense layers, or of experts
    from_capability: float  # CUDA compute capability from which it holds
    measured_as: str
    measured_under: str
    why: str
    source: str


PARTS = ("limits", "parallelism", "precisions", "scheduler", "kv_connector", "command")
"""The parts whose facts are dated."""


class Framework(_Facts):
    """One serving framework at one release; the YAML file has the sources.

    Attributes:
        bases: where the facts of each dated part come from.
        calibration: what its engine takes beyond its kernels.
    """

    name: str
    full_name: str
    release: Release
    limits: Limits
    parallelism: Parallelism
    precisions: Precisions
    scheduler: Policy
    kv_connector: KvConnector
    command: CommandLine
    stand_ins: tuple[StandIn, ...]
    calibration: Calibration
    bases: tuple[Basis, ...]

    def basis(self, part: str) -> Basis:
        """Where the facts of one of :data:`PARTS` come from."""
        return next(basis for basis in self.bases if basis.part == part)

    def stand_in(self, operation: str, gpu: Gpu, precision: str) -> StandIn | None:
        """What speaks for ``operation`` in ``precision`` on ``gpu``, or None: its own rows of that precision."""
        capability = gpu.compute_capability or 0.0
        for entry in self.stand_ins:
            if (entry.operation, entry.precision) == (operation, precision) and capability >= entry.from_capability:
                return entry
        return None


class FrameworkFile(_Facts):
    """One framework's YAML file: everything that is known of it, over all its releases (oldest first)."""

    full_name: str
    releases_source: str
    releases: tuple[Release, ...] = Field(min_length=1)
    limits: tuple[Entry, ...]
    parallelism: tuple[Entry, ...]
    precisions: tuple[Entry, ...]
    scheduler: tuple[Entry, ...]
    kv_connector: tuple[Entry, ...]
    command: tuple[Entry, ...]
    stand_ins: tuple[StandIn, ...] = ()

    def at(self, name: str, release: Release, calibration: Calibration) -> Framework:
        """The framework at one of its releases.

        Raises:
            ValueError: facts that are missing, unknown or contradict each other.
        """
        found = {part: part_at(part, getattr(self, part), release.version) for part in PARTS}
        facts: dict[str, Any] = {part: dict(each) for part, (each, _) in found.items()}
        return Framework(
            name=name,
            full_name=self.full_name,
            release=release,
            stand_ins=self.stand_ins,
            calibration=calibration,
            bases=tuple(basis for _, basis in found.values()),
            **facts,
        )


class Registry:
    """The frameworks of one folder: a YAML file each, and the constants fitted for them (:data:`CALIBRATION`).

    Raises:
        DataError: a file is broken, or a framework has no constants.
    """

    def __init__(self, folder: Path) -> None:
        self._fitted = calibrations(folder)
        self._newest = {name: self._read(folder / f"{name}.yaml") for name in framework_names(folder)}
        self._spellings = {_folded(each.full_name): name for name, each in self._newest.items()}
        self._spellings |= {_folded(name): name for name in self._newest}

    def _read(self, path: Path) -> Framework:
        fitted = self._fitted.get(path.stem)
        if fitted is None:
            raise DataError(
                f"{CALIBRATION}: no constants of {path.stem}", "fit them: python -m tests.benchmarks.silicon calibrate"
            )

        def parse(document: dict[str, Any]) -> Framework:
            file = FrameworkFile.model_validate(document)
            return file.at(path.stem, file.releases[-1], fitted)

        return shipped(path, parse)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._newest)

    def find(self, name: str) -> Framework:
        """A framework by its name, whatever its case and hyphens.

        Raises:
            UnknownName: with the frameworks there are.
        """
        known = self._spellings.get(_folded(name))
        if known is None:
            raise UnknownName("framework", name, self.names)
        return self._newest[known]


def _folded(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.casefold())


@cache
def registry() -> Registry:
    """The frameworks that ship with the package."""
    return Registry(FOLDER)


def find_framework(name: str) -> Framework:
    """A framework by its name, whatever its case and hyphens.

    Raises:
        UnknownName: with the frameworks there are.
    """
    return registry().find(name)
