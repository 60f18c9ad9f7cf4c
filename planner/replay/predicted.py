"""``plan predict`` of engines that serve requests together: one row of what their users see, from a replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from planner.contract.deployment import DeploymentDocument
from planner.contract.workload.workload import Workload
from planner.replay.document import Percentiles, SimulationReport
from planner.replay.request import SimulationRequest
from planner.replay.running import Running
from planner.serving.document.opening import check_one_load, running_of
from planner.serving.document.plan import Plan
from planner.serving.prediction_table import ADDED, LATENCIES
from planner.serving.predictions import SEVERAL, Cell, PredictionRequest, Predictions
from planner.serving.predictions import predictions as of_engines
from profiles.errors import InputError
from profiles.store import ProfileStore


def serve_together(document: Plan | DeploymentDocument) -> bool:
    """Whether it takes several engines to serve one of its requests, and they are there."""
    roles = {group.role for group in running_of(document).engines}
    return len(roles) > 1


def predictions(
    request: PredictionRequest,
    *,
    measured: Sequence[ProfileStore] = (),
    progress: Callable[[str], None] | None = None,
) -> Predictions:
    """The predictions of ``request``: by the formulas of one engine; of engines that serve requests together, replayed.

    Raises:
        InputError: what :func:`planner.serving.predictions.predictions` and :func:`_together` raise.
    """
    if request.plan is not None and serve_together(request.plan):
        return _together(request.plan, request.workload, measured=measured, progress=progress)
    return of_engines(request, measured=measured, progress=progress)


def _together(
    document: Plan | DeploymentDocument,
    workload: Workload | None,
    *,
    measured: Sequence[ProfileStore] = (),
    progress: Callable[[str], None] | None = None,
) -> Predictions:
    """The whole of a plan or a deployment under a load, replayed.

    Args:
        workload: of all its engines; None: a plan's own.

    Raises:
        InputError: no rate, or what :func:`planner.replay.report.simulate` raises.
    """
    from planner.replay.report import simulate

    check_one_load(document, "plan", SEVERAL)
    work = workload
    if work is None and isinstance(document, Plan):
        rate = document.request.workload.rate_rps or document.prediction.request_rate_rps.value
        work = document.request.workload.model_copy(update={"rate_rps": rate, "concurrency": None})
    if work is None or work.rate_rps is None:
        raise InputError(
            "workload: engines that serve requests together are predicted at a rate",
            "give one: --workload isl=4000,osl=500,rate=5",
        )
    own = workload is None
    asked = SimulationRequest(plan=document, rate=work.rate_rps if own else None, workload=None if own else work)
    report = simulate(asked, measured=measured, progress=progress)
    return Predictions(rows=(_row(document, work, report),), provenance=report.provenance).sealed()


def _row(document: Plan | DeploymentDocument, work: Workload, report: SimulationReport) -> dict[str, Cell]:
    running = Running.of(document, work)
    engines = running.deployment.engines
    row: dict[str, Cell] = {
        "model": running.model,
        "gpu": "+".join(dict.fromkeys(group.gpu for group in engines)),
        "framework": running.framework,
        "engines": ",".join(f"{group.role}={len(group.replicas)}x{group.layout.label}" for group in engines),
        "isl": work.isl,
        "osl": work.osl,
        "rate": work.rate_rps,
    }
    row |= dict.fromkeys(ADDED)
    for name in LATENCIES:
        row |= _latency(name, getattr(report, name))
    gpus = sum(group.gpus_per_engine * len(group.replicas) for group in engines)
    row["output_tokens_per_s_per_gpu"] = _output_tokens_per_s(work, report) / gpus
    notes = ["replayed with every engine's own queue", *report.warnings, *report.provenance.notes]
    if report.falls_behind:
        notes.insert(0, f"falls behind: it carries about {report.capacity_rps:.3g} requests/s")
    return {**row, "how": "simulated", "release": running.framework, "note": "; ".join(notes), "error": ""}


def _output_tokens_per_s(work: Workload, report: SimulationReport) -> float:
    """Engines that keep up give what is asked for, for as long as it is; the replay's own figure has its end in it,
    when the last requests are alone."""
    if report.falls_behind or work.rate_rps is None:
        return report.output_tokens_per_s
    return (
        work.rate_rps * work.mean_osl * report.served / (report.served + sum(each.requests for each in report.refused))
    )


def _latency(name: str, found: Percentiles | None) -> dict[str, Cell]:
    if found is None:
        return {}
    return {
        f"{name}_mean": found.mean.value,
        f"{name}_low": found.mean.low,
        f"{name}_high": found.mean.high,
        f"{name}_p50": found.p50.value,
        f"{name}_p50_low": found.p50.low,
        f"{name}_p50_high": found.p50.high,
        f"{name}_p99": found.p99.value,
    }
