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


class Parser(BaseModel):
    """How a framework reads arguments, beyond what the file of a release says.

    Attributes:
        last_counts: an option may be given again, and the last counts.
        fields: fields of a JSON option stand after dots of its name.
        level: the option that ``-O3``, ``-O=3`` and ``-O 3`` are short for; "": none.
        either_spelling: names take ``-`` or ``_`` alike.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    last_counts: bool = False
    fields: bool = False
    level: str = ""
    either_spelling: bool = False


class Starts(BaseModel):
    """What starts engines of a framework.

    Attributes:
        called: the usual ways, for people.
        commands: programs with the words that make them start one; ``not_before``: words behind which they do
            something else; ``optional``: a word that may stand behind.
        modules: what ``python -m`` starts.
        images: repository of its images → the command that they run by themselves, if any. ``images_like``: names of
            others that have it (a regular expression), of which the tag says no release.
        dynamo: options of Dynamo's worker → those of the framework's own command.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    called: str
    commands: tuple[tuple[str, ...], ...]
    not_before: tuple[str, ...] = ()
    optional: str | None = None
    modules: tuple[str, ...] = ()
    images: dict[str, tuple[str, ...]] = {}
    images_like: str = ""
    dynamo: dict[str, str] = {}


class NamesExchange(BaseModel):
    """A variable that names the exchange of tokens, whatever the command says.

    ``gone_in``: the first release that does not read it; ``option``: what it takes instead."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    gone_in: str | None = None
    option: str = ""


class Variables(BaseModel):
    """Variables that an engine reads, and that have a meaning here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exchange: NamesExchange | None = None
    dispatch_tokens: str = ""  # how many tokens the buffers of an exchange hold

    @property
    def names(self) -> tuple[str, ...]:
        return (*([] if self.exchange is None else [self.exchange.name]), self.dispatch_tokens)


class Meanings(BaseModel):
    """What a framework's commands mean here; the file of :mod:`planner.imports.flags` says what each part is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    starts: Starts
    parser: Parser = Parser()
    variables: Variables = Variables()
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


@cache
def all_meanings() -> dict[str, Meanings]:
    """Of every framework whose commands are read, by its name."""
    return {each.stem: meanings(each.stem) for each in sorted(FOLDER.glob("*.yaml"))}


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
        if framework.name not in all_meanings():
            raise Unsupported(
                f"framework: what commands of {framework.full_name} mean is not known",
                f"choose from {', '.join(all_meanings())}",
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
        if found is None and self.meanings.parser.either_spelling and name.startswith("--"):
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
