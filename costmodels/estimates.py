"""Arrays of predictions with their uncertainty and origin. Nothing downstream ever receives a bare number."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

COVERAGE = 0.80
"""Share of true values that lie between ``low`` and ``high``."""

SIGMAS = NormalDist().inv_cdf((1 + COVERAGE) / 2)
"""Half-width of the :data:`COVERAGE` interval in standard deviations."""

NEGLIGIBLE = 0.05
"""A sum is *inside* the measured range when parts outside make up at most this share of it."""


@dataclass(frozen=True)
class Estimates:
    """``n`` predictions, in microseconds unless said otherwise.

    Attributes:
        value, low, high: shape [n], float64; ``low <= value <= high`` covers :data:`COVERAGE`.
        how: shape [n], index into :data:`costmodels.origins.HOW`; for a sum, the weakest origin of its parts.
        inside: shape [n], whether the question lay inside the range that was measured.
    """

    value: Floats
    low: Floats
    high: Floats
    how: NDArray[np.int8]
    inside: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.value)

    @classmethod
    def exact(cls, value: Floats) -> Estimates:
        """Facts without uncertainty (zero cost, for instance)."""
        value = np.asarray(value, dtype=np.float64)
        return cls(value, value, value, np.zeros(len(value), np.int8), np.ones(len(value), np.bool_))

    def take(self, index: Ints) -> Estimates:
        return Estimates(self.value[index], self.low[index], self.high[index], self.how[index], self.inside[index])

    def scaled(self, factor: Floats | float) -> Estimates:
        return Estimates(self.value * factor, self.low * factor, self.high * factor, self.how, self.inside)

    def widened(self, half_width: Floats | float) -> Estimates:
        """With a further, independent error of ``half_width`` (log, shape [n] or one for all) in the interval."""
        with np.errstate(divide="ignore", invalid="ignore"):
            down = np.hypot(np.log(np.where(self.value > 0, self.value / np.maximum(self.low, 1e-12), 1.0)), half_width)
            up = np.hypot(np.log(np.where(self.value > 0, self.high / self.value, 1.0)), half_width)
        more = np.asarray(half_width) > 0  # none: the very same bits
        low = np.where(more, self.value * np.exp(-down), self.low)
        high = np.where(more, self.value * np.exp(up), self.high)
        return Estimates(self.value, low, high, self.how, self.inside)

    def summed(self, group: Ints, count: Floats, groups: int) -> Estimates:
        """Σ count·estimate over each group. Errors of one operation family are taken as fully correlated: the
        kernels of a family share a forest, so what it gets wrong it gets wrong alike.

        Args:
            group: shape [n], the group that each estimate belongs to.
            count: shape [n], how often it occurs.
            groups: number of groups; groups that nothing belongs to are zero.
        """

        def total(part: Floats) -> Floats:
            return np.bincount(group, weights=part * count, minlength=groups).astype(np.float64)

        how = np.zeros(groups, np.int8)
        np.maximum.at(how, group, np.where(count > 0, self.how, 0).astype(np.int8))
        value = total(self.value)
        outside = total(np.where(self.inside, 0.0, self.value))
        return Estimates(value, total(self.low), total(self.high), how, outside <= NEGLIGIBLE * value)


def combine(parts: list[Estimates]) -> Estimates:
    """Sum of estimates from *different* families: their errors are taken as independent (added in
    quadrature)."""
    value = np.sum([part.value for part in parts], axis=0)
    down = np.sqrt(np.sum([(part.value - part.low) ** 2 for part in parts], axis=0))
    up = np.sqrt(np.sum([(part.high - part.value) ** 2 for part in parts], axis=0))
    return Estimates(
        value,
        np.maximum(value - down, 0.0),
        value + up,
        np.max([part.how for part in parts], axis=0).astype(np.int8),
        np.sum([np.where(part.inside, 0.0, part.value) for part in parts], axis=0) <= NEGLIGIBLE * value,
    )
