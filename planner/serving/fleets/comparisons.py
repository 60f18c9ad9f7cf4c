"""What a fleet is compared with, and what its demands and limits cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np

from planner.contract.fleet import DemandPriced, FleetCompared, SupplyBound, SurviveAsked
from planner.serving.fleets.decision import Answered, Fleet, solved
from planner.solving.mix.solve import solve_mix
from profiles.errors import Infeasible, LimitReached

SAME = 1e-6


@dataclass(frozen=True)
class Comparisons:
    """Everything beside the fleet itself."""

    compared: tuple[FleetCompared, ...] = ()
    demands: tuple[DemandPriced, ...] = ()
    supplies: tuple[SupplyBound, ...] = ()
    binding: str = "offered rate"
    engine: str = ""
    considered: int = 0
    legal: int = 0
    points: int = 0
    points_within: int = 0


def engine_words() -> str:
    return f"HiGHS {version('highspy')}, counts and prices in turn"


def compare(found: Answered, seconds: float, progress: object = None) -> Comparisons:
    """All comparisons, each within a part of ``seconds``; in a fleet of several steps the rest is told by its mean."""
    each = max(seconds / 12, 1.0)
    supplies = _supplies(found, each)
    bound = [supply.pool for supply in supplies]
    binding = "offered rate" + (f"; GPUs of pool {' and pool '.join(bound)}" if bound else "")
    return Comparisons(
        compared=tuple(_compared(found, each)),
        demands=tuple(_demands(found, each)),
        supplies=tuple(supplies),
        binding=binding,
        engine=engine_words(),
    )


def _cost(found: Answered) -> float:
    assert found.answer.objective is not None
    return found.answer.objective


def _tried(name: str, fleet: Fleet, ours: float, seconds: float, kinds: Sequence[int]) -> FleetCompared:
    try:
        other = solved(fleet, kinds=kinds, seconds=seconds)
    except Infeasible as error:
        return FleetCompared(name=name, usd_per_hour=None, loses_by=None, reason=error.message)
    except LimitReached as error:
        return FleetCompared(name=name, usd_per_hour=None, loses_by=None, reason=error.message)
    return _row(name, other, ours)


def _row(name: str, other: Answered, ours: float) -> FleetCompared:
    cost, engines = _cost(other), other.answer.engines
    assert engines is not None
    t = int(np.argmax(engines.sum(axis=1)))
    counts: dict[str, int] = {}
    for v, variant in enumerate(other.fleet.chosen.variants):
        if engines[t][v]:
            label = other.fleet.services[variant.service].engines[variant.engine].label
            counts[label] = counts.get(label, 0) + int(engines[t][v])
    return FleetCompared(name=name, usd_per_hour=cost, loses_by=(cost - ours) / ours if ours else None, engines=counts)


def _compared(found: Answered, seconds: float) -> list[FleetCompared]:
    fleet, ours = found.fleet, _cost(found)
    rows: list[FleetCompared] = []
    gpus = list(dict.fromkeys(fleet.offers[v.offer].pool.gpu for v in fleet.chosen.variants))
    if len(gpus) > 1:
        alone = []
        for gpu in gpus:
            kinds = [i for i, v in enumerate(fleet.chosen.variants) if fleet.offers[v.offer].pool.gpu == gpu]
            alone.append(_tried(f"{gpu} alone", fleet, ours, seconds / len(gpus), kinds))
        rows += sorted(alone, key=lambda row: row.usd_per_hour if row.usd_per_hour is not None else np.inf)
    today = fleet.request.current
    if today is not None:
        cost = today.decision.usd_per_hour
        rows.append(
            FleetCompared(
                name="today's fleet",
                usd_per_hour=cost,
                loses_by=None if cost is None or not ours else (cost - ours) / ours,
                reason="as its own document says",
            )
        )
    if len(fleet.steps) > 1:
        rows.append(_constant(found, seconds))
        rows.append(_hour_by_hour(found, seconds))
    return rows


def _constant(found: Answered, seconds: float) -> FleetCompared:
    """The cheapest fleet that never changes."""
    steady = replace(found.question, cyclic=False, before=None, most_changes=0)
    answer = solve_mix(steady, seconds=seconds, gap=1e-3)
    name = "constant fleet"
    if answer.engines is None or answer.objective is None:
        return FleetCompared(name=name, usd_per_hour=None, loses_by=None, reason="none was found")
    ours = _cost(found)
    return _row(name, replace(found, answer=answer), ours)


def _hour_by_hour(found: Answered, seconds: float) -> FleetCompared:
    """Each step alone, as if engines started at once: what no schedule beats."""
    question, total = found.question, 0.0
    for t, work in enumerate(question.work):
        one = replace(
            question, work=[work], seconds=question.seconds[t : t + 1], cyclic=False, before=None, most_changes=None
        )
        answer = solve_mix(one, seconds=max(seconds / len(question.work), 0.5), gap=1e-3)
        if answer.objective is None:
            return FleetCompared(name="each step alone", usd_per_hour=None, loses_by=None, reason="no time was left")
        total += answer.objective * float(question.share_of_time[t])
    ours = _cost(found)
    return FleetCompared(
        name="each step alone", usd_per_hour=total, loses_by=(total - ours) / ours if ours else None,
        reason="engines start at once and for nothing there",
    )  # fmt: skip


def _demands(found: Answered, seconds: float) -> list[DemandPriced]:
    """The programme without each of its demands."""
    fleet, request, rows = found.fleet, found.fleet.request, []
    ours = _cost(found)

    def without(name: str, **changes: object) -> None:
        try:
            other = solved(fleet, seconds=seconds, **changes)  # type: ignore[arg-type]
        except (Infeasible, LimitReached):
            return
        cost = min(_cost(other), ours)
        rows.append(DemandPriced(demand=name, usd_per_hour=cost, costs_usd_per_hour=ours - cost))

    if request.route_by == "isl":
        without("routing by prompt length alone", route_by="isl,osl")
    asked = request.survive
    for name in ("engines", "nodes", "spot_pools", "zones"):
        if count := getattr(asked, name):
            what = name.replace("_", " ") if count > 1 else name.replace("_", " ").removesuffix("s")
            without(
                f"surviving the loss of any {f'{count} ' if count > 1 else ''}{what}",
                survive=asked.model_copy(update={name: 0}),
            )
    if sum(bool(getattr(asked, name)) for name in ("engines", "nodes", "spot_pools", "zones")) > 1:
        without("surviving anything", survive=SurviveAsked())
    return rows


def _supplies(found: Answered, seconds: float) -> list[SupplyBound]:
    """Blocks that are used up, and what one GPU more of each saves."""
    question, engines, ours = found.question, found.answer.engines, _cost(found)
    assert engines is not None
    rows = []
    for k, block in enumerate(question.blocks):
        used = float((engines[:, block.kinds] @ block.each).max())
        smallest = float(block.each.min())
        if not np.isfinite(block.most) or used <= block.most - smallest:
            continue
        more = float(block.unit if block.unit > 1 else smallest)
        wider = [replace(each, most=each.most + more) if i == k else each for i, each in enumerate(question.blocks)]
        answer = solve_mix(replace(question, blocks=wider), seconds=seconds, gap=1e-4)
        saved = None if answer.objective is None else max(ours - answer.objective, 0.0) / more
        rows.append(SupplyBound(pool=block.name, used_gpus=used, limit_gpus=block.most, usd_per_hour_of_one_more=saved))
    return rows
