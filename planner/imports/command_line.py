"""A command's arguments, read by the rules of its framework's own parser.

vLLM (argparse with additions: ``_`` for ``-``, unambiguous beginnings, the last of repeated options counts, fields of a
JSON option after a dot), SGLang (argparse: unambiguous beginnings), TensorRT-LLM (click: whole names)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from planner.imports.options import Options
from planner.imports.shell import Word
from planner.launchers.releases import CommandOption
from profiles.errors import InputError
from profiles.markup import strict_json
from profiles.values import shown

QUOTES = "'\""
_NUMBER = re.compile(r"-[0-9.]")
_DASHES = re.compile(r"[\u2010-\u2015\u2212][\u2010-\u2015\u2212-]*(?=[A-Za-z])")
_LEVEL = re.compile(r"-O=?([^.=].*)?")
_NAMES_ONLY = {"--served-model-name", "--served_model_name", "--node-rank"}
"""Options with a meaning, whose value need not be known."""
_HUMAN = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)([kKmMgGtT]?)")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Given:
    """An option as it was given: ``written`` so, at a ``place`` of the arguments counted from 1; None: a switch."""

    option: CommandOption
    written: str
    value: str | None
    place: int


@dataclass
class Arguments:
    """What a command says. Options by their first long name; JSON ones as objects."""

    options: Options
    given: dict[str, Given] = field(default_factory=dict)
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    positional: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def matters(self, option: CommandOption) -> bool:
        """Whether its value must be known: it has a meaning here, or is not modelled."""
        table = self.options.meanings
        said = {name for names in table.meanings.values() for name in names} - _NAMES_ONLY
        return bool(said & {*option.names}) or bool({*table.refused} & {*option.names})

    def of(self, meaning: str) -> Given | None:
        """What was said of one of our meanings, marked as used.

        Raises:
            InputError: it was said by two options that differ.
        """
        names = self.options.meanings.meanings.get(meaning, ())
        found: dict[str, Given] = {}
        for name in names:
            option = self.options.named(name)
            if option is not None and option.flag in self.given:
                found[option.flag] = self.given[option.flag]
        self.used.update(found)
        several = list(found.values())
        if len({each.value for each in several}) > 1:
            raise InputError(
                f"{several[1].written}: {shown(several[1].value or '')}, and {several[0].written} says "
                f"{shown(several[0].value or '')}",
                "keep one of them",
            )
        return several[0] if several else None

    def text(self, meaning: str) -> str | None:
        found = self.of(meaning)
        return None if found is None else found.value

    def count(self, meaning: str) -> int | None:
        """A whole number of at least 1.

        Raises:
            InputError: it is another.
        """
        found = self.of(meaning)
        if found is None or found.value is None:
            return None
        value = human_number(found.value)
        if value is None or value < 1:
            raise InputError(f"{found.written}: {shown(found.value)} is not at least 1", "give a whole number")
        return value

    def switch(self, meaning: str) -> bool | None:
        """Whether a switch is on; None: not said."""
        found = self.of(meaning)
        if found is None:
            return None
        if found.value is not None:
            return found.value.casefold() in ("true", "1", "yes", "on")
        written, flag = found.written, found.option.flag
        off = ("--disable-", "--no-") if not flag.startswith("--disable-") else ("--enable-",)
        return written != found.option.negation and (written == flag or not written.startswith(off))

    def document(self, meaning: str) -> dict[str, Any]:
        """The object of a JSON option."""
        found = self.of(meaning)
        return {} if found is None else self.objects.get(found.option.flag, {})


def human_number(text: str) -> int | None:
    """``8192``, ``8k`` (8,000), ``8K`` (8,192) as vLLM reads it; None where it is no whole number."""
    found = _HUMAN.fullmatch(text.strip())
    if found is None:
        return None
    value = float(found[1]) * _UNITS[found[2]]
    return int(value) if value.is_integer() else None


def read_arguments(words: Sequence[Word], options: Options) -> Arguments:
    """What ``words`` say.

    Raises:
        InputError: an option that the release does not have, a value that it does not take, or a word that nobody can
            tell; naming it and its place.
    """
    out, at = Arguments(options), 0
    words = _with_levels(words, options)
    while at < len(words):
        word = words[at]
        at += 1
        if _DASHES.match(word.text):
            raise InputError(
                f"argument {at}: {shown(word.text)}: begins with a dash that is no hyphen, as text programs make them",
                f"write --{_DASHES.sub('', word.text)}",
            )
        if word.text == "--" and not word.unknown:
            out.positional += [_known(each, "an argument", place) for place, each in enumerate(words[at:], at + 1)]
            break
        if word.unknown and not word.text.startswith("-"):
            _known(word, "an argument", at)
        if not word.text.startswith("-") or _NUMBER.match(word.text):
            out.positional.append(word.text)
            continue
        name, equals, attached = word.text.partition("=")
        option, name, path = _option(name, word, at, options)
        if option.takes == "none":
            if equals:
                raise InputError(
                    f"{name}: argument {at}: {shown(word.text)}: it is a switch and takes no value",
                    f"write {name} to turn it on, or leave it out",
                )
            _add(out, Given(option, name, None, at))
            continue
        needed, unknown = out.matters(option), bool(equals and word.unknown)
        values: list[str] = []
        if equals:
            values = [_known(Word(attached, word.unknown), name, at) if needed else attached or word.unknown]
        else:
            while at < len(words) and (option.takes == "many" or not values) and not _is_option(words[at]):
                at += 1
                each = words[at - 1]
                unknown = unknown or bool(each.unknown)
                values.append(_known(each, name, at) if needed else each.text or each.unknown)
        if not values and option.takes != "optional":
            raise InputError(f"{name}: argument {at}: its value is missing", f"write {name} and its value")
        given = Given(option, name, " ".join(values), at)
        if path:
            _put(out, given, path)
        elif unknown:
            out.given[option.flag] = given
        else:
            _check(given)
            _add(out, given)
    return out


def _with_levels(words: Sequence[Word], options: Options) -> list[Word]:
    """Without what is short for a level: ``-O3``, ``-O=3`` and ``-O 3``."""
    name = options.meanings.parser.level
    if not name or options.named(name) is None:
        return list(words)
    out: list[Word] = []
    for at, word in enumerate(words):
        found = _LEVEL.fullmatch(word.text)
        if found is None or (found[1] is None and not (at + 1 < len(words) and words[at + 1].text in tuple("0123"))):
            out.append(word)
        else:
            out.append(Word(name if found[1] is None else f"{name}={found[1]}", word.unknown))
    return out


def _is_option(word: Word) -> bool:
    return word.text.startswith("-") and len(word.text) > 1 and not _NUMBER.match(word.text) and " " not in word.text


def _known(word: Word, what: str, place: int) -> str:
    """The text of a word of which everything is known."""
    if word.unknown:
        name = re.fullmatch(r"\$([A-Za-z_]\w*)", word.unknown)
        way = f"say what it is: --set {name[1]}=VALUE" if name else "write what it gives there"
        raise InputError(
            f"{what}: argument {place}: {shown(word.unknown)} is not known without running the script", way
        )
    return word.text


def _option(name: str, word: Word, place: int, options: Options) -> tuple[CommandOption, str, list[str]]:
    """(the option, its name, the field of its JSON that is meant)."""
    own, path = name, []
    if options.meanings.parser.fields and "." in name:
        own, *path = name.split(".")
    release = options.release
    spelt = own.replace("_", "-") if release.underscores else own
    found = options.named(spelt) or options.named(own)
    if found is not None:
        return found, spelt, path
    if spelt.startswith("--") and release.beginnings:
        several = options.beginning_with(spelt)
        if len(several) == 1:
            return several[0], several[0].flag, path
        if several:
            names = ", ".join(sorted(option.flag for option in several)[:4])
            instead = options.meanings.gone.get(spelt)
            raise InputError(
                f"{own}: argument {place}: is the beginning of several options: {names}",
                f"earlier releases had it; {instead}" if instead else "write the whole name",
            )
    if not spelt.startswith("--"):
        short = max((each for each in options.release.names if spelt.startswith(each)), key=len, default="")
        if short and not short.startswith("--"):
            raise InputError(
                f"{own}: argument {place}: write a blank between {short} and {shown(spelt[len(short) :])}",
                f"as in {short} {spelt[len(short) :]}",
            )
    raise unknown_option(own, spelt, place, options)


def unknown_option(own: str, spelt: str, place: int, options: Options) -> InputError:
    """Says where an option is known, or what is like it."""
    title, release = options.framework.full_name, options.release.version
    message = f"{shown(own).strip(QUOTES)}: argument {place}: is no option of {title} {release}"
    instead = options.meanings.gone.get(spelt)
    if (off := f"--disable-{spelt.removeprefix('--no-enable-')}") != f"--disable-{spelt}" and options.named(off):
        instead = f"write {off}"
    nearest, elsewhere = options.nearest(spelt), options.releases_with(spelt)
    if elsewhere:
        name = options.framework.name
        hint = f"{title} {elsewhere[0]} has it: --framework {name}@{elsewhere[0]} reads it as that"
        hint += f"; in {release}, {instead}" if instead else ""
    elif instead:
        hint = f"earlier releases had it; {instead}"
    elif nearest:
        hint = f"nearest: {', '.join(nearest)}"
    else:
        hint = "check its spelling, or leave it out"
    return InputError(message, hint, option=own, place=place, nearest=list(nearest), releases=list(elsewhere))


def _add(out: Arguments, given: Given) -> None:
    before = out.given.get(given.option.flag)
    if before is not None and (before.value, before.written) != (given.value, given.written):
        said = f"{given.written} is given twice: {shown(before.value or before.written)}, then "
        said += shown(given.value or given.written)
        if not out.options.meanings.parser.last_counts:
            raise InputError(f"{said} (argument {given.place})", "keep one of them")
        out.notes.append(f"{said}; {out.options.framework.full_name} takes the last")
    out.given[given.option.flag] = given
    if given.option.type == "json" or (given.value or "").lstrip().startswith("{"):
        _read_object(out, given)


def _read_object(out: Arguments, given: Given) -> None:
    try:
        found = strict_json(given.value or "")
    except ValueError as error:
        if given.option.type == "json":
            raise InputError(
                f"{given.written}: argument {given.place}: {shown(given.value or '')} is not valid JSON ({error})",
                "write an object in single quotes, with its names in double quotes",
            ) from error
        return
    if isinstance(found, dict):
        out.objects[given.option.flag] = {**out.objects.get(given.option.flag, {}), **found}


def _put(out: Arguments, given: Given, path: list[str]) -> None:
    """A field of a JSON option."""
    target = out.objects.setdefault(given.option.flag, {})
    *above, last = [part.rstrip("+") for part in path]
    for part in above:
        below = target.setdefault(part, {})
        if not isinstance(below, dict):
            raise InputError(f"{given.written}.{'.'.join(path)}: {part} is no object", "keep one of them")
        target = below
    try:
        target[last] = strict_json(given.value or "")
    except ValueError:
        target[last] = given.value
    whole_value = json.dumps(out.objects[given.option.flag])
    out.given[given.option.flag] = Given(given.option, given.written, whole_value, given.place)


def _check(given: Given) -> None:
    """Raises InputError where the value is none that the option takes."""
    option, value = given.option, given.value or ""
    where = f"{given.written}: argument {given.place}: {shown(value)}"
    if option.choices is not None and option.takes != "many" and value not in {str(each) for each in option.choices}:
        known = ", ".join(str(each) for each in option.choices[:12]) + (", …" if len(option.choices) > 12 else "")
        raise InputError(f"{where} is not one of its values", f"choose from {known}")
    if option.takes == "many":
        return
    if option.type == "int" and value != "auto" and human_number(value) is None:
        raise InputError(f"{where} is not a whole number", f"write {given.written} and a whole number")
    if option.type == "float" and not re.fullmatch(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", value):
        raise InputError(f"{where} is not a number", f"write {given.written} and a number")
