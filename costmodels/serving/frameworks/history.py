"""How a framework's facts hold over its releases.

A part (limits, scheduler, …) is a list of entries, oldest first. An entry holds from release ``since``, says what it
changes against the one before it, and was compared with the releases up to ``checked``. A release beyond that is
answered by the nearest older entry, one before the first entry by the first; :class:`Basis` says so, and what is
predicted from it is less sure.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.version import Version
from pydantic import BaseModel, ConfigDict, field_validator


class Release(BaseModel):
    """One release; ``date`` is the day it could first be installed, None where it is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    date: dt.date | None = None

    @field_validator("version")
    @classmethod
    def _is_a_version(cls, text: str) -> str:
        Version(text)  # raises InvalidVersion, a ValueError
        return text

    @property
    def order(self) -> Version:
        return Version(self.version)


class Entry(BaseModel):
    """What is known of one part from a release on. Whatever else stands in it are the facts."""

    model_config = ConfigDict(extra="allow", frozen=True)

    since: str
    checked: str | None = None
    source: str | tuple[str, ...]

    @field_validator("since", "checked")
    @classmethod
    def _is_a_version(cls, text: str | None) -> str | None:
        return text and Release(version=text).version

    @property
    def last(self) -> str:
        """The last release that it was compared with."""
        return self.checked or self.since

    @property
    def facts(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


@dataclass(frozen=True)
class Basis:
    """Where the facts of one part come from.

    Attributes:
        part: the name of the part.
        release: the last release at which these facts are known to hold (the first, for an older release).
        own: whether the release asked for lies within what was compared.
    """

    part: str
    release: str
    own: bool

    def __str__(self) -> str:
        return f"{self.part.replace('_', ' ')} as of {self.release}"


def part_at(part: str, entries: Sequence[Entry], version: str) -> tuple[Mapping[str, Any], Basis]:
    """(the facts of ``part`` at release ``version``, where they come from).

    Raises:
        ValueError: no entries, or not in ascending order.
    """
    starts = [Version(entry.since) for entry in entries]
    if not entries or starts != sorted(starts):
        raise ValueError(f"{part}: give entries in ascending order of since")
    asked = Version(version)
    holding = [entry for entry, start in zip(entries, starts, strict=True) if start <= asked]
    facts = {name: value for entry in holding or entries[:1] for name, value in entry.facts.items()}
    if not holding:
        return facts, Basis(part, entries[0].since, own=False)
    last = Version(holding[-1].last).release
    return facts, Basis(part, holding[-1].last, own=asked.release[: len(last)] <= last)
