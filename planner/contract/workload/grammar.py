"""The short forms ``a=1,b=2`` of parts of a request."""

from __future__ import annotations

from collections.abc import Iterator

from planner.contract.documents import LONGEST_TEXT
from profiles.errors import InputError
from profiles.values import shown

NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?"


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
