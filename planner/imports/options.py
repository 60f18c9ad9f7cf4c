"""The options of a framework's release and what they mean here, as data."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.version import Version
from pydantic import BaseModel, ConfigDict

from costmodels.serving.frameworks.framework import Framework
from planner.launchers.releases import CommandOption, ReleaseOptions, known_releases, nearest_release
from profiles.errors import Unsupported
from profiles.shipped import shipped

FOLDER = Path(__file__).parent / "flags"


class NotModelled(BaseModel):
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
    refused: dict[str, NotModelled]
    effects: dict[str, str]
    gone: dict[str, str]
    file: dict[str, str] = {}
    gathers: tuple[str, ...] = ()  # names of exchanges by which all ranks gather all tokens


@cache
def meanings(framework: str) -> Meanings:
    """Of a framework's flags."""
    return shipped(FOLDER / f"{framework}.yaml", Meanings.model_validate)


@dataclass(frozen=True)
class Options:
    """What one release takes, and what it means here.

    Attributes:
        framework: at the release that runs; ``release``: the nearest of which the options are known.
        others: the other lists that are known, newest first.
    """

    framework: Framework
    release: ReleaseOptions
    others: tuple[ReleaseOptions, ...]
    meanings: Meanings

    @classmethod
    def of(cls, framework: Framework) -> Options:
        if not known_releases(framework.name):
            raise Unsupported(
                f"framework: the options of {framework.full_name} are not known", "import engines of another framework"
            )
        release = nearest_release(framework.name, framework.release.version)
        known = [each for each in reversed(known_releases(framework.name)) if each != release.version]
        others = tuple(nearest_release(framework.name, each) for each in known)
        return cls(framework, release, others, meanings(framework.name))

    @property
    def note(self) -> str:
        """What a reader should know of the list; empty where it is of the release that runs."""
        asked, known = Version(self.framework.release.version).release, Version(self.release.version).release
        if asked[:2] == known[:2]:
            return ""
        return f"flags were read as those of {self.release.title}, the nearest whose list is known"

    @property
    def title(self) -> str:
        return self.framework.title

    def named(self, name: str) -> CommandOption | None:
        """The option of that name, or of the same name with hyphens and underscores exchanged where the framework takes
        both."""
        found = self.release.names.get(name)
        if found is None and self.framework.name == "trtllm" and name.startswith("--"):
            found = self.release.names.get(f"--{name[2:].replace('-', '_')}")
        return found

    def nearest(self, name: str) -> tuple[str, ...]:
        """The names most like one that is not known."""
        names = [each for each in self.release.names if each.startswith("--")]
        return tuple(difflib.get_close_matches(name[:80], names, n=3, cutoff=0.6))

    def beginning_with(self, name: str) -> list[CommandOption]:
        """The options that ``name`` is the beginning of, each once."""
        found = {option.flag: option for each, option in self.release.names.items() if each.startswith(name)}
        return list(found.values())

    def releases_with(self, name: str) -> tuple[str, ...]:
        """The other releases that have an option of that name."""
        return tuple(each.version for each in self.others if name in each.names)
