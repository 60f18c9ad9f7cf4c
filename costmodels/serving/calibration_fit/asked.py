"""Closed loops that a table of runs asks for."""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.estimates import Ints
from costmodels.operations.layouts import Layouts
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.served_model import ServedModel


@dataclass(frozen=True)
class AskedLoops:
    """Closed loops of one served model.

    Attributes:
        rows: of the table that they are of, [n].
    """

    served: ServedModel
    layouts: Layouts
    load: Load
    routing: str
    rows: Ints
