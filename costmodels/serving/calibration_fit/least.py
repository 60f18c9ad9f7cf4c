"""Robust least squares with priors and bounds, by normal equations: residuals are many more than parameters, and
forming the equations once a step is most of the work (scipy's ``least_squares`` takes singular values of all residuals,
25 times as long)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Floats

_ENOUGH = 1e-4
"""Gain of a step, as a share of the cost, below which it was the last."""


@dataclass(frozen=True)
class Drawn:
    """Where parameters [k] are drawn to, how strongly (``width``: one deviation), and their bounds."""

    center: Floats
    width: Floats
    least: Floats
    most: Floats


def least_soft_l1(
    errors: Callable[[Floats], Floats],
    slopes: Callable[[Floats, Floats], Floats],
    first: Floats,
    drawn: Drawn,
    steps: int,
) -> Floats:
    """The parameters at which Σ 2 (√(1 + e²) − 1) over errors and deviations from the priors is least.

    Levenberg and Marquardt's steps on reweighted squares; parameters at a bound that they are drawn over stay there.

    Args:
        errors: of parameters, [n].
        slopes: of parameters and their errors: derivatives, [n, k].
        first: where to begin, [k].
        steps: at most.
    """

    def cost(e: Floats, x: Floats) -> float:
        prior = (x - drawn.center) / drawn.width
        return float(np.sum(np.sqrt(1 + e**2) - 1) + np.sum(np.sqrt(1 + prior**2) - 1))

    x = np.clip(first, drawn.least, drawn.most)
    here, damping = errors(x), 1e-3
    now = cost(here, x)
    for _ in range(steps):
        jacobian, deviation = slopes(x, here), (x - drawn.center) / drawn.width
        weight, prior = (1 / np.sqrt(1 + each**2) for each in (here, deviation))
        down = jacobian.T @ (weight * here) + prior * deviation / drawn.width
        curved = (jacobian.T * weight) @ jacobian
        curved[np.diag_indices_from(curved)] += prior / drawn.width**2
        free = ~(((x <= drawn.least) & (down > 0)) | ((x >= drawn.most) & (down < 0)))
        gained = 0.0
        for _ in range(8):
            damped = curved[np.ix_(free, free)] + np.diag(damping * np.diag(curved)[free])
            moved = x.copy()
            moved[free] -= np.linalg.solve(damped, down[free])
            moved = np.clip(moved, drawn.least, drawn.most)
            there = errors(moved)
            after = cost(there, moved)
            if after < now:
                gained, x, here, now = now - after, moved, there, after
                damping /= 5
                break
            damping *= 6
        if gained <= _ENOUGH * now:
            break
    return x
