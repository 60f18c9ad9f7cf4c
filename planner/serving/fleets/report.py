"""The document of a fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Floats
from planner.contract.deployment import Deployment
from planner.contract.engine import EngineGroup, Role
from planner.contract.fleet import (
    FleetProof,
    LossRouting,
    Route,
    ScheduledStep,
    ServicePrediction,
    ServiceUnderstood,
)
from planner.contract.provenance import Provenance
from planner.contract.quantities import Interval
from planner.contract.workload.slo import Slo
from planner.contract.workload.workload import Workload
from planner.serving.document import plan as plans
from planner.serving.document.prediction import Prediction
from planner.serving.fleets.comparisons import Comparisons
from planner.serving.fleets.decision import Answered, ServiceLoad
from planner.serving.fleets.described import Described
from planner.serving.fleets.losing import rerouted
from planner.serving.fleets.mixtures import workload_of
from planner.serving.fleets.money import electricity, step_usd, units, usd_of, usd_per_hour

TOKENS = 1e6
SMALL = 1e-6
"""Shares of a range that are not worth an entry of the gateway's."""


@dataclass(frozen=True)
class Used:
    """The kinds of engine that run in some step: id and index among the variants."""

    id: str
    variant: int


def used_in(found: Answered) -> list[Used]:
    engines = found.answer.engines
    assert engines is not None
    return [Used(f"engine-{i}", v) for i, v in enumerate(np.flatnonzero(engines.max(axis=0) > 0).tolist())]


def document(found: Answered, described: Described, comparisons: Comparisons, provenance: Provenance) -> plans.Plan:
    """The plan that says it all."""
    used = used_in(found)
    decision = _decision(found, used, described)
    return plans.Plan(
        request=_understood(found, described),
        decision=decision,
        prediction=_prediction(found, decision, described),
        proof=_proof(found, comparisons),
        alternatives=plans.Alternatives(ranked=(), pareto=()),
        provenance=provenance,
    )


# ------------------------------------------------------------------ request


def _understood(found: Answered, described: Described) -> plans.RequestUnderstood:
    request, fleet = found.fleet.request, found.fleet
    services = tuple(_service(service, described) for service in fleet.services)
    slo = fleet.services[0].asked.slo if len(fleet.services) == 1 else Slo()
    facts = described.facts(request, fleet.services)
    return plans.RequestUnderstood(
        **facts,
        cluster=fleet.cluster,
        slo=slo,
        workload=_together(found),
        objective=request.objective,
        framework=request.framework,
        confidence=request.confidence,
        headroom=request.headroom or 0.0,
        max_tp=None,
        max_pp=None,
        max_engine_gpus=None,
        tp_across_nodes=False,
        time_limit_s=request.time_limit_s,
        simulation=described.simulated,
        disaggregation=request.disaggregation if any(each.asked.model for each in fleet.services) else "never",
        services=services,
        route_by=request.route_by,
        survive=request.survive,
        budget_usd_per_hour=request.budget_usd_per_hour,
        usd_per_kwh=request.usd_per_kwh,
        rows=request.rows,
        max_changes=request.max_changes,
    )


def _service(service: ServiceLoad, described: Described) -> ServiceUnderstood:
    asked = service.asked
    return ServiceUnderstood(
        name=asked.name,
        slo=asked.slo,
        load=service.load,
        prefix_hit=asked.prefix_hit,
        speculation=asked.speculation,
        promise=asked.promise,
        **described.service(service),
    )


def _together(found: Answered) -> Workload:
    """All requests as one: the mean one, at the rate of the busiest step."""
    busiest = max(found.fleet.steps, key=lambda step: sum(each.rate_rps for each in step.steps))
    classes = [each for step in busiest.steps for each in step.classes]
    rate = np.array([each.rate_rps for each in classes])
    isl, osl = (float(np.average([getattr(each, name) for each in classes], weights=rate)) for name in ("isl", "osl"))
    hit = float(np.average([each.prefix_hit for each in classes], weights=rate))
    if min(isl, osl) >= 1 and len(found.fleet.services) == 1 and found.fleet.services[0].asked.model is not None:
        speculation = found.fleet.services[0].asked.speculation
        return workload_of(classes, rate, speculation=speculation, name="the fleet's busiest step")
    return Workload(
        isl=max(round(isl), 1), osl=max(round(osl), 1), rate_rps=float(rate.sum()), prefix_hit=min(hit, 1.0)
    )


# ------------------------------------------------------------------ decision


def _decision(found: Answered, used: Sequence[Used], described: Described) -> Deployment:
    fleet, engines = found.fleet, found.answer.engines
    assert engines is not None
    offered = sum(offer.limit or 0 for offer in fleet.offers)
    open_ended = any(offer.limit is None for offer in fleet.offers)
    gpus = engines @ np.array([v.gpus for v in fleet.chosen.variants])
    peak = int(gpus.max())
    return Deployment(
        engines=tuple(_group(found, each, described) for each in used),
        gpus_used=peak,
        gpus_idle=0 if open_ended else offered - peak,
        usd_per_hour=usd_per_hour(found),
        schedule=tuple(_step(found, used, t) for t in range(len(fleet.steps))),
    )


def _group(found: Answered, used: Used, described: Described) -> EngineGroup:
    fleet, engines = found.fleet, found.answer.engines
    assert engines is not None
    variant = fleet.chosen.variants[used.variant]
    offer, service = fleet.offers[variant.offer], fleet.services[variant.service]
    most = int(engines[:, used.variant].max())
    share = _mean_share(found, used.variant)
    return described.group(
        used.id,
        service,
        variant,
        offer,
        {"weight": share / most, "count": most, "usd_per_hour": usd_of(found, used.variant)},
    )


def _mean_share(found: Answered, variant: int) -> float:
    """Of all requests of its service over the schedule, what a kind of engine is sent."""
    service, sent, all_sent = found.fleet.chosen.variants[variant].service, 0.0, 0.0
    for t, groups in enumerate(found.groups):
        rates, seconds = found.fleet.services[service].rates[t], float(found.question.seconds[t])
        role = fleet_role(found, variant)
        for g, group in enumerate(groups):
            if group.service == service and group.role == role:
                rate = float(rates[list(group.classes)].sum()) * seconds
                sent += rate * float(found.answer.shares[t][g, variant])
                all_sent += rate
    return sent / all_sent if all_sent else 0.0


def _routing(found: Answered, used: Sequence[Used], t: int, shares: Floats) -> tuple[Route, ...]:
    """Of step ``t``, with ``shares`` (groups, n)."""
    handed: dict[tuple[object, ...], dict[str, float]] = {}
    for g, group in enumerate(found.groups[t]):
        if group.role == "decode":
            handed[group.service, group.isl, group.osl] = _weights(used, shares[g])
    routing = []
    for g, group in enumerate(found.groups[t]):
        osl = group.osl or (None, None)
        if group.role != "decode":
            routing.append(
                Route(
                    service=found.fleet.services[group.service].asked.name,
                    isl_from=group.isl[0],
                    isl_to=group.isl[1],
                    osl_from=osl[0],
                    osl_to=osl[1],
                    weights=_weights(used, shares[g]),
                    decode_weights=handed.get((group.service, group.isl, group.osl), {}),
                )
            )
    return tuple(routing)


def _step(found: Answered, used: Sequence[Used], t: int) -> ScheduledStep:
    fleet, engines = found.fleet, found.answer.engines
    assert engines is not None
    step = fleet.steps[t]
    before = engines[t - 1] if t or found.question.cyclic else found.question.before
    starting = {} if before is None else {
        each.id: int(engines[t][each.variant] - before[each.variant])
        for each in used if engines[t][each.variant] > before[each.variant]
    }  # fmt: skip
    return ScheduledStep(
        start_s=step.start_s,
        end_s=step.end_s,
        engines={each.id: int(engines[t][each.variant]) for each in used},
        routing=_routing(found, used, t, found.answer.shares[t]),
        instances={
            block.name: units(block.each, engines[t][block.kinds], block.unit)
            for block in found.question.blocks if block.unit > 1
        },
        starting=starting,
        rate_rps=sum(each.rate_rps for each in step.steps),
        usd_per_hour=step_usd(found, t),
        carries=float(found.answer.slack[t]),
        after_losses=tuple(
            LossRouting(
                lost={each.id: lost[each.variant] for each in used if each.variant in lost},
                routing=_routing(found, used, t, after),
            )
            for lost, after in rerouted(found, t)
        ),
    )  # fmt: skip


def _weights(used: Sequence[Used], shares: Floats) -> dict[str, float]:
    kept = {each.id: float(shares[each.variant]) for each in used if shares[each.variant] > SMALL}
    total = sum(kept.values())
    return {name: share / total for name, share in kept.items()}


def fleet_role(found: Answered, variant: int) -> Role:
    """Of a kind of engine."""
    v = found.fleet.chosen.variants[variant]
    return found.fleet.services[v.service].engines[v.engine].role


# ------------------------------------------------------------------ prediction


def tokens_per_s(found: Answered, t: int, service: int | None = None) -> tuple[float, float]:
    """(input, output) tokens per second of what is served in step ``t``."""
    isl = osl = 0.0
    lost = {(each.service, each.isl, each.osl) for each in found.not_served}
    for s, step in enumerate(found.fleet.steps[t].steps):
        if service in (None, s):
            name = found.fleet.services[s].asked.name
            served = [each for each in step.classes if (name, each.isl, each.osl) not in lost]
            isl += sum(each.rate_rps * each.isl for each in served)
            osl += sum(each.rate_rps * each.osl for each in served)
    return isl, osl


def _exact(value: float) -> Interval:
    return Interval(value=value, low=value, high=value)


def _prediction(found: Answered, decision: Deployment, described: Described) -> Prediction:
    fleet = found.fleet
    t = int(np.argmax([sum(step.rate_rps for step in shared.steps) for shared in fleet.steps]))
    rate = sum(step.rate_rps for step in fleet.steps[t].steps)
    output = tokens_per_s(found, t)[1]
    weights = found.question.seconds
    mean_output = float(np.average([tokens_per_s(found, i)[1] for i in range(len(fleet.steps))], weights=weights))
    usd = None if decision.usd_per_hour is None else decision.usd_per_hour + electricity(found)
    sizes = any(each.isl < 1 for each in fleet.services[0].classes)  # Mélange's rows and columns, which are no tokens
    per_token = None if usd is None or not mean_output or sizes else usd / (mean_output * 3600) * TOKENS
    said = described.predicted(found, [each.variant for each in used_in(found)])
    return Prediction(
        request_rate_rps=_exact(rate),
        output_tokens_per_s=_exact(output),
        output_tokens_per_s_per_gpu=_exact(output / max(decision.gpus_used, 1)),
        utilisation=1 / float(found.answer.slack[t]) if found.answer.slack[t] > 0 else 1.0,
        usd_per_million_output_tokens=None if per_token is None else _exact(per_token),
        electricity_usd_per_hour=_electricity(found, said.get("power_watts")),
        services=tuple(_service_prediction(found, s, usd, described) for s in range(len(fleet.services))),
        **said,
    )


def _electricity(found: Answered, watts: Interval | None) -> Interval | None:
    """As the programme counts it, as sure as the watts at the busiest step are."""
    if found.fleet.request.usd_per_kwh is None or watts is None:
        return None
    paid = electricity(found)
    return Interval(value=paid, low=paid * watts.low / watts.value, high=paid * watts.high / watts.value)


def _service_prediction(found: Answered, s: int, usd: float | None, described: Described) -> ServicePrediction:
    fleet, weights = found.fleet, found.question.seconds
    mean = np.average([tokens_per_s(found, t, s) for t in range(len(fleet.steps))], axis=0, weights=weights)
    sizes = any(each.isl < 1 for each in fleet.services[s].classes)
    mine = None if usd is None or sizes else _service_usd(found, s, usd)
    held: Mapping[str, object] = described.attained(found, s)
    return ServicePrediction(
        name=fleet.services[s].asked.name,
        rate_rps=max(step.steps[s].rate_rps for step in fleet.steps),
        usd_per_million_input_tokens=None if mine is None or not mean[0] else mine / (float(mean[0]) * 3600) * TOKENS,
        usd_per_million_output_tokens=None if mine is None or not mean[1] else mine / (float(mean[1]) * 3600) * TOKENS,
        **held,  # type: ignore[arg-type]
    )


def _service_usd(found: Answered, s: int, usd: float) -> float:
    """A service's part of the cost: by its engines' GPUs, which several do not share."""
    engines = found.answer.engines
    assert engines is not None
    gpus = np.array([v.gpus for v in found.fleet.chosen.variants], np.float64) * np.maximum(
        found.fleet.chosen.usd_per_hour, 1e-9
    )
    mine = np.array([v.service == s for v in found.fleet.chosen.variants])
    per_step = engines @ (gpus * mine), engines @ gpus
    part = float(found.question.seconds @ per_step[0]), float(found.question.seconds @ per_step[1])
    return usd * part[0] / part[1] if part[1] else usd / len(found.fleet.services)


# ------------------------------------------------------------------ proof


def _proof(found: Answered, comparisons: Comparisons) -> plans.ServingProof:
    answer, request, fleet = found.answer, found.fleet.request, found.fleet
    assert answer.objective is not None
    assert answer.bound is not None
    unit = {"cost": "USD/hour", "gpus": "GPUs"}[request.objective]
    return plans.ServingProof(
        engine=comparisons.engine,
        status="optimal" if answer.status == "optimal" else "feasible",
        objective=request.objective,
        objective_value=answer.objective,
        objective_unit=unit,
        bound=answer.bound,
        gap=answer.gap or 0.0,
        layouts_considered=comparisons.considered,
        layouts_legal=comparisons.legal,
        operating_points=comparisons.points,
        operating_points_within_slo=comparisons.points_within,
        candidates=len(fleet.chosen.variants),
        rejected=(),
        binding_constraint=comparisons.binding,
        fleet=FleetProof(
            rounds=answer.rounds,
            cuts=answer.cuts,
            variants=len(fleet.chosen.variants),
            classes=sum(len(service.classes) for service in fleet.services),
            groups=max(len(groups) for groups in found.groups),
            coarsening=fleet.coarsening,
            compared=comparisons.compared,
            demands=comparisons.demands,
            supplies=comparisons.supplies,
            rows=comparisons.rows,
            cost_by_rate=comparisons.cost_by_rate,
            not_served=found.not_served,
        ),
    )
