"""``plan check``: import, memory, prediction and comparison in one answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from planner.compare.check_document import Better, CheckDocument, Verdict, parse_check
from planner.compare.check_request import CheckRequest
from planner.compare.comparing import compared
from planner.compare.contenders import memory_of, plan_instead
from planner.compare.document import Comparison, EngineStarts, Side
from planner.compare.order import TIE
from planner.contract.deployment import DeploymentDocument
from planner.contract.provenance import unmeasured
from planner.contract.published import validated
from planner.contract.workload.slo import Slo
from planner.contract.workload.workload import Workload
from planner.imports.importing import deployment_of
from planner.serving.document.opening import check_drafting, check_one_load, running_of
from planner.serving.document.plan import Plan
from profiles.descriptions import catalogue_with
from profiles.errors import Infeasible, LimitReached, Unsupported
from profiles.store import ProfileStore

ASKED, NEW = "asked", "a new plan"
"""What the comparison of a check calls its sides."""

Progress = Callable[[str], None]


def check(
    request: CheckRequest, *, measured: Sequence[ProfileStore] = (), progress: Progress | None = None
) -> CheckDocument:
    """The answer to ``request``.

    Raises:
        InputError, UnknownName, Unsupported: what cannot be read, is not said, contradicts itself or is not modelled.
    """
    catalogue = catalogue_with(store.path for store in measured)
    document = request.plan or deployment_of(request, catalogue)
    work, slo = request.workload, request.slo
    check_one_load(
        document, "plan", "plan simulate replays all of them; plan compare and plan check take fleets of one"
    )
    if isinstance(document, Plan):
        work, slo = work or document.request.workload, document.request.slo if slo is None else slo
    elif work is not None:
        check_drafting(document, work)
    starts = memory_of(document, catalogue)
    if work is None:
        return _answered(document, starts, None, None, None)
    better, no_better = _better(document, work, slo or Slo(), measured, progress)
    sides, names = [document, *([better] if better else [])], [ASKED, *([NEW] if better else [])]
    made = compared(sides, names, work, slo or Slo(), seed=request.seed, measured=measured, progress=progress)
    return _answered(document, starts, made, better, no_better)


def _better(
    document: Plan | DeploymentDocument,
    work: Workload,
    slo: Slo,
    measured: Sequence[ProfileStore],
    progress: Progress | None,
) -> tuple[Plan | None, str | None]:
    """(a new plan on the same GPUs, why there is none)."""
    try:
        return plan_instead(document, work, slo, measured, progress), None
    except (Infeasible, LimitReached, Unsupported) as error:
        return None, error.line


def _answered(
    document: Plan | DeploymentDocument,
    starts: tuple[EngineStarts, ...],
    made: Comparison | None,
    better: Plan | None,
    no_better: str | None,
) -> CheckDocument:
    asked = None if made is None else made.sides[0]
    verdict, reasons = _verdict(starts, asked, made)
    found = None if made is None or better is None else _beside(made, better)
    if found is not None and not _is_better(found, asked):
        found, no_better = None, "a new plan on the same GPUs carries no more"
    answer = CheckDocument(
        verdict=verdict,
        reasons=reasons,
        starts=all(each.starts for each in starts),
        keeps_promises=None if asked is None or asked.problem else _keeps(asked, made),
        memory=starts,
        deployment=document if isinstance(document, DeploymentDocument) else None,
        comparison=made,
        better=found,
        no_better=no_better,
        provenance=unmeasured() if made is None else made.provenance,
    )
    return validated(answer, parse_check)


def _plain(ms: float) -> str:
    """Without an exponent, which :func:`format` writes from 10,000 on."""
    return f"{ms:,.0f}" if ms >= 1e3 else f"{ms:.4g}"


def _keeps(asked: Side, made: Comparison | None) -> bool:
    """At the load that was asked about; where none was, at any."""
    assert made is not None
    if made.workload.has_load:
        return asked.keeps_promises
    return asked.carries_rps is not None and asked.carries_rps.value > 0


def _verdict(
    starts: tuple[EngineStarts, ...], asked: Side | None, made: Comparison | None
) -> tuple[Verdict, tuple[str, ...]]:
    failing = [f"{each.engine}: {each.reasons[0]}" for each in starts if not each.starts]
    if failing:
        return "does_not_start", tuple(failing)
    if asked is None:
        return "starts", ()
    if asked.problem:
        return "does_not_start", (asked.problem,)
    if _keeps(asked, made):
        return "keeps", ()
    broken = [
        f"{each.metric}_p{each.percentile:g} is {_plain(each.seen_ms.value)} ms, promised {each.limit_ms:,g} ms"
        for each in asked.promises
        if not each.holds and each.seen_ms is not None
    ]
    if not asked.keeps_up:
        most = f"{asked.carries_rps.value:.3g}" if asked.carries_rps else "0"
        broken.insert(0, f"it does not keep up with {asked.rate_rps:.3g} requests/s: it carries {most}")
    return "breaks", tuple(broken)


def _beside(made: Comparison, better: Plan) -> Better | None:
    new, pair = made.sides[1], next(iter(made.order), None)
    ahead = pair is not None and pair.better == NEW
    return Better(
        engines=new.engines,
        commands=tuple(group.launch.command for group in running_of(better).engines),
        keeps_promises=new.keeps_promises,
        by=pair.by if ahead and pair is not None else 0.0,
        confidence=pair.confidence if ahead and pair is not None else 0.5,
    )


def _is_better(found: Better, asked: Side | None) -> bool:
    """Whether it carries more, or keeps promises that break."""
    if found.by is None or found.by > TIE:
        return True
    return asked is not None and found.keeps_promises and not asked.keeps_promises
