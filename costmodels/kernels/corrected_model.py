"""A kernel model of the shipped pack with the user's measured rows laid over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.estimates import SIGMAS, Estimates, Floats
from costmodels.kernels.error_process import ErrorProcess, Points, Priors, points
from costmodels.kernels.kernel_models import (
    EXTRAPOLATION,
    MEASURED_NOISE,
    STAND_IN_SPREAD,
    Answer,
    KernelModel,
    Rows,
    doublings_outside,
    error_partitions,
    partitions,
    question_keys,
    ranges,
)
from costmodels.kernels.overlay import NOISE_FLOOR, Overlay, own_rows
from costmodels.operations.roofline import Columns
from costmodels.origins import FOREST, MEASURED, ROOFLINE
from profiles.measurements import DTYPES


class ErrorSpace:
    """Where the errors of one kernel model live: questions as points of the Gaussian process.

    Args:
        model: the kernel model before the user's rows.
        rows: the pack's rows of this GPU.
        framework: whose kernels run: where the pack has only stand-ins, it has not seen this GPU.
    """

    def __init__(self, model: KernelModel, rows: Rows, framework: str) -> None:
        self.model = model
        own = own_rows(rows, model.operation, framework)
        self._own = np.unique(partitions(model.kernel, rows.columns)[own])

    def points(self, q: Columns, a: Answer) -> tuple[Points, Floats]:
        """(points, value in µs) of the questions ``q`` that were answered ``a``: an exact row of the pack is the
        model's answer too, since another machine may differ from it."""
        value = np.where(a.found, a.exact, a.value)
        known = np.isin(partitions(self.model.kernel, q), self._own)
        exact = np.where(known, 0.0, STAND_IN_SPREAD / SIGMAS)
        claimed = np.where(a.found, exact, (a.down + a.up) / (2 * SIGMAS))
        ratio = np.log(value / a.base)
        p = points(self.model.operation, q, self.model.hardware, error_partitions(q), ratio, claimed, known)
        return p, value


@dataclass(frozen=True)
class Learnt:
    """What the rows of one precision taught: ``shift`` is the median of measured ÷ predicted without them, less 1."""

    dtype: str
    rows: int
    shift: float


class CorrectedModel:
    """Predicts one operation on one GPU type: the measured rows exactly, and all else as the pack's model says it,
    corrected by what these rows show of its errors (:mod:`costmodels.kernels.error_process`).

    Args:
        model: the kernel model before them.
        space: where its errors live.
        overlay: the measured rows, at least one.
        priors: what errors look like before a row is measured.
    """

    def __init__(self, model: KernelModel, space: ErrorSpace, overlay: Overlay, priors: Priors) -> None:
        self.operation, self.kernel, self.hardware = model.operation, model.kernel, model.hardware
        self._model, self._space = model, space
        rows = overlay.rows
        p, before = space.points(rows.columns, model.answer(rows.columns))
        residual = np.log(rows.latency_us / before)
        self._anchor = ErrorProcess(priors, p, residual)
        keys = question_keys(self.operation, rows.columns)
        order = np.argsort(keys)
        self._keys, self._us = keys[order], rows.latency_us[order]
        self._down, self._up = (
            np.where(np.isnan(side), MEASURED_NOISE, np.maximum(side, NOISE_FLOOR))[order]
            for side in (overlay.down, overlay.up)
        )
        self._partitions = np.unique(partitions(self.kernel, rows.columns))
        self._ranges = ranges(self.kernel, rows.columns)
        dtypes = rows.columns["dtype"]
        self.learnt = tuple(
            Learnt(
                DTYPES[int(dtype)], int((dtypes == dtype).sum()), float(np.expm1(np.median(residual[dtypes == dtype])))
            )
            for dtype in np.unique(dtypes)
        )
        self.rows_in_correction = self._anchor.rows_used

    def estimate(self, q: Columns) -> Estimates:
        """Latencies in µs of the questions ``q`` (coded shape columns, shape [n] each)."""
        if len(q["dtype"]) == 0:
            return Estimates.exact(np.zeros(0))
        a = self._model.answer(q)
        p, value = self._space.points(q, a)
        mean, width = self._anchor.at(p)
        value = value * np.exp(mean)
        widen = np.where(a.found, 0.0, EXTRAPOLATION * a.doublings)
        low = value * np.exp(-width - widen)
        low = np.where(a.found, low, np.maximum(low, np.minimum(a.bound, value)))
        high = value * np.exp(width + widen)
        here = np.isin(partitions(self.kernel, q), self._partitions) & (doublings_outside(self._ranges, q) <= 0)
        inside = a.found | (a.known & (a.doublings <= 0)) | here

        keys = question_keys(self.operation, q)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        mine = self._keys[place] == keys
        exact = self._us[place]
        return Estimates(
            np.where(mine, exact, value),
            np.where(mine, exact * np.exp(-self._down[place]), np.minimum(low, value)),
            np.where(mine, exact * np.exp(self._up[place]), np.maximum(high, value)),
            np.where(mine | a.found, MEASURED, FOREST if self._model.has_forest else ROOFLINE).astype(np.int8),
            inside | mine,
        )
