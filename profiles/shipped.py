"""Reading the YAML files that ship with the package: facts, each with its source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from profiles.errors import DataError

# libyaml, where PyYAML was built with it, reads the same ten times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

T = TypeVar("T")

BROKEN = "correct the file if you have changed it; otherwise install shardwright again"
"""What to do about a broken file of the package, whoever reads it."""


def shipped(path: Path, parse: Callable[[Any], T]) -> T:
    """What ``parse`` makes of the YAML document in ``path``.

    Raises:
        DataError: the file cannot be read, or ``parse`` cannot make anything of it (AttributeError, LookupError,
            TypeError, ValueError, which pydantic's errors are).
    """
    try:
        return parse(yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader))
    except (OSError, yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{path.name}: cannot be read ({error!r})", BROKEN) from error
