"""What engines that prefill and engines that decode have in common: each does its part of requests that it hands over,
or is handed, over a link."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from costmodels.estimates import Estimates
from costmodels.operations.layouts import Layouts
from costmodels.serving.steady.disaggregated import Decoding, Prefilling
from costmodels.serving.steady.kv_transfer import Link
from planner.serving.engines.disaggregated import DisaggregatedEngines
from planner.serving.operating_points import Job

Engines = TypeVar("Engines", Prefilling, Decoding)


@dataclass(frozen=True)
class OneRoleCandidate(ABC, Generic[Engines]):
    """Engine ``index`` of ``engines``, which is ``row`` of the engines of its role in ``pool``."""

    pool: DisaggregatedEngines
    engines: Engines
    index: int
    row: int

    @property
    def job(self) -> Job:
        return self.pool.job

    @property
    @abstractmethod
    def layouts(self) -> Layouts: ...

    @property
    def rate_rps(self) -> Estimates:
        return self.engines.rate_rps.take(np.array([self.index]))

    @property
    def link(self) -> Link:
        return self.pool.link

    @abstractmethod
    def _on_link_us(self) -> float:
        """Time that a GPU's link takes for a request."""

    @property
    def link_busy(self) -> float:
        return float(self.engines.rate_rps.value[self.index]) / float(self.layouts.dp[0]) * self._on_link_us() / 1e6


Candidate = TypeVar("Candidate", bound=OneRoleCandidate[Prefilling] | OneRoleCandidate[Decoding])


@dataclass(frozen=True)
class OneRoleEngine(Generic[Candidate, Engines]):
    """The engine of a ``candidate`` under a load."""

    candidate: Candidate
    load_rps: float
    loaded: Engines

    @property
    def rate_per_us(self) -> float:
        """Requests of one attention rank."""
        return self.load_rps / float(self.candidate.layouts.dp[0]) / 1e6

    @property
    def alone(self) -> None:
        return None
