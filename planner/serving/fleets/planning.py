"""The whole job of a fleet: request → loads → engines → mix → plan document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from costmodels.estimates import Floats
from costmodels.models.architecture import Architecture
from costmodels.operations.registry import families
from costmodels.serving.simulator.events import load_loop
from planner.contract.clusters import SuppliedCluster
from planner.contract.engine import Limits
from planner.contract.progress import Step, part, silent
from planner.contract.provenance import Provenance, provenance_fields, unmeasured
from planner.contract.published import validated
from planner.contract.workload.classes import LengthClass
from planner.contract.workload.workload import Workload
from planner.serving.document.plan import Plan, parse_plan
from planner.serving.fleets.capacities import Capacities, service_request
from planner.serving.fleets.comparisons import Comparisons, compare
from planner.serving.fleets.confirming import Confirming, Key, Loaded, Settled, joined
from planner.serving.fleets.counted import counted_for_less
from planner.serving.fleets.decision import Answered, Fleet, fleet_of, solved
from planner.serving.fleets.described import TableDescribed
from planner.serving.fleets.edges import words_of_edges
from planner.serving.fleets.engines import unmatched
from planner.serving.fleets.every_step import EveryStep, StepsTold
from planner.serving.fleets.losing import after_worst_loss, limits_of_all, short_after_loss, started
from planner.serving.fleets.modelled import ModelDescribed
from planner.serving.fleets.nearest import (
    Fails,
    with_tried_budget,
    with_tried_limits,
    with_tried_share,
    with_tried_supplies,
)
from planner.serving.fleets.report import document
from planner.serving.fleets.request import FleetRequest, ServiceAsked, parse_fleet_request
from planner.serving.fleets.single import as_fleet, one_load
from planner.serving.fleets.tails import busiest, rates_on
from planner.serving.fleets.ways import aggregated_alone, apart, least_cost
from planner.serving.fleets.ways_out import least_budget
from planner.serving.planning import CostOf, cost_models, plan
from planner.solving.mix.clock import Deadline
from profiles.descriptions import catalogue_with
from profiles.errors import Infeasible, LimitReached, ShardwrightError, Unsupported
from profiles.store import ProfileStore

Progress = Callable[[str], None]

Again = Callable[[Settled, Mapping[Key, float], set[Key]], Settled]
"""The next fleet after one, some of whose kinds carry but a part of what they were counted on for; of all kinds that
were lowered so far none is raised."""

TIE = 0.005
"""Relative, by which engines that prefill apart from engines that decode must be cheaper to be worth it."""

TO_CHOOSE = 2 / 3
"""Of the time, for the fleet itself; what is left then is for what it is compared with."""

NOT_AFTER_LOSS = (
    "the time limit ended the search before a fleet was found that surely keeps the promise after the worst loss: "
    "by formulas it carries the load then (holds_after_loss: what its simulation says)"
)

ONE_WAY_ALONE = (
    "the time limit ended the search before it was told whether prefill and decode {way} are cheaper: "
    "raise --time-limit"
)

OF_BUSIEST = 0.4
"""Of the time for the fleet of a day, for one whose engines hold in their busiest steps; the rest is for all others."""

MOST_MENDED = 6
"""Times that a fleet is looked for anew because its engines miss the promise after the worst loss."""

CARRIED, CONFIRMED = 60.0, 90.0
"""Percent of a fleet's work that is done when it is known what engines carry, and when they are simulated."""


def plan_fleet(
    request: FleetRequest | Mapping[str, Any],
    *,
    measured: Sequence[ProfileStore] = (),
    progress: Progress | None = None,
) -> Plan:
    """The fleet that serves every service's load at least cost, with its schedule, its routing and its proof.

    Raises:
        InputError, UnknownName, Unsupported: the request cannot be understood or modelled.
        Infeasible: nothing serves it; names what binds and the nearest thing that works.
        LimitReached: the time limit passed without any fleet.
    """
    catalogue = catalogue_with(each.path for each in measured)
    if not isinstance(request, FleetRequest):
        request = parse_fleet_request(request, catalogue)
    tell = progress or silent
    modelled = [service.model is not None for service in request.services]
    if not any(modelled):
        fleet = aggregated_alone(fleet_of(request, _no_engines))
        deadline = Deadline(request.time_limit_s)
        tell("choosing engines")
        found = solved(fleet, seconds=TO_CHOOSE * deadline.left, progress=progress)
        tell("comparing with other fleets")
        comparisons = compare(found, deadline)
        return validated(
            document(
                found,
                TableDescribed(),
                comparisons,
                _of_tables((*unmatched(request, fleet.cluster), *comparisons.notes)),
            ),
            parse_plan,
        )
    alone = one_load(request)
    if alone is not None:
        tell("one service, one class, one step: as plan does")
        return as_fleet(plan(alone, measured=measured, progress=progress), request)
    if not all(modelled):
        raise Unsupported(
            "services: some have a model and others measured tables, which are not planned together",
            "plan them apart, or give all of them tables",
        )
    modelling = _Modelled(request, measured, tell)
    try:
        return modelling.plan()
    except Infeasible as error:
        tried = _StandIns(measured, tell, modelling.deadline or Deadline(request.time_limit_s))
        if error.details.get("binding") == "budget":
            raise with_tried_budget(request, error, tried.costs) from None
        if error.details.get("have"):
            error = with_tried_supplies(request, error, tried.fails("the supplies"), tried.deadline)
        if error.details.get("binding") == "survive":
            raise with_tried_share(request, error, tried.fails("the part of the load"), tried.deadline) from None
        raise with_tried_limits(request, error, tried.fails("the promise"), tried.deadline) from None


@dataclass(frozen=True)
class _StandIns:
    """Requests that stand for a refused one, in what is left of its time."""

    measured: Sequence[ProfileStore]
    tell: Progress
    deadline: Deadline

    def _found(self, what: str, request: FleetRequest) -> Answered:
        """Raises ShardwrightError where a request has no fleet either."""
        self.tell(f"trying what {what} could be")
        return _Modelled(request, self.measured, lambda _: None, self.deadline).decided().settled.found

    def costs(self, request: FleetRequest) -> float:
        """The budget that a request's fleet keeps to. Raises ShardwrightError where it has none."""
        found = self._found("the budget", request)
        assert found.answer.engines is not None
        return least_budget(found.question, found.answer.engines)

    def fails(self, what: str) -> Fails:
        """Why a request has no fleet, said to be one of ``what`` could be; None: it has one."""

        def why(request: FleetRequest) -> ShardwrightError | None:
            try:
                self._found(what, request)
            except ShardwrightError as error:
                return error
            return None

        return why


@dataclass(frozen=True)
class DecidedFleet:
    """The fleet that holds; ``other``: the one that was found beside it, prefill and decode apart or not."""

    fleet: Fleet
    settled: Settled
    confirming: Confirming
    every: EveryStep
    models: dict[int, Architecture]
    other: Answered | None


class _Modelled:
    """A fleet of modelled engines. ``deadline``: of everything that is searched for; None: the request's time, from
    when it is known what engines carry."""

    def __init__(
        self, request: FleetRequest, measured: Sequence[ProfileStore], tell: Progress, deadline: Deadline | None = None
    ) -> None:
        self._request, self._measured, self._tell, self.deadline = request, measured, tell, deadline
        self._limits: tuple[Answered, dict[int, Limits]] | None = None  # of the fleet that was asked about last
        self._capacities: dict[str, Capacities] = {}
        self._costs: dict[str, CostOf] = {}

    def decided(self) -> DecidedFleet:
        """The fleet that holds, before anything else is said of it."""
        # That others make up for a class which misses the promise is believed where it is simulated.
        asked = fleet_of(self._request, self._engines, self._beyond if self._request.simulation else None)
        if self._request.simulation:
            load_loop()
        self.deadline = self.deadline or Deadline(self._request.time_limit_s)
        choosing = self.deadline.part(TO_CHOOSE)
        names = [service.name for service in self._request.services]
        models = {s: self._capacities[name].model for s, name in enumerate(names)}
        costs = {s: self._costs[name] for s, name in enumerate(names)}
        confirming = Confirming(costs, models, part(self._tell, CARRIED, CONFIRMED))
        self._tell(Step("choosing engines", CARRIED))
        best: tuple[Fleet, Settled, EveryStep] | None = None
        other: Answered | None = None
        refused: dict[str, Infeasible | LimitReached] = {}
        for way in (aggregated_alone, apart):
            if self._request.disaggregation == ("always" if way is aggregated_alone else "never"):
                continue
            try:
                fleet = way(asked)
                if fleet is None or (best is not None and not _may_be_better(fleet, best[1].found, choosing)):
                    continue
                every = EveryStep(confirming, self._tell)
                settled = self._settled(fleet, every, choosing)
            except (Infeasible, LimitReached) as error:
                refused["apart" if way is apart else "together"] = error
                continue
            if best is None or is_better(settled.found, best[1].found):
                other = None if best is None else best[1].found
                best = fleet, settled, every
            else:
                other = settled.found
        if best is None:
            raise _refused(refused)
        fleet, settled, every = best
        untold = [ONE_WAY_ALONE.format(way=way) for way, why in refused.items() if isinstance(why, LimitReached)]
        settled = replace(settled, notes=(*settled.notes, *untold))
        return DecidedFleet(fleet, settled, confirming, every, models, other)

    def _settled(self, fleet: Fleet, every: EveryStep, deadline: Deadline) -> Settled:
        """The fleet that holds, where it is simulated: in each step, also after the worst loss."""
        confirming = every.confirming
        if not self._request.simulation:
            found = solved(fleet, seconds=deadline.left)
            return Settled(found, _unchecked(confirming, found), {}, ())
        if len(fleet.steps) == 1:
            counted = fleet

            def again(before: Settled, short: Mapping[Key, float], mended: set[Key]) -> Settled:
                nonlocal counted
                less = {key: by * before.factor.get(key, 1.0) for key, by in short.items()}
                counted = counted_for_less(counted, less)
                return confirming.settled(counted, deadline, at_most=mended, like=before.found)

            return self._after_losses(confirming.settled(fleet, deadline), confirming, deadline, again)

        def again_in_every_step(before: Settled, short: Mapping[Key, float], mended: set[Key]) -> Settled:
            less = counted_for_less(before.found.fleet, short)
            found = solved(less, like=before.found, seconds=deadline.left / 2)
            return every.settled(replace(before, found=found), deadline, mended)

        settled = every.settled(confirming.settled(fleet, deadline.part(OF_BUSIEST)), deadline)
        return self._after_losses(settled, confirming, deadline, again_in_every_step)

    def _after_losses(self, settled: Settled, confirming: Confirming, deadline: Deadline, again: Again) -> Settled:
        """A fleet that also holds in simulations of what is left after the worst loss: where ``settled`` does not,
        kinds of engine that miss their promise are counted on for less, as far as fleets are found ``again``."""
        mended = set[Key]()
        for _ in range(MOST_MENDED if settled.found.question.survive.any else 0):
            if deadline.left <= 0:
                return replace(settled, notes=(*settled.notes, NOT_AFTER_LOSS))
            limits = self._limits_of(settled.found, settled.engines, confirming)
            short = short_after_loss(settled.found, confirming, limits)
            if not short:
                break
            self._tell("an engine more for the worst loss")
            mended |= short.keys()
            try:
                settled = again(settled, short, mended)
            except Infeasible:
                break
            except LimitReached:
                return replace(settled, notes=(*settled.notes, NOT_AFTER_LOSS))
        return settled

    def _limits_of(
        self, found: Answered, engines: Mapping[int, Loaded], confirming: Confirming
    ) -> Mapping[int, Limits]:
        """What the kinds that run are started with, by variant."""
        if self._limits is None or self._limits[0] is not found:
            every = {**engines, **confirming.standing_by(found, engines)}
            self._limits = found, limits_of_all(found, confirming, every)
        return self._limits[1]

    def plan(self) -> Plan:
        decided = self.decided()
        fleet, settled, confirming, models = decided.fleet, decided.settled, decided.confirming, decided.models
        found = settled.found
        checked = self._request.simulation
        engines = dict(settled.engines)
        limits = self._limits_of(found, engines, confirming)
        engines = started(found, engines, limits)
        engines = confirming.with_checks(engines) if checked else engines
        engines = {**engines, **started(found, confirming.standing_by(found, engines), limits, engines)}
        assert self.deadline is not None
        beside = decided.every.told(found, self.deadline, engines) if checked and len(fleet.steps) > 1 else StepsTold()
        settled = replace(settled, notes=(*settled.notes, *beside.notes))
        self._tell(Step("comparing with other fleets", CONFIRMED))
        comparisons = compare(found, self.deadline, confirming.without_tails(settled), decided.other)
        after = after_worst_loss(found, confirming, limits) if self._request.simulation else None
        settled = replace(settled, notes=(*settled.notes, *comparisons.notes))
        described = ModelDescribed(settled, engines, models, after, beside)
        return validated(
            document(found, described, self._counted(comparisons), self._provenance(fleet, settled, models)), parse_plan
        )

    def _engines(
        self, asked: ServiceAsked, classes: tuple[LengthClass, ...], cluster: SuppliedCluster
    ) -> tuple[Any, Floats]:
        some = Workload(isl=max(round(classes[0].isl), 1), osl=max(round(classes[0].osl), 1), rate_rps=1.0)
        catalogue = catalogue_with(each.path for each in self._measured)
        cost = cost_models(
            service_request(self._request, asked, cluster, some), catalogue, None, self._measured, self._tell
        )
        many = "1 class" if len(classes) == 1 else f"{len(classes):,} classes"
        done, each = len(self._capacities), CARRIED / len(self._request.services)
        tell = part(self._tell, done * each, (done + 1) * each)
        tell(Step(f"{asked.name}: what engines carry of {many}", 0))
        capacities = Capacities(self._request, asked, cluster, cost, tell)
        families().require_measured_widths(capacities.model)
        self._capacities[asked.name], self._costs[asked.name] = capacities, cost
        return capacities.of(classes)

    def _beyond(self, asked: ServiceAsked, points: Floats, times: float, kinds: Sequence[Any]) -> Floats:
        return self._capacities[asked.name].beyond(points, times, kinds)

    def _counted(self, comparisons: Comparisons) -> Comparisons:
        searched = [sum(each) for each in zip(*(c.searched for c in self._capacities.values()), strict=True)]
        return replace(
            comparisons, considered=searched[0], legal=searched[1], points=searched[2], points_within=searched[3]
        )

    def _provenance(self, fleet: Fleet, settled: Settled, models: Mapping[int, Architecture]) -> Provenance:
        served = [each.group.job.served for each in settled.engines.values()]
        cost = served[0].cost
        gpus = {each.gpu.name for each in served}
        notes = [note for each in served for note in (*each.notes, *each.cost.notes)]
        notes += _of_edges(settled)
        prices = [
            f"price of {pool.name}: {pool.usd_per_gpu_hour:g} USD per GPU-hour, {pool.price_source}"
            for pool in fleet.cluster.pools
            if pool.usd_per_gpu_hour is not None and pool.price_source and pool.gpus and not pool.owned
        ]
        prices += [
            f"price of {pool.name} (spot): {pool.spot_usd_per_gpu_hour:g} USD per GPU-hour, {pool.spot_price_source}"
            for pool in fleet.cluster.pools
            if pool.spot_usd_per_gpu_hour is not None and pool.spot_price_source
        ]
        return Provenance(
            **provenance_fields(
                cost.store, self._measured, gpus, cost.version, list(dict.fromkeys((*settled.notes, *notes, *prices)))
            )
        )


def _refused(ways: Mapping[str, Infeasible | LimitReached]) -> Infeasible | LimitReached:
    """What is said where no way to serve was found, of prefill and decode together and apart: that time ended, where
    it ended the search of one, whatever is known of the other."""
    first, *others = ways.values()
    late = next((why for why in ways.values() if isinstance(why, LimitReached)), None)
    if late is None or not others or all(isinstance(why, LimitReached) for why in ways.values()):
        return first
    said = [f"prefill and decode {way}: {why.message.removeprefix('fleet: ')}" for way, why in ways.items()]
    return LimitReached(f"fleet: {'; '.join(said)}", late.hint)


def is_better(found: Answered, other: Answered) -> bool:
    """By more than nobody could tell: of equals the simpler stays."""
    mine, its = found.answer.objective, other.answer.objective
    return its is None or (mine is not None and mine < its * (1 - TIE))


def _may_be_better(fleet: Fleet, found: Answered, deadline: Deadline) -> bool:
    """Whether ``fleet`` has a way to be cheaper than one that was found: engines in parts and the formulas' word first,
    then whole engines. Raises LimitReached: no time was left to tell."""
    cost = found.answer.objective
    if cost is None or least_cost(fleet) + found.question.fixed_cost >= cost * (1 - TIE):
        return cost is None
    try:
        return is_better(solved(fleet, seconds=deadline.left / 2, brief=True), found)
    except Infeasible:
        return False


def _unchecked(confirming: Confirming, found: Answered) -> dict[int, Loaded]:
    """The kinds that run under their mixtures, not simulated."""
    engines, out = found.answer.engines, {}
    assert engines is not None
    for variant in range(engines.shape[1]):
        if engines[:, variant].any():
            t, used = busiest(found, variant)
            each = confirming.loaded(found, variant, t, used) if used > 0 else None
            if each is not None:
                out[variant] = each
    return joined(found, out)


def _of_edges(settled: Settled) -> list[str]:
    """What is told of classes that miss the promise by themselves."""
    found, out = settled.found, []
    for s, service in enumerate(found.fleet.services):
        strict = service.strict
        if strict is not None:
            sent = [
                (rates_on(found, each.variant, each.step), strict[:, variant.engine])
                for each in settled.engines.values()
                if (variant := found.fleet.chosen.variants[each.variant]).service == s
            ]
            out += words_of_edges(service.asked.name, service.classes, sent, service.asked.slo)
    return out


def _no_engines(*_: Any) -> Any:
    raise Unsupported("services: a model beside tables", "give all services models, or all tables")


def _of_tables(notes: Sequence[str]) -> Provenance:
    said = "engines are those of measured tables, which hold the promise that they were measured for"
    return unmeasured((said, *notes))
