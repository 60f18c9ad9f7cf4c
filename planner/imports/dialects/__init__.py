"""A framework's arguments → what they say of an engine: a module each, found without being listed, whose ``read`` does
it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from packaging.version import Version

from costmodels.serving.frameworks.framework import Framework
from planner.imports.command_line import Arguments
from planner.imports.options import meanings
from planner.imports.said import EngineSaid
from profiles.errors import Unsupported
from profiles.values import shown

Reader = Callable[[Framework, Arguments, Mapping[str, str]], EngineSaid]


@cache
def readers() -> Mapping[str, Reader]:
    """By framework."""
    return {each.name: import_module(f"{__name__}.{each.name}").read for each in iter_modules(__path__)}


def said_by(framework: Framework, line: Arguments, files: Mapping[str, str]) -> EngineSaid:
    """What the arguments ``line`` of a command of ``framework`` say.

    Args:
        files: name → text, of the files that the command may read.

    Raises:
        InputError, Unsupported: what contradicts itself, or is not modelled.
    """
    found = readers()[framework.name](framework, line, files)
    _refuse(line)
    table = meanings(framework.name)
    effects = []
    for name, given in line.given.items():
        for flag in (given.written, name):
            if flag in table.effects:
                effects.append(f"{given.written}: {table.effects[flag]}")
                break
    kept = tuple((each.written, each.value) for name, each in line.given.items() if name not in line.used)
    return replace(found, notes=(*line.notes, *found.notes, *effects), kept=kept)


def with_variables(said: EngineSaid, environment: Mapping[str, str]) -> EngineSaid:
    """``said`` with what variables say of it."""
    framework, notes = said.framework, []
    read = meanings(framework.name).variables
    tokens = environment.get(read.dispatch_tokens, "")
    if tokens and framework.buffers_of_step:
        notes.append(f"{read.dispatch_tokens}: {framework.title} does not read it: buffers hold a step's tokens")
        tokens = ""
    experts = replace(said.experts, dispatch_tokens=int(tokens) if tokens.isascii() and tokens.isdigit() else 0)
    way = read.exchange
    if way is not None and environment.get(way.name):
        if way.gone_in is None or Version(framework.release.version) < Version(way.gone_in):
            experts = replace(experts, backend=environment[way.name])
        else:
            notes.append(f"{way.name}: {framework.title} does not read it (from {way.gone_in} on): write {way.option}")
    known = {each.backend for each in framework.parallelism.exchanges.values()}
    if experts.backend and experts.backend not in known and experts.backend not in meanings(framework.name).gathers:
        notes.append(
            f"{experts.backend}: this exchange of tokens is not modelled; predicted as if all ranks gathered all"
        )
    if not experts.backend and (experts.redundant or experts.slots or experts.eplb != "off"):
        notes.append("experts are balanced, and no exchange is named: predicted without copies and moves of experts")
    return replace(said, experts=experts, notes=(*said.notes, *notes))


def _refuse(line: Arguments) -> None:
    """Raises Unsupported for a flag that changes what the engine does and is not modelled."""
    for flag, refused in line.options.meanings.refused.items():
        option = line.options.named(flag)
        given = None if option is None else line.given.get(option.flag)
        if given is not None and given.value != refused.unless:
            raise Unsupported(
                f"{given.written} {shown(given.value or '')}: {refused.why}",
                f"leave {given.written} out to see the engine without it",
            )
