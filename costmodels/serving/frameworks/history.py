"""A framework's releases, and how its facts hold over them.

A part (limits, scheduler, …) is a list of entries, oldest first. An entry holds from release ``since``, says what it
changes against the one before it, and was compared with the releases up to ``checked``. A release beyond that is
answered by the nearest older entry, one before the first entry by the first; :class:`Basis` says so, and what is
predicted from it is less sure.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, field_validator

from profiles.errors import InputError

_MONTH_OR_DAY = re.compile(r"(\d{4})-(\d{2})(?:-(\d{2}))?", re.ASCII)
_BUILT_ON = re.compile(r"(?<!\d)(20\d{2})-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])(?!\d)", re.ASCII)
_VERSION = re.compile(
    r"(?:(?<![a-z0-9.])|(?<=vllm)|(?<=sglang)|(?<=trtllm))v?(\d+(?:\.\d+)+(?:(?:a|b|rc)\d+)?(?:\.post\d+)?(?:\.dev\d+)?)(?!\d)",
    re.ASCII,
)
_BUILT_FOR = re.compile(
    r"(?<![a-z])(?:ubuntu|debian|cuda|cu|rocm|pytorch|torch|python|py|triton)[-_.]?v?\d+(?:\.\d+)*", re.ASCII
)
"""What else images name with a version (``rocm7.0_ubuntu_22.04_vllm_0.10.1``)."""
_SAME_CODE = re.compile(
    r"(?:cu|cuda|rocm)\d*(?:\.\d+)*|amd64|arm64|aarch64|x86|64|mi3\d[0-9x]x?|g?b[23]00|hopper|blackwell|runtime",
    re.ASCII,
)
"""What a release's own image may say that it was built for (``v0.5.9-rocm700-mi30x``): its code is the release's."""
_NO_WORD = re.compile(r"[^a-z0-9]+")
_LONGEST_LOCAL = 40  # characters of a build's name that are repeated


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

    def older_than(self, version: str) -> bool:
        return Version(self.version) < Version(version)

    def __str__(self) -> str:
        return self.version if self.date is None else f"{self.version} of {self.date}"


@dataclass(frozen=True)
class Chosen:
    """The release that is answered for.

    Attributes:
        release: as asked for; of a release that is not listed, its version alone.
        nearest: the listed release next below it (above, where there is none below): itself where it is listed.
        note: how it came to be this one where that is not plain; empty where it is.
    """

    release: Release
    nearest: Release
    note: str = ""

    @property
    def listed(self) -> bool:
        return self.release == self.nearest


def choose_release(name: str, releases: Sequence[Release], asked: str) -> Chosen:
    """The release that ``asked`` means: a version (``0.19.1``), a series (``0.19``: its newest), a month (``2026-02``)
    or a day (the newest release that there was by then). Of a build that is none of these (``nightly``,
    ``rocm/vllm:rocm7.0.0_vllm_0.11.2_20251210``, a commit) it is the version or the day in its name, else the newest.

    Args:
        name: of the framework, for messages.
        releases: ascending.

    Raises:
        InputError: there is no such date; several are named.
    """
    if _MONTH_OR_DAY.fullmatch(asked):
        return _by_date(name, releases, asked)
    if _BUILT_ON.fullmatch(asked):
        return _build(name, releases, asked)
    try:
        version = Version(asked)  # which also reads v0.19
    except InvalidVersion:
        return _build(name, releases, asked)
    if version.local and _is_built_for(version.local):
        return choose_release(name, releases, version.public)
    if version.local:
        return _unlisted(name, version, choose_release(name, releases, version.public).nearest)
    for release in releases:
        if Version(release.version) == version and len(Version(release.version).release) == len(version.release):
            return Chosen(release, release)
    series = [each for each in releases if Version(each.version).release[: len(version.release)] == version.release]
    if series and not (version.is_prerelease or version.is_postrelease):
        return Chosen(series[-1], series[-1])
    below = [each for each in releases if Version(each.version) < version]
    return _unlisted(name, version, below[-1] if below else releases[0])


def tells_release(asked: str) -> bool:
    """Whether a version, or a day, stands in what a build is called: ``nightly`` tells neither."""
    tag = asked.casefold().rpartition(":")[2]
    return re.match(r"v?[0-9]", tag, re.ASCII) is not None or bool(_own_version(tag) or _BUILT_ON.search(tag))


def _is_built_for(rest: str) -> bool:
    """Whether what stands beside a version says no more than which machine it was built for."""
    return all(_SAME_CODE.fullmatch(part) for part in re.split(r"[-_+]|(?<=x86)\.", rest) if part)


def _own_version(tag: str) -> re.Match[str] | None:
    """The first version in an image's tag that is not of what it was built for."""
    return _VERSION.search(re.sub(_BUILT_FOR, lambda other: "-" * len(other[0]), tag))


def _build(name: str, releases: Sequence[Release], asked: str) -> Chosen:
    """The build ``asked``, called by the release that its name tells of and by what else stands there
    (``0.33.0+nightly``)."""
    tag = asked.casefold().rpartition(":")[2]  # of an image
    rest = re.sub(_NO_WORD, ".", tag).strip(".")
    if not rest or "," in tag:
        raise InputError(
            f"framework: {name}@{asked!r} is not a release", f"give a version or a month: {name}@{releases[-1].version}"
        )
    if found := _own_version(tag):
        chosen = choose_release(name, releases, found[1])
        if _is_built_for(tag.replace(found[0], "", 1)):
            return chosen
        rest = re.sub(_NO_WORD, ".", tag.replace(found[0], ".", 1)).strip(".")
    elif day := _BUILT_ON.search(tag):
        chosen = _by_date(name, releases, "-".join(day.groups()))
    else:
        chosen = Chosen(releases[-1], releases[-1])
    if not rest:
        return chosen
    local = rest[:_LONGEST_LOCAL].strip(".")
    return _unlisted(name, Version(f"{Version(chosen.release.version).public}+{local}"), chosen.nearest)


def _unlisted(name: str, version: Version, nearest: Release) -> Chosen:
    note = f"{name} {version} is not a release known here; predicted as {nearest}"
    return Chosen(Release(version=str(version)), nearest, note)


def newest_date(releases: Sequence[Release]) -> dt.date:
    """The day of the last release that is dated: what is later is not known."""
    return max((each.date for each in releases if each.date is not None), default=dt.date.min)


def _by_date(name: str, releases: Sequence[Release], asked: str) -> Chosen:
    year, month, day = (int(part) if part else None for part in _MONTH_OR_DAY.fullmatch(asked).groups())  # type: ignore[union-attr]
    try:
        last = dt.date(year or 0, month or 0, day or 1)
    except ValueError:
        raise InputError(f"framework: {name}@{asked}: there is no such date", "give a month: 2026-02") from None
    if day is None:
        last = (last + dt.timedelta(days=31)).replace(day=1) - dt.timedelta(days=1)
    there = [each for each in releases if each.date is not None and each.date <= last]
    if not there:
        return Chosen(releases[0], releases[0], f"no release of {name} known here is as old as {asked}: {releases[0]}")
    chosen = max(there, key=lambda each: (each.date, Version(each.version)))
    plain = str(chosen.date).startswith(asked) if day is None else last <= newest_date(releases)
    return Chosen(chosen, chosen, "" if plain else f"{name} {chosen} was the newest release known here by {asked}")


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
