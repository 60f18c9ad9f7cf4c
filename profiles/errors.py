"""The one error tree. Every error says what is wrong and what to do about it.

ShardwrightError
├── InputError           the request cannot be understood            CLI exit 2, HTTP 422
│   ├── UnknownName      a model, GPU, fabric, ... that nobody knows
│   └── Unsupported      understood, but outside what we model
├── DataError            a pack, plan or catalogue file is broken    CLI exit 2, HTTP 500
├── Infeasible           no plan can satisfy the request             CLI exit 3, HTTP 409
└── LimitReached         a limit was reached before any plan         CLI exit 4, HTTP 504
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import ClassVar

from profiles.values import shortened, shown

LONGEST_NAME = 200  # characters of an unknown name that are compared with known ones


class ShardwrightError(Exception):
    """``message`` names the field and the value that are wrong; ``hint`` says the way out.

    ``details`` holds machine-readable extras (JSON-serialisable) that REST passes on.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    title: ClassVar[str] = "Shardwright error"

    def __init__(self, message: str, hint: str, **details: object) -> None:
        self.message, self.hint = shortened(message), shortened(hint)
        super().__init__(self.message)
        self.details = details

    @property
    def line(self) -> str:
        """Message and hint in one line, as tables have it."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


class InputError(ShardwrightError):
    """The request cannot be understood or contradicts itself."""

    exit_code = 2
    http_status = 422
    title = "Bad input"


def near(
    value: str, known: Iterable[str], aliases: Mapping[str, str] | None = None, alike: float = 0.4
) -> tuple[list[str], str]:
    """The names of ``known`` most like ``value``, at least so much ``alike`` (of 1), and what a hint says of them."""
    names = sorted(set(known))
    folded = {other.casefold(): name for other, name in (aliases or {}).items()}
    folded |= {name.casefold(): name for name in names}
    close = difflib.get_close_matches(value[:LONGEST_NAME].casefold(), list(folded), n=8, cutoff=alike)
    nearest = list(dict.fromkeys(folded[name] for name in close))[:4]
    listing = ", ".join(nearest) if nearest else ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return nearest, f"{'nearest' if nearest else 'known'}: {listing}" if names else "there are none"


class UnknownName(InputError):
    """A name that is in no catalogue; the hint lists the nearest ones that are. ``aliases``: other names of those that
    are known, by which they are found near, too."""

    title = "Unknown name"

    def __init__(
        self, field: str, value: str, known: Iterable[str], more: str = "", *, aliases: Mapping[str, str] | None = None
    ) -> None:
        nearest, there = near(value, known, aliases)
        listed = not nearest and more.startswith("choose from ")  # all of them, as ``there`` would
        super().__init__(
            f"{field}: {shown(value)} is not known",
            more if listed else there + (f"; {more}" if more else ""),
            field=field,
            value=value,
            nearest=nearest,
        )


class Unsupported(InputError):
    """Understood, but outside what the cost model covers; nothing is guessed."""

    title = "Not supported"


class DataError(ShardwrightError):
    """A file that ships or that the user gave (pack, plan, catalogue) is unreadable, corrupt or invalid."""

    exit_code = 2
    http_status = 500
    title = "Broken data"


class Infeasible(ShardwrightError):
    """No plan can satisfy the request: names the binding constraint and the nearest thing that works."""

    exit_code = 3
    http_status = 409
    title = "No plan can satisfy this"


class LimitReached(ShardwrightError):
    """A time or size limit was reached before any plan was found."""

    exit_code = 4
    http_status = 504
    title = "Limit reached without a plan"
