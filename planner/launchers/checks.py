"""Whether a release takes what an engine is told: every option there, of the right type, one of its choices, not on its
way out. Nothing leaves without it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from planner.launchers.front import NodeStart
from planner.launchers.releases import CommandOption, ReleaseOptions
from planner.launchers.words import plain, variables
from profiles.errors import InputError, Unsupported


def said(options: ReleaseOptions, words: Sequence[str]) -> Iterator[tuple[str, CommandOption, list[str]]]:
    """(flag as it is written, its option, its values) of the words after the program.

    Raises:
        InputError: an option that the release has not.
    """
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if not word.startswith("-") or word.lstrip("-")[:1].isdigit():
            continue  # the model, where it is positional
        option = options.resolve(word)
        values: list[str] = []
        while option.takes != "none" and place < len(words) and not words[place].startswith("--"):
            values.append(words[place])
            place += 1
            if option.takes in ("one", "optional"):
                break
        yield word, option, values


def wrong(options: ReleaseOptions, words: Sequence[str]) -> Iterator[str]:
    """What the release does not take of the words after the program, a line each."""
    try:
        for flag, option, values in said(options, words):
            yield from _wrong(options, flag, option, values)
    except InputError as error:
        yield error.message


def _wrong(options: ReleaseOptions, flag: str, option: CommandOption, values: Sequence[str]) -> Iterator[str]:
    if option.deprecated:
        yield f"{flag}: is on its way out of {options.title} ({option.deprecated})"
    if option.takes == "one" and not values:
        yield f"{flag}: lacks its value"
    for value in values:
        if variables([value]):
            continue
        key = flag.partition(".")[2]
        if key:
            yield from _wrong_key(flag, option, key, value)
        elif reason := option.wrong(value):
            yield f"{flag}: {reason} ({options.title})"
        elif option.type == "json" and option.fields is not None:
            for name, each in json.loads(value).items():
                yield from _wrong_key(f"{flag} {name}", option, name, each)


def _wrong_key(where: str, option: CommandOption, key: str, value: Any) -> Iterator[str]:
    if option.fields is None:
        return
    if key not in option.fields:
        yield f"{where}: there is no such key"
        return
    choices = option.fields[key]
    if choices is not None and str(value) not in {str(choice) for choice in choices}:
        yield f"{where}: {value!r} is not one of {', '.join(str(choice) for choice in choices)}"


def wrong_file(options: ReleaseOptions, document: Mapping[str, Any]) -> Iterator[str]:
    """What the release does not take of its file of options, a line each."""
    for key, value in document.items():
        parts = {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, Mapping) else {key: value}
        for name, each in parts.items():
            option = options.file.get(name)
            if option is None:
                yield f"{name}: {options.title} has no such option"
            elif option.type == "bool":
                if not isinstance(each, bool):
                    yield f"{name}: {each!r} is neither true nor false"
            elif reason := option.wrong(str(each)):
                yield f"{name}: {reason} ({options.title})"


def check_start(options: ReleaseOptions, started: NodeStart, program: int) -> None:
    """Refuses what the release does not take; ``program``: words of the command before its arguments.

    Raises:
        Unsupported: naming the option.
    """
    problems = [*wrong(options, started.command[program:])]
    if options.file:
        for name, text in started.files.items():
            if name.endswith(".yaml") and "urls" not in text:
                problems += wrong_file(options, yaml.safe_load(text))
    if problems:
        raise Unsupported(plain(problems[0]), "choose another release (--framework NAME@RELEASE), or plan for this one")
