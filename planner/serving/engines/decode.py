"""Engines that decode what others have prefilled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Estimates, Floats
from costmodels.operations.layouts import Layouts
from costmodels.serving.simulator.outcome import Metric
from costmodels.serving.steady.disaggregated import Decoding, decoding
from costmodels.serving.step import StepTimes
from planner.contract.engine import Role
from planner.contract.workload.workload import Workload
from planner.serving.engines.one_role import OneRoleCandidate, OneRoleEngine
from planner.serving.engines.protocol import most_sequences
from planner.serving.engines.under_load import least_concurrency, share_of_less
from planner.solving.packing import DECODE


@dataclass(frozen=True)
class DecodeCandidate(OneRoleCandidate[Decoding]):
    """Engine ``index`` of ``engines``, which is ``row`` of the decode engines of ``pool``."""

    role: ClassVar[Role] = "decode"

    @property
    def layouts(self) -> Layouts:
        return self.engines.layouts.take(np.array([self.index]))

    @property
    def key(self) -> tuple[int, ...]:
        return DECODE, self.job.pool_index, *self.engines.layouts.row(self.index), *self.job.state_key

    @property
    def kind(self) -> tuple[int, ...]:
        return self.key  # its steps hold no prompts: the token budget is that of its sequences

    @property
    def batch_limits(self) -> tuple[int, int]:
        job = self.job
        limit = most_sequences(float(self.engines.concurrency[self.index]), int(self.pool.most[self.row]))
        if self.layouts.wide[0]:  # whose buffers are made for its sequences
            return limit * job.shape.queries, limit
        return max(min(job.served.framework.limits.token_budgets), limit * job.shape.queries), limit

    def _on_link_us(self) -> float:
        return float(self.pool.receive_us(self.layouts)[0])

    def at(self, load_rps: float) -> DecodeEngine:
        """At the least concurrency, the candidate's at most, that carries ``load_rps``."""
        job, layouts, kv_connector = self.job, self.layouts, self.pool.kv_connector

        def tried(concurrency: Floats) -> tuple[Decoding, NDArray[np.bool_]]:
            same = layouts.take(np.zeros(len(concurrency), np.int64))
            every = decoding(job.served, job.shape, same, concurrency, kv_connector)
            return every, every.rate_rps.value >= load_rps * (1 - 1e-9)

        most = float(self.engines.concurrency[self.index])
        return DecodeEngine(self, load_rps, *least_concurrency(most, tried))


@dataclass(frozen=True)
class DecodeEngine(OneRoleEngine[DecodeCandidate, Decoding]):
    """The engine of a ``candidate`` under a load. ``fewer``: at the next lower concurrency, which does not carry it;
    None: there is none."""

    role: ClassVar[Role] = "decode"
    fewer: Decoding | None = None

    @property
    def cycles_before_first_token(self) -> float:
        """Decode cycles between the transfer and the first token, on average."""
        cycles = self.candidate.pool.decode_cycles(self.candidate.layouts)
        return float((cycles - self.loaded.tokens * self.loaded.steps_per_token)[0])

    @property
    def means_us(self) -> dict[Metric, Estimates]:
        return {"tpot": self.loaded.tpot_us}

    def own_us(self, metric: Metric, p: float | None) -> float:
        loaded = self.loaded
        tpot = float((loaded.tpot_us.value if p is None else loaded.tpot_percentile_us(p))[0])
        if metric == "tpot":
            return tpot
        cycle = float(loaded.cycle_us.value[0])
        first = cycle if self.candidate.pool.kv_connector.first_token == "decode_step" else 0.0
        wait = (0.5 if p is None else p) * cycle / float(loaded.layouts.pp[0])
        return wait + first + (loaded.tokens * tpot if metric == "e2e" else 0.0)

    @property
    def steps(self) -> list[tuple[StepTimes, float]]:
        return [(self.loaded.step, 1.0)]

    @property
    def origin(self) -> Estimates:
        return self.loaded.tpot_us

    @property
    def concurrency(self) -> float:
        return float(self.loaded.concurrency[0])

    @property
    def less(self) -> tuple[DecodeEngine, float] | None:
        if self.fewer is None:
            return None
        rates = (float(each.rate_rps.value[0]) for each in (self.fewer, self.loaded))
        return replace(self, loaded=self.fewer, fewer=None), share_of_less(self.load_rps, *rates)

    @property
    def prefill_busy(self) -> float:
        return 0.0

    @property
    def stay_us(self) -> float:
        return float(self.loaded.cycle_us.value[0]) * self.loaded.tokens * self.loaded.steps_per_token

    @property
    def longest_tokens(self) -> int:
        return self.candidate.job.shape.tokens

    def serving(self, workload: Workload) -> DecodeEngine:
        job, kv_connector = replace(self.candidate.job, workload=workload), self.candidate.pool.kv_connector
        layouts, concurrency = self.candidate.layouts, self.loaded.concurrency
        return replace(self, loaded=decoding(job.served, job.shape, layouts, concurrency, kv_connector), fewer=None)
