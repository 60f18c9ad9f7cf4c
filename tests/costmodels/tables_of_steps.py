"""Step tables at one end of the prediction's interval."""

from __future__ import annotations

from typing import Unpack

from costmodels.operations.layouts import Layouts
from costmodels.serving.served_model import ServedModel
from costmodels.serving.simulator.step_table import End, Sizes, StepTable, step_tables_at


def step_tables(
    served: ServedModel,
    layouts: Layouts,
    routing: str,
    *,
    end: End = "value",
    **sizes: Unpack[Sizes],
) -> list[StepTable]:
    """Tables of every layout.

    Args:
        end: of the prediction's interval: the value, or its lower or upper end.
    """
    tables = step_tables_at((end,), served, layouts, routing, **sizes)
    return [at[end] for at in tables]
