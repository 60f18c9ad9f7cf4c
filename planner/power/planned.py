"""A kind of server from the plan that runs on it: times of its steps, and the board power of its phases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from costmodels.kernels.cost_model import CostModel
from costmodels.models.precision import choose_precision
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Batch
from costmodels.power.board import Activity, free_watts, idle_loaded_watts, limit_watts, step_watts
from costmodels.power.state import OperatingState
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.step import StepTimes
from planner.contract.engine import EngineGroup
from planner.contract.models import ModelConfig, architecture_of
from planner.power.request import RowServers
from planner.power.server import ServerKind, settable_or_none
from planner.serving.document.contradictions import check_plan, pool_of
from planner.serving.document.plan import Plan
from planner.serving.layouts import degrees_of
from planner.serving.operating_points import served_on
from profiles.errors import InputError
from profiles.hardware import Gpu
from profiles.store import ProfileStore

_PROMPTS = (128, 512, 1024, 2048, 4096, 8192, 16384)


def planned_kind(asked: RowServers, gpu: Gpu, measured: Sequence[ProfileStore] = ()) -> ServerKind:
    """The server of ``asked``, its plan scaled to its GPUs.

    Raises:
        InputError: the plan contradicts itself, or is for other GPUs than the server's.
    """
    plan = asked.plan
    assert plan is not None
    fleet = bool(plan.decision.schedule)
    mine = _of_a_fleet(asked, plan, gpu) if fleet else _of_a_plan(asked, plan, gpu)
    # A plan of several servers, or of a part of one; of a fleet, its engines on these GPUs.
    gpus = sum(len(each.replicas) * each.gpus_per_engine for each in mine) if fleet else plan.decision.gpus_used
    share = asked.gpus / gpus
    cost = CostModel(gpu, find_framework(plan.request.framework).name, None, None, measured)
    groups = [_Phases(plan, group, cost) for group in mine]
    apart = any(each.group.role != "aggregated" for each in groups)
    prefills = [each for each in groups if each.group.role != "decode"]
    decodes = [each for each in groups if each.group.role != "prefill"]
    idle = idle_loaded_watts(gpu)
    engines = share * sum(each.engines for each in decodes)
    # Prefill is counted in seconds of as many engines as decode has.
    rate = sum(each.engines for each in prefills) / sum(each.engines for each in decodes)
    weights = np.array([each.engines for each in prefills], np.float64)
    prompt = np.average([each.prompt_s() for each in prefills], axis=0, weights=weights) / rate
    weights = np.array([each.engines for each in decodes], np.float64)
    token = np.average([each.token_s() for each in decodes], axis=0, weights=weights)

    settable, response, locked = settable_or_none(gpu.name), groups[0].served.response, None
    if settable is not None:
        most = settable.clock_mhz[1]
        prefill, decode = (max(g.group.clock_mhz or most for g in each) for each in (prefills, decodes))
        highest = max(prefill, decode)
        if min(prefill, decode) < most:
            locked = None if highest == most else highest
            response = replace(
                response,
                prefill=response.prefill.locked_at(prefill / most, highest / most),
                decode=response.decode.locked_at(decode / most, highest / most),
            )

    def above(of: list[_Phases], drawn: Callable[[_Phases], np.ndarray]) -> np.ndarray:
        return np.asarray(share * sum(each.gpus * np.maximum(drawn(each) - idle, 0.0) for each in of))

    one, slope, root = by_sequences(above(decodes, lambda each: each.decode_watts(gpu)))
    return ServerKind(
        name=asked.kind,
        gpu=gpu.name,
        gpus=asked.gpus,
        nameplate_watts=asked.nameplate_watts,
        idle_watts=asked.other_watts + asked.gpus * idle,
        prefill_watts=float(above(prefills, lambda each: np.array([each.prefill_watts(gpu)]))[0]),
        decode_watts=one,
        decode_slope_watts=slope,
        decode_root_watts=root,
        limit_watts=asked.gpus * (limit_watts(gpu) - idle),
        prompt_s=tuple(float(each) for each in prompt),  # type: ignore[arg-type]
        token_s=float(token[0]),
        token_slope_s=float(token[1]),
        engines=engines,
        most_sequences=share * sum(each.engines * each.group.limits.max_sequences for each in decodes),
        response=response,
        settable=settable,
        source=f"{'fleet' if fleet else 'plan'} of {plan.request.model} "
        f"({', '.join(f'{share * each.replicas:.3g} × {each.group.layout.label}' for each in groups)} on each server)",
        apart=apart,
        prefill_gpus=share * sum(each.gpus for each in prefills) if apart else 0.0,
        locked_mhz=locked,
        planned=True,
    )


def _of_a_plan(asked: RowServers, plan: Plan, gpu: Gpu) -> tuple[EngineGroup, ...]:
    check_plan(plan)
    others = {group.gpu for group in plan.decision.engines} - {gpu.name}
    if others:
        raise InputError(
            f"servers: {asked.kind}: plan: is for {', '.join(sorted(others))}, and the server has {gpu.name}",
            "give the plan that runs on this kind of server",
        )
    return plan.decision.engines


def _of_a_fleet(asked: RowServers, plan: Plan, gpu: Gpu) -> list[EngineGroup]:
    """Its engines on this kind's GPUs, in the shares in which they run at most: a fleet does not say on which servers
    they are.

    Raises:
        InputError: it has none there, or of measured tables, whose steps are not known, or for several services, whose
            requests a row's load does not tell apart.
    """
    where = f"servers: {asked.kind}: plan"
    mine = [group for group in plan.decision.engines if group.gpu == gpu.name and group.replicas]
    if not mine:
        has = ", ".join(sorted({group.gpu for group in plan.decision.engines}))
        raise InputError(
            f"{where}: the fleet has no engine on {gpu.name}, it has {has}", "give the fleet that runs on these servers"
        )
    table = next((group for group in mine if group.table is not None), None)
    if table is not None:
        raise InputError(
            f"{where}: {table.id} stands for a measured table, which says nothing of an engine's steps",
            "make the fleet of models and GPUs instead of tables, or leave plan out: the measured phases that ship",
        )
    services = sorted({group.service for group in mine if group.service is not None})
    if len(services) > 1:
        raise InputError(
            f"{where}: the fleet's engines on {gpu.name} serve {len(services)} services ({', '.join(services)}), which "
            "a row's load does not tell apart",
            "make a fleet of each service, and give each its own kind of server",
        )
    return mine


_BUSY = 16
"""Sequences of an engine at which a full decode step is looked at."""

_DECODES = (1, 4, 16, 64)
"""Sequences of an engine at which the watts of its decode steps are looked at."""


def by_sequences(watts: np.ndarray) -> tuple[float, float, float]:
    """(of one sequence, of each further one, of the root of all beyond one's) nearest to watts at :data:`_DECODES`."""
    from scipy.optimize import nnls

    n = np.array(_DECODES, np.float64)
    found, _ = nnls(np.stack([n - 1, np.sqrt(n) - 1], axis=1), np.maximum(watts - watts[0], 0.0))
    return float(watts[0]), float(found[0]), float(found[1])


class _Phases:
    """One engine group: its steps and their watts."""

    def __init__(self, plan: Plan, group: EngineGroup, cost: CostModel) -> None:
        asked = plan.request
        model = architecture_of(
            asked.model if asked.config is None else ModelConfig(name=asked.model, config=asked.config)
        )
        precision = choose_precision(model, group.weights_precision, group.kv_precision)
        pool = pool_of("plan", asked.cluster, group)
        self.group = group
        self.workload = asked.workload
        state = OperatingState.of(group.clock_mhz, group.power_cap_watts)
        self.served = served_on(pool, model, precision, find_framework(asked.framework), cost, asked.workload, state)
        self.layouts = Layouts.of([degrees_of(group.layout)])

    @property
    def replicas(self) -> int:
        return len(self.group.replicas)

    @property
    def engines(self) -> float:
        return float(self.replicas * self.group.layout.dp)

    @property
    def gpus(self) -> int:
        return self.replicas * self.group.gpus_per_engine

    def _steps(self, rows: Sequence[tuple[int, int, int, int, int]]) -> list[StepTimes]:
        out = []
        for row in rows:
            prefills, chunk, prefix, decodes, context = (np.array([value], np.int64) for value in row)
            tokens = (prefills * chunk + decodes).astype(np.float64)
            batch = Batch(prefills, chunk, prefix, decodes, context, tokens)
            out.append(self.served.step(self.layouts, batch, self.workload.routing))
        return out

    def prompt_s(self) -> np.ndarray:
        """(constant, per token, per token squared): seconds of a prompt's prefill, chunk by chunk."""
        budget = self.group.limits.max_tokens_per_step
        chunks = [[(start, min(budget, n - start)) for start in range(0, n, budget)] for n in _PROMPTS]
        rows = [(1, chunk, prefix, 0, 0) for each in chunks for prefix, chunk in each]
        times = iter(float(step.latency.value[0]) / 1e6 for step in self._steps(rows))
        seconds = np.array([sum(next(times) for _ in each) for each in chunks])
        n = np.array(_PROMPTS, np.float64)
        columns = np.stack([np.ones_like(n), n, n**2], axis=1) / seconds[:, None]  # relative errors count alike
        from scipy.optimize import nnls

        found, _ = nnls(columns, np.ones_like(n))
        return np.asarray(found)

    def token_s(self) -> np.ndarray:
        """(alone, each further sequence)."""
        context = self._context
        one, many = (float(s.latency.value[0]) / 1e6 for s in self._steps([(0, 0, 0, b, context) for b in (1, _BUSY)]))
        return np.array([one, max(many - one, 0.0) / (_BUSY - 1)])

    @property
    def _context(self) -> int:
        return max(int(self.workload.isl + self.workload.osl / 2), 1)

    def prefill_watts(self, gpu: Gpu) -> float:
        chunk = min(self.group.limits.max_tokens_per_step, max(int(self.workload.isl), 1))
        return float(free_watts(gpu, Activity.of(self._steps([(1, chunk, 0, 0, 0)])[0]))[0])

    def decode_watts(self, gpu: Gpu) -> np.ndarray:
        """[decodes] of so many sequences."""
        return np.array([self._watts(gpu, (0, 0, 0, n, self._context)) for n in _DECODES])

    def _watts(self, gpu: Gpu, row: tuple[int, int, int, int, int]) -> float:
        return float(step_watts(gpu, Activity.of(self._steps([row])[0])).value[0])
