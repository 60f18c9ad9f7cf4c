"""Step tables at one end of the prediction's interval, and steps to ask them about."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from costmodels.estimates import Ints
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Batch
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


def random_steps(n: int, seed: int, queries: int = 1) -> tuple[Ints, Batch]:
    """(what is in each: 0 decodes, 1 chunks, 2 both; steps as engines put them together). The only chunk of a step may
    go on a prompt."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    decodes = np.where(kind == 1, 0, np.exp(rng.uniform(0, np.log(500), n)).astype(int))
    prefills = np.where(kind == 0, 0, rng.integers(1, 4, n))
    chunk = np.where(prefills > 0, np.exp(rng.uniform(np.log(16), np.log(2500), n)).astype(int), 0)
    prefix = np.where(prefills == 1, rng.integers(0, 16_000, n) * rng.integers(0, 2, n), 0)
    context = np.exp(rng.uniform(np.log(100), np.log(20_000), n)).astype(int)
    own = prefills * chunk + decodes * queries
    return kind, Batch(prefills, chunk, prefix, decodes, context, own * rng.uniform(0.5, 1.5, n), queries=queries)
