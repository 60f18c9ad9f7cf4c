"""Tables of engines → whether each starts, and with how much cache. What cannot be answered says why; the rest is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from planner.contract.words import cell, columns_meant
from planner.contract.workload.workload import workload_of
from planner.serving.asked_release import release_asked
from planner.serving.asked_rows import FRAMEWORK, plain_number
from planner.serving.configuration import MemoryRequest
from planner.serving.memory import memory
from planner.serving.memory_document import GpuMemory, Largest, parse_memory_request
from profiles.errors import InputError, ShardwrightError
from profiles.hardware import SHIPPED, Catalogue
from profiles.values import number

if TYPE_CHECKING:
    import pandas as pd

ADDED = ("starts", "reasons", *GpuMemory.model_fields, *Largest.model_fields, "release", "note", "error")

_LOAD = ("isl", "osl", "spread")
_YES = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def memory_table(table: pd.DataFrame, catalogue: Catalogue = SHIPPED) -> pd.DataFrame:
    """``table`` (text columns) with the columns :data:`ADDED`: those of the document, its lists joined by semicolons.

    Args:
        table: columns model and gpu; any other field of :class:`MemoryRequest`, isl and osl for the workload; others
            are kept as they are.

    Raises:
        InputError: the table is empty, lacks a column, or has one of ours.
    """
    import pandas as pd

    known = (*MemoryRequest.model_fields, *_LOAD, "version", "date")
    given = table.rename(columns=columns_meant(table.columns, known))
    if missing := [name for name in ("model", "gpu") if name not in given.columns]:
        raise InputError(f"columns: {', '.join(missing)} missing", "give model and gpu in a header")
    if ours := [name for name in ADDED if name in table.columns]:
        raise InputError(f"columns: {ours[0]} is written by plan memory", "rename or drop the column")
    if not len(table):
        raise InputError("rows: there are none", "give at least one engine below the header")
    rows = [_row({str(k): cell(str(v)) for k, v in row.items()}, catalogue) for row in given.to_dict("records")]
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(rows, columns=list(ADDED), dtype=object)], axis=1)


def _row(record: Mapping[str, str], catalogue: Catalogue) -> dict[str, str]:
    out = dict.fromkeys(ADDED, "")
    try:
        found = memory(parse_memory_request(_fields(record)), catalogue)
    except ShardwrightError as error:
        return {**out, "error": error.line}
    values = {**found.memory.model_dump(), **found.largest.model_dump()}
    out |= {name: "" if value is None else _told(value) for name, value in values.items()}
    return {
        **out,
        "starts": str(found.starts).lower(),
        "reasons": "; ".join(found.reasons),
        "release": found.version,
        "note": "; ".join(found.notes),
    }


def _fields(record: Mapping[str, str]) -> dict[str, Any]:
    """The request's fields of a row's cells."""
    from costmodels.serving.frameworks.framework import find_framework

    named = {**record, "framework": record.get("framework") or FRAMEWORK}
    framework = find_framework(release_asked(named))
    record = framework.in_our_words({name: text for name, text in named.items() if text})
    fields: dict[str, Any] = {}
    for name, info in MemoryRequest.model_fields.items():
        if (text := record.get(name, "")) and name != "workload":
            kinds = {info.annotation, *get_args(info.annotation)}
            if bool in kinds:
                fields[name] = _YES.get(text.casefold(), text)
            else:
                fields[name] = text if str in kinds else _value(text)
    fields["framework"] = framework.spec
    lengths = {name: plain_number(name, record[name]) for name in _LOAD if record.get(name)}
    if lengths:
        fields["workload"] = workload_of(lengths.items())
    elif record.get("workload"):
        fields["workload"] = record["workload"]
    return fields


def _value(text: str) -> float | int | str:
    value = number(text)
    return text if value is None else int(value) if value.is_integer() else value


def _told(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.10g}"
