"""The answer of ``plan check``: whether what runs starts and keeps its promises, and what would be better."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from planner.compare.document import Comparison, EngineStarts
from planner.contract.deployment import DeploymentDocument
from planner.contract.documents import Document
from planner.contract.provenance import Provenance
from planner.contract.published import Published, Upgrade, parse_published

SCHEMA_VERSION: Literal["1.0"] = "1.0"

Verdict = Literal["keeps", "starts", "breaks", "does_not_start"]


class Better(Document):
    """A new plan on the same GPUs, beside what was checked."""

    engines: tuple[str, ...] = Field(description="its groups of engines in words")
    commands: tuple[tuple[str, ...], ...] = Field(description="that start an engine of each group")
    keeps_promises: bool = Field(description="at the load that was asked about")
    by: float | None = Field(
        description="how much more it carries within the promises, relative; 0: a tie; null: what was checked carries "
        "nothing"
    )
    confidence: float = Field(description="probability that it carries more; 0.5: a tie")


class CheckDocument(Published):
    """Whether what runs starts and keeps its promises."""

    kind: Literal["check"] = "check"
    schema_version: Literal["1.0"] = SCHEMA_VERSION
    verdict: Verdict = Field(description="starts: no load was asked about")
    reasons: tuple[str, ...] = Field(description="what does not start, or which promise breaks; empty: nothing")
    starts: bool
    keeps_promises: bool | None = Field(description="null: no load was asked about, or it does not start")
    memory: tuple[EngineStarts, ...]
    deployment: DeploymentDocument | None = Field(description="as it was read; null: a plan was given")
    comparison: Comparison | None = Field(
        description="what was checked and, where there is one, a new plan on the same GPUs; null: no load"
    )
    better: Better | None = Field(description="null: nothing on the same GPUs is better, or nobody looked")
    no_better: str | None = Field(description="why there is none; null: there is, or nobody looked")
    provenance: Provenance

    @property
    def is_well(self) -> bool:
        """Whether it starts and keeps what was promised."""
        return self.verdict in ("keeps", "starts")


OLDER: dict[str, Upgrade] = {}
"""Versions that still open: none."""


def parse_check(text: str, where: str = "check") -> CheckDocument:
    """A check from its JSON. Raises as :func:`planner.contract.published.parse_published`."""
    return parse_published(text, CheckDocument, where, OLDER)
