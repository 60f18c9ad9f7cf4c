"""What measured rows taught a cost model, and how far off it is on rows that it was not told of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Estimates, Floats
from costmodels.kernels.corrected_model import CorrectedModel, ErrorSpace, Learnt
from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.error_process import Priors
from costmodels.kernels.kernel_models import shape_groups
from costmodels.kernels.overlay import Overlay, Unused
from costmodels.operations.registry import families
from profiles.measurements import DTYPES

FOLDS = 5
FEWEST_ROWS = 8
"""Below this, a percentage would say more of the rows' luck than of the model."""


@dataclass(frozen=True)
class Taught:
    """What the measured stores taught about one operation of one GPU type.

    Attributes:
        learnt: by precision.
        rows_in_correction: at most :data:`costmodels.kernels.error_process.MEAN_ROWS`; all rows answer exactly.
        unused: rows that were left out, and why.
        unmodelled: rows of an operation that the cost model does not predict.
    """

    operation: str
    learnt: tuple[Learnt, ...]
    rows_in_correction: int
    unused: tuple[Unused, ...]
    unmodelled: int = 0


def taught(cost: CostModel) -> list[Taught]:
    """One entry per operation of which the measured stores have rows of the GPU; prepares what it needs."""
    out = []
    for operation, rows in rows_by_operation(cost).items():
        if operation not in families().kernels:
            out.append(Taught(operation, (), 0, (), rows))
            continue
        model = cost.kernel(operation)
        unused = cost.overlay(operation).unused
        if isinstance(model, CorrectedModel):
            out.append(Taught(operation, model.learnt, model.rows_in_correction, unused))
        else:
            out.append(Taught(operation, (), 0, unused))
    return out


def rows_by_operation(cost: CostModel) -> dict[str, int]:
    """How many rows the measured stores have of the GPU, in the order of the schema."""
    out: dict[str, int] = {}
    for store in cost.measured:
        counts = store.summary()
        for operation, rows in (
            counts[counts["gpu"] == cost.gpu.name].groupby("operation", sort=False)["rows"].sum().items()
        ):
            out[str(operation)] = out.get(str(operation), 0) + int(rows)
    return out


@dataclass(frozen=True)
class Errors:
    """Of ``rows`` held-out rows, per cent; ``coverage``: share of rows inside the interval that claims 80 %."""

    mape_pct: float
    median_pct: float
    bias_pct: float
    coverage_pct: float

    @classmethod
    def of(cls, measured_us: Floats, got: Estimates) -> Errors:
        signed = got.value / measured_us - 1
        inside = (measured_us >= got.low) & (measured_us <= got.high)
        figures = (np.abs(signed).mean(), np.median(np.abs(signed)), np.median(signed), inside.mean())
        return cls(*(round(100 * float(figure), 2) for figure in figures))


@dataclass(frozen=True)
class Validated:
    """Error before (the pack alone) and after (with the other folds' rows) on the same rows; None where they are fewer
    than :data:`FEWEST_ROWS`, or of a single shape."""

    operation: str
    dtype: str
    rows: int
    before: Errors | None
    after: Errors | None


def validate(cost: CostModel, folds: int = FOLDS, progress: Callable[[str], None] | None = None) -> list[Validated]:
    """Holds out the measured rows of ``cost``, whole shapes at a time, and predicts them from the pack alone and from
    the pack with the rest of the rows."""
    out = []
    for operation in (name for name in rows_by_operation(cost) if name in families().kernels):
        overlay = cost.overlay(operation)
        rows = overlay.rows
        if not len(overlay):
            continue
        if progress is not None:
            progress(f"holding out {operation}: {len(overlay):,} rows of {cost.gpu.name}")
        space, priors = cost.errors(operation)
        before = space.model.estimate(rows.columns)
        after = _held_out(overlay, space, priors, folds)
        for dtype in np.unique(rows.columns["dtype"]):
            mine = np.flatnonzero(rows.columns["dtype"] == dtype)
            if len(mine) < FEWEST_ROWS or after is None:
                out.append(Validated(operation, DTYPES[int(dtype)], len(mine), None, None))
                continue
            errors = (Errors.of(rows.latency_us[mine], got.take(mine)) for got in (before, after))
            out.append(Validated(operation, DTYPES[int(dtype)], len(mine), *errors))
    return out


def _held_out(overlay: Overlay, space: ErrorSpace, priors: Priors, folds: int) -> Estimates | None:
    """Each row as predicted from the rows of the other folds; None where all rows are of one shape."""
    shapes = shape_groups(space.model.kernel, overlay.rows.columns)
    count = int(shapes.max()) + 1
    if count < 2:
        return None
    fold = (np.random.default_rng(0).permutation(count) % min(folds, count))[shapes]
    value, low, high = (np.zeros(len(overlay)) for _ in range(3))
    how, inside = np.zeros(len(overlay), np.int8), np.zeros(len(overlay), np.bool_)
    for k in np.unique(fold):
        test = np.flatnonzero(fold == k)
        model = CorrectedModel(space.model, space, overlay.take(np.flatnonzero(fold != k)), priors)
        got = model.estimate({name: values[test] for name, values in overlay.rows.columns.items()})
        value[test], low[test], high[test], how[test], inside[test] = got.value, got.low, got.high, got.how, got.inside
    return Estimates(value, low, high, how, inside)
