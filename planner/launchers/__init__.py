"""A plan's engine → the command that starts it, one launcher a framework: a module of ``dialects``.
``launch(spec)`` does it."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from costmodels.serving.frameworks.framework import find_framework
from planner.contract.engine import Launch, Layout
from planner.launchers import dialects
from planner.launchers.base import Launcher
from planner.launchers.spec import EngineSpec
from profiles.errors import Unsupported

__all__ = ["EngineSpec", "Launcher", "cannot_express", "find_launcher", "launch", "launchers"]

for _module in iter_modules(dialects.__path__):
    import_module(f"{dialects.__name__}.{_module.name}")


def launchers() -> dict[str, type[Launcher]]:
    """Every launcher, by its framework."""
    return Launcher.kinds


def find_launcher(framework: str) -> Launcher:
    """The launcher of a framework.

    Raises:
        UnknownName: no such framework.
        Unsupported: a framework that has no launcher.
    """
    found = find_framework(framework)
    kind = launchers().get(found.name)
    if kind is None:
        raise Unsupported(
            f"framework: nothing starts engines of {found.full_name}", f"choose from {', '.join(sorted(launchers()))}"
        )
    return kind(found)


def cannot_express(framework: str, layout: Layout, *, is_moe: bool) -> str | None:
    """Why the framework has no words for ``layout``, or None where it has."""
    return find_launcher(framework).cannot_express(layout, is_moe=is_moe)


def launch(spec: EngineSpec) -> Launch:
    """How to start the engine.

    Raises:
        UnknownName: no such framework.
        Unsupported: a framework without a launcher, or a layout or precision that it cannot be told.
    """
    return find_launcher(spec.framework).launch(spec)
