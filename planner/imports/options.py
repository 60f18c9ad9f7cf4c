"""The options of a framework's release and what they mean here, as data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from costmodels.serving.frameworks.framework import Framework
from profiles.shipped import shipped

FOLDER = Path(__file__).parent / "flags"


class Refused(BaseModel):
    """A flag that is not modelled, unless it has the value ``unless``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    why: str
    unless: str | None = None


class Meanings(BaseModel):
    """What a framework's flags mean here; the file of :mod:`planner.imports.flags` says what each part is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    meanings: dict[str, tuple[str, ...]]
    kv: dict[str, str]
    quantize: dict[str, str]
    repeats: dict[str, tuple[str, ...]]
    refused: dict[str, Refused]
    effects: dict[str, str]
    several: tuple[str, ...]
    gone: dict[str, str]
    file: dict[str, str] = {}


@cache
def meanings(framework: str) -> Meanings:
    """Of a framework's flags."""
    return shipped(FOLDER / f"{framework}.yaml", Meanings.model_validate)


@dataclass(frozen=True)
class Option:
    """One option: all its ``names``; ``several``: takes any number of values."""

    names: tuple[str, ...]
    switch: bool
    type: str | None
    choices: tuple[str, ...]
    deprecated: bool
    several: bool

    @property
    def name(self) -> str:
        return next((name for name in self.names if name.startswith("--") and not name.startswith("--no-")), self.names[0])


@dataclass(frozen=True)
class Options:
    """Of one release; ``release``: whose the list is, ``others``: the other lists that are known, newest first."""

    framework: Framework
    release: str
    by_name: Mapping[str, Option]
    others: Mapping[str, frozenset[str]]
    meanings: Meanings

    def nearest(self, name: str) -> tuple[str, ...]:
        """The names most like one that is not known."""
        names = [each for each in self.by_name if each.startswith("--")]
        return tuple(difflib.get_close_matches(name[:80], names, n=3, cutoff=0.6))

    def beginning_with(self, name: str) -> list[Option]:
        """The options that ``name`` is the beginning of, each once."""
        found = {id(option): option for each, option in self.by_name.items() if each.startswith(name)}
        return list(found.values())

    def releases_with(self, name: str) -> tuple[str, ...]:
        """The other releases that have an option of that name."""
        return tuple(release for release, names in self.others.items() if name in names)
