"""YAML that users write, read strictly: bounded in depth and in what its aliases repeat, each key once, numbers of YAML
1.2."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import Any

import yaml

from profiles.files import Source
from profiles.markup import DEEPEST, Malformed, integer, refused
from profiles.values import shown

_MOST_NODES = 1_000_000  # with what aliases repeat


def read_yaml(source: Source) -> Any:
    """The YAML document in a file.

    Raises:
        InputError (or ``source.error``): it cannot be read or is not YAML.
    """
    text = source.text()
    try:
        return strict_yaml(text)
    except Malformed as error:
        raise refused(source, error, "YAML") from error


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
        return integer(loader.construct_scalar(node))
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
