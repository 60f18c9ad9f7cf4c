"""Loads in files: tables of classes and hours, and traces, of which classes and steps are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from costmodels.estimates import Floats, Ints
from planner.contract.files import mapping_of, read_text
from planner.contract.workload.classes import DAY_S, HOUR_S, MOST_CLASSES
from planner.contract.workload.traces import Recording, recorded
from profiles.errors import InputError
from profiles.files import Source
from profiles.tables import numbers, read_table
from profiles.values import shown

COLUMNS = ("hour", "isl", "isl_from", "isl_to", "osl", "osl_from", "osl_to", "rate_rps", "share", "prefix_hit")

TABLE_HINT = (
    "a load is a CSV with the columns isl_from, isl_to (or isl), osl_from, osl_to (or osl) and rate_rps (or share), "
    "and hour for steps"
)

DOCUMENTS = (".json", ".yaml", ".yml")

DOCUMENT_HINT = "it has classes, or steps with classes, as load: in a fleet file has; `plan schema fleet-request`"

CLASSES = 256
"""To which the requests of a trace are laid together, about, unless the load says another number: more where the
fleet's tolerance asks."""

FINEST = 16
"""Times as many, in which a trace is read: four for one, twice."""

ONE_STEP_S = 1.5 * HOUR_S
"""A trace no longer than this is one step."""


# ------------------------------------------------------------------ tables


def read_load_table(path: Path, rest: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a load in a CSV, or in YAML or JSON as a load is written in a fleet file (its classes alone, or
    classes or steps by name); ``rest``: what the fleet file says beside.

    Raises:
        InputError: unreadable, without its columns, empty, or with values that are no numbers.
    """
    for key in rest:
        if key not in ("rate_rps", "margin"):
            raise InputError(
                f"{where}.{key}: has no effect beside a file", "leave it out; a file may stand with rate_rps and margin"
            )
    if path.suffix.casefold() in DOCUMENTS:
        return _load_document(path, rest, where)
    source = Source(path, "load", TABLE_HINT)
    table = read_table(source, comment="#") if _commented(source) else read_table(source)
    names = [name.strip() for name in table.columns]
    table.columns = names
    known = [name for name in names if name in COLUMNS]
    for name in ("isl", "osl"):
        if name not in known and not {f"{name}_from", f"{name}_to"} <= set(known):
            raise source.wrong(f"column {name}, or {name}_from and {name}_to, is missing")
    if "rate_rps" not in known and "share" not in known:
        raise source.wrong("column rate_rps, or share, is missing")
    if not len(table):
        raise source.wrong("has no rows")
    values: dict[str, list[float | None]] = {}
    for name in known:
        column = numbers(table[name])
        for row, (value, text) in enumerate(zip(column, table[name], strict=True)):
            blank = not text.strip() and name not in ("hour", "rate_rps", "share")
            if (value is None or not np.isfinite(value) or value < 0) and not blank:
                raise source.wrong(f"row {row + 1}: {name} {shown(text)} is not a number of at least 0", "correct it")
        values[name] = column
    hours = values.pop("hour", [0.0] * len(table))
    classes: dict[int, list[dict[str, float]]] = {}
    for row, hour in enumerate(hours):
        assert hour is not None
        if hour != int(hour):
            raise source.wrong(f"row {row + 1}: hour {hour:g} is not a whole number", "number the hours 0, 1, 2 …")
        fields = {name: value for name, column in values.items() if (value := column[row]) is not None}
        classes.setdefault(int(hour), []).append(fields)
    hours_there = sorted(classes)
    if hours_there != list(range(len(hours_there))):
        missing = next(hour for hour in range(hours_there[-1] + 1) if hour not in classes)
        raise source.wrong(f"hour {missing} has no rows", "give every hour from 0 on")
    told = f"{path.name}: {len(hours_there)} hours" if "hour" in known else path.name
    if "hour" not in known:
        return _with_rest({"source": told, "classes": classes[0]}, rest, where)
    steps = [{"hour": hour, "classes": classes[hour]} for hour in hours_there]
    return _with_rest({"source": told, "steps": steps}, rest, where)


def _load_document(path: Path, rest: Mapping[str, Any], where: str) -> dict[str, Any]:
    text = read_text(path, "load")
    if text.lstrip().startswith(("[", "- ")):
        text = f'{{"classes": {text}}}' if text.lstrip().startswith("[") else f"classes:\n{text}"
    load = mapping_of(text, f"load {path}", DOCUMENT_HINT)
    if not {"classes", "steps"} & set(load):
        raise InputError(f"load {path}: has neither classes nor steps", DOCUMENT_HINT)
    return _with_rest({"source": path.name, **load}, rest, where)


def _with_rest(load: dict[str, Any], rest: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``load`` with the rate of its shares and the margin that the fleet file says beside it."""
    if rest.get("rate_rps") is not None:
        load["rate_rps"] = rest["rate_rps"]
    more = 1.0 + _margin(rest, where)
    return load if more == 1.0 else _times(load, more)


def _times(value: Any, more: float) -> Any:
    """A load, or a part of it, with all its rates ``more`` times as high; what is no rate is for its checks to say."""
    if isinstance(value, list):
        return [_times(each, more) for each in value]
    if not isinstance(value, dict):
        return value
    number = (int, float)
    return {
        key: each * more if key == "rate_rps" and isinstance(each, number) and not isinstance(each, bool)
        else _times(each, more)
        for key, each in value.items()
    }  # fmt: skip


def _commented(source: Source) -> bool:
    with source.opened() as stream:
        return stream.readline(4096).lstrip().startswith(b"#")


def _margin(rest: Mapping[str, Any], where: str) -> float:
    margin = rest.get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin <= 10:
        raise InputError(f"{where}.margin: {shown(margin)} is not a share", "give for example 0.1")
    return float(margin)


# ------------------------------------------------------------------ traces

GAPS = 10.0
"""Mean gaps between requests by which the last one may come before the end of its step: more, and the recording ended
before it."""

_TRACE_WORDS = ("classes", "step_s", "margin", "quantile", "seconds", "skip_failed")


def read_load_trace(path: Path, rest: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a load made of a trace: classes that keep its requests and tokens, steps of an hour where it is
    longer, days laid over each other.

    Args:
        rest: ``classes`` (about how many, at first), ``step_s``, ``margin``, ``quantile`` (over days, of each step's
            rate), and ``seconds`` (how long the trace was recorded, where that is not to its last request).

    Raises:
        InputError: what :func:`planner.contract.workload.traces.recorded` raises, and words that are not known.
    """
    for key in rest:
        if key not in _TRACE_WORDS:
            raise InputError(f"{where}.{key}: is not known beside a trace", f"it may have {', '.join(_TRACE_WORDS)}")
    found = recorded(path, skip_failed=rest.get("skip_failed") is True)
    count = _whole(rest.get("classes", CLASSES), f"{where}.classes", 1, 20_000)
    seconds = _number(rest.get("seconds"), f"{where}.seconds")
    step_s = _number(rest.get("step_s"), f"{where}.step_s")
    quantile = _number(rest.get("quantile"), f"{where}.quantile")
    if quantile is not None and not 0 < quantile < 1:
        raise InputError(f"{where}.quantile: {quantile:g} is not between 0 and 1", "give for example 0.9")
    more = 1 + _margin(rest, where)
    # Times count from the schedule's start.
    found = replace(found, seconds=found.seconds + found.begins_s, begins_s=0.0)
    last = float(found.seconds[-1])
    length = seconds or max(last, 1.0)
    if last > length:
        raise InputError(f"{where}.seconds: {length:g} is before the last request, at {last:g} s", "leave it out")
    steps = _steps(length, step_s)
    finest = min(count * FINEST, MOST_CLASSES)
    edges = _edges(found.isl, finest), _edges(found.osl, finest)
    made = [
        {
            "start_s": start,
            "end_s": end,
            "classes": _classes(found, rows, (end - start) * days, edges, scale * more),
        }
        for start, end, rows, days, scale in _folded(found, length, steps, quantile)
    ]
    empty = next((step for step in made if not step["classes"]), None)
    if empty is not None:
        raise InputError(
            f"{where}.trace: {path.name} has no requests from {empty['start_s']:g} to {empty['end_s']:g} s",
            "give a longer step_s",
        )
    out: dict[str, Any] = {
        "source": f"{path.name}: {len(found.isl):,} requests",
        "steps": made,
        "requests": len(found.isl),
        "coarsen_to": count,
    }
    if found.seen_before is not None:
        out["prefix_hit"] = float(found.seen_before.sum() / found.isl.sum())
    return out


def _whole(value: Any, where: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{where}: {shown(value)} is not a whole number from {least} to {most}", "correct it")
    return value


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise InputError(f"{where}: {shown(value)} is not a number above 0", "correct it")
    return float(value)


def _steps(length: float, step_s: float | None) -> Floats:
    """The edges of the steps of a day, or of the whole trace where it is shorter."""
    if step_s is None and length <= ONE_STEP_S:
        return np.array([0.0, length])
    width, end = step_s or HOUR_S, min(length, DAY_S)
    count = max(int(np.ceil(end / width - 1e-9)), 1)
    edges: Floats = np.minimum(np.arange(count + 1) * width, DAY_S if length >= DAY_S else count * width)
    return edges


def _folded(
    found: Recording, length: float, edges: Floats, quantile: float | None
) -> list[tuple[float, float, Ints, float, float]]:
    """(start, end, its requests, days that it was seen on, by how much its rate at the quantile over days is more than
    the mean) of each step."""
    horizon = edges[-1]
    of_day = np.mod(found.seconds, horizon) if length > horizon else found.seconds
    day = (found.seconds // horizon).astype(np.int64)
    out = []
    for start, end in pairwise(edges):
        rows = np.flatnonzero((of_day >= start) & ((of_day < end) | ((end == horizon) & (of_day <= end))))
        days = 1.0
        scale = 1.0
        if length > horizon:
            whole = max(int(length // horizon), 1)
            seen = whole + (1 if length % horizon >= end - 1e-9 else 0)
            days = float(max(seen, int(day[rows].max(initial=0)) + 1)) if len(rows) else float(seen)
            if quantile is not None and len(rows):
                counts = np.bincount(day[rows], minlength=int(days))[: int(days)]
                scale = float(np.quantile(counts, quantile) / counts.mean())
        elif (end - length) * len(rows) > GAPS * (length - start):  # the last step was not recorded to its end
            days = (length - start) / (end - start)
        out.append((float(start), float(end), rows, days, scale))
    return out


def _edges(lengths: Ints, classes: int) -> Ints:
    """Edges of length ranges that grow evenly, as many as the square root of the classes."""
    count = max(round(float(np.sqrt(classes))), 1)
    low, high = int(lengths.min()), int(lengths.max()) + 1
    edges = np.unique(np.rint(np.geomspace(low, high, count + 1)).astype(np.int64))
    edges[0], edges[-1] = low, high
    return edges


def _classes(
    found: Recording, rows: Ints, seconds: float, edges: tuple[Ints, Ints], scale: float
) -> list[dict[str, float]]:
    """The requests ``rows`` in classes, each at the mean of its members."""
    isl, osl = found.isl[rows], found.osl[rows]
    i = np.clip(np.searchsorted(edges[0], isl, side="right") - 1, 0, max(len(edges[0]) - 2, 0))
    o = np.clip(np.searchsorted(edges[1], osl, side="right") - 1, 0, max(len(edges[1]) - 2, 0))
    width = max(len(edges[1]) - 1, 1)
    key = i * width + o
    keys, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    sums = [np.bincount(inverse, weights=values.astype(np.float64)) for values in (isl, osl)]
    seen = (
        None if found.seen_before is None else np.bincount(inverse, weights=found.seen_before[rows].astype(np.float64))
    )
    out = []
    for k, (each, count) in enumerate(zip(keys.tolist(), counts.tolist(), strict=True)):
        a, b = divmod(each, width)
        fields = {
            "isl_from": float(edges[0][a]), "isl_to": float(edges[0][a + 1]), "isl": float(sums[0][k] / count),
            "osl_from": float(edges[1][b]), "osl_to": float(edges[1][b + 1]), "osl": float(sums[1][k] / count),
            "rate_rps": count / seconds * scale,
        }  # fmt: skip
        if seen is not None:
            fields["prefix_hit"] = float(seen[k] / sums[0][k])
        out.append(fields)
    return out
