"""``plan compare``: plans and deployments under one load, what each carries within the promises, and how sure the order
is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from costmodels.estimates import Ints
from costmodels.kernels.cost_model import CostModel
from costmodels.serving.simulator.outcome import Outcome
from costmodels.serving.simulator.step_table import End
from planner.compare.carrying import falls_behind
from planner.compare.contenders import Contender, Progress, contender, plan_instead
from planner.compare.document import Comparison, PromiseSeen, Side, parse_comparison
from planner.compare.order import ordered
from planner.compare.request import ComparisonRequest
from planner.compare.schedules import ComparedLoad
from planner.contract.deployment import DeploymentDocument
from planner.contract.fleet import ServiceUnderstood
from planner.contract.provenance import Provenance, provenance_fields, unmeasured
from planner.contract.published import validated
from planner.contract.quantities import Interval
from planner.contract.workload.slo import Bound, Metric, Slo
from planner.contract.workload.workload import Workload
from planner.replay.gateway import FleetOutcome, warm_up
from planner.replay.report import notes_of
from planner.serving.confirmation.simulated_engine import ENDS
from planner.serving.document.contradictions import check_plan
from planner.serving.document.opening import check_one_load, framework_of, model_of, running_of
from planner.serving.document.plan import Plan
from planner.serving.report.prediction import confidence
from profiles.descriptions import catalogue_with
from profiles.errors import InputError
from profiles.store import ProfileStore


def compare(
    request: ComparisonRequest, *, measured: Sequence[ProfileStore] = (), progress: Progress | None = None
) -> Comparison:
    """The documents of ``request`` side by side; one alone beside a new plan on the same GPUs.

    Raises:
        InputError: documents that contradict themselves, of several models, or a load that they are not for.
        Infeasible, LimitReached: of one document alone, where no plan keeps the promises on its GPUs.
    """
    documents, names = list(request.documents), list(request.called)
    if services := _several(documents):
        said = ", ".join(service.name for service in services)
        for name in ("workload", "slo"):
            if getattr(request, name) is not None:
                raise InputError(
                    f"{name}: has no effect on fleets of several services ({said}), which have their own",
                    "leave it out; the load is that of the first fleet",
                )
    work, slo = _asked(request)
    if len(documents) == 1:
        check_one_load(documents[0], "documents", "give two fleets, which are compared with each other")
        documents.append(plan_instead(documents[0], work, slo, measured, progress))
        names.append("a new plan")
    return compared(documents, names, work, slo, seed=request.seed, measured=measured, progress=progress)


def compared(
    documents: Sequence[Plan | DeploymentDocument],
    names: Sequence[str],
    work: Workload,
    slo: Slo,
    *,
    seed: int = 0,
    measured: Sequence[ProfileStore] = (),
    progress: Progress | None = None,
) -> Comparison:
    """The documents side by side. Arguments and errors as of :func:`compare`."""
    told = progress or (lambda _: None)
    models = {model if isinstance(model := model_of(each), str) else model.name for each in documents}
    if len(models) > 1:
        raise InputError(f"documents: are of several models: {', '.join(sorted(models))}", "compare those of one")
    catalogue = catalogue_with(store.path for store in measured)
    load = ComparedLoad(work, slo, seed, _several(documents))
    sides: list[Contender] = []
    costs: dict[tuple[str, str], CostModel] = {}
    for document, name in zip(documents, names, strict=True):
        told(f"replaying {name}")
        if document.was_edited and isinstance(document, Plan):
            check_plan(document)
        sides.append(contender(name, document, load, catalogue, measured, costs))
    carried = [None if side.fleet is None else side.fleet.carries() for side in sides]
    rates, told_load = _rates(work, sides, carried)
    price = next((p for each in documents if isinstance(each, Plan) and (p := each.request.usd_per_kwh)), None)
    shown = [_side(side, most, rate, price) for side, most, rate in zip(sides, carried, rates, strict=True)]
    comparison = Comparison(
        model=models.pop(),
        workload=work,
        slo=slo,
        load=told_load,
        sides=tuple(shown),
        order=tuple(ordered(sides, shown)),
        seed=seed,
        provenance=_provenance(sides),
    )
    return validated(comparison, parse_comparison)


def _several(documents: Sequence[Plan | DeploymentDocument]) -> tuple[ServiceUnderstood, ...]:
    """The services of the first fleet that has several."""
    fleets = (each.request.services for each in documents if isinstance(each, Plan))
    return next((services for services in fleets if len(services) > 1), ())


def _asked(request: ComparisonRequest) -> tuple[Workload, Slo]:
    """The load and the promises: as asked, else those of the first plan."""
    plan = next((each for each in request.documents if isinstance(each, Plan)), None)
    work, slo = request.workload, request.slo
    if work is None:
        assert plan is not None
        work = plan.request.workload
    if slo is None:
        slo = Slo() if plan is None else plan.request.slo
    return work, slo


def _rates(
    work: Workload, sides: Sequence[Contender], carried: Sequence[Interval | None]
) -> tuple[list[float | None], str]:
    """(requests per second that each is sent, in words how that came to be)."""
    if work.rate_rps is not None:
        unit = "request/s" if work.rate_rps == 1 else "requests/s"
        return [None if side.fleet is None else work.rate_rps for side in sides], f"{work.rate_rps:.4g} {unit}"
    if work.concurrency is not None:
        rates = [None if side.fleet is None else side.fleet.for_users(work.concurrency) for side in sides]
        return rates, f"{work.concurrency} users at once: each at the rate that has as many in flight"
    some = [
        (most.value, side.fleet)
        for side, most in zip(sides, carried, strict=True)
        if side.fleet is not None and most is not None and most.value > 0
    ]
    if not some:
        return [None if side.fleet is None else 1e-3 for side in sides], "hardly any load: none keeps the promises"
    most, weakest = min(some, key=lambda each: each[0])
    level = weakest.within(most)
    return [None if side.fleet is None else level for side in sides], (
        f"{level:.3g} requests/s, {level / most:.0%} of what the weakest carries"
    )


def _side(side: Contender, most: Interval | None, rate_rps: float | None, usd_per_kwh: float | None) -> Side:
    """``usd_per_kwh``: of electricity, as the first plan prices it; of all sides."""
    running = running_of(side.document)
    several = isinstance(side.document, Plan) and len(side.document.request.services) > 1
    words = tuple(
        f"{len(group.replicas)} x {group.layout.label} on {group.gpu}"
        + ("" if group.role == "aggregated" else f" ({group.role})")
        + (f" for {group.service}" if several else "")
        for group in running.engines
    )
    common = {
        "name": side.name,
        "kind": side.document.kind,
        "engines": words,
        "framework": framework_of(side.document),
        "gpus": running.gpus_used,
        "usd_per_hour": running.usd_per_hour,
        "starts": side.starts,
        "memory": side.memory,
        "problem": side.problem,
    }
    if side.fleet is None or most is None or rate_rps is None:
        nothing = dict.fromkeys(
            (
                *("rate_rps", "carries_rps", "ttft_ms", "tpot_ms", "e2e_ms", "output_tokens_per_s"),
                *("output_tokens_per_s_per_gpu", "usd_per_million_output_tokens", "joules_per_output_token"),
            )
        )
        return Side(**common, **nothing, keeps_up=False, keeps_promises=False, promises=())  # type: ignore[arg-type]
    fleets = side.fleet.at(rate_rps)
    keeps_up = not falls_behind(fleets["value"])
    rows = {end: _counted(fleets[end]) for end in ENDS}
    counted = {end: fleets[end].requests.take(rows[end]) for end in ENDS}
    promises = tuple(
        _promise(bound, mine, part.service)
        for part in side.fleet.parts(len(fleets["value"].requests))
        for mine in [{end: fleets[end].requests.take(np.intersect1d(part.rows, rows[end])) for end in ENDS}]
        for bound in part.slo.bounds
    )
    kept = keeps_up and all(each.holds is not False for each in promises)
    most = side.fleet.agreed(most, rate_rps, kept)
    work = side.fleet.running.workload
    output = most.times(float(work.mean_osl)) if most.value > 0 else None
    watts = side.fleet.watts(rate_rps, fleets)
    # What falls behind does not serve the rate: its tokens are not those of the load.
    joules = watts.times(1 / (rate_rps * work.mean_osl)) if keeps_up else None
    return Side(
        **common,  # type: ignore[arg-type]
        rate_rps=rate_rps,
        carries_rps=most,
        keeps_up=keeps_up,
        keeps_promises=kept,
        promises=promises,
        ttft_ms=_mean(counted, "ttft"),
        tpot_ms=_mean(counted, "tpot"),
        e2e_ms=_mean(counted, "e2e"),
        output_tokens_per_s=output,
        output_tokens_per_s_per_gpu=None if output is None else output.times(1 / running.gpus_used),
        usd_per_million_output_tokens=_usd_per_million(side.fleet.usd_per_hour, output, joules, usd_per_kwh),
        joules_per_output_token=joules,
    )


def _usd_per_million(
    usd_per_hour: float | None, output: Interval | None, joules: Interval | None, usd_per_kwh: float | None
) -> Interval | None:
    """Of tokens of ``output`` a second, with the electricity of their ``joules`` where that is priced."""
    if output is None or usd_per_hour is None:
        return None
    gpus = _over(usd_per_hour / 3600 * 1e6, output)
    if usd_per_kwh is None or gpus is None or joules is None:
        return gpus if usd_per_kwh is None else None
    paid = joules.times(usd_per_kwh / 3.6)
    return Interval(value=gpus.value + paid.value, low=gpus.low + paid.low, high=gpus.high + paid.high)


def _counted(fleet: FleetOutcome) -> Ints:
    """The requests that count; those of an engine that does not keep up all do, for want of a level to warm up to."""
    return np.arange(len(fleet.requests)) if falls_behind(fleet) else warm_up(fleet.requests)


def _promise(bound: Bound, outcomes: dict[End, Outcome], service: str | None) -> PromiseSeen:
    seen = _at(outcomes, bound.metric, bound.percentile / 100)
    served = outcomes["value"].served
    holds = None if not len(served) else bool(served.all()) and (seen is None or seen.value <= bound.limit_ms)
    return PromiseSeen(
        service=service,
        metric=bound.metric,
        percentile=bound.percentile,
        limit_ms=bound.limit_ms,
        seen_ms=seen,
        holds=holds,
        confidence=None if seen is None else confidence(seen, bound.limit_ms),
    )


def _mean(outcomes: dict[End, Outcome], metric: Metric) -> Interval | None:
    return _at(outcomes, metric, None)


def _at(outcomes: dict[End, Outcome], metric: Metric, p: float | None) -> Interval | None:
    """Mean (None) or percentile, ms; None where no request has the metric."""
    if not len(outcomes["value"].of(metric)):
        return None
    ms = {
        end: (each.mean_us(metric) if p is None else each.percentile_us(metric, p)) / 1e3
        for end, each in outcomes.items()
    }
    return Interval(value=ms["value"], low=min(ms.values()), high=max(ms.values()))


def _over(numerator: float, interval: Interval) -> Interval | None:
    """``numerator`` ÷ the interval; None where its low end is nothing."""
    if interval.low <= 0:
        return None
    return Interval(value=numerator / interval.value, low=numerator / interval.high, high=numerator / interval.low)


def _provenance(sides: Sequence[Contender]) -> Provenance:
    """Of the measurements that the sides were replayed with."""
    edited = [f"{side.name} was edited since it was made" for side in sides if side.document.was_edited]
    engines = [each for side in sides if side.fleet is not None for each in side.fleet.engines]
    if not engines:
        return unmeasured(edited)
    cost = engines[0].cost
    gpus = {each.cost.gpu.name for each in engines}
    notes = [*edited, *notes_of(engines)]
    return Provenance(**provenance_fields(cost.store, cost.measured, gpus, cost.version, notes))
