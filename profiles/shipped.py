"""Reading the YAML and JSON files that ship with the package: facts, each with its source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from profiles.errors import DataError

# libyaml, where PyYAML was built with it, reads the same ten times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

T = TypeVar("T")

BROKEN = "correct the file if you have changed it; otherwise install shardwright again"
"""What to do about a broken file of the package, whoever reads it."""


def shipped(path: Path, parse: Callable[[Any], T]) -> T:
    """What ``parse`` makes of the YAML document in ``path`` (JSON in a file called so, which is read faster).

    Raises:
        DataError: the file cannot be read, or ``parse`` cannot make anything of it (AttributeError, LookupError,
            TypeError, ValueError, which pydantic's errors are).
    """
    try:
        text = path.read_text(encoding="utf-8")
        return parse(json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=_Loader))
    except (OSError, yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{path.name}: cannot be read ({_told(error)})", BROKEN) from error


def _told(error: Exception) -> str:
    """The error in a line: of pydantic's the first, with its place in the document, and how many more there are."""
    if not isinstance(error, ValidationError):
        return repr(error)
    first, *more = error.errors(include_url=False)
    told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{told}; and {len(more)} more" if more else told
