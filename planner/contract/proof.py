"""How sure a decision is of being the best: what every document's proof says first."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from planner.contract.documents import Document


class Proof(Document):
    """What was searched for, what was found, and how much better anything else could be at most. *Optimal* is only
    said with a bound."""

    engine: str = Field(description="what searched, and its version")
    status: Literal["optimal", "feasible", "time_limit"]
    objective: str
    objective_value: float
    objective_unit: str
    bound: float | None = Field(description="nothing that was considered can be better than this; null: no bound")
    gap: float | None = Field(description="how much better at most, relative; null without a bound")
