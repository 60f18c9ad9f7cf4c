"""JSON and YAML that users write, read strictly: bounded in depth, each key once, numbers that are numbers.

Both parsers raise :class:`Malformed` with a reason in our words; who reads a file turns it into two lines
(:func:`read_json`, :func:`read_yaml`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Iterator
from typing import Any

import yaml

from profiles.errors import ShardwrightError
from profiles.files import Source
from profiles.values import shown

DEEPEST = 64
"""Levels of nesting. The deepest document of ours, a plan, has about ten."""

_MOST_DIGITS = 400  # of a number; a float has 309 at most before its point
_MOST_NODES = 1_000_000  # of a YAML document, with what its aliases repeat

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{\]}]', re.DOTALL)
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}


class Malformed(ValueError):
    """``str(error)``: what is wrong, in words for people. ``line``: where, counted from 1, if that is known."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


def read_json(source: Source) -> Any:
    """The JSON document in a file.

    Raises:
        InputError (or ``source.error``): it cannot be read or is not JSON.
    """
    text = source.text()
    try:
        return strict_json(text)
    except Malformed as error:
        raise _refused(source, error, "JSON") from error


def read_yaml(source: Source) -> Any:
    """The YAML document in a file.

    Raises:
        InputError (or ``source.error``): it cannot be read or is not YAML.
    """
    text = source.text()
    try:
        return strict_yaml(text)
    except Malformed as error:
        raise _refused(source, error, "YAML") from error


def _refused(source: Source, error: Malformed, language: str) -> ShardwrightError:
    line = f"line {error.line}: " if error.line else ""
    return source.wrong(f"{line}not valid {language} ({error})")


def strict_json(text: str | bytes) -> Any:
    """``json.loads`` that refuses what it lets pass: NaN, infinities (``1e999`` too), keys given twice, numbers of
    more than 400 digits, and more than :data:`DEEPEST` levels.

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
        return _DECODER.decode(text)
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


def _integer(digits: str) -> int:
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


_DECODER = json.JSONDecoder(
    parse_constant=_no_number, parse_int=_integer, parse_float=_real, object_pairs_hook=_each_once
)

# ------------------------------------------------------------------ YAML

_Reader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Reader):  # type: ignore[misc]
    """Numbers as YAML 1.2 has them (the core schema): ``1_000`` and ``1:30`` are text, which plain YAML 1.1 reads as
    1000 and 90; and each key of a mapping once, of which plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise Malformed("a key is a list or a mapping", key.start_mark.line + 1)
            if key.value in seen:
                raise Malformed(f"{shown(key.value)} is given twice", key.start_mark.line + 1)
            seen.add(key.value)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _TAGS]
    for first, resolvers in _Reader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in zip(_TAGS, (_INT, _FLOAT), strict=True):
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern.pattern})$"), list("-+.0123456789"))


def _yaml_integer(loader: Any, node: yaml.ScalarNode) -> int:
    try:
        return _integer(loader.construct_scalar(node))
    except ValueError as error:  # with a tag of its own: !!int ten
        said = str(error) if isinstance(error, Malformed) else f"{shown(node.value)} is not a whole number"
        raise Malformed(said, node.start_mark.line + 1) from error


_Loader.add_constructor(_TAGS[0], _yaml_integer)


def strict_yaml(text: str) -> Any:
    """``yaml.safe_load`` with a bounded depth and size (aliases counted as often as they repeat), numbers of YAML 1.2
    and each key once.

    Raises:
        Malformed: saying what is wrong and where.
    """
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _worded(error) from error
    except Malformed:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError, RecursionError) as error:
        # of a constructor that was given what it cannot make: a date of month 13, !!binary of no binary
        raise Malformed("a value is not what its tag or form says (a date of no day?)") from error


def _worded(error: yaml.YAMLError) -> Malformed:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "a character that YAML does not allow"
    return Malformed(shown(problem)[1:-1], mark.line + 1 if mark else None)


def _check_events(text: str) -> None:
    """Walks the document without building it: what is too deep or repeats itself too often is refused first."""
    nodes = 0
    known: dict[str, tuple[int, int]] = {}  # anchor -> (values below it, levels)
    opened: list[list[Any]] = []  # of each open collection: anchor, values before it, levels below it
    events: Iterator[Any] = yaml.parse(text, Loader=_Reader)
    for event in events:
        line = event.start_mark.line + 1
        levels = 0
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in known:
                raise Malformed(f"the alias {shown(event.anchor)} stands for itself or for nothing", line)
            more, levels = known[event.anchor]
            nodes += more
        elif isinstance(event, yaml.CollectionStartEvent):
            nodes += 1
            opened.append([event.anchor, nodes, 0])
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            if event.anchor:
                known[event.anchor] = 1, 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before, below = opened.pop()
            levels = below + 1
            if anchor:
                known[anchor] = nodes - before + 1, levels
        if opened:
            opened[-1][2] = max(opened[-1][2], levels)
        if len(opened) + levels > DEEPEST:
            raise Malformed(f"more than {DEEPEST} levels of nesting", line)
        if nodes > _MOST_NODES:
            raise Malformed(f"more than {_MOST_NODES:,} values, with what its aliases repeat", line)
