"""A table of training layouts → the table with their predictions. A row that cannot be predicted says why, and the
others are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from costmodels.estimates import Floats
from planner.training.columns import MEMORY, TIMES, memory_columns, time_columns
from planner.training.configuration import HardwareNames, TrainingConfiguration, column_names, read_configuration
from planner.training.machines import Machines, Progress
from planner.training.meanings import MEASURED
from planner.training.prediction import predicted
from planner.training.rules import check
from profiles.descriptions import catalogue_with
from profiles.errors import InputError, ShardwrightError
from profiles.store import ProfileStore
from profiles.tables import numbers
from profiles.values import shown

ADDED = (*TIMES, *MEMORY, "how", "error", "defaults")

TOGETHER = 512  # configurations predicted in one call: enough to spread its cost, few enough for the caches
GIB = 2.0**30


def predict(
    table: pd.DataFrame, *, measured: Sequence[ProfileStore] = (), times: bool = True, progress: Progress | None = None
) -> pd.DataFrame:
    """``table`` (text columns) with the columns :data:`ADDED`; without ``times``, those of memory alone.

    Raises:
        InputError: the table is empty, or has a column twice, nearly right, or of a name that is added here.
    """
    if not len(table):
        raise InputError("rows: there are none", "give one layout a row, below a header")
    clash = next((name for name in table.columns if name in ADDED), None)
    if clash is not None:
        raise InputError(
            f"{clash}: the column is added by the prediction", "rename it, or give --measured to score against it"
        )
    out = {name: np.full(len(table), "", dtype=object) for name in ADDED}
    groups, wrong = read_layouts(table, measured)
    for index, error in wrong.items():
        out["error"][index] = told(error)
    machines = Machines(measured, progress) if times else None
    for rows in groups:
        for index, configuration in rows:
            out["defaults"][index] = " ".join(configuration.defaults)
        for part in (rows[i : i + TOGETHER] for i in range(0, len(rows), TOGETHER)):
            try:
                _fill(out, [index for index, _ in part], [each for _, each in part], machines)
            except ShardwrightError as error:
                for index, _ in part:
                    out["error"][index] = told(error)
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(out)], axis=1)


def read_layouts(
    table: pd.DataFrame, measured: Sequence[ProfileStore] = ()
) -> tuple[list[list[tuple[int, TrainingConfiguration]]], dict[int, ShardwrightError]]:
    """(the rows of ``table`` that are layouts, with their numbers, those together that are predicted together; what is
    wrong with the others, by number).

    Raises:
        InputError: the table has a column twice or nearly right.
    """
    understood, _ = column_names([str(name) for name in table.columns])
    hardware = HardwareNames(catalogue_with(store.path for store in measured))
    groups: dict[tuple[object, ...], list[tuple[int, TrainingConfiguration]]] = {}
    wrong: dict[int, ShardwrightError] = {}
    names = list(understood.items())
    for index, record in enumerate(table[list(understood)].to_dict("records") if understood else [{}] * len(table)):
        try:
            configuration = read_configuration({meant: str(record[name]) for name, meant in names}, hardware)
            check(configuration)
            groups.setdefault(configuration.group, []).append((index, configuration))
        except ShardwrightError as error:
            wrong[index] = error
    return list(groups.values()), wrong


def told(error: ShardwrightError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message


def _fill(
    out: dict[str, np.ndarray], rows: list[int], configurations: list[TrainingConfiguration], machines: Machines | None
) -> None:
    answer = predicted(configurations, machines)
    columns = {**memory_columns(answer, configurations), **time_columns(answer, configurations)}
    for name, values in columns.items():
        out[name][rows] = values


# ------------------------------------------------------------------ against what was measured


@dataclass(frozen=True)
class Errors:
    """Predicted ÷ measured − 1 of one quantity over ``rows`` rows."""

    quantity: str
    rows: int
    mape: float
    median: float
    p90: float
    bias: float
    coverage: float  # share of measured values within the 80 % interval


def measured_columns(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Floats]]:
    """(``table`` with clashing measured columns renamed to ``measured_…``, measured values by quantity: NaN where none
    is given). ``s_iter`` and ``peak_mem_gib`` are understood.

    Raises:
        InputError: there is no measured column, or one holds what is no positive number.
    """
    found: dict[str, Floats] = {}
    renamed: dict[str, str] = {}
    for name in table.columns:
        quantity = MEASURED.get(name, name)
        if quantity not in ("iteration_s", "memory_bytes_per_gpu"):
            continue
        if quantity in found:
            raise InputError(f"{name}: {quantity} is measured in two columns", "keep one of them")
        values = np.array([np.nan if each is None else each for each in numbers(table[name])], dtype=np.float64)
        wrong = (table[name] != "") & ~(np.isfinite(values) & (values > 0))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InputError(
                f"{name}: {shown(table[name].iloc[row])} in row {row + 1} is no positive number", "correct it"
            )
        found[quantity] = values * (GIB if name == "peak_mem_gib" else 1.0)
        if name == quantity:
            renamed[name] = f"measured_{name}"
    if not found:
        raise InputError(
            "measured: there is no column iteration_s (or s_iter) or memory_bytes_per_gpu (or peak_mem_gib)",
            "add one, or leave --measured out",
        )
    return table.rename(columns=renamed), found


def errors(answer: pd.DataFrame, measured: dict[str, Floats]) -> list[Errors]:
    """Of each measured quantity, over the rows that were measured and predicted."""
    out = []
    for quantity, truth in measured.items():
        value, low, high = (
            pd.to_numeric(answer[f"{quantity}{end}"], errors="coerce").to_numpy(dtype=np.float64)
            for end in ("", "_low", "_high")
        )
        both = np.isfinite(truth) & np.isfinite(value)
        if not both.any():
            continue
        ratio = value[both] / truth[both] - 1
        size = np.abs(ratio)
        inside = (low[both] <= truth[both]) & (truth[both] <= high[both])
        out.append(
            Errors(
                quantity,
                int(both.sum()),
                float(size.mean()),
                float(np.median(size)),
                float(np.quantile(size, 0.9)),
                float(ratio.mean()),
                float(inside.mean()),
            )
        )
    return out
