"""What a user repeats, said once: ``shardwright.toml`` in the working directory, the same file in the user's
configuration folder, and ``SHARDWRIGHT_…`` in the environment. The service reads the same.

An option beside a setting wins, and so does a request document; then the environment, then the nearer file. Nothing of
pydantic-settings is imported where nothing is set.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from profiles.errors import UnknownName
from profiles.files import MIB, Source
from profiles.values import named

FILE = "shardwright.toml"
PREFIX = "SHARDWRIGHT_"
OTHERS = ("SHARDWRIGHT_CACHE", "SHARDWRIGHT_KEY", "SHARDWRIGHT_URL")
"""Variables that are no settings: of the cache, and of clients of the service."""

_HINT = 'write for example cluster = "16xH200", one setting a line'
_LARGEST = MIB  # bytes


@dataclass(frozen=True)
class Setting:
    """One setting: its value, and where that is from (a file, or ``$VARIABLE``)."""

    value: Any
    source: str


def files() -> tuple[Path, ...]:
    """Where settings may be, the nearest first."""
    return Path(FILE), Path(platformdirs.user_config_dir("shardwright")) / FILE


def settings() -> dict[str, Setting]:
    """Everything that is set, by name; empty where nothing is.

    Raises:
        UnknownName: a key or variable that is no setting.
        InputError: a file that cannot be read, or a value that is none of its setting.
    """
    variables = {name: value for name, value in os.environ.items() if name.startswith(PREFIX) and name not in OTHERS}
    there = [path for path in files() if path.is_file()]
    if not variables and not there:
        return {}
    from api.settings_schema import NAMES, of_environment, of_file

    found: dict[str, Setting] = {}
    for variable in variables:
        name = variable.removeprefix(PREFIX).lower()
        if name not in NAMES:
            raise UnknownName("environment", variable, [PREFIX + each.upper() for each in NAMES])
    for name, value in of_environment().items():
        found[name] = Setting(value, f"${PREFIX}{name.upper()}")
    for path in there:
        values = _read(path)
        for name in values:
            if name not in NAMES:
                raise UnknownName(f"settings {named(path)}: key", name, NAMES)
        for name, value in of_file(values, path.parent, f"settings {named(path)}").items():
            found.setdefault(name, Setting(value, str(path)))
    return found


def _read(path: Path) -> Mapping[str, Any]:
    source = Source(path, "settings", _HINT, _LARGEST)
    try:
        return tomllib.loads(source.text())
    except tomllib.TOMLDecodeError as error:
        problem = str(error)
        raise source.wrong(f"not valid TOML ({problem[0].lower()}{problem[1:]})") from error
