"""Engines that prefill prompts for others to decode."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from costmodels.estimates import Estimates
from costmodels.operations.layouts import Layouts
from costmodels.serving.simulator.outcome import Metric
from costmodels.serving.steady.disaggregated import Prefilling, prefill_steps, prefilling, work_us
from costmodels.serving.step import StepTimes
from planner.contract.engine import Role
from planner.contract.workload.workload import Workload
from planner.serving.engines.one_role import OneRoleCandidate, OneRoleEngine
from planner.serving.engines.protocol import most_sequences
from planner.solving.packing import PREFILL


@dataclass(frozen=True)
class PrefillCandidate(OneRoleCandidate[Prefilling]):
    """Engine ``index`` of ``engines``, which is ``row`` of the prefill engines of ``pool``."""

    role: ClassVar[Role] = "prefill"

    @property
    def layouts(self) -> Layouts:
        return self.engines.steps.layouts.take(np.array([self.index]))

    @property
    def key(self) -> tuple[int, ...]:
        return PREFILL, self.job.pool_index, *self.engines.steps.layouts.row(self.index), *self.job.state_key

    @property
    def kind(self) -> tuple[int, ...]:
        return (*self.key, int(self.pool.budget[self.row]))

    @property
    def batch_limits(self) -> tuple[int, int]:
        pool, i = self.pool, self.index
        stays = float(self.engines.done_us.value[i] - self.engines.waiting_us[i])
        stays += float(pool.send_us(self.layouts, 1.0)[0])
        per_us = float(self.engines.rate_rps.value[i]) / float(self.layouts.dp[0]) / 1e6
        together, room = int(self.engines.steps.together[i]), int(pool.room[self.row])
        return int(pool.budget[self.row]), min(room, max(together, most_sequences(per_us * stays, room)))

    def _on_link_us(self) -> float:
        return float(self.pool.send_us(self.layouts, 1.0)[0])

    def at(self, load_rps: float) -> PrefillEngine:
        steps = self.engines.steps.take(np.array([self.index]))
        rank_load = load_rps / float(self.layouts.dp[0]) / 1e6
        return PrefillEngine(self, load_rps, prefilling(steps, rank_load * work_us(steps)))


@dataclass(frozen=True)
class PrefillEngine(OneRoleEngine[PrefillCandidate, Prefilling]):
    """The engine of a ``candidate`` under a load."""

    role: ClassVar[Role] = "prefill"

    @property
    def means_us(self) -> dict[Metric, Estimates]:
        return {"ttft": self.loaded.done_us}

    def own_us(self, metric: Metric, p: float | None) -> float | None:
        if metric == "tpot":
            return None
        return float((self.loaded.done_us.value if p is None else self.loaded.percentile_us(p))[0])

    @property
    def steps(self) -> list[tuple[StepTimes, float]]:
        return [(self.loaded.steps.full, self.prefill_busy)]  # it rests as long as its queue leaves it

    @property
    def origin(self) -> Estimates:
        return self.loaded.done_us

    @property
    def concurrency(self) -> float:
        return self.rate_per_us * float(self.loaded.service_us[0])

    @property
    def less(self) -> None:
        return None

    @property
    def prefill_busy(self) -> float:
        return float(self.loaded.utilisation[0])

    @property
    def stay_us(self) -> float:
        return float(self.loaded.done_us.value[0])

    @property
    def longest_tokens(self) -> int:
        return self.candidate.job.shape.isl

    def serving(self, workload: Workload) -> PrefillEngine | None:
        layouts, job = self.candidate.layouts, replace(self.candidate.job, workload=workload)
        budget, sequences = self.candidate.batch_limits
        room = np.array([sequences * int(layouts.pp[0])])
        steps = prefill_steps(job.served, job.shape, layouts, np.array([budget]), room)
        utilisation = self.rate_per_us * work_us(steps)
        return None if utilisation[0] >= 1 else replace(self, loaded=prefilling(steps, utilisation))
