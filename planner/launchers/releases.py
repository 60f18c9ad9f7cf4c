"""What releases of the serving frameworks take on their command lines, as data: a file a release in ``releases/``,
written by ``python -m planner.launchers.refresh``."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from packaging.version import Version
from pydantic import BaseModel, ConfigDict, Field

from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.frameworks.names import framework_names
from profiles.errors import InputError, UnknownName, Unsupported
from profiles.shipped import shipped

RELEASES = Path(__file__).parent / "releases"


class CommandOption(BaseModel):
    """One option of a command.

    Attributes:
        type: of its value; ``json`` is an object, whose keys may also be given one by one after a dot.
        takes: how many words follow it.
        choices: the only values there are; None: any. ``fields``: of a JSON object, its keys and their choices.
        default: what stands where it is not given; None: nothing, or worked out.
        deprecated: what is said of it; "": nothing.
        negation: how it is switched off, where there is a word for that.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    flag: str
    aliases: tuple[str, ...] = ()
    negation: str | None = None
    type: Literal["int", "float", "str", "bool", "json"]
    takes: Literal["none", "one", "optional", "many"] = "one"
    choices: tuple[Any, ...] | None = None
    fields: dict[str, tuple[Any, ...] | None] | None = None
    default: Any = None
    deprecated: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.flag, *self.aliases, *filter(None, [self.negation]))

    def wrong(self, value: str) -> str | None:
        """Why ``value`` is none that it takes, or None where it is one."""
        kinds: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "json": json.loads}
        if self.type in kinds:
            try:
                kinds[self.type](value)
            except ValueError:
                return f"{value!r} is not of type {self.type}"
        if self.choices is not None and value not in {str(choice) for choice in self.choices}:
            return f"{value!r} is not one of {', '.join(str(choice) for choice in self.choices)}"
        return None


class ReleaseOptions(BaseModel):
    """What one release takes.

    Attributes:
        source, made: what the options were read from, and on which day.
        series: how many numbers of the version its later releases share with it that only mend it, and so take the same
            options.
        underscores: whether ``--a_b`` is read as ``--a-b``. ``beginnings``: whether the beginning of a name does where
            it is that of one option alone.
        options: by flag, in alphabetical order.
        file: keys of the file of options that it takes beside them, as ``section.key`` where they lie in a section.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    framework: str
    version: str
    made: str
    source: str
    series: int = 3
    underscores: bool
    beginnings: bool
    options: dict[str, CommandOption]
    file: dict[str, CommandOption] = Field(default_factory=dict)

    @property
    def title(self) -> str:
        known = self.framework in framework_names()
        return f"{find_framework(self.framework).full_name if known else self.framework} {self.version}"

    @cached_property
    def names(self) -> dict[str, CommandOption]:
        """Every spelling → its option."""
        return {name: option for option in self.options.values() for name in option.names}

    def __iter__(self) -> Iterator[CommandOption]:  # type: ignore[override]
        return iter(self.options.values())

    def resolve(self, word: str) -> CommandOption:
        """The option that ``word`` (without ``=value``) names on the command line: by name, by a beginning where the
        release takes beginnings, or by a key of its JSON (``--kv-transfer-config.kv_role``).

        Raises:
            InputError: there is none (naming the nearest), or several begin so.
        """
        bare, _, key = word.partition(".")
        spelled = f"--{bare[2:].replace('_', '-')}" if self.underscores and bare.startswith("--") else bare
        found = self.names.get(spelled) or self.names.get(bare)
        if found is None and self.beginnings and spelled.startswith("--"):
            meant = sorted(name for name in self.names if name.startswith(spelled))
            if len({self.names[name].flag for name in meant}) > 1:
                raise InputError(f"{word}: several options of {self.title} begin so", f"it may be {', '.join(meant)}")
            found = self.names[meant[0]] if meant else None
        if found is None or (key and found.type != "json"):
            near = difflib.get_close_matches(spelled, self.names, n=3, cutoff=0.6)
            raise InputError(
                f"{word}: {self.title} has no such option", f"nearest: {', '.join(near)}" if near else "leave it out"
            )
        return found


def _parsed(document: dict[str, Any]) -> ReleaseOptions:
    for part in ("options", "file"):
        document[part] = {flag: {"flag": flag, **fields} for flag, fields in document.get(part, {}).items()}
    return ReleaseOptions.model_validate(document)


@cache
def _read(path: Path) -> ReleaseOptions:
    return shipped(path, _parsed)


def _known() -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for path in RELEASES.glob("*.json"):
        name, _, version = path.stem.rpartition("-")
        found.setdefault(name, []).append(version)
    return {name: tuple(sorted(versions, key=Version)) for name, versions in found.items()}


def known_releases(framework: str) -> tuple[str, ...]:
    """Releases of a framework (or of a router) whose options are known, oldest first."""
    return _known().get(framework, ())


def release(framework: str, version: str | None = None) -> ReleaseOptions:
    """The options of a release: a version, one that only mends it (``0.33.2``), or a series (``0.33``: its newest that
    is known); None: the newest known. ``framework``: or ``vllm-router``, ``sglang-router``.

    Raises:
        UnknownName: the framework, or a release whose options are not known (naming the nearest that is).
        Unsupported: a framework of which no release's options are.
    """
    name, known = _with_options(framework)
    if version is None:
        return _read(RELEASES / f"{name}-{known[-1]}.json")
    asked = Version(version).release
    for each in reversed(known):
        if Version(each).release[: len(asked)] == asked:
            return _read(RELEASES / f"{name}-{each}.json")
    for each in reversed(known):
        found = _read(RELEASES / f"{name}-{each}.json")
        if found.series < 3 and Version(each).release[: found.series] == asked[: found.series]:
            return found
    near = min(known, key=lambda each: _distance(each, version))
    raise UnknownName("framework", f"{name}@{version}", [f"{name}@{near}"], f"options are known of {', '.join(known)}")


def nearest_release(framework: str, version: str) -> ReleaseOptions:
    """The options of the known release that is nearest to ``version``: the newest not after it, else the oldest.

    Raises:
        UnknownName: the framework.
        Unsupported: a framework of which no release's options are known.
    """
    name, known = _with_options(framework)
    before = [each for each in known if Version(each) <= Version(version)]
    return _read(RELEASES / f"{name}-{before[-1] if before else known[0]}.json")


def _with_options(framework: str) -> tuple[str, tuple[str, ...]]:
    """(its name, the releases of which options are known, oldest first)."""
    if framework in _known():
        return framework, _known()[framework]
    found = find_framework(framework)
    if found.name not in _known():
        raise Unsupported(
            f"framework: which options {found.full_name} takes is not known",
            f"choose from {', '.join(name for name in framework_names() if name in _known())}",
        )
    return found.name, _known()[found.name]


def _distance(one: str, other: str) -> tuple[int, ...]:
    first, second = ((*Version(each).release, 0, 0, 0)[:3] for each in (one, other))
    return tuple(abs(a - b) for a, b in zip(first, second, strict=True))
