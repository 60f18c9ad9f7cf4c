"""The fleet of one service, one class and one step: what ``plan`` decides for that pair of lengths, byte for byte, with
its schedule beside."""

from __future__ import annotations

from planner.contract.fleet import Route, ScheduledStep, ServiceUnderstood
from planner.contract.workload.classes import understood
from planner.contract.workload.workload import Workload
from planner.serving.document.plan import Plan
from planner.serving.fleets.request import FleetRequest
from planner.serving.request import PlanRequest


def one_load(request: FleetRequest) -> PlanRequest | None:
    """The request that ``plan`` takes, where the fleet asks no more than that; None: it does.

    Raises:
        InputError: as :func:`planner.contract.workload.classes.understood`.
    """
    service, *others = request.services
    if others or service.model is None or request.cluster is None:
        return None
    load = understood(service.load, "load", service.prefix_hit)
    (step, *later) = load.steps
    (each, *more) = step.classes
    lengths = (each.isl, each.osl)
    points = each.isl_to - each.isl_from <= 1 and each.osl_to - each.osl_from <= 1
    whole = all(float(length).is_integer() and length >= 1 for length in lengths)
    plain = [
        not (pool.spot_gpus or pool.reserved_gpus or pool.owned or pool.quota_gpus or pool.instance or pool.preference)
        and pool.min_up_s <= load.seconds
        for pool in request.cluster.pools
    ]
    beside = (request.survive.engines, request.survive.nodes, request.survive.spot_pools, request.survive.zones)
    asked = (request.budget_usd_per_hour, request.max_changes, request.current, request.usd_per_kwh, *request.rows)
    if later or more or not (points and whole and all(plain)) or any(beside) or any(a is not None for a in asked):
        return None
    choices = {"precision": service.precision, "kv_precision": service.kv_precision}
    return PlanRequest(
        model=service.model,
        cluster=request.cluster,
        slo=service.slo,
        workload=Workload(
            isl=int(each.isl),
            osl=int(each.osl),
            rate_rps=each.rate_rps,
            prefix_hit=each.prefix_hit,
            speculation=service.speculation,
        ),
        objective=request.objective,
        framework=service.framework or request.framework,
        headroom=request.headroom or 0.0,
        disaggregation=request.disaggregation,
        confidence=request.confidence,
        time_limit_s=request.time_limit_s,
        simulation=request.simulation,
        **{name: value for name, value in choices.items() if value is not None},  # type: ignore[arg-type]
    )


def as_fleet(plan: Plan, request: FleetRequest) -> Plan:
    """A plan with its one service, and the schedule of its one step."""
    (service,) = request.services
    load = understood(service.load, "load", service.prefix_hit)
    (step,) = load.steps
    (each,) = step.classes
    asked = plan.request
    served = ServiceUnderstood(
        name=service.name,
        model=asked.model,
        slo=service.slo,
        load=load,
        framework=asked.framework,
        weights_precision=asked.weights_precision,
        kv_precision=asked.kv_precision,
        prefix_hit=service.prefix_hit,
        speculation=service.speculation,
        promise=service.promise,
        headroom=asked.headroom,
        config=asked.config,
    )
    pools = {pool.name: pool for pool in asked.cluster.pools}
    engines = tuple(
        group.model_copy(
            update={
                "service": service.name,
                "usd_per_hour": None
                if (price := pools[group.pool].usd_per_gpu_hour) is None
                else price * group.gpus_per_engine,
            }
        )
        for group in plan.decision.engines
    )
    entry = [group for group in engines if group.role != "decode"]
    route = Route(
        service=service.name,
        isl_from=each.isl_from,
        isl_to=each.isl_to,
        osl_from=each.osl_from if request.route_by == "isl,osl" else None,
        osl_to=each.osl_to if request.route_by == "isl,osl" else None,
        weights={group.id: sum(replica.weight for replica in group.replicas) for group in entry},
        decode_weights={
            group.id: sum(replica.weight for replica in group.replicas) for group in engines if group.role == "decode"
        },
    )
    now = ScheduledStep(
        start_s=step.start_s,
        end_s=step.end_s,
        engines={group.id: len(group.replicas) for group in engines},
        routing=(route,),
        rate_rps=each.rate_rps,
        usd_per_hour=plan.decision.usd_per_hour,
        carries=1 / max(plan.prediction.utilisation, 1e-9),
    )
    decision = plan.decision.model_copy(update={"engines": engines, "schedule": (now,)})
    said = asked.model_copy(update={"services": (served,), "route_by": request.route_by})
    return plan.model_copy(update={"decision": decision, "request": said}).sealed()
