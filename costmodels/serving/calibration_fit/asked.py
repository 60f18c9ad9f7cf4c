"""Closed loops that a table of runs asks for, and runs at a rate beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from costmodels.estimates import Ints
from costmodels.operations.layouts import Layouts
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.served_model import ServedModel

if TYPE_CHECKING:
    from costmodels.serving.calibration_fit.rate_play import RatePlay


@dataclass(frozen=True)
class AskedLoops:
    """Closed loops of one served model.

    Attributes:
        rows: of the table that they are of, [n].
        at_rate: what came at a rate in place of a closed loop, of one row alone; ``load`` then says how many users are
            there on average.
    """

    served: ServedModel
    layouts: Layouts
    load: Load
    routing: str
    rows: Ints
    at_rate: RatePlay | None = None
