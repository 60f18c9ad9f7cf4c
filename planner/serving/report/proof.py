"""Why to believe a plan: what was considered and refused, what binds, and where the figures come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from costmodels.operations.layouts import Layouts
from costmodels.step.memory import kv_bytes_per_sequence, weights_bytes
from planner.contract.provenance import Provenance, provenance_fields
from planner.serving.document import plan as plans
from planner.serving.engines.groups import LoadedFleet
from planner.serving.engines.latency import Checks
from planner.serving.engines.options import ServingOption
from planner.serving.engines.ties import TIE
from planner.serving.layouts import Rejected
from planner.serving.report.accuracy import published_accuracy
from planner.serving.report.notes import notes_of
from planner.serving.request import PlanRequest
from planner.solving.solvers import PROVEN
from profiles.errors import LimitReached

UNITS = {"throughput": "requests/s", "cost": "USD/h", "gpus": "GPUs", "latency": "ms", "energy": "J/output token"}

LINK_BINDS = 0.75
"""A link this busy keeps engines from more load (they are planned for 80 % at most)."""


def proof_of(request: PlanRequest, options: list[ServingOption], best: ServingOption) -> plans.ServingProof:
    """Of the ``best`` option, over all of them."""
    assert best.choice is not None
    solution = best.choice.solution
    assert solution.objective is not None
    allowed = [option for option in options if option.allowed(request)]
    bounds = [o.choice.solution.bound for o in allowed if o.choice is not None and o.choice.solution.bound is not None]
    bound = max(bounds) if request.goal == "throughput" else min(bounds)
    gap = abs(bound - solution.objective) / max(abs(bound), abs(solution.objective))
    # An option that found nothing in its time might hold anything.
    proved = gap <= PROVEN and not any(isinstance(option.error, LimitReached) for option in allowed)
    rejected = _merged([*best.refused, *(r for s in best.searches for r in s.rejected)])
    points = [s.coarse for s in best.searches if s.coarse is not None]
    for reason, refused_points in (
        ("operating points where prefill cannot keep up", [~p.steady.stable for p in points]),
        ("operating points outside the SLO", [p.steady.stable & ~p.within for p in points]),
    ):
        examples = [
            p.layout(int(np.argmax(bad))).label for p, bad in zip(points, refused_points, strict=True) if bad.any()
        ]
        if examples:
            rejected.append(Rejected(reason, sum(int(bad.sum()) for bad in refused_points), examples[0]))
    return plans.ServingProof(
        engine=solution.engine,
        status="optimal" if proved else "feasible",
        simplest_within=TIE if _is_simplest(request, allowed, best) else None,
        objective=request.goal,
        objective_value=solution.objective,
        objective_unit=UNITS[request.goal],
        bound=bound,
        gap=gap if gap > PROVEN else 0.0,
        layouts_considered=sum(s.considered for s in best.searches),
        layouts_legal=sum(s.legal for s in best.searches),
        operating_points=sum(len(p) for p in points),
        operating_points_within_slo=sum(int(p.within.sum()) for p in points),
        candidates=sum(len(o.candidates.pool) for o in options if o.candidates is not None),
        rejected=tuple(
            plans.Rejection(reason=r.reason, count=r.count, example=r.example)
            for r in sorted(rejected, key=lambda r: (-r.count, r.reason))
        ),
        binding_constraint=_binding(best),
        compared=_compared(request, options, best),
    )


def _is_simplest(request: PlanRequest, allowed: list[ServingOption], best: ServingOption) -> bool:
    """Whether it was preferred to plans that are known and better, for being simpler."""
    assert best.choice is not None
    return best.choice.simplest or any(other.better_than(best, request.goal) for other in allowed)


def _binding(best: ServingOption) -> str:
    assert best.choice is not None
    chosen = [best.origin[v] for v in np.flatnonzero(best.choice.engines).tolist()]
    busy = [
        f"{engine.link.name} between prefill and decode engines"
        for engine in chosen
        if engine.link is not None and engine.link_busy > LINK_BINDS
    ]
    return "; ".join(dict.fromkeys([*busy, best.choice.binding]))


def _compared(request: PlanRequest, options: list[ServingOption], best: ServingOption) -> tuple[plans.Compared, ...]:
    """Every option, the chosen one first and then by what it loses."""
    assert best.choice is not None
    assert best.choice.solution.objective is not None
    objective, rows = best.choice.solution.objective, []
    model = best.searches[0].job.served.model
    tokens = request.workload.mean_isl + request.workload.mean_osl
    one = Layouts.of([(1, 1, 1, 1, 1)])
    for option in options:
        value = gpus = loses_by = None
        if option.choice is not None and option.candidates is not None:
            value = option.choice.solution.objective
            assert value is not None
            gpus = int(option.candidates.gpus @ option.choice.engines)
            loses_by = (objective - value if request.goal == "throughput" else value - objective) / objective
        reason = option.reason
        if value is not None and not option.allowed(request):
            reason = "not allowed: --disaggregation is always"
        rows.append(
            plans.Compared(
                serving=option.serving,
                weights_precision=option.precision.weights,
                kv_precision=option.precision.kv,
                chosen=option is best,
                objective_value=value,
                loses_by=loses_by,
                gpus=gpus,
                reason=reason,
                weights_bytes=float(weights_bytes(model, option.precision, one)[0]),
                kv_bytes_per_token=float(kv_bytes_per_sequence(model, option.precision, one, tokens)[0]) / tokens,
                accuracy=published_accuracy(model, option.precision),
            )
        )
    return tuple(sorted(rows, key=lambda row: (not row.chosen, row.loses_by is None, row.loses_by or 0.0)))


def _merged(rejected: list[Rejected]) -> list[Rejected]:
    """One entry per reason: pools share most of them."""
    by_reason: dict[str, Rejected] = {}
    for r in rejected:
        before = by_reason.get(r.reason)
        by_reason[r.reason] = r if before is None else Rejected(r.reason, before.count + r.count, before.example)
    return list(by_reason.values())


def provenance_of(request: PlanRequest, fleet: LoadedFleet, checks: Checks, more: Sequence[str] = ()) -> Provenance:
    """``checks``: simulations of the groups; ``more``: notes beyond those of
    :func:`planner.serving.report.notes.notes_of`."""
    searches = fleet.option.searches
    cost = searches[0].job.served.cost
    gpus = {search.job.pool.gpu for search in searches}
    notes = (*notes_of(request, fleet, checks), *more)
    return Provenance(**provenance_fields(cost.store, cost.measured, gpus, cost.version, notes))
