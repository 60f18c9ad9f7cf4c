"""Words of a command, in which parts may stand for what is known only where it runs: the node's rank, its address.

Such a part is a variable, marked inside the text by two characters that no model, path or value may hold, so that
everything else is data wherever it is written."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable

_START, _END = "\ue000", "\ue001"
_VARIABLE = re.compile(f"{_START}([A-Z_][A-Z0-9_]*){_END}")


def variable(name: str) -> str:
    """A part of a word that is filled in where the command runs."""
    return f"{_START}{name}{_END}"


def has_marks(text: str) -> bool:
    """Whether a text holds what marks a variable, and so must not come from outside."""
    return _START in text or _END in text


def variables(words: Iterable[str]) -> set[str]:
    return {name for word in words for name in _VARIABLE.findall(word)}


def spelled(word: str, variable_as: Callable[[str], str], data_as: Callable[[str], str] = str) -> str:
    """``word`` with its variables and the data between them written by two functions."""
    parts = _VARIABLE.split(word)
    return "".join(variable_as(part) if place % 2 else data_as(part) for place, part in enumerate(parts))


def plain(word: str) -> str:
    """As documents have it: ``$NAME``."""
    return spelled(word, lambda name: f"${name}")


def for_kubernetes(word: str) -> str:
    """As ``command``, ``args`` and ``value`` of a container have it: ``$(NAME)``, and a dollar of the data doubled."""
    return spelled(word, lambda name: f"$({name})", lambda data: data.replace("$(", "$$("))


def for_shell(word: str) -> str:
    """One word of a POSIX shell."""
    if not variables([word]):
        return shlex.quote(word)
    return spelled(word, lambda name: f'"${{{name}}}"', lambda data: shlex.quote(data) if data else "")


def shell_lines(command: Iterable[str], indent: str = "  ") -> str:
    """A command for a shell, a flag with its values a line."""
    lines: list[str] = []
    for word in command:
        if lines and not (word.startswith("-") and len(word) > 1 and not word[1].isdigit()):
            lines[-1] += f" {for_shell(word)}"
        else:
            lines.append(for_shell(word))
    return f" \\\n{indent}".join(lines)
