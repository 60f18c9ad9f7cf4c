"""Why to believe a plan: what was considered and refused, what binds, and where the figures come from."""

from __future__ import annotations

import math
from importlib.metadata import version as package_version

import numpy as np

from costmodels.origins import HOW
from costmodels.precision import Precision
from planner import plans
from planner.evaluation import Search
from planner.fleet import Candidates, FleetChoice
from planner.layouts import Rejected
from planner.prediction import Group
from planner.requests import PlanRequest
from profiles.hardware import default_node, find_gpu

PACKAGE = "shardwright"
UNITS = {"throughput": "requests/s", "cost": "USD/h", "gpus": "GPUs", "latency": "ms"}


def proof_of(
    request: PlanRequest,
    searches: list[Search],
    refused: list[Rejected],
    candidates: Candidates,
    choice: FleetChoice,
) -> plans.Proof:
    solution = choice.solution
    assert solution.objective is not None
    assert solution.bound is not None
    rejected = _merged([*refused, *(r for s in searches for r in s.rejected)])
    points = [s.coarse for s in searches if s.coarse is not None]
    for reason, refused_points in (
        ("operating points where prefill cannot keep up", [~p.steady.stable for p in points]),
        ("operating points outside the SLO", [p.steady.stable & ~p.within for p in points]),
    ):
        examples = [
            p.layout(int(np.argmax(bad))).label for p, bad in zip(points, refused_points, strict=True) if bad.any()
        ]
        if examples:
            rejected.append(Rejected(reason, sum(int(bad.sum()) for bad in refused_points), examples[0]))
    return plans.Proof(
        engine=solution.engine,
        status="optimal" if solution.status == "optimal" else "feasible",
        objective=request.goal,
        objective_value=solution.objective,
        objective_unit=UNITS[request.goal],
        bound=solution.bound,
        gap=solution.gap or 0.0,
        layouts_considered=sum(s.considered for s in searches),
        layouts_legal=sum(s.legal for s in searches),
        operating_points=sum(len(p) for p in points),
        operating_points_within_slo=sum(int(p.within.sum()) for p in points),
        candidates=len(candidates.pool),
        rejected=tuple(
            plans.Rejection(reason=r.reason, count=r.count, example=r.example)
            for r in sorted(rejected, key=lambda r: (-r.count, r.reason))
        ),
        binding_constraint=choice.binding,
    )


def _merged(rejected: list[Rejected]) -> list[Rejected]:
    """One entry per reason: pools share most of them."""
    by_reason: dict[str, Rejected] = {}
    for r in rejected:
        before = by_reason.get(r.reason)
        by_reason[r.reason] = r if before is None else Rejected(r.reason, before.count + r.count, before.example)
    return list(by_reason.values())


def provenance_of(
    request: PlanRequest, precision: Precision, searches: list[Search], groups: list[Group]
) -> plans.Provenance:
    manifest = searches[0].job.cost.store.manifest
    return plans.Provenance(
        package=PACKAGE,
        package_version=package_version(PACKAGE),
        cost_model_version=searches[0].job.cost.version,
        pack=manifest.name,
        pack_version=manifest.version,
        pack_hash=manifest.content_hash,
        attribution=manifest.attribution,
        notes=tuple(_notes(request, precision, searches, groups)),
    )


def _notes(request: PlanRequest, precision: Precision, searches: list[Search], groups: list[Group]) -> list[str]:
    notes = [note for search in searches for note in search.job.cost.notes]
    framework = searches[0].job.framework
    model = searches[0].job.model
    if framework.fitted_on == "none":
        notes.append(
            f"{framework.full_name}'s overhead per step ({framework.step_overhead_us / 1e3:g} ms) is not calibrated "
            f"end to end: 80 % of public runs lie within a factor {math.exp(framework.step_spread):.2f} of the "
            "predicted TPOT, and intervals are that wide; TTFT excludes network, HTTP and tokenisation"
        )
    notes.append(
        "arrivals are taken as Poisson and lengths as equal; percentiles come from queueing formulas, not a simulation"
    )
    if any(not bool(group.loaded.steady.tpot_us.inside[0]) for group in groups):
        notes.append(
            "some operations of the chosen layout lie outside what was measured (long prefixes, unseen shapes, traffic "
            "between nodes); their intervals are wide"
        )
    prefill_bound = sum(search.prefill_bound for search in searches)
    if prefill_bound:
        notes.append(
            f"{prefill_bound} layouts were left out that this workload keeps busy with prefill: fewer than one "
            "sequence would decode at a time, which is not modelled"
        )
    if request.goal == "throughput" and request.workload.rate_rps is not None:
        notes.append(
            f"the objective is throughput: the plan is for as many requests as fit, not for the offered "
            f"{request.workload.rate_rps:g} requests/s"
        )
    for group in groups:
        step = group.loaded.steady.decode
        if HOW[int(group.loaded.steady.tpot_us.how[0])] == "roofline":
            share = float(step.parts["communication"][0] / step.latency.value[0])
            notes.append(
                "exchanges between pipeline stages and nodes are estimated from link rates, nothing like them was "
                f"measured; all communication is {share:.0%} of a decode step of {group.id}"
            )
        host = default_node(group.chosen.job.cost.gpu).gpus_per_host
        if host is not None and int(group.chosen.layouts.gpus[group.index]) > host:
            notes.append(
                f"{group.id} is larger than a host of {group.chosen.job.pool.gpu} ({host} GPUs share one operating "
                "system in the rack): start it over several hosts; nodes in this plan are NVLink domains"
            )
    if model.is_moe:
        notes.append(
            f"tokens are spread over experts as {request.workload.routing}; give routing=… in the workload to change it"
        )
    for name in dict.fromkeys(group.chosen.job.pool.gpu for group in groups):
        if precision.weights == "bf16" and "bf16" not in find_gpu(name).peak_flops:
            notes.append(f"{name} has no bf16: start the engines in fp16, which is predicted to take the same time")
    if precision.converted:
        notes.append(
            f"weights are run in {precision.weights}, not as published ({model.weight_precision}); check accuracy"
        )
    if model.excluded:
        notes.append(f"not modelled: {', '.join(model.excluded)}")
    for group in groups:
        pool = group.chosen.job.pool
        if pool.price_source is not None:
            notes.append(f"price of {pool.gpu}: {pool.usd_per_gpu_hour} USD per GPU-hour, {pool.price_source}")
    return list(dict.fromkeys(notes))
