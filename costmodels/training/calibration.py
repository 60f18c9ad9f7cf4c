"""The constants of training, and what lasting load costs a GPU: see ``calibration.yaml``, which has sources.

Those that somebody's own runs taught (``plan calibrate``) stand in ``training_calibration.json`` in the folder of a
profile store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from profiles.hardware import Gpu, LastingLoad
from profiles.shipped import shipped
from profiles.typed_json import StoreFile

Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingConstants(_Facts):
    """What is neither counted nor measured nor a framework's fact."""

    elementwise_bandwidth: Share
    attention_backward: Positive
    fabric: Share
    hidden_cost: Share
    expert_overhead: Positive


class KernelRatios(_Facts):
    """Time of one kernel ÷ that of another that was measured."""

    flash2_on_hopper: Positive
    grouped: Positive


class TrainingSpread(_Facts):
    """Half-width (log) of the 80 % interval beside the kernels' own."""

    dense: Positive
    fp8: Positive
    experts: Positive
    unmeasured_gpu: Positive


class TrainingCalibration(_Facts):
    """Constants, the spread that they leave, and what lasting load costs the GPU types that own runs were on."""

    constants: TrainingConstants
    spread: TrainingSpread
    lasting_load: Mapping[str, LastingLoad] = Field(default_factory=dict)
    learned_from: str = ""  # own runs, and their date

    def load(self, gpu: Gpu) -> LastingLoad:
        """Of ``gpu``: what own runs say, else the catalogue, else what the types say of which something is known."""
        return self.lasting_load.get(gpu.name) or lasting_load(gpu)

    def knows(self, gpu: Gpu) -> bool:
        """Whether anything is known of this very type."""
        return gpu.name in self.lasting_load or gpu.lasting_load is not None


def _parts() -> Mapping[str, Any]:
    return shipped(Path(__file__).parent / "calibration.yaml", lambda document: document)


@cache
def training_calibration() -> TrainingCalibration:
    """As shipped."""
    document = _parts()
    return TrainingCalibration(constants=document["constants"], spread=document["spread"])


@cache
def kernel_ratios() -> KernelRatios:
    """Published and measured; nobody's runs change them."""
    return KernelRatios.model_validate(_parts()["kernels"])


@cache
def doubt() -> TrainingConstants:
    """How far a constant may be off where somebody's runs say so: standard deviation of its logarithm."""
    return TrainingConstants.model_validate(_parts()["doubt"])


@cache
def lasting_load_elsewhere() -> LastingLoad:
    entry = _parts()["lasting_load_elsewhere"]
    return LastingLoad(factor=entry["factor"], low=entry["low"], high=entry["high"])


def lasting_load(gpu: Gpu) -> LastingLoad:
    """Of ``gpu``; where nothing tells, what the types say of which something is known."""
    return gpu.lasting_load or lasting_load_elsewhere()


# ------------------------------------------------------------------ own runs


OWN_CALIBRATION = StoreFile(
    "training_calibration.json",
    "training calibration",
    "make the store again with plan calibrate, or leave the file out",
    TypeAdapter(TrainingCalibration),
)


def own_training_calibration(folders: Iterable[Path]) -> TrainingCalibration:
    """What the last of these stores' folders that has learned of training says; else what ships.

    Raises:
        DataError: a file is broken.
    """
    return OWN_CALIBRATION.last_in(folders, lambda found: found) or training_calibration()
