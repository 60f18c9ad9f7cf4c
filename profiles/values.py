"""What users write as text: shown in messages, and read as numbers. One place for each, for every room."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

SHOWN = 80
"""Characters of a wrong value that a message repeats."""

_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,3})?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,400}")
_LONGEST_NAME = 160
_LONGEST = 1000
_WORD = re.compile(r"\S{121,}")


def shown(value: object) -> str:
    """``value`` as a message repeats it: quoted, on one line, and never longer than a line."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int) and abs(value) >= 10**SHOWN:
        return f"a number of more than {SHOWN} digits"
    if isinstance(value, Path):
        value = str(value)
    text = repr(value[: SHOWN + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def named(name: object) -> str:
    """A name or a path as a message begins with it: bare, its middle left out where it is long, on one line."""
    text = str(name)
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= _LONGEST_NAME else f"{text[:40]}…{text[-60:]}"


def listed(values: Iterable[object]) -> str:
    """The first few of ``values`` as a message repeats them."""
    first, *more = [shown(value) for value in values] or ["none"]
    return ", ".join([first, *more[:2]]) + (f" and {len(more) - 2} more" if len(more) > 2 else "")


def one_of(names: Iterable[str]) -> str:
    """``a, b or c``."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def shortened(text: str) -> str:
    """``text`` with each word of more than 120 characters cut to its beginning and end, and itself cut after 1,000:
    the last line of defence, where a message repeats a path or a name as it was given. What could not be encoded is
    written as an escape."""
    plain = text.encode("utf-8", "backslashreplace").decode("utf-8")
    brief = _WORD.sub(lambda found: f"{found[0][:60]}…{found[0][-30:]}", plain)
    return brief if len(brief) <= _LONGEST else f"{brief[:_LONGEST]}…"


def number(text: str) -> float | None:
    """A number as people and programs write it (``12``, ``0.5``, ``.5``, ``1e-3``), or None. ASCII digits alone; no
    ``1_000``, no ``0x10``, no ``nan`` or ``inf``; nothing that is too large for a float."""
    written = text.strip()
    if _NUMBER.fullmatch(written) is None:
        return None
    value = float(written)
    return value if math.isfinite(value) else None


def whole(text: str) -> int | None:
    """A whole number in ASCII digits (``12``, ``-3``), or None."""
    written = text.strip()
    return int(written) if _WHOLE.fullmatch(written) else None
