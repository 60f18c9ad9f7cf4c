"""What the files of training frameworks take, as data (``training_options.yaml``), and which release is written for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict

from profiles.errors import InputError, Unsupported
from profiles.shipped import shipped

Takes = str | tuple[str, ...]
"""A type (int, float, bool, str, list), or the choices."""

Fields = Mapping[str, Mapping[str, object]]
"""Section → key → value."""


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "list": (list,),
}


class _Framework(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    releases: dict[str, dict[str, dict[str, Takes]]]


@cache
def _known() -> dict[str, _Framework]:
    return shipped(
        Path(__file__).parent / "training_options.yaml",
        lambda found: {name: _Framework.model_validate(each) for name, each in found.items()},
    )


def training_release(framework: str, asked: str, *, assume: bool) -> tuple[str, str]:
    """(the release whose options are written, how it came to be that one where that is not plain).

    Args:
        asked: after the @; a year or nothing: the oldest that is known, whose form older ones share.

    Raises:
        InputError: a newer one than is known, unless it is assumed to take what that does.
    """
    known = list(_known()[framework].releases)
    try:
        version = Version(asked) if asked else Version("0")
    except InvalidVersion as error:
        raise InputError(f"--framework: {asked!r} is no release", f"known are {', '.join(known)}") from error
    if version >= Version("2000"):  # dated before the first that has a number here
        return known[0], f"options as of {known[0]}"
    fits = [each for each in known if Version(each).release[:2] <= version.release[:2]]
    if not fits:
        return known[0], f"options as of {known[0]}"
    newest = fits[-1]
    if version.release[:2] > Version(newest).release[:2]:
        if not assume:
            raise InputError(
                f"--framework: the options of {framework} {asked} are not known",
                f"the nearest is {framework}@{newest}; or go on as if it were that with --assume-version",
            )
        return newest, f"ASSUMED to take the options of {newest}: its own are not known"
    return newest, "" if version == Version(newest) else f"options as of {newest}"


def check_fields(framework: str, release: str, fields: Fields) -> None:
    """Refuses what the release does not take: names, types, choices.

    Raises:
        Unsupported: naming the option.
    """
    takes = _known()[framework].releases[release]
    for section, values in fields.items():
        for key, value in values.items():
            name = f"{section}.{key}" if key else section
            if key not in takes.get(section, {}):
                raise Unsupported(f"{name}: {framework} {release} has no such option", "plan without it")
            wanted = takes[section][key]
            if isinstance(wanted, str):
                good = _TYPES[wanted]
                if not isinstance(value, good) or (isinstance(value, bool) and wanted != "bool"):
                    raise Unsupported(f"{name}: {value!r} is not of type {wanted}", "report this as a defect")
            elif value not in wanted:
                raise Unsupported(f"{name}: {value!r} is not one of {', '.join(wanted)}", "plan without it")
