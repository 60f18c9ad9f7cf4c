"""What modelled engines carry of each class: every layout and token budget of every pool, at a grid of lengths, and
between the points of the grid by interpolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.kernels.kept import kept
from costmodels.models.architecture import Architecture
from costmodels.models.precision import Precision
from costmodels.operations.layouts import Layouts
from costmodels.serving.frameworks.framework import find_framework
from planner.contract.clusters import SuppliedCluster, SuppliedPool
from planner.contract.engine import EngineGroup, Role
from planner.contract.models import architecture_of
from planner.contract.progress import Step
from planner.contract.workload.classes import LengthClass
from planner.contract.workload.slo import Slo
from planner.contract.workload.workload import Workload
from planner.serving.engines.energy import points_watts
from planner.serving.engines.pairing import not_handed_over
from planner.serving.fleets.apart import Partners, rates_apart
from planner.serving.fleets.at_slo import at_edge
from planner.serving.fleets.nearest import Unserved, most_of, unserved
from planner.serving.fleets.request import FleetRequest, ServiceAsked
from planner.serving.fleets.worth import worth_keeping
from planner.serving.layouts import Restrictions, degrees_of, layout_at
from planner.serving.operating_points import Job, LayoutSearch, search
from planner.serving.planning import CostOf, jobs_of, precisions_of
from planner.serving.request import PlanRequest
from profiles.errors import Infeasible, InputError, Unsupported
from profiles.hardware import gpus_per_host
from profiles.values import shown

Progress = Callable[[str], None]

DIRECT = 48
"""Classes up to which each is worked out by itself."""

GRID = (12, 5)
"""Points of the grid over prompts and outputs, of more classes."""

EXPLAINED = 8
"""Classes that nothing carries, of which it is looked for why."""

MOST_NODES = 4
"""Of one engine where as many GPUs can be had as are needed."""


@dataclass(frozen=True)
class ModelEngine:
    """A layout with a token budget in a precision on a pool; of one ``role``: beside its ``partners`` (the budget
    of decode engines is 0: it is that of their sequences). ``why``: reasons why classes are not served."""

    pool_index: int
    gpus: int
    layout: tuple[int, ...]
    budget: int
    precision: Precision
    label: str
    role: Role = "aggregated"
    partners: Partners | None = None
    usd_per_hour: float | None = None
    watts: float | None = field(default=None, compare=False)
    why: dict[tuple[float, float], Unserved] = field(default_factory=dict, compare=False, repr=False)

    def is_like(self, group: EngineGroup) -> bool:
        limits = (group.role, group.weights_precision, group.kv_precision)
        mine = (self.role, self.precision.weights, self.precision.kv)
        budget = self.role == "decode" or self.budget == group.limits.max_tokens_per_step  # of decodes: its sequences
        return self.layout == tuple(degrees_of(group.layout)) and limits == mine and budget

    def reason(self, each: LengthClass) -> Unserved | None:
        return self.why.get((each.isl, each.osl))

    @property
    def key(self) -> tuple[object, ...]:
        return (self.pool_index, self.layout, self.budget, self.precision, self.role, self.partners)


def service_request(
    request: FleetRequest, asked: ServiceAsked, cluster: SuppliedCluster, workload: Workload, slo: Slo | None = None
) -> PlanRequest:
    """The request of one service for one workload, as ``plan`` takes it."""
    assert asked.model is not None
    fields = {"precision": asked.precision, "kv_precision": asked.kv_precision}
    promised = asked.slo if slo is None else slo
    if workload.mean_osl <= 1:  # no token follows the first: what is promised of those that do says nothing
        promised = Slo(bounds=tuple(bound for bound in promised.bounds if bound.metric != "tpot"))
    return PlanRequest(
        model=asked.model,
        cluster=cluster.model_copy(update={"choose": False, "pools": tuple(_closed(pool) for pool in cluster.pools)}),
        slo=promised,
        workload=workload,
        objective="cost" if request.objective == "cost" and workload.has_load else None,
        framework=asked.framework or request.framework,
        disaggregation="never",
        confidence=request.confidence,
        **{name: value for name, value in fields.items() if value is not None},  # type: ignore[arg-type]
    )


def _closed(pool: SuppliedPool) -> SuppliedPool:
    """A pool with the GPUs that one engine may take of it."""
    if pool.as_needed:
        return pool.model_copy(update={"as_needed": False, "gpus": MOST_NODES * pool.gpus_per_node})
    most = max(pool.gpus, pool.spot_gpus or 0, pool.reserved_gpus or 0)
    return pool.model_copy(update={"gpus": most})


def _allowed(job: Job, *, several: bool) -> Restrictions:
    node = job.pool.gpus_per_node
    most = job.pool.gpus if several else min(job.pool.gpus, node)
    host = gpus_per_host(job.pool.gpu, node)
    return Restrictions(most, node, max_engine_gpus=most, gpus_per_host=host)


@dataclass
class _Carried:
    """What engines carry at some lengths: ``cells`` (points, kinds), ``searched`` as of :class:`Capacities`, ``watts``:
    the most of any length, of one engine."""

    keys: list[ModelEngine] = field(default_factory=list)
    cells: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    searched: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    watts: dict[tuple[object, ...], float] = field(default_factory=dict)


class Capacities:
    """Of one service on the pools of a cluster."""

    def __init__(
        self, request: FleetRequest, asked: ServiceAsked, cluster: SuppliedCluster, cost_of: CostOf, progress: Progress
    ) -> None:
        assert asked.model is not None
        self._request, self._asked, self._cluster, self._cost_of = request, asked, cluster, cost_of
        self.model: Architecture = architecture_of(asked.model)
        self._tell = progress
        self.searched = [0, 0, 0, 0]
        """Layouts considered, legal, operating points, of them within the SLO."""
        self._metered = bool(request.rows) or request.usd_per_kwh is not None
        self._watts: dict[tuple[object, ...], float] = {}
        """The most of any length, of one engine."""

    def of(self, classes: Sequence[LengthClass]) -> tuple[tuple[ModelEngine, ...], Floats]:
        """(kinds of engine, requests per second of each class on each, (classes, kinds); 0: none).

        Raises:
            InputError, Unsupported: a class beyond the model's context, hardware that runs no precision.
        """
        self._check(classes)
        context = self.model.max_context_tokens
        fits = [i for i, each in enumerate(classes) if each.isl + each.osl <= context]
        if len(fits) < len(classes):
            some = [classes[i] for i in fits]
            if not some:
                raise Infeasible(
                    f"services {shown(self._asked.name)}: every class is longer than the context of {self.model.name}, "
                    f"{context} tokens",
                    "name a model with a longer context",
                    binding="class",
                )
            engines, part = self.of(some)
            cells = np.zeros((len(classes), len(engines)))
            cells[fits] = part
            why = dict(engines[0].why)
            for each in classes:
                if each.isl + each.osl > context:
                    why[each.isl, each.osl] = Unserved(
                        f"it is longer than the context of {self.model.name}, {context} tokens",
                        "name a model with a longer context",
                    )
            return tuple(replace(engine, why=why) for engine in engines), cells
        isl, osl = (np.array([getattr(each, name) for each in classes]) for name in ("isl", "osl"))
        if len({*zip(isl.tolist(), osl.tolist(), strict=True)}) <= DIRECT:
            points, inverse = np.unique(np.stack([isl, osl], axis=1), axis=0, return_inverse=True)
            keys, cells = self._worked_out(points)
            cells = cells[inverse.ravel()]
        else:
            keys, cells = self._interpolated(isl, osl)
        if not keys and self._request.disaggregation == "always" and (never := self._not_handed_over()) is not None:
            raise Infeasible(
                f"services {shown(self._asked.name)}: disaggregation is always, and {never}",
                "leave it out, or choose a framework that hands such caches over",
                binding="disaggregation",
            )
        if not keys:
            reasons = [self._unserved(each) for each in _some(classes)]
            raise Infeasible(
                f"services {shown(self._asked.name)}: no layout of {self.model.name} on these pools carries any class; "
                f"isl {classes[0].isl:.6g}, osl {classes[0].osl:.6g}: {reasons[0].why}",
                reasons[0].remedy,
                binding="slo",
                relax_ms={self._asked.name: most_of(reasons)},
            )
        chosen = worth_keeping(keys, cells)
        why = self._why(classes, cells)
        engines = tuple(replace(k, watts=self._watts.get(k.key), why=why) for k in (keys[i] for i in chosen))
        return engines, cells[:, chosen]

    def _check(self, classes: Sequence[LengthClass]) -> None:
        context = self.model.max_context_tokens
        always = self._request.disaggregation == "always"
        for each in classes:
            if always and each.osl < 1.5:
                raise InputError(
                    f"services {shown(self._asked.name)}: a class of isl {each.isl:g} has one output token, and "
                    "disaggregation is always: nothing is left to decode",
                    "leave disaggregation out, or plan these requests apart",
                )
            if each.isl < 1 or each.osl < 1:
                raise InputError(
                    f"services {shown(self._asked.name)}: a class has isl {each.isl:g} and osl {each.osl:g}",
                    "a request has one token or more of each",
                )
            if each.isl + each.osl > context and not self._request.serve_rest:
                raise InputError(
                    f"services {shown(self._asked.name)}: a class of isl {each.isl:g} and osl "
                    f"{each.osl:g} is longer than "
                    f"the context of {self.model.name}, {context} tokens",
                    "leave it out (--serve-rest does), or name a model with a longer context",
                )

    # -------------------------------------------------------------- cells

    def _searches(self, isl: float, osl: float, slo: Slo | None) -> list[LayoutSearch]:
        asked = self._asked
        work = Workload(
            isl=max(round(isl), 1),
            osl=max(round(osl), 1),
            rate_rps=1.0,
            speculation=asked.speculation,
            prefix_hit=asked.prefix_hit,
        )
        request = service_request(self._request, asked, self._cluster, work, slo)
        found = []
        for precision in precisions_of(request, self.model, [self._cost_of(pool).gpu for pool in self._cluster.pools]):
            jobs, _ = jobs_of(request, self.model, precision, self._cost_of)
            for job in jobs:
                one = search(job, _allowed(job, several=False))
                if one.fine is None and job.pool.gpus > job.pool.gpus_per_node:
                    one = search(job, _allowed(job, several=True))
                found.append(one)
        return found

    def beyond(self, points: Floats, times: float, kinds: Sequence[ModelEngine]) -> Floats:
        """What ``kinds`` carry of requests of ``points`` (n, 2) of isl and osl within a promise so many ``times`` as
        long, (n, kinds); 0: nothing."""
        bounds = (b.model_copy(update={"limit_ms": times * b.limit_ms}) for b in self._asked.slo.bounds)
        keys, cells = self._worked_out(points, Slo(bounds=tuple(bounds)))
        at = {key.key: i for i, key in enumerate(keys)}
        out = np.zeros((len(points), len(kinds)))
        for column, kind in enumerate(kinds):
            if kind.key in at:
                out[:, column] = cells[:, at[kind.key]]
        return out

    def _worked_out(self, points: Floats, slo: Slo | None = None) -> tuple[list[ModelEngine], Floats]:
        """(kinds, capacity (points, kinds)) at ``points`` (n, 2) of isl and osl; ``slo``: of another promise."""
        asked = ("capacities", *self._asked_of, points.tobytes(), None if slo is None else slo.model_dump_json())
        found = kept(asked, lambda: self._searched(points, slo))
        self.searched = [
            max(self.searched[0], found.searched[0]), max(self.searched[1], found.searched[1]),
            self.searched[2] + found.searched[2], self.searched[3] + found.searched[3],
        ]  # fmt: skip
        for kind, most in found.watts.items():
            self._watts[kind] = max(self._watts.get(kind, 0.0), most)
        return list(found.keys), found.cells.copy()

    @cached_property
    def _asked_of(self) -> tuple[object, ...]:
        """All that the answers of :meth:`_searched` depend on beside its points."""
        some = service_request(self._request, self._asked, self._cluster, Workload(isl=1, osl=2, rate_rps=1.0))
        said = (self._asked.speculation, self._asked.prefix_hit, self._request.disaggregation, self._request.objective)
        models = [self._cost_of(pool).made_from for pool in self._cluster.pools]
        return some.model_dump_json(), self._cluster.model_dump_json(), repr((models, said)), self._metered

    def _searched(self, points: Floats, slo: Slo | None) -> _Carried:
        found = _Carried()
        index: dict[tuple[object, ...], int] = {}
        rows: list[dict[int, float]] = []
        for number, (isl, osl) in enumerate(points.tolist()):
            if number % 20 == 0 and number:
                self._tell(Step(f"{self._asked.name}: {number} of {len(points)} lengths", number, len(points)))
            row: dict[int, float] = {}
            searches = self._searches(isl, osl, slo)
            for one in searches:
                found.searched[0] = max(found.searched[0], one.considered)
                found.searched[1] = max(found.searched[1], one.legal)
                found.searched[2] += 0 if one.coarse is None else len(one.coarse)
                if self._request.disaggregation != "always":
                    self._add(one, index, found, row)
            if self._request.disaggregation != "never" and slo is None:
                self._add_apart(searches, index, found, row)
            rows.append(row)
        found.cells = np.zeros((len(points), len(found.keys)))
        for number, row in enumerate(rows):
            for column, rate in row.items():
                found.cells[number, column] = rate
        return found

    def _add(
        self, one: LayoutSearch, index: dict[tuple[object, ...], int], found: _Carried, row: dict[int, float]
    ) -> None:
        best = at_edge(one)
        if best is None:
            return
        job, points = one.job, best.points
        found.searched[3] += int(points.within.sum())
        watts = points_watts(points) * points.layouts.gpus if self._metered else np.zeros(len(points))
        drawn: dict[tuple[object, ...], float] = {}
        for i, rate in zip(best.rows.tolist(), best.rate_rps.tolist(), strict=True):
            degrees, budget = points.layouts.row(i), int(points.budget[i])
            key = (job.pool_index, degrees, budget, job.served.precision, "aggregated", None)
            if key not in index:
                index[key] = len(found.keys)
                label = f"{layout_at(points.layouts, i).label} on {job.pool.gpu}"
                gpus = int(points.layouts.gpus[i])
                found.keys.append(ModelEngine(job.pool_index, gpus, degrees, budget, job.served.precision, label))
            row[index[key]] = rate
            drawn[found.keys[index[key]].key] = float(watts[i])
        for kind, most in drawn.items():
            found.watts[kind] = max(found.watts.get(kind, 0.0), most)

    def _add_apart(
        self, searches: Sequence[LayoutSearch], index: dict[tuple[object, ...], int], found: _Carried,
        row: dict[int, float],
    ) -> None:  # fmt: skip
        """Engines that prefill and engines that decode."""
        for each in rates_apart(searches, self._worth_of_gpu, self._request.confidence, metered=self._metered):
            gpu = self._cluster.pools[each.pool_index].gpu
            label = f"{each.role} {layout_at(Layouts.of([each.layout]), 0).label} on {gpu}"
            kind = ModelEngine(
                each.pool_index, each.gpus, each.layout, each.budget, each.partners.precision, label, each.role,
                each.partners,
            )  # fmt: skip
            if kind.key not in index:
                index[kind.key] = len(found.keys)
                found.keys.append(kind)
            row[index[kind.key]] = each.rate_rps
            found.searched[3] += 1
            found.watts[kind.key] = max(found.watts.get(kind.key, 0.0), each.watts)

    def _not_handed_over(self) -> str | None:
        framework = find_framework(self._asked.framework or self._request.framework)
        return not_handed_over(framework, self.model)

    def _worth_of_gpu(self, pool_index: int) -> float:
        """Of a GPU of a pool: the least that one costs, where cost is the objective and it has a price."""
        pool = self._cluster.pools[pool_index]
        prices = (pool.usd_per_gpu_hour, pool.spot_usd_per_gpu_hour, pool.reserved_usd_per_gpu_hour)
        known = [price for price in prices if price]
        return 1.0 if self._request.objective == "gpus" or not known else min(known)

    def _interpolated(self, isl: Floats, osl: Floats) -> tuple[list[ModelEngine], Floats]:
        """Cells between the points of a grid: the time that a request takes of an engine grows about evenly with its
        tokens; where a corner carries nothing, worked out."""
        axes = [_axis(lengths, count) for lengths, count in zip((isl, osl), GRID, strict=True)]
        grid = np.stack([each.ravel() for each in np.meshgrid(*axes, indexing="ij")], axis=1)
        keys, corners = self._worked_out(grid)
        corners = corners.reshape(len(axes[0]), len(axes[1]), len(keys))
        with np.errstate(divide="ignore"):
            seconds = 1 / corners
        low, part = zip(*(_between(axis, lengths) for axis, lengths in zip(axes, (isl, osl), strict=True)), strict=True)
        taken = np.zeros((len(isl), len(keys)))
        for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weight = (part[0] if a else 1 - part[0]) * (part[1] if b else 1 - part[1])
            i, j = np.minimum(low[0] + a, len(axes[0]) - 1), np.minimum(low[1] + b, len(axes[1]) - 1)
            with np.errstate(invalid="ignore"):
                taken += np.where(weight[:, None] > 0, weight[:, None] * seconds[i, j], 0.0)
        cells = 1 / taken  # infinite at any corner with weight: 0
        self._mend(isl, osl, keys, cells, corners, low)
        return keys, cells

    def _mend(
        self, isl: Floats, osl: Floats, keys: list[ModelEngine], cells: Floats, corners: Floats, low: Sequence[Ints]
    ) -> None:
        """Works out the classes that no kind carries by interpolation though some corner is carried, the grid's step
        being too coarse for them. Where these are many, some of them, and the others carry what a longer one does."""
        some = [
            i for i in np.flatnonzero(~(cells > 0).any(axis=1)).tolist()
            if (corners[low[0][i], low[1][i]] > 0).any()
        ]  # fmt: skip
        others = some
        some = some[:: max(len(some) // DIRECT, 1)] if len(some) > 4 * DIRECT else some
        index = {key.key: i for i, key in enumerate(keys)}
        if not some:
            return
        found, rows = self._worked_out(np.stack([isl[some], osl[some]], axis=1))
        mine = [k for k, each in enumerate(found) if each.key in index]
        cells[np.ix_(some, [index[found[k].key] for k in mine])] = rows[:, mine]
        known, worked = np.array(some, np.int64), cells[some]
        for i in np.setdiff1d(others, known).tolist():
            longer = (isl[known] >= isl[i]) & (osl[known] >= osl[i])
            cells[i] = worked[longer].max(axis=0, initial=0.0)

    # -------------------------------------------------------------- classes that are not served

    def _why(self, classes: Sequence[LengthClass], cells: Floats) -> dict[tuple[float, float], Unserved]:
        """Of a few classes that nothing carries, the longest among them: memory or the SLO, and what would serve
        them."""
        lost = [classes[i] for i in np.flatnonzero(~(cells > 0).any(axis=1)).tolist()]
        return {(each.isl, each.osl): self._unserved(each) for each in _some(lost)}

    def _unserved(self, each: LengthClass) -> Unserved:
        searches = self._searches(each.isl, each.osl, None)
        slo = searches[0].job.slo if searches else Slo()
        return unserved(searches, slo, self._request.confidence)


def _some(classes: Sequence[LengthClass]) -> list[LengthClass]:
    """The first of ``classes``, the longest prompts and outputs, and a few between."""
    if len(classes) <= EXPLAINED:
        return list(classes)
    kept = [classes[0], max(classes, key=lambda each: (each.isl, each.osl)), max(classes, key=lambda each: each.osl)]
    return list({id(each): each for each in (*kept, *classes[:: len(classes) // (EXPLAINED - 3)])}.values())


def _axis(lengths: Floats, points: int) -> Floats:
    low, high = float(lengths.min()), float(lengths.max())
    if high <= low * 1.02:
        return np.array([round((low * high) ** 0.5)], np.float64)
    return np.unique(np.rint(np.geomspace(max(low, 1.0), high, min(points, max(int(high - low), 2)))))


def _between(axis: Floats, lengths: Floats) -> tuple[Ints, Floats]:
    """(index of the point below, how far each length is to the next, 0 to 1)."""
    if len(axis) == 1:
        return np.zeros(len(lengths), np.int64), np.zeros(len(lengths))
    inside = np.clip(lengths, axis[0], axis[-1])
    low = np.clip(np.searchsorted(axis, inside, side="right") - 1, 0, len(axis) - 2)
    part = (inside - axis[low]) / (axis[low + 1] - axis[low])
    return low, np.clip(part, 0.0, 1.0)


__all__ = ["Capacities", "ModelEngine", "Unsupported", "service_request"]
