"""What own rows of training's kernels teach, and how far off the laws are on rows left out, as
:mod:`costmodels.kernels.validation` says it of kernels that have forests."""

from __future__ import annotations

import numpy as np

from costmodels.estimates import Estimates, Floats
from costmodels.kernels.corrected_model import Learnt
from costmodels.kernels.validation import FEWEST_ROWS, Errors, Taught, Validated
from costmodels.training.own_kernels import SIZES, OwnKernels, held_out, untaught


def taught_of_training(own: OwnKernels) -> list[Taught]:
    """One entry per operation of which there are rows."""
    out = []
    for operation in SIZES:
        rows, (_, residual) = own.rows(operation), own.residuals(operation)
        if len(residual):
            learnt = tuple(
                Learnt(dtype, int((at := rows["dtype"] == dtype).sum()), float(np.expm1(np.median(residual[at]))))
                for dtype in sorted(set(rows["dtype"]))
            )
            out.append(Taught(operation, learnt, len(residual), ()))
    return out


def validate_training(own: OwnKernels, folds: int) -> list[Validated]:
    """Each operation and precision: the law alone, and with the rows of the other folds."""
    out = []
    for operation in SIZES:
        rows, (where, residual) = own.rows(operation), own.residuals(operation)
        if not len(residual):
            continue
        told = held_out(where, residual, folds)
        for dtype in sorted(set(rows["dtype"])):
            mine = np.flatnonzero(rows["dtype"] == dtype)
            if told is None or len(mine) < FEWEST_ROWS:
                out.append(Validated(operation, dtype, len(mine), None, None))
                continue
            law = rows["latency_us"] / np.exp(residual)
            before, after = (law, untaught(where)), (law * np.exp(told[0]), told[1])
            errors = (Errors.of(rows["latency_us"][mine], _estimates(*each).take(mine)) for each in (before, after))
            out.append(Validated(operation, dtype, len(mine), *errors))
    return out


def _estimates(value: Floats, width: Floats) -> Estimates:
    n = len(value)
    ends = value * np.exp(-width), value * np.exp(width)
    return Estimates(value, *ends, np.zeros(n, np.int8), np.ones(n, np.bool_))
