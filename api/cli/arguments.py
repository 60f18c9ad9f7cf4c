"""What the command line accepts before any command looks at it: arguments that are text, numbers that are numbers.

typer reads numbers as Python does (``1_000``, digits of any script, ``nan``) and says of a wrong one neither which
option nor which value it was. Here one parser reads them all (:mod:`profiles.values`), and what is wrong takes our two
lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args, get_type_hints

from typer.models import ParameterInfo

from profiles.errors import InputError
from profiles.values import number, shown, whole

LONGEST = 100_000
"""Characters of one argument: more than any launch command has."""

LARGEST = 10**18
"""Of any number."""

_EXAMPLES = {int: "4", float: "0.5"}

_MOST_SAID = 140  # characters of a message that was composed elsewhere


def check_text(arguments: Sequence[str]) -> None:
    """Refuses arguments that are not text in UTF-8, hold a NUL, or are endless.

    Raises:
        InputError: naming the argument by its place, counted from 1.
    """
    for place, argument in enumerate(arguments, start=1):
        if len(argument) > LONGEST:
            raise InputError(
                f"argument {place}: {shown(argument)} has {len(argument):,} characters", f"{LONGEST:,} are read at most"
            )
        if not argument.isascii() and argument != argument.encode("utf-8", "ignore").decode("utf-8"):
            raise InputError(
                f"argument {place}: {shown(argument)} is not text in UTF-8",
                "write it in UTF-8; a file whose name is not, rename first",
            )
        if "\0" in argument:
            raise InputError(f"argument {place}: {shown(argument)} holds a NUL character", "leave it out")


def strict(command: Any, arguments: Sequence[str]) -> Any:
    """``command`` (typer's), whose options refuse to be empty, and numbers among them to be anything else; so do those
    of the commands below it that ``arguments`` may name. What is a number stands in the annotations: how typer keeps it
    changes with its version."""
    hints = get_type_hints(command.callback, include_extras=True) if command.callback else {}
    for parameter in command.params:
        annotated = hints.get(parameter.name)
        _refuse_blank(parameter)
        kinds = {annotated, *get_args(annotated), *(get_args(get_args(annotated)[0]) if get_args(annotated) else ())}
        kind = next((kind for kind in (int, float) if kind in kinds), None)
        if kind is not None:
            option = next((part for part in get_args(annotated) if isinstance(part, ParameterInfo)), None)
            limits = (getattr(option, "min", None), getattr(option, "max", None))
            name = max(parameter.opts, key=len)
            process = partial(_read, parameter.process_value, name, kind, _example(kind, parameter.default), limits)
            counts_tokens = kind is int and parameter.metavar == "TOKENS"
            parameter.process_value = partial(_in_digits, process) if counts_tokens else process
    for name, below in getattr(command, "commands", {}).items():
        if name in arguments:
            strict(below, arguments)
    return command


def _refuse_blank(parameter: Any) -> None:
    """Has an option refuse a value without a letter: an unset variable of a shell is not what its default is."""
    process, name = parameter.process_value, max(parameter.opts, key=len)

    def read(context: Any, value: Any) -> Any:
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, str) and not each.strip():
                raise InputError(f"{name}: is empty", "give a value, or leave it out")
        return process(context, value)

    if name.startswith("-"):
        parameter.process_value = read


def _example(kind: type[float], usual: Any) -> str:
    """A number that an option takes: its default where that is one."""
    return str(usual) if isinstance(usual, int | float) and not isinstance(usual, bool) else _EXAMPLES[kind]


def _in_digits(process: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    """What ``process`` makes of a number of tokens, which may have a unit: 16k."""
    from planner.contract.workload.grammar import tokens  # deferred: few commands count tokens

    found = tokens(value) if isinstance(value, str) else None
    return process(context, value if found is None else str(found))


def _read(
    process: Callable[[Any, Any], Any],
    name: str,
    kind: type[float],
    example: str,
    limits: tuple[float | None, float | None],
    context: Any,
    value: Any,
) -> Any:
    """What typer makes of the text ``value``, if it is a number of ``kind`` within ``limits``."""
    if isinstance(value, str):
        (least, most), what = limits, "a whole number" if kind is int else "a number"
        accepted = what
        if least is not None:
            accepted += f" of at least {least:g}"
        if most is not None:
            accepted += f"{' and' if least is not None else ' of'} at most {most:g}"
        read = whole(value) if kind is int else number(value)
        hint = f"write {accepted} in digits, for example {name} {example}"
        if read is None:
            raise InputError(f"{name}: {shown(value)} is not {what}", hint)
        if abs(read) > LARGEST:
            raise InputError(f"{name}: {shown(value)} is too large", f"write {accepted}, below 10¹⁸")
        if (least is not None and read < least) or (most is not None and read > most):
            raise InputError(f"{name}: {shown(value)} is not {accepted}", hint)
    return process(context, value)


def in_brief(message: str) -> str:
    """A message of typer's, which repeats values whole, on one line of bounded length."""
    line = " ".join(message.split())
    return line if len(line) <= _MOST_SAID else f"{line[:_MOST_SAID]}…"
