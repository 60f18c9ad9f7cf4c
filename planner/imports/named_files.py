"""Files that commands name, found among those that came with them."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping


def text_named(files: Mapping[str, str], name: str) -> str | None:
    """The text of the file that a command calls ``name``: by its path, by its last part beside the command, or where
    only one has it; None: there is none, or several."""
    found = files.get(name)
    if found is None:
        found = files.get(posixpath.normpath(name))
    if found is not None:
        return found
    last = name.rpartition("/")[2]
    if last in files:
        return files[last]
    alike = {text for each, text in files.items() if each.rpartition("/")[2] == last}
    return alike.pop() if len(alike) == 1 else None
