"""What a table of runs says was measured: columns called as predictions are, or as load generators call them."""

from __future__ import annotations

import re
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

_LATENCY = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e": "e2e", "e2el": "e2e"}
_IN_WORDS = {
    re.compile(words): short
    for words, short in (
        (r"time.to.first.token", "ttft"),
        (r"time.per.output.token|inter.token.latency", "tpot"),
        (r"request.latency|end.to.end.latency|e2e.latency", "e2e"),
    )
}
"""GenAI-Perf's inter-token latency is a request's mean between its tokens: its time per output token."""

_STATISTIC = {
    **dict.fromkeys(("mean", "avg", "average"), "mean"),
    **dict.fromkeys(("p50", "median"), "p50"),
    "p90": "p90",
    "p99": "p99",
}
_IN_MS = {
    **dict.fromkeys(("ms", "msec", "milliseconds"), 1.0),
    **dict.fromkeys(("s", "sec", "secs", "seconds"), 1e3),
    **dict.fromkeys(("us", "usec", "microseconds"), 1e-3),
}
_WHOSE = ("silicon", "measured")
"""Of AIConfigurator's samples (``silicon_ttft_ms``), and of those who keep what was predicted beside."""


def _latency(column: str) -> tuple[str, float] | None:
    """The latency that ``column`` holds by its words, and what its values are multiplied by: one of each of latency,
    unit and statistic in any order, as load generators call and print them (``median_ttft_ms``, ``TTFT (s)``, ``p50
    TPOT [ms]``). One without a unit says too little; one without a statistic is a mean."""
    text = column.casefold()
    for said, short in _IN_WORDS.items():
        text = said.sub(short, text)
    words = [word for word in re.split(r"[^a-z0-9]+", text) if word and word not in _WHOSE]
    kinds = [[table[word] for word in words if word in table] for table in (_LATENCY, _STATISTIC, _IN_MS)]
    name, part, unit = kinds
    if len(name) != 1 or len(unit) != 1 or len(part) > 1 or sum(map(len, kinds)) != len(words):
        return None
    quantity = f"{name[0]}_ms_{part[0] if part else 'mean'}"
    return (quantity, float(unit[0])) if quantity in QUANTITIES else None


INFERENCEX = ("hw", "conc")
"""Columns by which InferenceX's results are known: their latencies are in seconds and say no unit."""

_ITS_OWN = {"output_tput_per_gpu": "output_tokens_per_s_per_gpu"}


def quantity_of(column: str, unit: str = "") -> tuple[str, float] | None:
    """The quantity (:data:`QUANTITIES`) that a column holds, and what its values are multiplied by; None: of none.

    Args:
        unit: of latencies whose column says none; empty: they are not taken.
    """
    if column in QUANTITIES:
        return column, 1.0
    if unit and column in _ITS_OWN:
        return _ITS_OWN[column], 1.0
    return _latency(column) or (_latency(f"{column} {unit}") if unit else None)


@dataclass(frozen=True)
class Measured:
    """Measured values of the rows of a table by quantity (:data:`QUANTITIES`), NaN where there is none."""

    values: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))


def measured_columns(table: pd.DataFrame) -> Measured:
    """What ``table`` (text columns) says was measured.

    Raises:
        InputError: nothing was; a quantity stands in two columns; a value is no number, or a negative one.
    """
    found: dict[str, tuple[str, float]] = {}
    unit = "s" if set(INFERENCEX) <= set(table.columns) else ""
    for column in map(str, table.columns):
        held = quantity_of(column, unit)
        if held is None:
            continue
        quantity, scale = held
        if quantity in found:
            raise InputError(f"columns: {found[quantity][0]} and {column} both hold {quantity}", "keep one of them")
        found[quantity] = column, scale
    if not found:
        raise InputError(
            "columns: no column holds what was measured",
            f"call it as the prediction is called, or with its unit: {', '.join(QUANTITIES[:4])}, median_ttft_s, …",
        )
    return Measured({quantity: scale * _values(table[name], name) for quantity, (name, scale) in found.items()})


def _values(texts: pd.Series, column: str) -> Floats:
    """Load generators write 0 where nothing was measured (the time between tokens of requests for one)."""
    out = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        said = cell(str(text))
        if not said:
            continue
        value = number(said)
        if value is None or not 0 <= value < np.inf:
            raise InputError(
                f"{column}: {shown(said)} in row {row + 1} is no number above 0", "correct it, or leave it blank"
            )
        out[row] = value or np.nan
    return out
