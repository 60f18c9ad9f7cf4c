"""Files that a user names: read by the command line, and put into the documents that hold no path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from profiles.errors import InputError
from profiles.files import Source
from profiles.markup import Malformed
from profiles.yaml_markup import strict_yaml


def read_text(path: Path, what: str) -> str:
    """The text of a file, which messages call ``what``.

    Raises:
        InputError: it cannot be read.
    """
    return Source(path, what, f"give a {what}").text()


def mapping_of(text: str, where: str, hint: str) -> dict[str, Any]:
    """A mapping from its YAML (of which JSON is a part).

    Raises:
        InputError: not YAML, with a key given twice, or not a mapping.
    """
    try:
        document = strict_yaml(text)
    except Malformed as error:
        line = f" at line {error.line}" if error.line else ""
        raise InputError(f"{where}: not valid YAML{line} ({error})", hint) from error
    if not isinstance(document, dict):
        raise InputError(f"{where}: not a mapping", hint)
    return document
