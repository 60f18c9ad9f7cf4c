"""JSON that users write, read strictly: bounded in depth, each key once, numbers that are numbers. Needs nothing but
Python: the harness reads its journal on bare machines.

A parser raises :class:`Malformed` with a reason in our words; :func:`read_json` turns it into two lines about a file.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from profiles.errors import ShardwrightError
from profiles.files import Source
from profiles.values import shown

DEEPEST = 64
"""Levels of nesting. The deepest document of ours, a plan, has about ten."""

_MOST_DIGITS = 4000

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{\]}]', re.DOTALL)
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}


class Malformed(ValueError):
    """``str(error)``: what is wrong, in words for people. ``line``: where, counted from 1, if that is known."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


def read_json(source: Source, *, as_python: bool = False) -> Any:
    """The JSON document in a file.

    Args:
        as_python: as :func:`strict_json`.

    Raises:
        InputError (or ``source.error``): it cannot be read or is not JSON.
    """
    text = source.text()
    try:
        return strict_json(text, as_python=as_python)
    except Malformed as error:
        raise refused(source, error, "JSON") from error


def refused(source: Source, error: Malformed, language: str) -> ShardwrightError:
    """The error for a file that is no JSON or YAML."""
    line = f"line {error.line}: " if error.line else ""
    return source.wrong(f"{line}not valid {language} ({error})")


def strict_json(text: str | bytes, *, as_python: bool = False) -> Any:
    """``json.loads`` that refuses what it lets pass: NaN, infinities (``1e999`` too), keys given twice, numbers of
    more than 4,000 digits, and more than :data:`DEEPEST` levels.

    Args:
        as_python: of a file that Python may have written: Infinity and NaN, which JSON has not, are the texts of these
            names, so that who needs a number there refuses them.

    Raises:
        Malformed: saying what is wrong and where.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Malformed(f"byte {error.object[error.start]:#04x} is not text in UTF-8") from error
    _check_depth(text)
    try:
        return (_PYTHONS if as_python else _DECODER).decode(text)
    except json.JSONDecodeError as error:
        problem = error.msg[0].lower() + error.msg[1:].removesuffix(" at") if text.strip() else "it is empty"
        raise Malformed(f"{problem}, at column {error.colno}" if text.strip() else problem, error.lineno) from error
    except RecursionError as error:  # an unclosed quotation mark hides brackets from the count
        raise Malformed("it is nested too deeply") from error


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= DEEPEST:
        return
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += _STEP.get(token[0], 0)
        if depth > DEEPEST:
            line = 1 + text.count("\n", 0, token.start())
            raise Malformed(f"more than {DEEPEST} levels of nesting", line)


def _no_number(name: str) -> None:
    raise Malformed(f"{name} is not a number in JSON")


def integer(digits: str) -> int:
    """A whole number, unless it has more than 4,000 digits (from 4,300 on, Python takes offence).

    Raises:
        Malformed: it has.
    """
    if len(digits) > _MOST_DIGITS:
        raise Malformed(f"a number of {len(digits):,} digits")
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise Malformed(f"{shown(digits)} is too large for a number")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Malformed(f"key {shown(name)} is given twice")
    return fields


_DECODER, _PYTHONS = (
    json.JSONDecoder(parse_constant=constant, parse_int=integer, parse_float=_real, object_pairs_hook=_each_once)
    for constant in (_no_number, str)
)
