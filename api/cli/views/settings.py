"""The user's settings, and where each is from."""

from __future__ import annotations

import os
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from api.cli.console import indented, table
from api.service_settings import SECRET
from api.settings import PREFIX, Setting, files


def show(settings: Mapping[str, Setting], console: Console) -> None:
    """Prints what is set, or where it could be."""
    if not settings:
        console.print(f"Nothing is set. Settings may be in {' or '.join(map(str, files()))}, or in {PREFIX}…")
        return
    rows = table("setting", "value", "from", left=3)
    for name, each in settings.items():
        value = os.pathsep.join(each.value) if isinstance(each.value, tuple) else str(each.value)
        if name in SECRET:
            value = _without_password(value)
        rows.add_row(Text(name), Text(value), Text(each.source))
    indented(console, rows)


def _without_password(address: str) -> str:
    from api.storage.database import Database
    from profiles.errors import InputError

    try:
        return Database(address).shown
    except InputError:
        return "(is no address of a database)"
