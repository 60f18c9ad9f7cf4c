"""The short forms ``a=1,b=2`` of parts of a request, and the units of their values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from planner.contract.documents import LONGEST_TEXT
from profiles.errors import InputError
from profiles.values import shown

NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?"

TOKEN_UNITS = {"k": 1000, "K": 1024, "m": 10**6, "M": 1024**2}
"""As vLLM reads ``--max-model-len``: small letters are decimal, capitals binary."""

UNITS_HELP = "1k is 1,000 and 1K is 1,024, as vLLM reads them"

_TOKENS = re.compile(r"(?P<number>-?[0-9]{1,40}(?:\.[0-9]{1,9})?)(?P<unit>[kKmM]?)", re.ASCII)

DRAWN_HELP = "give their mean, and as spread the shares of it that they lie between, for example 0.5-1.5"
_DRAWN = re.compile(
    r"[0-9][kKmM]?\s*(?:[-–~±]|\.{2,3}|to|\+/?-)\s*[0-9]|uniform|normal|gauss", re.ASCII | re.IGNORECASE
)


def drawn(text: str) -> bool:
    """Whether a length is told as two numbers (``512-1536``, ``1024±200``) or a distribution."""
    return _DRAWN.search(text) is not None


def items(text: str, field: str, hint: str) -> Iterator[tuple[str, str]]:
    """``a=1,b=2`` as (name, value) pairs; a value may be empty, an item not."""
    for item in split(text, field, hint):
        name, _, value = (piece.strip() for piece in item.partition("="))
        if not name and not value:
            raise InputError(f"{field}: {shown(text)} has a comma too many", hint)
        yield name, value


def split(text: str, field: str, hint: str) -> Iterator[str]:
    """The items between the commas, none of which is empty."""
    if len(text) > LONGEST_TEXT:
        raise InputError(f"{field}: {shown(text)} is longer than {LONGEST_TEXT} characters", hint)
    if not text.strip():
        return
    for item in text.split(","):
        if not item.strip():
            raise InputError(f"{field}: {shown(text)} has a comma too many", hint)
        yield item.strip()


def tokens(text: str) -> int | None:
    """``4000``, ``128k``, ``1.5K``: a whole number of tokens; None for anything else."""
    match = _TOKENS.fullmatch(text.strip())
    if match is None:
        return None
    value = Decimal(match["number"]) * TOKEN_UNITS.get(match["unit"], 1)
    return int(value) if value == value.to_integral_value() else None
