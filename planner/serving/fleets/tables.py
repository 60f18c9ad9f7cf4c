"""Throughput tables that others measured, in place of the cost model: Mélange's JSON and AIBrix's GPU profiles.

A cell is the requests per second that one engine carries of one size within the promise that the table was measured
for; 0: it carries none. Engines and their GPUs are one here: a table's ``cost`` is of an engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from planner.contract.documents import LONGEST_TEXT, PLAIN_NUMBER, Document, checked
from planner.contract.workload.classes import ROUNDING, LengthClass, SteppedLoad
from profiles.errors import InputError
from profiles.files import Source
from profiles.markup import read_json
from profiles.values import shown

if TYPE_CHECKING:
    from costmodels.estimates import Floats

HINT = (
    "give Mélange's JSON (gpu_info, workload_distribution, total_request_rate) or an AIBrix profile (gpu, cost, tputs, "
    "indexes)"
)

MOST_SIZES = 1000

Cost = Annotated[float, Field(ge=0, le=1e6), PLAIN_NUMBER]
Cell = Annotated[float, Field(ge=0, le=1e9), PLAIN_NUMBER]
SizeOf = Annotated[float, Field(ge=0, le=1e9), PLAIN_NUMBER]


class MeasuredTable(Document):
    """What one GPU type carries of requests of each size."""

    gpu: str = Field(min_length=1, max_length=LONGEST_TEXT)
    usd_per_hour: Cost = Field(description="of one engine")
    isl: tuple[SizeOf, ...] = Field(min_length=1, max_length=MOST_SIZES, description="prompt sizes, ascending")
    osl: tuple[SizeOf, ...] = Field(min_length=1, max_length=MOST_SIZES, description="output sizes, ascending")
    rps: tuple[tuple[Cell, ...], ...] = Field(description="of each prompt size, a row; 0: none")
    source: str = Field(default="", max_length=LONGEST_TEXT)

    @model_validator(mode="after")
    def _is_a_grid(self) -> MeasuredTable:
        if len(self.rps) != len(self.isl) or any(len(row) != len(self.osl) for row in self.rps):
            raise ValueError(
                f"rps: not {len(self.isl)} rows of {len(self.osl)} cells; give one for each prompt and output size"
            )
        for name, sizes in (("isl", self.isl), ("osl", self.osl)):
            if list(sizes) != sorted(set(sizes)):
                raise ValueError(f"{name}: the sizes do not ascend; sort them, each once")
        return self

    def capacity_rps(self, isl: Floats, osl: Floats) -> Floats:
        """(n,) of requests that are as long as these, at the smallest size that is no smaller; 0 beyond the largest."""
        import numpy as np  # requests are read, and shown, without it

        cells = np.array(self.rps)
        row, column = (
            np.searchsorted(np.array(sizes), np.asarray(lengths) - 1e-9) for sizes, lengths in
            ((self.isl, isl), (self.osl, osl))
        )  # fmt: skip
        inside = (row < len(self.isl)) & (column < len(self.osl))
        last = (np.minimum(row, len(self.isl) - 1), np.minimum(column, len(self.osl) - 1))
        return np.where(inside, cells[last], 0.0)


def read_tables(path: Path) -> tuple[list[MeasuredTable], SteppedLoad | None, dict[str, Any]]:
    """(tables of a file, the load that it holds, what else it says) — of AIBrix profiles the load is None.

    Raises:
        InputError: unreadable, no such file, or with values that are none.
    """
    source = Source(path, "table", HINT)
    document = read_json(source)
    if not isinstance(document, Mapping):
        raise source.wrong("is not an object")
    if "gpu_info" in document:
        return _melange(source, document)
    if "tputs" in document and "indexes" in document:
        return [_aibrix(source, document)], None, {}
    raise source.wrong("is neither Mélange's JSON nor an AIBrix profile")


def is_tables(path: Path) -> bool:
    """Whether a file is one of tables by its look: JSON with their keys."""
    if path.suffix.casefold() != ".json":
        return False
    document = read_json(Source(path, "fleet file", HINT))
    return isinstance(document, Mapping) and ("gpu_info" in document or ("tputs" in document and "indexes" in document))


def _grid(source: Source, value: Any, name: str, *, most: float = 1e9) -> list[list[float]]:
    """Rows of numbers, equally long, none negative."""
    if not isinstance(value, list) or not value or not all(isinstance(row, list) and row for row in value):
        raise source.wrong(f"{name}: {shown(value)} is not a table of rows")
    if len({len(row) for row in value}) > 1:
        raise source.wrong(f"{name}: its rows are not equally long")
    for row in value:
        for cell in row:
            if isinstance(cell, bool) or not isinstance(cell, int | float) or not 0 <= cell <= most:
                raise source.wrong(f"{name}: {shown(cell)} is not a number of at least 0", "correct the cell")
    return [[float(cell) for cell in row] for row in value]


def _positive(source: Source, value: Any, name: str, *, zero: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e300:
        raise source.wrong(f"{name}: {shown(value)} is not a number of at least 0", "correct it")
    if not zero and not value:
        raise source.wrong(f"{name}: {shown(value)} is not above 0", "correct it")
    return float(value)


def _melange(source: Source, document: Mapping[str, Any]) -> tuple[list[MeasuredTable], SteppedLoad, dict[str, Any]]:
    infos = document["gpu_info"]
    for name in ("workload_distribution", "total_request_rate"):
        if name not in document:
            raise source.wrong(f"{name} is missing")
    if not isinstance(infos, Mapping) or not infos:
        raise source.wrong("gpu_info is empty", "give each GPU cost and tputs")
    import numpy as np

    distribution = np.array(_grid(source, document["workload_distribution"], "workload_distribution"))
    total = float(distribution.sum())
    if abs(total - 1) > ROUNDING:
        raise source.wrong(
            f"workload_distribution: its shares sum to {total:.9g}, not to 1",
            "correct them; they are never scaled silently",
        )
    rate = _positive(source, document["total_request_rate"], "total_request_rate")
    rows, columns = distribution.shape
    tables = []
    for gpu, info in infos.items():
        if not isinstance(info, Mapping) or "tputs" not in info or "cost" not in info:
            raise source.wrong(f"gpu_info {shown(gpu)}: needs cost and tputs")
        cells = _grid(source, info["tputs"], f"tputs of {gpu}")
        if (len(cells), len(cells[0])) != (rows, columns):
            raise source.wrong(
                f"tputs of {shown(gpu)}: {len(cells)} × {len(cells[0])} cells, and workload_distribution has "
                f"{rows} × {columns}",
                "give all tables the same grid",
            )
        cost = _positive(source, info["cost"], f"cost of {gpu}", zero=True)
        tables.append(_table(source, str(gpu), cost, range(rows), range(columns), cells))
    from planner.contract.workload.classes import HOUR_S, LoadStep

    classes = tuple(
        LengthClass(isl_from=i, isl_to=i + 1, osl_from=o, osl_to=o + 1, isl=i, osl=o, rate_rps=rate * share)
        for (i, o), share in np.ndenumerate(distribution)
        if share > 0
    )
    unit = "request/s" if rate == 1 else "requests/s"
    told = f"{source.path.name}: {rate:g} {unit} over {rows} input and {columns} output sizes"
    load = SteppedLoad(source=told, steps=(LoadStep(start_s=0.0, end_s=HOUR_S, classes=classes),))
    return tables, load, {"slice_factor": document.get("slice_factor")}


def _aibrix(source: Source, document: Mapping[str, Any]) -> MeasuredTable:
    cells = _grid(source, document["tputs"], "tputs")
    indexes = document["indexes"]
    if not isinstance(indexes, list) or len(indexes) != 2 or not all(isinstance(each, list) for each in indexes):
        raise source.wrong("indexes: is not [output sizes, input sizes]")
    outputs, inputs = ([_positive(source, size, "indexes") for size in sizes] for sizes in indexes)
    if (len(cells), len(cells[0])) != (len(outputs), len(inputs)):
        raise source.wrong(
            f"tputs: {len(cells)} × {len(cells[0])} cells, and indexes name {len(outputs)} output and "
            f"{len(inputs)} input sizes",
            "rows are output sizes, columns input sizes",
        )
    cost = _positive(source, document.get("cost"), "cost", zero=True)
    gpu = document.get("gpu")
    if not isinstance(gpu, str) or not gpu:
        raise source.wrong(f"gpu: {shown(gpu)} is not a name")
    turned = [[row[column] for row in cells] for column in range(len(inputs))]
    return _table(source, gpu, cost, inputs, outputs, turned)


def _table(
    source: Source, gpu: str, cost: float, isl: Sequence[float], osl: Sequence[float], cells: Sequence[Sequence[float]]
) -> MeasuredTable:
    fields = {"gpu": gpu, "usd_per_hour": cost, "isl": list(isl), "osl": list(osl), "rps": cells}
    return checked(MeasuredTable, {**fields, "source": source.path.name}, source.where)


def check_tables(tables: Sequence[MeasuredTable]) -> None:
    """Raises InputError where tables that stand for one service have other grids, or one GPU twice."""
    first = tables[0]
    names = [table.gpu for table in tables]
    for table in tables[1:]:
        if (table.isl, table.osl) != (first.isl, first.osl):
            raise InputError(
                f"tables: {_named(table)} has other sizes than {_named(first)}",
                "give profiles of one grid",
            )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"tables: {shown(twice)} has two tables", "keep one of them")


def _named(table: MeasuredTable) -> str:
    return f"{table.source} ({table.gpu})" if table.source else f"that of {shown(table.gpu)}"
