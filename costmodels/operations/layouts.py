"""The parallel layout of one engine, as arrays over many candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.arrays import take_rows
from costmodels.estimates import Ints

DEGREES = ("tp", "pp", "dp", "ep", "moe_tp")
"""The degrees that make up a layout, in the order of its rows."""


@dataclass(frozen=True)
class Layouts:
    """``n`` layouts, shape [n] each.

    An engine has ``pp`` pipeline stages of ``dp`` attention replicas of ``tp`` GPUs. In MoE layers the ``tp
    × dp`` GPUs of a stage form one group that shares out the experts ``ep`` ways and splits each ``moe_tp``
    ways: moe_tp × ep = tp × dp.
    """

    tp: Ints
    pp: Ints
    dp: Ints
    ep: Ints
    moe_tp: Ints

    def __len__(self) -> int:
        return len(self.tp)

    @property
    def stage_gpus(self) -> Ints:
        return self.tp * self.dp

    @property
    def gpus(self) -> Ints:
        return self.tp * self.pp * self.dp

    def take(self, index: Ints) -> Layouts:
        return take_rows(self, index)

    @property
    def rows(self) -> Ints:
        """The :data:`DEGREES` of each layout, [n, 5]: two are the same layout where these are equal."""
        return np.stack([getattr(self, degree) for degree in DEGREES], axis=1)

    def row(self, i: int) -> tuple[int, ...]:
        """The :data:`DEGREES` of one layout."""
        return tuple(int(getattr(self, degree)[i]) for degree in DEGREES)

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Layouts:
        """From the :data:`DEGREES` of each."""
        columns = np.array(rows, dtype=np.int64).reshape(-1, len(DEGREES)).T
        return cls(*columns)
