"""A plan's engine → the command that starts it, one launcher a framework. ``launch(spec)`` does it."""

from __future__ import annotations

from planner.contract.engine import Launch, Layout
from planner.launchers.base import EngineSpec, Launcher
from planner.launchers.sglang import SglangLauncher
from planner.launchers.trtllm import TrtllmLauncher
from planner.launchers.vllm import VllmLauncher
from profiles.errors import UnknownName

__all__ = ["LAUNCHERS", "EngineSpec", "Launcher", "cannot_express", "find_launcher", "launch"]

LAUNCHERS: dict[str, type[Launcher]] = {kind.framework: kind for kind in (VllmLauncher, SglangLauncher, TrtllmLauncher)}


def find_launcher(framework: str) -> Launcher:
    """The launcher of a framework.

    Raises:
        UnknownName: with the frameworks there are.
    """
    if framework not in LAUNCHERS:
        raise UnknownName("framework", framework, LAUNCHERS)
    return LAUNCHERS[framework]()


def cannot_express(framework: str, layout: Layout, *, is_moe: bool) -> str | None:
    """Why the framework has no words for ``layout``, or None where it has."""
    return find_launcher(framework).cannot_express(layout, is_moe=is_moe)


def launch(spec: EngineSpec) -> Launch:
    """How to start the engine.

    Raises:
        UnknownName: a framework that has no launcher.
        Unsupported: a layout or precision that the framework cannot be told.
    """
    return find_launcher(spec.framework).launch(spec)
