"""A table of training layouts → the table with their predictions. A row that cannot be predicted says why, and the
others are predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from costmodels.estimates import Floats
from costmodels.training.models import TrainedModel, trained_model
from planner.training.columns import MEMORY, TIMES, memory_columns, stage_rows, time_columns
from planner.training.configuration import HardwareNames, TrainingConfiguration, column_names, read_configuration
from planner.training.layouts import TrainingScore
from planner.training.machines import Machines, Progress
from planner.training.meanings import MEASURED
from planner.training.prediction import predicted
from planner.training.rules import check
from profiles.descriptions import catalogue_with
from profiles.errors import InputError, ShardwrightError
from profiles.hardware import SHIPPED, Catalogue
from profiles.store import ProfileStore
from profiles.tables import numbers
from profiles.values import shown

ADDED = (*TIMES, *MEMORY, "how", "error", "defaults")

TOGETHER = 512  # configurations predicted in one call: enough to spread its cost, few enough for the caches
GIB = 2.0**30


FindModel = Callable[[str], TrainedModel]
Groups = list[list[tuple[int, TrainingConfiguration]]]


def predict(
    table: pd.DataFrame,
    *,
    measured: Sequence[ProfileStore] = (),
    progress: Progress | None = None,
    find_model: FindModel = trained_model,
) -> pd.DataFrame:
    """``table`` (text columns) with the columns :data:`ADDED`.

    Args:
        find_model: what the column ``model`` names.

    Raises:
        InputError: the table is empty, or has a column twice, nearly right, or of a name that is added here.
    """
    hardware = HardwareNames(catalogue_with(store.path for store in measured))
    return _answered(table, hardware, Machines(measured, progress), find_model)[0]


def memories(
    table: pd.DataFrame, catalogue: Catalogue = SHIPPED, *, find_model: FindModel = trained_model
) -> tuple[pd.DataFrame, list[list[dict[str, int]]]]:
    """(``table`` with those of the columns :data:`ADDED` that no time is needed for, the others blank; of each row the
    memory of its stages as :func:`planner.training.columns.stage_rows`, none where the row has an error). Errors and
    arguments as :func:`predict`."""
    return _answered(table, HardwareNames(catalogue), None, find_model)


def _answered(
    table: pd.DataFrame, hardware: HardwareNames, machines: Machines | None, find_model: FindModel
) -> tuple[pd.DataFrame, list[list[dict[str, int]]]]:
    if not len(table):
        raise InputError("rows: there are none", "give one layout a row, below a header")
    clash = next((name for name in table.columns if name in ADDED), None)
    if clash is not None:
        score = "" if machines is None else ", or give --measured to score against it"
        raise InputError(f"{clash}: the column is added by the answer", f"rename it{score}")
    out = {name: np.full(len(table), "", dtype=object) for name in ADDED}
    stages: list[list[dict[str, int]]] = [[] for _ in range(len(table))]
    groups, wrong = read_layouts(table, hardware, find_model)
    for index, error in wrong.items():
        out["error"][index] = error.line
    for rows in groups:
        for index, configuration in rows:
            out["defaults"][index] = " ".join(configuration.defaults)
        for part in (rows[i : i + TOGETHER] for i in range(0, len(rows), TOGETHER)):
            indices, configurations = [index for index, _ in part], [each for _, each in part]
            try:
                answer = predicted(configurations, machines)
            except ShardwrightError as error:
                out["error"][indices] = error.line
                continue
            columns = {**memory_columns(answer, configurations), **time_columns(answer, configurations)}
            for name, values in columns.items():
                out[name][indices] = values
            if machines is None:
                for place, index in enumerate(indices):
                    stages[index] = stage_rows(answer, place)
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(out)], axis=1), stages


def read_layouts(
    table: pd.DataFrame, hardware: HardwareNames, find_model: FindModel = trained_model
) -> tuple[Groups, dict[int, ShardwrightError]]:
    """(the rows of ``table`` that are layouts, with their numbers, those together that are predicted together; what is
    wrong with the others, by number).

    Raises:
        InputError: the table has a column twice or nearly right.
    """
    understood, _ = column_names([str(name) for name in table.columns])
    groups: dict[tuple[object, ...], list[tuple[int, TrainingConfiguration]]] = {}
    wrong: dict[int, ShardwrightError] = {}
    names = list(understood.items())
    for index, record in enumerate(table[list(understood)].to_dict("records") if understood else [{}] * len(table)):
        try:
            values = {meant: str(record[name]) for name, meant in names}
            configuration = read_configuration(values, hardware, find_model=find_model)
            check(configuration)
            groups.setdefault(configuration.group, []).append((index, configuration))
        except ShardwrightError as error:
            wrong[index] = error
    return list(groups.values()), wrong


# ------------------------------------------------------------------ against what was measured


def is_measured(name: str) -> bool:
    """Whether a column holds measured values."""
    return MEASURED.get(name, name) in ("iteration_s", "memory_bytes_per_gpu")


def measured_columns(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Floats]]:
    """(``table`` with clashing measured columns renamed to ``measured_…``, measured values by quantity: NaN where none
    is given). ``s_iter`` and ``peak_mem_gib`` are understood.

    Raises:
        InputError: there is no measured column, or one holds what is no positive number.
    """
    found: dict[str, Floats] = {}
    renamed: dict[str, str] = {}
    for name in filter(is_measured, table.columns):
        quantity = MEASURED.get(name, name)
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


def scores(answer: pd.DataFrame, measured: dict[str, Floats]) -> tuple[TrainingScore, ...]:
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
        ratio = 100 * (value[both] / truth[both] - 1)
        size = np.abs(ratio)
        inside = (low[both] <= truth[both]) & (truth[both] <= high[both])
        figures = {
            "mape_pct": size.mean(),
            "median_pct": np.median(size),
            "p90_pct": np.quantile(size, 0.9),
            "bias_pct": ratio.mean(),
            "coverage_pct": 100 * inside.mean(),
        }
        rounded = {name: round(float(figure), 3) for name, figure in figures.items()}
        out.append(TrainingScore(quantity=quantity, rows=int(both.sum()), **rounded))
    return tuple(out)
