"""What a table of runs says was measured: columns called as predictions are, or as load generators call them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from costmodels.estimates import Floats
from planner.contract.words import cell, columns_of, folded, words
from planner.serving.gpu_words import gpus_counted
from planner.serving.harness_words import is_inferencex
from planner.serving.measured.units import units_told, without_commas
from planner.serving.same_columns import SAME
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
    **dict.fromkeys(("us", "\u03bcs", "usec", "microseconds"), 1e-3),
}
"""Of units in small letters; the micro sign's is \u03bc."""
_WHOSE = ("silicon", "measured", "successful")
"""Of AIConfigurator's samples (``silicon_ttft_ms``), of those who keep what was predicted beside, and of GuideLLM."""

_OF_LLMPERF = re.compile(r"results_(?:ttft|end_to_end_latency)_s_(?:mean|quantiles_p\d\d)", re.ASCII)
"""Not its inter-token latency, which is a request's whole time divided by its tokens."""


def _latency(column: str) -> tuple[str, float] | None:
    """The latency that ``column`` holds by its words, and what its values are multiplied by: one of each of latency,
    unit and statistic in any order, as load generators call and print them (``median_ttft_ms``, ``TTFT (s)``, ``p50
    TPOT [ms]``). One without a unit says too little; one without a statistic is a mean."""
    text = column.casefold()
    if _OF_LLMPERF.fullmatch(text):
        text = text.removeprefix("results_").replace("_quantiles", "")
    for said, short in _IN_WORDS.items():
        text = said.sub(short, text)
    words = [word for word in re.split(r"[^a-z0-9\u03bc]+", text) if word and word not in _WHOSE]
    kinds = [[table[word] for word in words if word in table] for table in (_LATENCY, _STATISTIC, _IN_MS)]
    known = sum(map(len, kinds))
    name, part, unit = kinds
    name = sorted(set(name))  # time-to-first-token [TTFT]
    if len(name) != 1 or len(unit) != 1 or len(part) > 1 or known != len(words):
        return None
    quantity = f"{name[0]}_ms_{part[0] if part else 'mean'}"
    return (quantity, float(unit[0])) if quantity in QUANTITIES else None


Shared = Literal["per GPU", "of all GPUs"]
PER_GPU: Literal["per GPU"] = "per GPU"
OF_ALL: Literal["of all GPUs"] = "of all GPUs"


def quantity_of(column: str, unit: str = "") -> tuple[str, float] | None:
    """The quantity (:data:`QUANTITIES`) that a column holds, and what its values are multiplied by; None: of none.

    Args:
        unit: of latencies whose column says none; empty: they are not taken.
    """
    if column in QUANTITIES:
        return column, 1.0
    if found := _per_gpu(column):
        return (found[0], 1.0) if found[1] == PER_GPU else None
    return _latency(column) or (_latency(f"{column} {unit}") if unit else None)


def holds_measured(column: str) -> bool:
    """Whether a column is called as something measured is, be it shared by all GPUs or without a unit."""
    return bool(quantity_of(column, "s") or _per_gpu(column))


def _per_gpu(column: str) -> tuple[str, Shared] | None:
    """(Throughput, watts or joules, whether per GPU or of all) that a column holds by another name than ours."""
    word = re.sub(r"[^a-z0-9]+", "_", column.casefold()).strip("_")
    known = words().measured
    kinds: tuple[Shared, ...] = (PER_GPU, OF_ALL)
    told = next(((name, of) for name, each in known.items() for of in kinds if word in each[of]), None)
    return told or _output_speed(word)


_OUTPUT = frozenset(("output", "generated", "generation"))
_SPEED = frozenset(("throughput", "tput", "tps"))
_TOKENS, _SECOND = frozenset(("tok", "toks", "token", "tokens")), frozenset(("s", "sec", "second", "seconds"))
_BESIDE = frozenset(("per", "gpu", "gpus", "avg", "average", "mean", "total", "measured", "successful"))


def _output_speed(word: str) -> tuple[str, Shared] | None:
    """Output tokens a second in any words (``Output throughput/GPU (tok/s)``, ``generation_tps``)."""
    parts = set(word.split("_"))
    speed = parts & _SPEED or (parts & _TOKENS and parts & _SECOND)
    if not parts & _OUTPUT or not speed or parts - _OUTPUT - _SPEED - _TOKENS - _SECOND - _BESIDE:
        return None
    return "output_tokens_per_s_per_gpu", PER_GPU if parts & {"gpu", "gpus"} else OF_ALL


@dataclass(frozen=True)
class Measured:
    """Measured values of the rows of a table by quantity (:data:`QUANTITIES`), NaN where there is none. ``unread``:
    what stood there that is no number, and in how many cells. ``taken``: what columns were taken for."""

    values: Mapping[str, Floats]
    unread: tuple[tuple[str, int], ...] = ()
    taken: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))


def measured_columns(table: pd.DataFrame) -> Measured:
    """What ``table`` (text columns) says was measured.

    Raises:
        InputError: nothing was.
    """
    columns, unread = list(map(str, table.columns)), Counter[str]()
    bare = [name for name in columns if quantity_of(name) is None and quantity_of(name, "s")]
    units = dict.fromkeys(bare, "s")
    taken: list[str] = []
    if bare and not is_inferencex(columns):
        units = units_told({name: _values(table[name], name, Counter()) for name in bare})
        taken = [f"{name}: says no unit, and is taken to be {unit}" for name, unit in units.items()]
    whole_tokens = any(folded(name) == GUIDELLM for name in columns)
    found: dict[str, list[tuple[str, Floats]]] = {}
    for column in columns:
        unsaid = column in bare and column not in units
        held = quantity_of(_between(column) if whole_tokens else column, "s" if unsaid else units.get(column, ""))
        if held is not None:
            in_ms = held[1] if held[0].startswith(_TIMES) else 0.0
            read = held[1] * _values(table[column], column, unread, in_ms, unsaid=unsaid)
            if not unsaid or np.isfinite(read).any():
                found.setdefault(held[0], []).append((column, read))
    for column in columns:
        shared = _per_gpu(column)
        if shared is not None and shared[1] == OF_ALL and shared[0] not in found and column not in QUANTITIES:
            found[shared[0]] = [(column, _values(table[column], column, unread) / _gpus(table))]
    if not found and bare:
        raise InputError(
            f"columns: {shown(bare[0])} says no unit, and no time per token tells it",
            f"write it there: {bare[0]}_ms, or {bare[0]}_s",
        )
    if not found:
        raise InputError(
            "columns: no column holds what was measured",
            f"call it as the prediction is called, or with its unit: {', '.join(QUANTITIES[:4])}, median_ttft_s, …",
        )
    values = {quantity: _one(each, unread) for quantity, each in found.items()}
    return Measured(values, tuple(unread.most_common()), tuple(taken))


GUIDELLM = "intended_concurrency"
"""A column of tables that Red Hat makes of GuideLLM's results, whose time per output token has the first one in it and
whose inter-token latency is a request's mean between tokens."""


def _between(column: str) -> str:
    return re.sub(r"itl", "tpot", re.sub(r"tpot", "all_tokens", column, flags=re.IGNORECASE), flags=re.IGNORECASE)


def _one(columns: list[tuple[str, Floats]], unread: Counter[str]) -> Floats:
    """The values of the first of several columns of one quantity (``p50_ttft_ms``, ``median_ttft_ms``), and where it is
    blank of the next; none of a row in which they differ, which is counted in ``unread``."""
    first, out = columns[0]
    for other, values in columns[1:]:
        differ = np.isfinite(out) & np.isfinite(values) & ~np.isclose(out, values, rtol=SAME)
        if differ.any():
            unread[f"{first}, {other}: differ"] += int(differ.sum())
        out = np.where(differ, np.nan, np.where(np.isfinite(out), out, values))
    return out


def _gpus(table: pd.DataFrame) -> Floats:
    """GPUs of the engine of each row: the product of its degrees, else as many as it has; one where neither says."""
    same = columns_of(table.columns, ("tp", "pp", "dp", "num_gpus", "gpu"))

    def cells(name: str) -> list[str]:
        columns = [*([name] if name in table.columns else []), *same.get(name, ())]
        rows = table[columns].itertuples(index=False, name=None)
        return [next(filter(None, (cell(str(text)) for text in row)), "") for row in rows]

    out, told = np.ones(len(table)), np.zeros(len(table), np.bool_)
    for name in ("tp", "pp", "dp"):
        values = np.array([number(text) or np.nan for text in cells(name)], np.float64)
        told |= np.isfinite(values)
        out *= np.where(np.isfinite(values), values, 1.0)
    for counts in ([number(text) for text in cells("num_gpus")], [gpus_counted(text) for text in cells("gpu")]):
        values = np.array([each or np.nan for each in counts], np.float64)
        out, told = np.where(told, out, values), told | np.isfinite(values)
    return np.where(told, out, 1.0)  # of one GPU, as it is predicted


_TIMES = (*LATENCIES, "itl_ms")
_WITH_UNIT = re.compile(rf"(.*[0-9.])\s*({'|'.join(_IN_MS)})", re.IGNORECASE)


def _values(texts: pd.Series, column: str, unread: Counter[str], in_ms: float = 0.0, *, unsaid: bool = False) -> Floats:
    """Load generators write 0 where nothing was measured (the time between tokens of requests for one). What is no
    number (``OOM``, ``timeout``) was not measured either, and is counted in ``unread``. ``in_ms``: of a column of
    times, what its unit is; a cell may have its own (``1.2 s``), and where the column's is ``unsaid`` has to."""
    out = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        said = cell(str(text))
        if not said:
            continue
        own = _WITH_UNIT.fullmatch(said) if in_ms else None
        value = number(without_commas(own[1] if own else said))
        if own and value is not None:
            value *= _IN_MS[own[2].casefold()] / in_ms
        if value is None or not 0 <= value < np.inf:
            unread[f"{column}: {shown(said)} is no number above 0"] += 1
        elif unsaid and not own:
            unread[f"{column}: says no unit"] += 1
        else:
            out[row] = value or np.nan
    return out
