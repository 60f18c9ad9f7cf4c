"""Ways in which a file, a document, a cell or an argument goes wrong. All are drawn from a seed: a failure can be
repeated by its number."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any

HUGE = "hugevalue " * 300
DEEP = 3000
STRANGE_TEXT = (
    *("", " ", "-", "nan", "NaN", "inf", "-inf", "1e999", "-1", "0", "1_000", "１０", "٣", "0x10", "1e-300", "1.5"),
    *("9" * 30, "9" * 5000, "99999999999", "true", "null", "None", "[]", "a,b", '"', "\x00", "\x1b[31m", "é", "=1+1"),
    *(HUGE, "x" * 2800, "../../etc/passwd", "%s%n{0}", "\ud800", "1:30", "ten", "1e400", "-0", "+5", ".", "1.", "1e"),
)
"""Values of cells and options that nobody means."""


def _deep_list() -> Any:
    value: Any = 1
    for _ in range(90):
        value = [value]
    return value


STRANGE_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 10**30, -(10**30), 10**400, 1e308, 1e-300, float("nan"), float("inf"), 2**63),
    *("", "x", "10", "1_000", "１０", HUGE, "\x00", [], {}, [[]], [None], {"a": 1}, {"": None}, [1] * 5000, [["x"]]),
    *([[1, [2]]], "2024-99-99", "é" * 2800),
)
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?")


def spoilt_bytes(content: bytes, draw: random.Random) -> bytes:
    """``content`` cut off, flipped, repeated, filled up or with one of its numbers replaced."""
    at = draw.randrange(len(content) + 1)
    end = min(len(content), at + draw.choice((1, 2, 8, 64)))
    ways: list[Callable[[], bytes]] = [
        lambda: content[:at],
        lambda: content[at:],
        lambda: content[:at] + content[end:],
        lambda: content[:end] + content[at:],
        lambda: content[:at] + bytes(draw.randrange(256) for _ in range(draw.choice((1, 2, 8)))) + content[end:],
        lambda: content[:at] + draw.choice((b"[", b"{", b'{"a":', b"- ", b"\xff", b"\x00", b'"', b"\n")) * DEEP,
        lambda: draw.choice((b"[", b"{", b'{"a":', b"- ", b"a: ", b"&a [*a, ", b"")) * DEEP,
        lambda: content[:at] + draw.choice(STRANGE_TEXT).encode("utf-8", "surrogatepass") + content[end:],
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content.decode("latin-1").encode("utf-16"),
        lambda: _other_number(content, draw),
        lambda: _other_number(content, draw),
        lambda: _other_number(content, draw),
    ]
    return draw.choice(ways)()


def _other_number(content: bytes, draw: random.Random) -> bytes:
    found = list(_NUMBER.finditer(content))
    if not found:
        return b""
    one = draw.choice(found)
    return content[: one.start()] + draw.choice(STRANGE_TEXT).encode("utf-8", "replace") + content[one.end() :]


def spoilt_document(document: Any, draw: random.Random) -> Any:
    """A copy of ``document`` (of mappings and lists) with one place replaced, removed, or added to."""
    document = copy.deepcopy(document)
    places: list[tuple[Any, Any]] = []
    stack = [document]
    while stack:
        value = stack.pop()
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, below in entries:
            places.append((value, key))
            if isinstance(below, dict | list):
                stack.append(below)
    holder, key = draw.choice(places)
    way = draw.randrange(8)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[draw.choice(("extra", "", HUGE, "\x00"))] = draw.choice(STRANGE_VALUES)
    elif way == 2:
        holder[key] = _deep_list()
    else:
        holder[key] = draw.choice(STRANGE_VALUES)
    return document


def spoilt_json(content: bytes, draw: random.Random) -> bytes:
    """One document of JSON (or lines of them) with one place spoilt, or one key given twice."""
    lines = content.splitlines() if content.count(b"\n{") else [content]
    at = draw.randrange(len(lines))
    text = json.dumps(spoilt_document(json.loads(lines[at]), draw))
    if draw.random() < 0.1:
        text = re.sub(r'("\w+": ?[^,{}\[\]]+)', r"\1, \1", text, count=1)
    lines[at] = text.encode()
    return b"\n".join(lines) + b"\n"


def spoilt_csv(content: bytes, draw: random.Random) -> bytes:
    """A table of commas with one cell replaced, one column twice, one row short, or rows in another order."""
    rows = [line.split(",") for line in content.decode().splitlines()]
    row = draw.choice(rows)
    at = draw.randrange(len(row))
    way = draw.randrange(8)
    if way == 0:
        del row[at]
    elif way == 1:
        row.insert(at, row[at])
    elif way == 2:
        draw.shuffle(rows)
    elif way == 3:
        rows = rows[:1]
    else:
        row[at] = draw.choice(STRANGE_TEXT)
    return "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass") + b"\n"
