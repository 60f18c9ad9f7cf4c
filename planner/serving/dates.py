"""Days as programs stamp them and people write them."""

from __future__ import annotations

import datetime as dt
import re

from profiles.errors import InputError
from profiles.values import shown

_STAMP = re.compile(r"(20\d\d)[-/.]?(\d\d)[-/.]?(\d\d)(?:[T _-]?\d\d:?\d\d.*)?", re.ASCII)
_SHORT = re.compile(r"(20\d\d)[-/.](\d{1,2})[-/.](\d{1,2})", re.ASCII)
_EPOCH = re.compile(r"(1[5-9]\d{8})(\d{3})?(\.\d+)?", re.ASCII)
_MONTH = re.compile(r"20\d\d-\d\d", re.ASCII)
_YEAR_LAST = re.compile(r"(\d{1,2})[-/.](\d{1,2})[-/.](20\d\d)(?:[ T,]+\d{1,2}:\d\d.*)?", re.ASCII)
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_NAMED = re.compile(r"(?:(\d{1,2})[-. ]+)?([a-z]{3,9})[-. ,]+(?:(\d{1,2})(?:st|nd|rd|th)?[-., ]+)?(20\d\d)", re.ASCII)


def day_stamped(text: str) -> str:
    """The day of a time as programs stamp it (``20260301-101010``, ``2026-03-01T10:10Z``, seconds since 1970) or people
    write it (``25/03/2026``, ``1 March 2026``), or its month.

    Raises:
        InputError: it is none, or may be of two months (``10/06/2025``).
    """
    if stamp := _STAMP.fullmatch(text) or _SHORT.fullmatch(text):
        return _day(text, *map(int, stamp.groups()))
    if since := _EPOCH.fullmatch(text):
        return dt.datetime.fromtimestamp(int(since[1]), dt.UTC).date().isoformat()
    if _MONTH.fullmatch(text):
        return text
    if last := _YEAR_LAST.fullmatch(text):
        first, second, year = map(int, last.groups())
        if first != second and first <= 12 and second <= 12:
            days = (f"{year}-{month:02d}-{day:02d}" for month, day in ((first, second), (second, first)))
            raise InputError(f"date: {shown(text)} may be {' or '.join(days)}", "write it as the one that it is")
        return _day(text, year, *((second, first) if first > 12 else (first, second)))
    if (named := _NAMED.fullmatch(text.casefold())) and not (named[1] and named[3]):
        month = next((i for i, each in enumerate(_MONTHS, 1) if each.startswith(named[2])), 0)
        day = named[1] or named[3]
        if month:
            return _day(text, int(named[4]), month, int(day)) if day else f"{named[4]}-{month:02d}"
    raise InputError(f"date: {shown(text)} is no day", "write it as 2026-03-01, or its month as 2026-03")


def _day(text: str, year: int, month: int, day: int) -> str:
    try:
        return dt.date(year, month, day).isoformat()
    except ValueError as error:
        raise InputError(f"date: {shown(text)} is no day", "write it as 2026-03-01, or its month as 2026-03") from error


def day_or_as_it_is(text: str) -> str:
    """The same of a date that nothing goes by: one that is none stays as it is."""
    try:
        return day_stamped(text) if text else text
    except InputError:
        return text
