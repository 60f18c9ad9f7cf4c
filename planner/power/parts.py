"""What the files of all targets share: whom a level's clock is for, and what each kind of server is set to."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from planner.power.document import ClassClock, PowerPlan, SettableClocks


def cannot(plan: PowerPlan) -> str | None:
    """Why there is nothing to apply, or None."""
    if not plan.decision.levels:
        return f"the plan's policy ({plan.decision.policy}) has no levels of caps"
    if not parts(plan):
        return "the plan is of an older release and does not say what its GPUs can be set to"
    return None


@dataclass(frozen=True)
class CappedPart:
    """Servers of a row whose GPUs are set alike: all of them, or those of a ``kind`` where there are several types.
    ``folder``: of their files, with its slash."""

    can: SettableClocks
    kind: str | None = None

    @property
    def folder(self) -> str:
        return "" if self.kind is None else f"{file_part(self.kind)}/"

    @property
    def of(self) -> str:
        return "" if self.kind is None else f" on {line(self.kind)}"

    def set_to(self, each: ClassClock) -> tuple[int, float] | None:
        """(MHz, watts that hold about as much) of a level's clock; None: not capped."""
        if each.clock_mhz is None:
            return None
        if self.kind is None:
            return each.clock_mhz, self.can.most_watts if each.gpu_watts is None else each.gpu_watts
        own = next(known for known in each.by_kind if known.kind == self.kind)
        return own.clock_mhz, own.gpu_watts


def parts(plan: PowerPlan) -> list[CappedPart]:
    settable = plan.decision.settable
    if len(settable) == 1 and not settable[0].kinds:
        return [CappedPart(settable[0])]
    return [CappedPart(can, kind) for can in settable for kind in can.kinds]


def said(plan: PowerPlan) -> str:
    digest, evidence = (plan.digest or "none")[:12], plan.provenance.evidence_hash[:12]
    return f"power plan of {line(plan.request.supply.name)}, digest {digest}, evidence {evidence}"


def line(text: str) -> str:
    """Whatever it holds, on one line: a comment ends where its line does."""
    return " ".join(text.split())


def class_name(each: ClassClock) -> str:
    """How a level's scripts and files name whom a clock is for: ``hp``, or ``hp-decode`` and ``hp-prefill``."""
    return each.priority if each.role is None else f"{each.priority}-{each.role}"


def class_names(plan: PowerPlan) -> list[str]:
    return [class_name(each) for each in plan.decision.levels[0].clocks]


def file_part(name: str) -> str:
    """A part of a file's name, which no other name has."""
    plain = re.sub(r"[^a-zA-Z0-9.-]", "-", name)[:60]
    return (
        plain if plain == name else f"{plain}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
    )
