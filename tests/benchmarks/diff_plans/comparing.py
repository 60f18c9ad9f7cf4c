"""Old answers against new: which figures and hashes moved, and where in the documents."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
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

Record = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One thing that moved. ``key``: a figure, ``exit``, ``document``, ``text`` or a file; None on a side: not there."""

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
    if answer.exit_code != "0":
        line["says"] = steady(answer.text).partition("\n")[0]
    if answer.document is not None and (found := figures(answer.document)):
        line["figures"] = found
    return line


def changes(old: Mapping[str, Record], new: Mapping[str, Record]) -> list[Change]:
    """What differs, request by request in the order of ``new``, then those that are gone."""
    found = []
    for name in (*new, *(name for name in old if name not in new)):
        before, after = _flat(old.get(name, {})), _flat(new.get(name, {}))
        for key in (*after, *(key for key in before if key not in after)):
            if before.get(key) != after.get(key):
                found.append(Change(name, key, before.get(key), after.get(key)))
    return found


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """``{"figures.ttft_ms.0": 1.5, …}``."""
    items: Iterator[tuple[Any, Any]]
    if isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    else:
        return {key: value}
    return {k: v for name, each in items for k, v in _flat(each, f"{key}.{name}" if key else str(name)).items()}


def differing(old: str, new: str, json_: bool) -> list[str]:
    """Where two texts differ: paths of a document with old and new value, or lines."""
    if json_:
        before, after = _flat(json.loads(old)), _flat(json.loads(new))
        keys = [key for key in (*before, *(k for k in after if k not in before)) if before.get(key) != after.get(key)]
        lines = [f"{key}: {shown(before.get(key))} → {shown(after.get(key))}" for key in keys]
    else:
        lines = list(unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0))[2:]
    more = len(lines) - PLACES
    return lines[:PLACES] + ([f"… and {more:,} more"] if more > 0 else [])


def shown(value: Any) -> str:
    """A value in a line: as JSON, shortened."""
    text = "–" if value is None else json.dumps(value, ensure_ascii=False)
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
    lines: Sequence[str] = [f"{json.dumps(name)}: {_line(each)}" for name, each in records.items()]
    text = f'{{"made_with": {_line(made_with())},\n"requests": {{\n' + ",\n".join(lines) + "\n}}\n"
    path.write_text(text, encoding="utf-8")


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
