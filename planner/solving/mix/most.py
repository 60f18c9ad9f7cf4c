"""How much of a load the supplies carry at most."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from planner.solving.mix.question import MixQuestion
from planner.solving.solvers import Floats


def most_share(question: MixQuestion, work: Floats) -> float:
    """The share of ``work`` (groups, n) that fits the blocks with engines in parts; 1 at most."""
    groups, n = work.shape
    row, kind = np.nonzero(np.isfinite(work))
    columns = len(row) + n + 1
    equal = np.zeros((groups, columns))
    equal[row, np.arange(len(row))] = 1.0
    equal[:, -1] = -1.0
    limits = [block for block in question.blocks if np.isfinite(block.most)]
    upper = np.zeros((n + len(limits), columns))
    upper[kind, np.arange(len(row))] = work[row, kind]
    upper[np.arange(n), len(row) + np.arange(n)] = -1.0
    for i, block in enumerate(limits):
        upper[n + i, len(row) + block.kinds] = block.each
    right = np.concatenate([np.zeros(n), [block.most for block in limits]])
    bounds = [(0, None)] * (columns - 1) + [(0, 1)]
    goal = np.zeros(columns)
    goal[-1] = -1.0
    found = linprog(goal, A_ub=upper, b_ub=right, A_eq=equal, b_eq=np.zeros(groups), bounds=bounds, method="highs")
    return float(found.x[-1]) if found.status == 0 and found.x is not None else 0.0
