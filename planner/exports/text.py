"""How files are written so that whatever stands in them stays data: YAML, shell, headers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from planner.exports.resources import check_resource

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_WORDS = frozenset(("true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf"))
_LITERAL = re.compile(r"[^\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff\u2028\u2029\x85]*")
NAME_LENGTH = 45
"""Characters of a Kubernetes name at most: Grove makes longer ones of it (dynamo#8480, #8566)."""


class _Dumper(yaml.SafeDumper):
    """Text is quoted unless it is a word in every version of YAML; scripts are blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if _PLAIN.fullmatch(text) and text.casefold() not in _WORDS:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text)
    lines = text.split("\n")
    block = len(lines) > 1 and _LITERAL.fullmatch(text) and all(line == line.rstrip() for line in lines)
    style = "|" if block and not text.startswith((" ", "\n", "\t")) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def yaml_text(*documents: Any, header: Iterable[str] = ()) -> str:
    """Documents of one file, below comments.

    Raises:
        Unsupported: a custom resource with what its schema does not take.
    """
    for each in documents:
        check_resource(each)
    parts = [yaml.dump(each, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6) for each in documents]
    return comments(header) + "---\n".join(parts)


def comments(lines: Iterable[str], mark: str = "#") -> str:
    """``lines`` as comments: whatever they hold stays on its line."""
    return "".join(f"{mark} {' '.join(line.split())}\n" for line in lines)


def slug(text: str) -> str:
    """A text as part of a Kubernetes name."""
    return re.sub(r"[^a-z0-9]+", "-", text.casefold().encode("ascii", "ignore").decode()).strip("-")


def name_of(*parts: str, length: int = NAME_LENGTH) -> str:
    """A valid Kubernetes name of ``parts``, the same for the same ones: begins with a letter, and what is too long is
    cut and told apart by a hash."""
    name = "-".join(filter(None, map(slug, parts))) or "model"
    name = name if name[0].isalpha() else f"m-{name}"
    if len(name) <= length:
        return name
    mark = hashlib.sha256("/".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{name[: length - 7].rstrip('-')}-{mark}"


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
