"""Whether a fleet carries the groups of a step, how they are best shared out, and at what prices that is so.

max θ subject to Σ_v x_gv = θ for every group and Σ_g work_gv·x_gv ≤ y_v. θ ≥ 1: the fleet carries the load, θ times
over. The duals of the second rows are a price π of each kind: no fleet with Σ π·y below what the load is worth at these
prices (:func:`planner.solving.mix.question.required`) carries it.

One linear programme a step, kept: only the right-hand sides change from one fleet to the next, so that the last basis
is a few pivots away from the next answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.solving.mix.question import required
from planner.solving.solvers import Floats
from profiles.errors import ShardwrightError

ENOUGH = 1e-7
"""By how much θ may be below 1: rounding of the linear programme."""


class Carrying:
    """The programme of one step."""

    def __init__(self, work: Floats) -> None:
        import highspy

        self.work = work
        groups, n = work.shape
        row, kind = np.nonzero(np.isfinite(work))
        self._group, self._kind = row, kind
        columns = len(row)
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = columns + 1, groups + n
        lp.col_cost_ = np.append(np.zeros(columns), 1.0)
        lp.col_lower_ = np.zeros(columns + 1)
        lp.col_upper_ = np.full(columns + 1, highspy.kHighsInf)
        lp.row_lower_ = np.concatenate([np.zeros(groups), np.full(n, -highspy.kHighsInf)])
        lp.row_upper_ = np.zeros(groups + n)
        lp.sense_ = highspy.ObjSense.kMaximize
        # Column by column: x_gv is in the row of its group and in that of its kind; θ in every group's.
        starts = np.append(2 * np.arange(columns + 1), 2 * columns + groups)
        index = np.empty(2 * columns + groups, np.int32)
        value = np.empty(2 * columns + groups)
        index[0 : 2 * columns : 2], value[0 : 2 * columns : 2] = row, 1.0
        # Kinds' rows are scaled by their largest work, groups' are 1.
        index[1 : 2 * columns : 2], value[1 : 2 * columns : 2] = groups + kind, work[row, kind]
        index[2 * columns :], value[2 * columns :] = np.arange(groups), -1.0
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = starts, index, value
        self._highs = _quiet(highspy)
        self._highs.passModel(lp)
        self._highspy = highspy
        self._rows = np.arange(groups, groups + n, dtype=np.int32)

    def solve(self, engines: Floats) -> tuple[float, Floats, Floats]:
        """(θ, shares (groups, n) that sum to 1 in each group, prices (n,)) of a fleet of ``engines`` (n,)."""
        groups, n = self.work.shape
        lower = np.full(n, -self._highspy.kHighsInf)
        self._highs.changeRowsBounds(n, self._rows, lower, np.maximum(engines, 0.0).astype(np.float64))
        self._highs.run()
        status = self._highs.getModelStatus()
        if status != self._highspy.HighsModelStatus.kOptimal:
            self._highs.clearSolver()
            self._highs.run()
            status = self._highs.getModelStatus()
        if status != self._highspy.HighsModelStatus.kOptimal:
            raise ShardwrightError(f"highs stopped: {status.name}", "please report this problem")
        solution = self._highs.getSolution()
        values = np.array(solution.col_value)
        theta = float(values[-1])
        prices = np.maximum(np.abs(np.array(solution.row_dual)[groups:]), 0.0)
        shares = np.zeros((groups, n))
        if theta > 0:
            shares[self._group, self._kind] = np.maximum(values[:-1], 0.0) / theta
            shares[shares < 1e-9] = 0.0
            shares /= shares.sum(axis=1, keepdims=True)
        return theta, shares, prices


def _quiet(highspy: Any) -> Any:
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    highs.setOptionValue("random_seed", 0)
    return highs


def cut_of(prices: Floats) -> Floats:
    """Prices scaled so that the largest is 1, tiny ones left out."""
    largest = float(prices.max(initial=0.0))
    if largest <= 0:
        return np.zeros_like(prices)
    scaled = prices / largest
    return np.where(scaled < 1e-9, 0.0, scaled)


__all__ = ["ENOUGH", "Carrying", "cut_of", "required"]
