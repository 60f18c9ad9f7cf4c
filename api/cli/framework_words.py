"""Options in a framework's own words (``--mem-fraction-static``) → ours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from profiles.errors import ShardwrightError


def in_our_words(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with the options that the framework they name calls otherwise; unchanged where there are none. The
    table is in the framework's YAML.

    Raises:
        InputError: as :meth:`costmodels.serving.frameworks.framework.Framework.in_our_words`.
    """
    from costmodels.serving.frameworks.framework import find_framework

    split: list[str] = []
    for argument in arguments:
        split += argument.split("=", 1) if argument.startswith("--") and "=" in argument else [argument]
    named = [value for name, value in pairwise(split) if name == "--framework"]
    try:
        framework = find_framework(named[-1] if named else "vllm")
    except ShardwrightError:
        return list(arguments)  # the command says so
    words = {argument[2:].replace("-", "_"): argument for argument in split if argument.startswith("--")}
    values = {word: split[split.index(option) + 1] for word, option in words.items() if split[-1] != option}
    ours = {word: name for word, name in framework.words.items() if word in words}
    framework.in_our_words(values)
    return [
        f"--{ours[word].replace('_', '-')}"
        if (word := argument[2:].replace("-", "_")) in ours and argument[:2] == "--"
        else argument
        for argument in split
    ]
