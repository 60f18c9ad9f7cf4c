"""The parallel layout of one engine, as arrays over many candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from costmodels.arrays import Rowwise
from costmodels.estimates import Ints
from costmodels.operations.exchanges import LOW_LATENCY, priced_as

DEGREES = ("tp", "pp", "dp", "ep", "moe_tp")
"""The degrees that make up a layout, in the order of its rows."""

WIDE = ("exchange", "redundant", "overlap", "eplb", "dispatch_tokens")
"""What it says of its experts beside: codes of :mod:`costmodels.operations.exchanges`, and numbers; 0: nothing."""

COLUMNS = (*DEGREES, *WIDE)


def _unsaid() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Layouts(Rowwise):
    """``n`` layouts, shape [n] each.

    An engine has ``pp`` pipeline stages of ``dp`` attention replicas of ``tp`` GPUs. In MoE layers the ``tp
    × dp`` GPUs of a stage form one group that shares out the experts ``ep`` ways and splits each ``moe_tp``
    ways: moe_tp × ep = tp × dp.

    Attributes:
        exchange: how tokens reach their experts.
        redundant: copies of hot experts, over all GPUs.
        overlap: what hides the exchange.
        eplb: how experts are balanced.
        dispatch_tokens: most tokens of a GPU that a low-latency exchange has buffers for; 0: it has none.
    """

    tp: Ints
    pp: Ints
    dp: Ints
    ep: Ints
    moe_tp: Ints
    exchange: Ints = field(default_factory=_unsaid)
    redundant: Ints = field(default_factory=_unsaid)
    overlap: Ints = field(default_factory=_unsaid)
    eplb: Ints = field(default_factory=_unsaid)
    dispatch_tokens: Ints = field(default_factory=_unsaid)

    def __post_init__(self) -> None:
        for name in WIDE:
            if len(getattr(self, name)) != len(self.tp):
                object.__setattr__(self, name, np.zeros(len(self.tp), np.int64))

    def __len__(self) -> int:
        return len(self.tp)

    @property
    def stage_gpus(self) -> Ints:
        return self.tp * self.dp

    @property
    def gpus(self) -> Ints:
        return self.tp * self.pp * self.dp

    @property
    def wide(self) -> NDArray[np.bool_]:
        """Which send each token to the GPUs of its experts, and no others."""
        return self.exchange > 0

    @property
    def low_latency(self) -> NDArray[np.bool_]:
        """Which do so in messages of a fixed size, within CUDA graphs."""
        return np.asarray(priced_as(self.exchange) == LOW_LATENCY)

    @property
    def rows(self) -> Ints:
        """The :data:`COLUMNS` of each layout, [n, 10]: two are the same layout where these are equal."""
        return np.stack([getattr(self, column) for column in COLUMNS], axis=1)

    def row(self, i: int) -> tuple[int, ...]:
        """The :data:`COLUMNS` of one layout."""
        return tuple(int(getattr(self, column)[i]) for column in COLUMNS)

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Layouts:
        """From the :data:`COLUMNS` of each, or the :data:`DEGREES` alone."""
        width = len(rows[0]) if len(rows) else len(DEGREES)
        return cls(*np.array(rows, dtype=np.int64).reshape(-1, width).T)
