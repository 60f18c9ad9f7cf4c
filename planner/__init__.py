"""What to decide: legal layouts, fleets, plans. ``from planner import plan`` is the whole job in one call, and
``from planner import answer`` that of every other kind of document: ``answer("predictions", {...})``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.kinds import answer as answer
    from planner.serving.document.plan import Plan as Plan
    from planner.serving.planning import plan as plan
    from planner.serving.request import PlanRequest as PlanRequest

__all__ = ["Plan", "PlanRequest", "answer", "plan"]

_HOMES = {
    "answer": "planner.kinds",
    "plan": "planner.serving.planning",
    "Plan": "planner.serving.document.plan",
    "PlanRequest": "planner.serving.request",
}


def __getattr__(name: str) -> Any:
    # Deferred: importing the package must not cost the solver and the forests before they are needed.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
