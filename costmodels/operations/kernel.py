"""One operation that is measured and predicted, and all that the cost model needs to know of it."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.operations.roofline import Columns, Hardware, Work, times_us
from costmodels.operations.shape_features import Features
from profiles.measurements import OPERATIONS

StepPart = Literal["gemm", "attention", "moe", "communication"]
"""Where a step's time is spent. What is in ``communication`` is asked for as exchanges, whose kinds and ranks depend
on the network (:mod:`costmodels.step.communication`)."""


@dataclass(frozen=True)
class OnePrecision:
    """Rows of ``dtypes`` are all the same question, asked as ``dtype``; ``why`` rows of others are not used."""

    dtypes: tuple[str, ...]
    dtype: str
    why: str


@dataclass(frozen=True)
class Kernel:
    """How one operation is modelled. Its shape columns are those of its table in
    :data:`profiles.measurements.OPERATIONS`.

    Attributes:
        part: of a step, to which its time is counted.
        factor: of a framework's calibration (:data:`costmodels.serving.frameworks.calibration.Part`) that scales it;
            "": none, its rows are of what engines run.
        work: FLOPs and bytes that it cannot avoid.
        features: what the forest sees beside what all operations have (:mod:`costmodels.kernels.features`).
        group: the columns that make up one *shape*: rows of a shape are held out together, and trees are
            bootstrapped by shape, so errors are those of shapes never seen.
        range: continuous columns: beyond what was measured of them, the forest's answer is an extrapolation.
        near: columns (with their scale) that say which measured rows are neighbours of a question.
        alike: columns that must be equal for two rows to be neighbours at all (beside the GPU and the precision): a
            question without such rows is one about an unseen GPU or model.
        along: the column along which a line joins rows measured alike; "": none.
        apart: by what factor two rows along it are apart at most, for a line to join them.
        cells: two columns in whose product time grows: an answer among four rows is not much longer than they say.
        leaf_rows: least of a leaf: smooth operations do as well with larger ones, in half the memory.
        one_precision: where the precision is not part of the question.
        figures_of: the operation whose error figures (``unseen_gpu.yaml``, ``few_shot.yaml``) hold for this one, until
            it has rows of which the benchmarks make its own.
    """

    name: str
    part: StepPart
    factor: str
    work: Callable[[Columns], Work]
    features: Callable[[Columns, Hardware, Ints], Features]
    group: tuple[str, ...]
    range: tuple[str, ...]
    near: Mapping[str, float]
    alike: tuple[str, ...] = ()
    along: str = ""
    apart: int = 2
    cells: tuple[str, ...] = ()
    leaf_rows: int = 3
    one_precision: OnePrecision | None = None
    figures_of: str = ""

    @property
    def shape_names(self) -> list[str]:
        return OPERATIONS[self.name].shape_names

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of a question."""
        return "dtype", "num_gpus", *self.shape_names

    @property
    def spans_gpus(self) -> bool:
        """Whether one question is about several GPUs."""
        return "num_gpus" in self.near

    def figures_in(self, figures: Container[str]) -> str:
        """The operation whose ``figures`` hold for this one: its own where they are there."""
        return self.figures_of if self.figures_of and self.name not in figures else self.name

    def times_us(self, q: Columns, gpu: Ints, hw: Hardware) -> tuple[Floats, Floats]:
        """(compute time, transfer time) of the roofline in µs, shape [n] each; ``gpu`` indexes ``hw``."""
        return times_us(self.work(q), q["dtype"], gpu, hw)

    def roofline_us(self, q: Columns, gpu: Ints, hw: Hardware) -> Floats:
        return np.maximum(*self.times_us(q, gpu, hw))

    def missing(self) -> list[str]:
        """What is wrong with this description; empty where nothing is."""
        if self.name not in OPERATIONS:
            return [f"{self.name} has no table in profiles/operation_tables.py"]
        if not OPERATIONS[self.name].predicted:
            return [f"{self.name} is marked in profiles/operation_tables.py as not predicted"]
        known = set(self.columns)
        columns = {"group": self.group, "range": self.range, "near": self.near, "alike": self.alike}
        out = [f"{self.name}: no {field}" for field in ("group", "range", "near") if not columns[field]]
        for field, names in columns.items():
            out += [f"{self.name}: {field} names {name}, which is no column of its table" for name in {*names} - known]
        return out
