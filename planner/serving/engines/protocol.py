"""What the planner asks of an engine, whatever its role: :mod:`~planner.serving.engines.aggregated`,
:mod:`~planner.serving.engines.prefill` and :mod:`~planner.serving.engines.decode` answer, and nothing outside these
files asks which of them it has."""

from __future__ import annotations

import math
from typing import ClassVar, Protocol

from costmodels.estimates import Estimates
from costmodels.operations.layouts import Layouts
from costmodels.serving.simulator.outcome import Metric
from costmodels.serving.steady.kv_transfer import Link
from costmodels.serving.step import StepTimes
from planner.contract.engine import Role
from planner.contract.workload.workload import Workload
from planner.serving.operating_points import FEW_PLACES, Job, Served, peak_sequences


class LoadedEngine(Protocol):
    """One engine under its load, by the formulas; arrays of length 1."""

    role: ClassVar[Role]

    @property
    def alone(self) -> Served | None:
        """What requests see that it serves from beginning to end; None where it takes another engine to serve one."""
        ...

    @property
    def means_us(self) -> dict[Metric, Estimates]:
        """The mean latencies that are its own to promise."""
        ...

    def own_us(self, metric: Metric, p: float | None) -> float | None:
        """What of a request's latency it spends in this engine, as a simulation of the engine alone shows it: of a
        prefill engine until the prompt is prefilled, of a decode engine from its arrival there. A share ``p`` of
        requests stays below it; the mean with None. None where the engine has no part in the metric."""
        ...

    @property
    def steps(self) -> list[tuple[StepTimes, float]]:
        """The kinds of step that it takes with the share of each, the most frequent first; the rest to 1 is rest."""
        ...

    @property
    def origin(self) -> Estimates:
        """The time that says where its figures are from, and how sure they are."""
        ...

    @property
    def concurrency(self) -> float:
        """Sequences in each attention rank, on average: those that decode, or where none do, prompts."""
        ...

    @property
    def less(self) -> tuple[LoadedEngine, float] | None:
        """The engine at the next lower concurrency, which does not carry its load, and the share of time with which the
        two do together; None: its concurrency is that of its load."""
        ...

    @property
    def prefill_busy(self) -> float:
        """Share of time that prefill is busy."""
        ...

    @property
    def stay_us(self) -> float:
        """Mean time of a request in it."""
        ...

    @property
    def longest_tokens(self) -> int:
        """Tokens of a request in its cache when it leaves."""
        ...

    def serving(self, workload: Workload) -> LoadedEngine | None:
        """The same engine with other requests, as many decoding (or of a prefill engine, as many a second); None where
        it cannot keep up with their prompts."""
        ...


class EngineCandidate(Protocol):
    """One engine that the solver may choose, at the highest load within the SLO."""

    role: ClassVar[Role]

    @property
    def job(self) -> Job: ...

    @property
    def layouts(self) -> Layouts:
        """Of the one engine."""
        ...

    @property
    def key(self) -> tuple[int, ...]:
        """What makes two candidates ones of the same layout, in the same role."""
        ...

    @property
    def kind(self) -> tuple[int, ...]:
        """What makes two candidates the same engine under different loads."""
        ...

    @property
    def batch_limits(self) -> tuple[int, int]:
        """(tokens, sequences) of a step of an attention rank, at most."""
        ...

    @property
    def rate_rps(self) -> Estimates:
        """Requests per second that it carries, [1]."""
        ...

    @property
    def link(self) -> Link | None:
        """What it sends or receives caches over."""
        ...

    @property
    def link_busy(self) -> float:
        """Share of time that a GPU's link is busy when the engine carries all it can."""
        ...

    def at(self, load_rps: float) -> LoadedEngine:
        """The engine under a load of ``load_rps``."""
        ...


def most_sequences(concurrency: float, most: int) -> int:
    """Sequences that a step is limited to: Poisson's mean plus three standard deviations and the one in prefill, no
    fewer than a few, if ``most`` allows."""
    return min(most, max(FEW_PLACES, math.ceil(float(peak_sequences(concurrency)) + math.sqrt(concurrency))))
