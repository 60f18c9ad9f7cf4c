"""Cursors of lists: where the next page begins, and of which list."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, TypeVar

from fastapi import Query
from pydantic import BeforeValidator

from api.rest.problems import RefusedError, bad_parameter
from planner.contract.published import digest_of
from profiles.values import shown, whole

T = TypeVar("T")

LARGEST_PAGE = 200


def _page_size(value: Any) -> Any:
    """Raises RefusedError for what is no number of rows, in our words and digits."""
    count = whole(value) if isinstance(value, str) else value
    if count is None or not 1 <= count <= LARGEST_PAGE:
        wrong = f"{shown(value)} is not a whole number from 1 to {LARGEST_PAGE}"
        raise bad_parameter("limit", wrong, "write it in digits, for example limit=50")
    return count


PageSize = Annotated[int, BeforeValidator(_page_size), Query(ge=1, le=LARGEST_PAGE)]


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
