"""Cursors of lists: where the next page begins, and of which list."""

from __future__ import annotations

import base64
import json
from typing import Any, TypeVar

from api.rest.problems import RefusedError
from planner.contract.published import digest_of

T = TypeVar("T")


def write(place: Any, under: list[Any]) -> str:
    """A cursor for the page after ``place`` of the list that was asked for as ``under`` says."""
    text = json.dumps([place, _list(under)], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read(cursor: str | None, under: list[Any], type_: type[T]) -> T | None:
    """The place in a cursor; None for the first page.

    Raises:
        RefusedError: it is none of ours, or of another list.
    """
    if cursor is None:
        return None
    try:
        place, of = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError):
        place, of = None, None
    if of != _list(under) or not isinstance(place, type_) or isinstance(place, bool):
        raise RefusedError(
            422,
            "invalid-cursor",
            "Invalid cursor",
            "cursor: is not one of this list",
            "begin without a cursor; a next_cursor goes with the filters of the page that it is from",
        )
    return place


def _list(under: list[Any]) -> str:
    return digest_of({"list": [str(each) for each in under]})[:12]
