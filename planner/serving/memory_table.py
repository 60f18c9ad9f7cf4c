"""Tables of engines → whether each starts, and with how much cache. What cannot be answered says why; the rest is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from planner.contract.words import cell
from planner.contract.workload.workload import workload_of
from planner.serving.asked_release import release_asked, with_release
from planner.serving.asked_rows import FRAMEWORK, plain_number
from planner.serving.configuration import MemoryRequest
from planner.serving.containers import CONTAINER, with_container, with_framework_told
from planner.serving.gpu_words import gpu_named, with_count
from planner.serving.layouts import with_replicas
from planner.serving.memory import memory
from planner.serving.memory_document import GpuMemory, Largest, parse_memory_request
from planner.serving.same_columns import agreed, columns_read
from profiles.errors import InputError, ShardwrightError
from profiles.hardware import SHIPPED, Catalogue
from profiles.values import number

if TYPE_CHECKING:
    import pandas as pd

FIGURES = (*GpuMemory.model_fields, *Largest.model_fields)
ADDED = ("starts", "reasons", *FIGURES, "release", "note", "error")

_LOAD = ("isl", "osl", "spread")
_YES = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def memory_table(table: pd.DataFrame, catalogue: Catalogue = SHIPPED) -> pd.DataFrame:
    """``table`` (text columns) with the columns :data:`ADDED`: those of the document, its lists joined by semicolons; a
    figure whose name the table has (``concurrency``) ends in ``_predicted``, as those of ``plan predict`` do.

    Args:
        table: columns model and gpu; any other field of :class:`MemoryRequest`, isl and osl for the workload; others
            are kept as they are.

    Raises:
        InputError: the table is empty, lacks a column, or has one of ours.
    """
    import pandas as pd

    known = (*MemoryRequest.model_fields, *_LOAD, "version", CONTAINER, "date")
    meant, beside = columns_read(table, known)
    given = with_framework_told(table.rename(columns=meant), table.columns)
    if missing := [name for name in ("model", "gpu") if name not in given.columns]:
        raise InputError(f"columns: {', '.join(missing)} missing", "give model and gpu in a header")
    names = {name: f"{name}_predicted" if name in FIGURES and name in table.columns else name for name in ADDED}
    if ours := [name for name in names.values() if name in table.columns]:
        raise InputError(f"columns: {ours[0]} is written by plan memory", "rename or drop the column")
    if not len(table):
        raise InputError("rows: there are none", "give at least one engine below the header")
    own = frozenset(map(str, table.columns))
    rows = [
        _row({str(k): cell(str(v)) for k, v in row.items()}, beside, own, catalogue) for row in given.to_dict("records")
    ]
    added = pd.DataFrame(rows, columns=list(ADDED), dtype=object).rename(columns=names)
    return pd.concat([table.reset_index(drop=True), added], axis=1)


def _row(
    record: Mapping[str, str], beside: Mapping[str, tuple[str, ...]], own: frozenset[str], catalogue: Catalogue
) -> dict[str, str]:
    out, notes = dict.fromkeys(ADDED, ""), list[str]()
    try:
        told = with_container(agreed(record, beside, own, notes), notes)
        told = with_release({**told, "framework": told.get("framework") or FRAMEWORK}, notes)
        if told["gpu"]:
            called = gpu_named(told["gpu"], catalogue)
            told = {**with_count(told, called, notes), "gpu": called.gpu.name}
        found = memory(parse_memory_request(_fields(told, notes)), catalogue)
    except ShardwrightError as error:
        return {**out, "error": error.line}
    values = {**found.memory.model_dump(), **found.largest.model_dump()}
    out |= {name: "" if value is None else _told(value) for name, value in values.items()}
    return {
        **out,
        "starts": str(found.starts).lower(),
        "reasons": "; ".join(found.reasons),
        "release": found.version,
        "note": "; ".join((*notes, *found.notes)),
    }


def _fields(record: Mapping[str, str], notes: list[str]) -> dict[str, Any]:
    """The request's fields of a row's cells; adds to ``notes``."""
    from costmodels.serving.frameworks.framework import find_framework

    framework = find_framework(release_asked(record))
    record = framework.in_our_words({name: text for name, text in record.items() if text})
    record = with_replicas(record, framework, notes)
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
