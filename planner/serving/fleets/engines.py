"""Kinds of engine that may serve a class: measured ones, of which a table says all that is known, and modelled ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from planner.contract.engine import EngineGroup
from planner.contract.workload.classes import LengthClass


class EngineKind(Protocol):
    """One kind of engine on one pool."""

    @property
    def pool_index(self) -> int: ...
    @property
    def gpus(self) -> int: ...
    @property
    def usd_per_hour(self) -> float | None:
        """Of one, where something else than the pool's price says so."""

    @property
    def watts(self) -> float | None:
        """Of one at what it carries, mean; None: nobody says."""

    @property
    def label(self) -> str: ...
    def is_like(self, group: EngineGroup) -> bool:
        """Whether an engine group of a document is of this kind, pool and supply aside."""

    def reason(self, each: LengthClass) -> tuple[str, str] | None:
        """(why a class is not served, what would serve it), where it can tell."""


@dataclass(frozen=True)
class TableEngine:
    """What a measured table is of."""

    pool_index: int
    gpu: str
    usd_per_hour: float | None
    source: str
    gpus: int = 1
    watts: float | None = None

    @property
    def label(self) -> str:
        return f"{self.gpu} as measured"

    def is_like(self, group: EngineGroup) -> bool:
        return group.table is not None and group.gpu == self.gpu

    def reason(self, each: LengthClass) -> tuple[str, str] | None:
        return None
