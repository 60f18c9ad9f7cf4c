"""Every target there is, and the files of an export."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from planner.exports import targets as folder
from planner.exports.target import Asked, Target
from planner.exports.values import check_given
from profiles.errors import InputError, UnknownName, Unsupported


def targets() -> Mapping[tuple[str, str], type[Target]]:
    """Every target by its name and the kind of document that it takes."""
    for module in iter_modules(folder.__path__):
        import_module(f"{folder.__name__}.{module.name}")
    return Target.all


def names_for(kind: str) -> tuple[str, ...]:
    """The targets of a kind of document."""
    return tuple(sorted(name for name, takes in targets() if takes == kind))


def find_target(name: str, kind: str) -> type[Target]:
    """The target called ``name`` for documents of ``kind``.

    Raises:
        UnknownName: no target is called so.
        InputError: it takes documents of other kinds.
    """
    known = targets()
    if (name, kind) in known:
        return known[name, kind]
    takes = sorted(each for one, each in known if one == name)
    mine = names_for(kind)
    if takes:
        raise InputError(
            f"--to: {name} takes documents of kind {', '.join(takes)}, and this is of kind {kind}",
            f"choose from {', '.join(mine)}" if mine else f"documents of kind {kind} are not exported",
        )
    every = mine or tuple(sorted({one for one, _ in known}))
    raise UnknownName("--to", name, every, f"choose from {', '.join(every)}")


def exported(name: str, asked: Asked) -> tuple[Target, dict[str, str]]:
    """(the target, the text of each file by its path).

    Raises:
        UnknownName, InputError: no such target, values that are missing (all of them named).
        Unsupported: what the target cannot express, with targets that can.
    """
    kind = asked.kind
    target = find_target(name, kind)(asked)
    if (reason := target.cannot()) is not None:
        others = [each for each in names_for(kind) if each != name and targets()[each, kind](asked).cannot() is None]
        raise Unsupported(f"--to {name}: {reason}", f"these can: {', '.join(others)}" if others else target.otherwise)
    check_given(asked.values, target.needs, name)
    return target, target.files()
