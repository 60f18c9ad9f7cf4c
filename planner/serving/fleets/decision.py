"""From a fleet's request to its answer: who carries what, in which step, and how it is known.

Loads become classes and steps, classes become the groups that a gateway can tell apart, engines of every kind get what
they carry of each class, and :func:`planner.solving.mix.solve.solve_mix` chooses how many of which run when.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from costmodels.estimates import Floats
from planner.contract.clusters import SuppliedCluster
from planner.contract.engine import Role
from planner.contract.fleet import NotServed, RouteBy, SurviveAsked
from planner.contract.workload.classes import LengthClass, SteppedLoad, understood
from planner.serving.fleets.coarsening import coarsened
from planner.serving.fleets.current import running_now
from planner.serving.fleets.edges import at_the_edge
from planner.serving.fleets.engines import EngineKind, cluster_of, table_engines
from planner.serving.fleets.groups import (
    Capacity,
    RoutedGroup,
    SharedStep,
    distinct,
    routed_groups,
    shared_steps,
    work_of,
)
from planner.serving.fleets.nearest import Unserved, most_of
from planner.serving.fleets.request import FleetRequest, ServiceAsked, nodes_of
from planner.serving.fleets.supplies import Offer, blocks_of, offers_of, places_of, reserved_usd_per_hour, rows_of
from planner.serving.fleets.variants import Chosen, Variant, priced, shunned
from planner.serving.fleets.ways_out import OF_TIME, not_mended, why_not
from planner.solving.mix.clock import Deadline
from planner.solving.mix.question import MixQuestion, Survive
from planner.solving.mix.solve import MixAnswer, mended_mix, solve_mix
from profiles.errors import Infeasible, InputError, LimitReached
from profiles.values import shown

Progress = Callable[[str], None]

GAP = 1e-6
"""Relative, at which a fleet is good enough and the search ends."""

TOGETHER: tuple[Role, ...] = ("aggregated",)
APART: tuple[Role, ...] = ("prefill", "decode")
"""Roles of the engines that a request sees."""

LARGE = 2000
"""Groups × steps above which ``GAP_OF_LARGE`` is."""

GAP_OF_LARGE = 2e-3


@dataclass(frozen=True)
class ServiceLoad:
    """A service and what it has to carry: ``classes`` each once, and of every step their rates (classes,), zero where a
    class does not come. ``engines``: kinds of engine that may serve it, with what they carry of each class."""

    asked: ServiceAsked
    load: SteppedLoad
    classes: tuple[LengthClass, ...]
    rates: tuple[Floats, ...]
    engines: tuple[EngineKind, ...]
    capacity: Floats  # (classes, engines), requests per second; 0: not at all
    strict: Floats | None = None  # the same where every class keeps the promise by itself; None: no other
    counted: Floats | None = None  # (steps, engines), share of it that is counted on in each step; None: all, in all

    def carried(self, t: int) -> Floats:
        """What is counted on in a step, (classes, engines)."""
        return self.capacity if self.counted is None else self.capacity * self.counted[t]

    @property
    def apart(self) -> bool:
        """Whether its requests are prefilled by other engines than decode them."""
        return any(engine.role != "aggregated" for engine in self.engines)


@dataclass(frozen=True)
class Fleet:
    """Everything that was asked, and what may run for it."""

    request: FleetRequest
    cluster: SuppliedCluster
    offers: tuple[Offer, ...]
    services: tuple[ServiceLoad, ...]
    steps: tuple[SharedStep, ...]
    chosen: Chosen
    before: tuple[int, ...] | None = None
    coarsening: float | None = None


@dataclass(frozen=True)
class Answered:
    """The fleet that was found: ``groups`` of each step, in the order of the answer's shares."""

    fleet: Fleet
    question: MixQuestion
    groups: tuple[tuple[RoutedGroup, ...], ...]
    answer: MixAnswer
    not_served: tuple[NotServed, ...] = ()


def loads_of(request: FleetRequest) -> list[SteppedLoad]:
    """The loads as they are understood. Raises InputError as :func:`planner.contract.workload.classes.understood`."""
    return [
        understood(service.load, f"services {shown(service.name)}: load", service.prefix_hit)
        for service in request.services
    ]


def variants_of(
    offers: Sequence[Offer],
    services: Sequence[ServiceLoad],
    objective: str,
    *,
    given_cluster: bool,
    usd_per_kwh: float | None = None,
) -> Chosen:
    """Every kind of engine on every supply of its pool."""
    variants: list[Variant] = []
    usd: list[float | None] = []
    watts: list[float] = []
    for s, service in enumerate(services):
        for e, engine in enumerate(service.engines):
            if not service.capacity[:, e].any():
                continue
            for o, offer in enumerate(offers):
                if offer.pool_index != engine.pool_index:
                    continue
                if engine.gpus > offer.most:
                    continue
                variants.append(Variant(s, e, o, engine.gpus))
                watts.append(engine.watts or 0.0)
                own = engine.usd_per_hour
                plain = offer.supply == "on_demand" and (not given_cluster or offer.usd_per_gpu_hour is None)
                usd.append(own if own is not None and plain else None)
    return priced(offers, variants, objective, usd, np.array(watts, np.float64), usd_per_kwh)


def question_of(
    fleet: Fleet, route_by: RouteBy, survive: SurviveAsked, *, kinds: Sequence[int] | None = None
) -> tuple[MixQuestion, tuple[tuple[RoutedGroup, ...], ...], tuple[NotServed, ...]]:
    """The programme's question, the groups of each step, and what cannot be served.

    Args:
        kinds: variants that are allowed; None: all.
    """
    request, chosen = fleet.request, fleet.chosen
    n = len(chosen.variants)
    works, groups, lost = [], [], {}
    more = 1 + (request.headroom or 0.0)
    capacity: Capacity = {}
    alike = all(service.counted is None for service in fleet.services)
    for t in range(len(fleet.steps)):
        capacity = capacity if alike and capacity else _capacity(fleet, t, kinds)
        found: list[RoutedGroup] = []
        for s, service in enumerate(fleet.services):
            present = np.flatnonzero(service.rates[t] > 0)
            mine = routed_groups(s, [service.classes[i] for i in present.tolist()], route_by)
            for role in APART if service.apart else TOGETHER:
                found += [
                    replace(group, classes=tuple(int(present[i]) for i in group.classes), role=role) for group in mine
                ]
        served, refused = _servable(fleet, found, capacity, t)
        lost.update(refused)
        rates = [service.rates[t] * more for service in fleet.services]
        works.append(work_of(served, rates, capacity) if served else np.zeros((0, n)))
        groups.append(tuple(served))
    offer = np.array([variant.offer for variant in chosen.variants], np.int64)
    gpus = np.array([variant.gpus for variant in chosen.variants], np.int64)
    seconds = np.array([step.end_s - step.start_s for step in fleet.steps])
    for pool in fleet.cluster.pools:
        if pool.min_up_s > float(seconds.sum()):
            raise InputError(
                f"pool {pool.name}: min_up_s {pool.min_up_s:g} is longer than the {seconds.sum():g} s of the schedule",
                "give a shorter one, or a longer load",
            )
    fixed = reserved_usd_per_hour(fleet.offers) if request.objective == "cost" else 0.0
    cyclic = len(fleet.steps) > 1 and fleet.before is None and abs(float(seconds.sum()) % 86_400.0) < 1e-6
    question = MixQuestion(
        chosen.kinds(),
        works,
        seconds,
        [
            *blocks_of(fleet.offers, offer, gpus, request.objective),
            *rows_of(request.rows, fleet.offers, offer, gpus, chosen.watts),
        ],
        Survive(survive.engines, survive.nodes, survive.spot_pools, survive.zones, survive.share),
        cyclic=cyclic,
        before=None if fleet.before is None else np.array(fleet.before, np.int64),
        most_changes=request.max_changes,
        budget=request.budget_usd_per_hour if request.objective == "cost" else None,
        fixed_cost=fixed,
        shunned=shunned(fleet.offers, chosen.variants, chosen.usd_per_hour),
        places=places_of(fleet.offers, offer),
    )
    return question, tuple(groups), tuple(lost.values())


def _capacity(fleet: Fleet, t: int, kinds: Sequence[int] | None) -> Capacity:
    """What ``kinds`` of variants are counted on for in a step."""
    variants, capacity = fleet.chosen.variants, {}
    for s, service in enumerate(fleet.services):
        carried = service.carried(t)
        for role in APART if service.apart else TOGETHER:
            cells = np.zeros((len(service.classes), len(variants)))
            for v, variant in enumerate(variants):
                allowed = variant.service == s and service.engines[variant.engine].role == role
                if allowed and (kinds is None or v in kinds):
                    cells[:, v] = carried[:, variant.engine]
            capacity[s, role] = cells
    return capacity


def _servable(
    fleet: Fleet, groups: Sequence[RoutedGroup], capacity: Capacity, t: int
) -> tuple[list[RoutedGroup], dict[tuple[int, int], NotServed]]:
    """(groups that some kind serves, classes that none does: left out of their groups where the request says so).

    Raises:
        Infeasible: a class or a group that nothing serves, where the rest is not to be served alone.
    """
    served: list[RoutedGroup] = []
    refused: dict[tuple[int, int], NotServed] = {}
    reasons: dict[str, list[Unserved]] = {}
    for group in groups:
        service = fleet.services[group.service]
        cells = capacity[group.service, group.role]
        roles = [capacity[group.service, role] for role in (APART if service.apart else TOGETHER)]
        rest = [i for i in group.classes if all((each[i] > 0).any() for each in roles)]
        alone = [i for i in group.classes if i not in rest]
        for i in alone:
            each = service.classes[i]
            said = service_reason(service, each)
            reasons.setdefault(service.asked.name, []).append(said)
            refused[group.service, i] = NotServed(
                service=service.asked.name, isl=each.isl, osl=each.osl, rate_rps=float(service.rates[t][i]),
                reason=said.why, remedy=said.remedy,
            )  # fmt: skip
        if rest and not (cells[rest] > 0).all(axis=0).any():
            raise Infeasible(
                f"services {shown(service.asked.name)}: no engine serves all requests with prompts of "
                f"{group.isl[0]:g} to {group.isl[1]:g} tokens, and the gateway cannot tell them apart",
                "route by isl,osl, or offer GPUs that serve every output length",
                binding="routing",
            )
        if rest:
            served.append(replace(group, classes=tuple(rest)))
    if refused and not fleet.request.serve_rest:
        first = next(iter(refused.values()))
        others = f" (and {len(refused) - 1} more classes)" if len(refused) > 1 else ""
        raise Infeasible(
            f"services {shown(first.service)}: nothing serves requests of isl {first.isl:.6g}, osl "
            f"{first.osl:.6g}{others}: "
            f"{first.reason}",
            f"{first.remedy}; --serve-rest leaves them out and serves the others",
            binding="class",
            relax_ms={name: most_of(mine) for name, mine in reasons.items()},
        )
    if not served:
        raise Infeasible(
            "fleet: nothing serves any of the requests", "offer other GPUs, or relax the SLO", binding="class"
        )
    return served, refused


def service_reason(service: ServiceLoad, each: LengthClass) -> Unserved:
    """Why nothing serves a class, and what would."""
    for engine in service.engines:
        said = engine.reason(each)
        if said is not None:
            return said
    return Unserved("no layout keeps the SLO with it", "relax the SLO, or offer GPUs with more memory or bandwidth")


def solved(
    fleet: Fleet,
    *,
    route_by: RouteBy | None = None,
    survive: SurviveAsked | None = None,
    kinds: Sequence[int] | None = None,
    seconds: float | None = None,
    like: Answered | None = None,
    brief: bool = False,
    progress: Progress | None = None,
) -> Answered:
    """The best fleet, or the best without one of its demands, in ``seconds`` (None: the request's). ``like``: one that
    was found for much the same question, whose prices are a beginning. ``brief``: where there is none, without looking
    for ways out.

    Raises:
        Infeasible: there is none; with what binds and what would work.
        LimitReached: none was found in time.
    """
    request = fleet.request
    deadline = Deadline(request.time_limit_s if seconds is None else seconds)
    if deadline.left <= 0:
        raise LimitReached("fleet: the time limit left no time to look for it", OF_TIME)
    question, groups, refused = question_of(
        fleet, route_by or request.route_by, survive or request.survive, kinds=kinds
    )
    size = sum(len(each) for each in groups)
    gap = GAP_OF_LARGE if len(fleet.steps) > 1 and size * len(fleet.chosen.variants) > LARGE else GAP
    prices, near = ((), None) if like is None else (like.answer.prices, like.answer.engines)
    if near is not None and kinds is not None:
        near = np.where(np.isin(np.arange(near.shape[1]), kinds), near, 0)
    # Engines of one role are simulated with less certainty than others: kinds of them are all looked at.
    alike = any(service.apart for service in fleet.services)
    answer = solve_mix(
        question, seconds=deadline.left, gap=gap, progress=progress, prices=prices, near=near, every_kind=alike
    )
    if answer.status == "time_limit":
        raise LimitReached(
            f"fleet: no fleet was found in the {deadline.seconds:.3g} s that the time limit leaves for it", OF_TIME
        )
    if answer.engines is None:
        raise why_not(question, deadline, brief=brief)
    return Answered(fleet, question, groups, answer, refused)


def mended(fleet: Fleet, like: Answered, seconds: float) -> Answered:
    """``fleet`` with the engines of ``like``, and more of them where they do not carry it.

    Raises:
        LimitReached: there was no time for it.
        Infeasible: there was no supply for it, whose name is said to bind.
    """
    question, groups, refused = question_of(fleet, fleet.request.route_by, fleet.request.survive)
    assert like.answer.engines is not None
    deadline = Deadline(seconds)
    answer = mended_mix(question, like.answer.engines, like.answer.prices, seconds=seconds)
    if answer.engines is None:
        raise not_mended(question, like.answer.engines, deadline)
    return Answered(fleet, question, groups, answer, refused)


Engines = Callable[[ServiceAsked, tuple[LengthClass, ...], SuppliedCluster], Any]
"""Of a service with a model: (kinds of engine, capacity (classes, kinds))."""


def _carried(
    request: FleetRequest,
    asked: ServiceAsked,
    cluster: SuppliedCluster,
    engines: Engines,
    classes: tuple[LengthClass, ...],
) -> tuple[Sequence[EngineKind], Floats]:
    """(kinds of engine that may serve ``classes``, what they carry of each, (classes, kinds))."""
    if asked.model is not None:
        found: tuple[Sequence[EngineKind], Floats] = engines(asked, classes, cluster)
        return found
    kinds, tables = table_engines(request, asked, cluster)
    isl, osl = (np.array([getattr(each, name) for each in classes]) for name in ("isl", "osl"))
    return kinds, np.stack([table.capacity_rps(isl, osl) for table in tables], axis=1)


Beyond = Callable[[ServiceAsked, Floats, float, Sequence[EngineKind]], Floats]
"""Of a service with a model: as :data:`planner.serving.fleets.edges.Beyond`."""


def fleet_of(request: FleetRequest, engines: Engines, beyond: Beyond | None = None) -> Fleet:
    """What is asked and what engines carry, loads as coarse as the tolerance allows; nothing of it is chosen from yet
    (:mod:`planner.serving.fleets.ways`). ``beyond``: what they carry within longer promises; None: nobody knows."""
    cluster, coarse = cluster_of(request), []
    for asked, load in zip(request.services, loads_of(request), strict=True):
        carried = partial(_carried, request, asked, cluster, engines)
        coarse.append(coarsened(load, asked.load.coarsen_to, request.tolerance, carried))
    loads = [each.load for each in coarse]
    names = [service.name for service in request.services]
    steps = shared_steps(names, loads)
    services = []
    for s, (asked, load) in enumerate(zip(request.services, loads, strict=True)):
        classes, rates = distinct(load, steps, s)
        kinds, strict = tuple(coarse[s].kinds), coarse[s].capacity(classes)
        capacity = strict
        if beyond is not None and asked.promise == "all":
            capacity = at_the_edge(classes, rates, asked.slo, strict, kinds, partial(beyond, asked))
        services.append(ServiceLoad(asked, load, classes, tuple(rates), kinds, capacity, strict))
    offers = offers_of(cluster)
    change = max([each.change for each in coarse if each.change is not None], default=None)
    nothing = priced(offers, (), request.objective, (), np.zeros(0), None)
    return Fleet(request, cluster, tuple(offers), tuple(services), tuple(steps), nothing, coarsening=change)


def with_engines(fleet: Fleet, services: Sequence[ServiceLoad]) -> Fleet:
    """``fleet`` of the engines that ``services`` have, on every supply.

    Raises:
        Infeasible: none of them fits and carries anything.
        InputError: what runs now names pools or services that are not asked for.
    """
    request = fleet.request
    lost = request.survive.nodes
    if lost and lost == nodes_of(fleet.cluster.pools):
        raise Infeasible(
            f"survive: nodes {lost}: the pools have no more, and nothing is left after that loss",
            "offer more nodes, or survive fewer",
            binding="survive",
        )
    chosen = variants_of(
        fleet.offers,
        services,
        request.objective,
        given_cluster=request.cluster is not None,
        usd_per_kwh=request.usd_per_kwh,
    )
    if not chosen.variants:
        service = services[0]
        if (short := _smallest_beyond_quota(fleet, services)) is not None:
            raise Infeasible(*short, binding="quota")
        said = service_reason(service, service.classes[0])
        raise Infeasible(
            f"fleet: no engine of any service fits the pools and carries anything; of {shown(service.asked.name)}, isl "
            f"{service.classes[0].isl:.6g}, osl {service.classes[0].osl:.6g}: {said.why}",
            said.remedy,
            binding="class",
        )
    before = None
    if request.current is not None:
        engines = {service.asked.name: service.engines for service in services}
        before = running_now(chosen, engines, [pool.name for pool in fleet.cluster.pools], request.current)
    return replace(fleet, services=tuple(services), chosen=chosen, before=before)


def _smallest_beyond_quota(fleet: Fleet, services: Sequence[ServiceLoad]) -> tuple[str, str] | None:
    """(what, the way out) where a quota alone leaves no engine: the pool whose smallest engine lacks least."""
    short = []
    for offer in fleet.offers:
        sizes = [
            engine.gpus for service in services for e, engine in enumerate(service.engines)
            if engine.pool_index == offer.pool_index and service.capacity[:, e].any()
            and (offer.limit is None or engine.gpus <= offer.limit)
        ]  # fmt: skip
        if sizes and min(sizes) > offer.most:
            short.append((min(sizes) - offer.most, min(sizes), offer))
    if not short:
        return None
    _, size, offer = min(short, key=lambda each: each[0])
    return (
        f"pool {offer.pool.name}: quota_gpus {offer.pool.quota_gpus} is less than the {size} GPUs of the "
        "smallest engine that carries anything",
        f"have a quota of {size} GPUs or more",
    )
