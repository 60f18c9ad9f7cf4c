"""Files that a user names: read by the command line, and put into the documents that hold no path."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from planner.contract.documents import shown
from profiles.errors import InputError


def read_text(path: Path, what: str) -> str:
    """The text of a file, which messages call ``what``.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{what} {path}: cannot be read ({reason})", "check the path") from error


def mapping_of(text: str, where: str, hint: str) -> dict[str, Any]:
    """A mapping from its YAML (of which JSON is a part).

    Raises:
        InputError: not YAML, with a key given twice, or not a mapping.
    """
    try:
        document = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", None)
        problem = f" ({said})" if said else ""
        raise InputError(f"{where}: not valid YAML{line}{problem}", hint) from error
    if not isinstance(document, dict):
        raise InputError(f"{where}: not a mapping", hint)
    return document


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{shown(key.value)} is given twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)
