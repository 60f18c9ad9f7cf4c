"""The parallel layout of one engine, as arrays over many candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Ints


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
        return Layouts(self.tp[index], self.pp[index], self.dp[index], self.ep[index], self.moe_tp[index])

    @classmethod
    def of(cls, rows: list[tuple[int, int, int, int, int]]) -> Layouts:
        """From (tp, pp, dp, ep, moe_tp) tuples."""
        columns = np.array(rows, dtype=np.int64).reshape(-1, 5).T
        return cls(*columns)
