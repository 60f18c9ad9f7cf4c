"""Collects the questions of many layouts to the kernels, asks each operation once, and sums the answers by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Estimates, Floats
from costmodels.kernels.cost_model import CostModel
from costmodels.operations.roofline import code
from costmodels.origins import MEASURED

Slot = tuple[int, int, int]
"""Where an answer belongs: (part, pass, kind of layer)."""


@dataclass(frozen=True)
class Corrected:
    """How often an answer counts, with what own rows say of it.

    Attributes:
        ratio: the times, corrected.
        width: half-width (log) of the 80 % interval that own rows leave; infinite where there are none.
    """

    ratio: Floats | float = 1.0
    width: Floats | float = np.inf

    def times(self, count: Floats | float) -> Corrected:
        return Corrected(self.ratio * count, self.width)


@dataclass(frozen=True)
class _Question:
    columns: Mapping[str, NDArray[np.int64]]
    weight: Floats
    width: Floats
    slot: Slot


@dataclass
class Questions:
    """Questions of ``n`` shapes; answers are summed into a table of (part, pass, kind)."""

    n: int
    parts: int
    kinds: int
    _asked: dict[str, list[_Question]] = field(default_factory=dict)

    def ask(self, operation: str, slot: Slot, count: Corrected | Floats | float, **columns: object) -> None:
        """Adds one question for each shape, whose answer counts ``count`` times."""
        known = count if isinstance(count, Corrected) else Corrected(count)
        full = {
            name: np.broadcast_to(np.asarray(values), self.n).astype(np.int64)
            for name, values in {"num_gpus": 1, **columns}.items()
        }
        weight, width = (
            np.broadcast_to(np.asarray(each, dtype=np.float64), self.n) for each in (known.ratio, known.width)
        )
        self._asked.setdefault(operation, []).append(_Question(full, weight, width, slot))

    def product(
        self, dtype: str, slot: Slot, m: object, n: object, k: object, count: Corrected | Floats | float = 1.0
    ) -> None:
        """A matrix product of [m, k] and [k, n]."""
        shape = {
            name: np.maximum(np.rint(np.asarray(value, dtype=np.float64)), 1)
            for name, value in zip("mnk", (m, n, k), strict=True)
        }
        self.ask("gemm", slot, count, dtype=code("dtype", dtype), **shape)

    def answer(self, cost: CostModel) -> tuple[Floats, Floats, Floats, NDArray[np.int8], NDArray[np.bool_]]:
        """(value, low, high) in µs, shape [parts, 2, kinds, n] each; the weakest origin and whether all was inside the
        measured range, shape [n]."""
        value, low, high = (np.zeros((self.parts, 2, self.kinds, self.n)) for _ in range(3))
        how = np.full(self.n, MEASURED, np.int8)
        outside = np.zeros(self.n)
        for operation, asked in self._asked.items():
            names = asked[0].columns
            columns = {name: np.concatenate([each.columns[name] for each in asked]) for name in names}
            estimates = cost.estimate(operation, columns)
            for position, question in enumerate(asked):
                weight, slot = question.weight, question.slot
                part = slice(position * self.n, (position + 1) * self.n)
                each = Estimates(*(getattr(estimates, f)[part] for f in ("value", "low", "high", "how", "inside")))
                value[slot] += weight * each.value
                least, most = each.low, each.high
                if np.isfinite(question.width).any():
                    least = np.maximum(least, each.value * np.exp(-question.width))
                    most = np.minimum(most, each.value * np.exp(question.width))
                low[slot] += weight * least
                high[slot] += weight * most
                np.maximum(how, np.where(weight > 0, each.how, 0), out=how)
                outside += np.where(each.inside, 0.0, weight * each.value)
        return value, low, high, how, outside <= 0.05 * value.sum(axis=(0, 1, 2))
