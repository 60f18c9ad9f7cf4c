"""What a table of runs says was measured: columns called as predictions are, or as load generators call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from costmodels.estimates import Floats
from planner.contract.words import cell
from profiles.errors import InputError
from profiles.values import number, shown

LATENCIES = ("ttft_ms", "tpot_ms", "e2e_ms")

ENDS: dict[str, str] = {f"{name}_mean": name for name in LATENCIES}
"""Quantity → what its interval's columns begin with, where that is not its own name."""

QUANTITIES = (
    *(f"{name}_{part}" for name in LATENCIES for part in ("mean", "p50", "p99")),
    *("itl_ms_p50", "itl_ms_p90", "output_tokens_per_s_per_gpu"),
    *("watts_per_gpu", "joules_per_input_token", "joules_per_output_token"),
)
"""What can be measured, by the names of predictions."""

_PARTS = {"mean": "mean", "median": "p50", "p99": "p99"}
ALIASES = {
    **{f"{said}_{name}_ms": f"{name}_ms_{part}" for name in ("ttft", "tpot") for said, part in _PARTS.items()},
    **{f"{said}_e2el_ms": f"e2e_ms_{part}" for said, part in _PARTS.items()},
    "silicon_ttft_ms": "ttft_ms_mean",
    "silicon_tpot_ms": "tpot_ms_mean",
    "ttft_ms": "ttft_ms_mean",
    "tpot_ms": "tpot_ms_mean",
    "e2e_ms": "e2e_ms_mean",
}
"""vLLM's and SGLang's ``bench serve`` (``median_ttft_ms``), AIConfigurator's samples; a latency without a statistic is
a mean."""


@dataclass(frozen=True)
class Measured:
    """Measured values of the rows of a table by quantity (:data:`QUANTITIES`), NaN where there is none."""

    values: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))


def measured_columns(table: pd.DataFrame) -> Measured:
    """What ``table`` (text columns) says was measured.

    Raises:
        InputError: nothing was; a quantity stands in two columns; a value is no positive number.
    """
    found: dict[str, str] = {}
    for column in map(str, table.columns):
        quantity = ALIASES.get(column, column)
        if quantity not in QUANTITIES:
            continue
        if quantity in found:
            raise InputError(f"columns: {found[quantity]} and {column} both hold {quantity}", "keep one of them")
        found[quantity] = column
    if not found:
        raise InputError(
            "--measured: no column holds what was measured",
            f"call it as the prediction is called: {', '.join(QUANTITIES[:4])}, …, or leave --measured out",
        )
    return Measured({quantity: _values(table[column], column) for quantity, column in found.items()})


def _values(texts: pd.Series, column: str) -> Floats:
    out = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        said = cell(str(text))
        if not said:
            continue
        value = number(said)
        if value is None or not 0 < value < np.inf:
            raise InputError(
                f"{column}: {shown(said)} in row {row + 1} is no number above 0", "correct it, or leave it blank"
            )
        out[row] = value
    return out
