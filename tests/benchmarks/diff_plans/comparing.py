"""Old answers against new: which figures and hashes moved, and where in the documents."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import unified_diff
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.diff_plans.asking import Answer
from tests.benchmarks.diff_plans.figures import canonical, digest, figures, steady

EXPECTED = Path(__file__).with_name("expected.json")
LIBRARIES = ("numpy", "scipy", "scikit-learn", "pandas", "pulp", "highspy")
PLACES = 8
"""Differing places of a document that are shown."""

ABSENT = object()

Record = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One thing that moved. ``key``: its path in the record. A side that has no such thing is :data:`ABSENT`."""

    request: str
    key: str
    old: Any
    new: Any


def texts(answer: Answer) -> dict[str, str]:
    """Everything that is hashed of an answer, by what it is."""
    out = {"document": canonical(answer.document)} if answer.document is not None else {}
    return {**out, "text": steady(answer.text), **{name: steady(text) for name, text in answer.files.items()}}


def record(answer: Answer) -> Record:
    """The line that is kept."""
    line: Record = {"exit": answer.exit_code, "sha256": {name: digest(text) for name, text in texts(answer).items()}}
    if answer.exit_code != 0:
        line["says"] = steady(answer.text).partition("\n")[0]
    if answer.document is not None and (found := figures(answer.document)):
        line["figures"] = found
    return line


def changes(old: Mapping[str, Record], new: Mapping[str, Record]) -> list[Change]:
    """What differs, request by request in the order of ``new``, then those that are gone."""
    found = []
    for name in _united(new, old):
        if name in new and name in old:
            found += [Change(name, *moved) for moved in moves(old[name], new[name])]
        else:
            found.append(Change(name, "request", *("asked" if name in side else ABSENT for side in (old, new))))
    return found


def moves(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """(path, old, new) of every leaf that differs between two JSON values."""
    before, after = _flat(old), _flat(new)
    sides = ((key, before.get(key, ABSENT), after.get(key, ABSENT)) for key in _united(after, before))
    return [(key, one, other) for key, one, other in sides if one is ABSENT or other is ABSENT or one != other]


def _united(first: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    return [*first, *(key for key in then if key not in first)]


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """``{"figures.ttft_ms.0": 1.5, …}``; an empty list or mapping is a leaf."""
    if not isinstance(value, Mapping | list) or not value:
        return {key: value}
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    return {k: v for name, each in items for k, v in _flat(each, f"{key}.{name}" if key else str(name)).items()}


def differing(old: str, new: str, *, document: bool) -> list[str]:
    """Where two texts differ: paths of a document with old and new value, or lines of a text."""
    if document:
        lines = [f"{key}: {shown(one)} → {shown(other)}" for key, one, other in moves(json.loads(old), json.loads(new))]
        lines = lines or ["the same values, in another order"]
    else:
        lines = list(unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0))[2:]
    more = len(lines) - PLACES
    return lines[:PLACES] + ([f"… and {more:,} more"] if more > 0 else [])


def shown(value: Any) -> str:
    """A value in a line: as JSON, shortened."""
    text = "–" if value is ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:99] + "…"


class Kept:
    """Full texts in a folder outside the repository, called after their hashes: whoever ran the old state there once
    is shown where the new one differs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / digest(text)).write_text(text, encoding="utf-8")

    def find(self, name: str) -> str | None:
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.is_file() else None


def made_with() -> dict[str, str]:
    """What else decides the last digits of a figure."""
    return {"python": platform.python_version(), "machine": platform.machine(), **{n: version(n) for n in LIBRARIES}}


def read_expected(path: Path = EXPECTED) -> tuple[dict[str, str], dict[str, Record]]:
    """(what it was made with, the records by request); empty before the first ``--write``."""
    if not path.exists():
        return {}, {}
    document = json.loads(path.read_text(encoding="utf-8"))
    return document["made_with"], document["requests"]


def write_expected(records: Mapping[str, Record], path: Path = EXPECTED) -> None:
    """One line a request, so that a review sees which moved."""
    lines = [f"{json.dumps(name)}: {_line(each)}" for name, each in records.items()]
    text = f'{{"made_with": {_line(made_with())},\n"requests": {{\n' + ",\n".join(lines) + "\n}}\n"
    path.write_text(text, encoding="utf-8")


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
