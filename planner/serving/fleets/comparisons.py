"""What a fleet is compared with, and what its demands and limits cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np

from planner.contract.fleet import CostAtRate, DemandPriced, FleetCompared, RowPower, SupplyBound, SurviveAsked
from planner.serving.fleets.current import last_step
from planner.serving.fleets.decision import Answered, Fleet, solved
from planner.serving.fleets.losing import where_they_stand
from planner.serving.fleets.money import usd_per_hour
from planner.serving.fleets.ways_out import OF_TIME
from planner.solving.mix.carrying import ENOUGH, Carrying
from planner.solving.mix.clock import Deadline
from planner.solving.mix.question import Block, MixQuestion
from planner.solving.mix.solve import MixAnswer, solve_mix
from profiles.errors import Infeasible, LimitReached

ONE = "one kind of engine for all"

BY_FORMULAS = "by formulas, not simulated"
"""Of what seems cheaper than a fleet whose engines were."""

EACH = 1 / 8
"""Of the time that is left, for one comparison: most take less, which is what later ones have more."""

CENT = 1e-6
"""USD an hour that are no difference."""

RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Times the load, whose cost is told."""

MOST_TRIED = 3
"""Kinds of engine that are tried for all requests: those that would do with least in parts of engines."""

MOST_WITHOUT = 3
"""Kinds of engine that fleets are planned without."""

NOT_TOLD = "the time limit ended the search before it was told what these cost or save: {what}: raise --time-limit"


@dataclass(frozen=True)
class Comparisons:
    """Everything beside the fleet itself."""

    compared: tuple[FleetCompared, ...] = ()
    demands: tuple[DemandPriced, ...] = ()
    supplies: tuple[SupplyBound, ...] = ()
    rows: tuple[RowPower, ...] = ()
    cost_by_rate: tuple[CostAtRate, ...] = ()
    binding: str = "offered rate"
    engine: str = ""
    considered: int = 0
    legal: int = 0
    points: int = 0
    points_within: int = 0
    untold: tuple[str, ...] = ()  # what no time was left to tell
    stand: tuple[str, ...] = ()  # where engines do, if nodes may be lost

    @property
    def notes(self) -> tuple[str, ...]:
        """What is said of these comparisons beside them."""
        return (*self.stand, *([NOT_TOLD.format(what="; ".join(self.untold))] if self.untold else []))


def engine_words() -> str:
    return f"HiGHS {version('highspy')}, counts and prices in turn"


def compare(
    found: Answered, deadline: Deadline, tail: MixQuestion | None = None, other: Answered | None = None
) -> Comparisons:
    """All comparisons that the ``deadline`` leaves time for, what binds first; in a fleet of several steps the rest is
    told by its mean. ``tail``: the question without what percentiles ask to be left free, None where nothing is;
    ``other``: the fleet that was found where prefill and decode are apart, or together: whichever this is not."""
    untold: list[str] = []
    supplies, rows = _supplies(found, deadline, untold), _rows(found, deadline, untold)
    bound = [supply.pool for supply in supplies]
    binding = "offered rate" + (f"; GPUs of pool {' and pool '.join(bound)}" if bound else "")
    tight = [row.row for row in rows if row.usd_per_hour_of_one_kw_more is not None]
    binding += f"; power budget of {' and '.join(tight)}" if tight else ""
    return Comparisons(
        compared=(*_compared(found, deadline), *([] if other is None else [_otherwise(found, other)])),
        demands=tuple(_demands(found, deadline, tail, untold)),
        supplies=tuple(supplies),
        rows=tuple(rows),
        cost_by_rate=tuple(_by_rate(found, deadline, untold)),
        binding=binding,
        engine=engine_words(),
        untold=tuple(untold),
        stand=where_they_stand(found),
    )


def _cost(found: Answered) -> float:
    assert found.answer.objective is not None
    return found.answer.objective


def _near(found: Answered, question: MixQuestion, seconds: float, gap: float) -> MixAnswer | None:
    """The answer to a question much like the one of ``found``, whose prices are a beginning; None: no time is left."""
    if seconds <= 0:
        return None
    near = found.answer.engines
    assert near is not None
    if question.most_changes == 0:
        near = np.tile(near.max(axis=0), (len(near), 1))
    same = near.shape == (question.steps, len(question.kinds))
    return solve_mix(question, seconds=seconds, gap=gap, prices=found.answer.prices, near=near if same else None)


def _tried(name: str, found: Answered, deadline: Deadline, kinds: Sequence[int]) -> FleetCompared:
    try:
        other = solved(found.fleet, kinds=kinds, seconds=EACH * deadline.left, like=found, brief=True)
    except Infeasible as error:
        return FleetCompared(name=name, usd_per_hour=None, loses_by=None, reason=error.message)
    except LimitReached as error:
        return FleetCompared(name=name, usd_per_hour=None, loses_by=None, reason=error.message)
    served = {(each.service, each.isl, each.osl) for each in found.not_served}
    lost = {(each.service, each.isl, each.osl) for each in other.not_served} - served
    if lost:
        service, isl, osl = min(lost)
        why = f"it does not serve {service}: isl {isl:g}, osl {osl:g}"
        why += f" and {len(lost) - 1} more classes" if len(lost) > 1 else ""
        return FleetCompared(name=name, usd_per_hour=None, loses_by=None, reason=why)
    row = _row(name, other, _cost(found))
    simulated = found.fleet.request.simulation and found.fleet.services[0].asked.model is not None
    cheaper = simulated and row.loses_by is not None and row.loses_by < 0
    return row.model_copy(update={"reason": BY_FORMULAS}) if cheaper else row


def _otherwise(found: Answered, other: Answered) -> FleetCompared:
    apart = any(service.apart for service in other.fleet.services)
    return _row("prefill and decode apart" if apart else "prefill and decode together", other, _cost(found))


def _loss(row: FleetCompared) -> float:
    return np.inf if row.loses_by is None else row.loses_by


def _row(name: str, other: Answered, ours: float) -> FleetCompared:
    cost, engines = _cost(other), other.answer.engines
    assert engines is not None
    t = int(np.argmax(engines.sum(axis=1)))
    counts: dict[str, int] = {}
    for v, variant in enumerate(other.fleet.chosen.variants):
        if engines[t][v]:
            label = other.fleet.services[variant.service].engines[variant.engine].label
            counts[label] = counts.get(label, 0) + int(engines[t][v])
    more = (cost - ours) / ours if ours else None
    return FleetCompared(name=name, usd_per_hour=usd_per_hour(other), loses_by=more, engines=counts)


def _compared(found: Answered, deadline: Deadline) -> list[FleetCompared]:
    fleet = found.fleet
    # First, since they need more time than the others, though they are told last.
    steady = [_constant(found, deadline), _each_alone(found, deadline)] if len(fleet.steps) > 1 else []
    rows: list[FleetCompared] = []
    gpus = list(dict.fromkeys(fleet.offers[v.offer].pool.gpu for v in fleet.chosen.variants))
    if len(gpus) > 1:
        alone = []
        for gpu in gpus:
            kinds = [i for i, v in enumerate(fleet.chosen.variants) if fleet.offers[v.offer].pool.gpu == gpu]
            alone.append(_tried(f"{gpu} alone", found, deadline, kinds))
        rows += sorted(alone, key=_loss)
    rows += _one_for_all(found, deadline)
    rows += _without_each(found, deadline, rows)
    today = fleet.request.current
    if today is not None:
        cost, now = today.decision.usd_per_hour, usd_per_hour(found)
        rows.append(
            FleetCompared(
                name="today's fleet",
                usd_per_hour=cost,
                loses_by=None if cost is None or not now else (cost - now) / now,
                reason=_carried_today(found),
            )
        )
    return [*rows, *steady]


def _carried_today(found: Answered) -> str:
    """What the fleet that runs now carries of the load in the step that is hardest for it, losses aside, in words."""
    before, today = found.fleet.before, found.fleet.request.current
    assert before is not None
    assert today is not None
    others = sum(last_step(today).values()) - sum(before)
    if others:
        are = "is" if others == 1 else "are"
        return f"as its own document says; {others} of its engines {are} of no kind that is chosen from here"
    engines = np.array(before, np.float64)
    carries = min(float(Carrying(work).solve(engines)[0]) for work in found.question.work)
    if carries >= 1 - ENOUGH:
        return "as its own document says"
    return f"it carries {carries:.0%} of this load at most"


def _one_for_all(found: Answered, deadline: Deadline) -> list[FleetCompared]:
    """The best fleet in which every service has one kind of engine for all of its requests: that which would do with
    least if engines could be had in parts."""
    fleet = found.fleet
    best: dict[int, list[tuple[float, int]]] = {s: [] for s in range(len(fleet.services))}
    t = int(np.argmax([sum(step.rate_rps for step in shared.steps) for shared in fleet.steps]))
    for v, variant in enumerate(fleet.chosen.variants):
        mine = [g for g, group in enumerate(found.groups[t]) if group.service == variant.service]
        needed = float(found.question.work[t][mine, v].sum()) * float(fleet.chosen.usd_per_hour[v])
        if np.isfinite(needed):
            best[variant.service].append((needed, variant.engine))
    if not all(best.values()):
        return [FleetCompared(name=ONE, usd_per_hour=None, loses_by=None, reason=_none_for_all(found))]
    if len({(v.service, v.engine) for v in fleet.chosen.variants}) == len(fleet.services):
        return []
    ranked = [list(dict.fromkeys(engine for _, engine in sorted(each))) for each in best.values()]
    running = _running(found)
    if len(running) == len(fleet.services):  # the fleet is one itself, and none is better
        kinds = [v for v, each in enumerate(fleet.chosen.variants) if (each.service, each.engine) in running]
        return [_tried(ONE, found, deadline, kinds)]
    rows = []
    for number in range(MOST_TRIED if len(ranked) == 1 else 1):
        which = [each[min(number, len(each) - 1)] for each in ranked]
        kinds = [v for v, each in enumerate(fleet.chosen.variants) if which[each.service] == each.engine]
        rows.append(_tried(ONE, found, deadline, kinds))
    return [min(rows, key=_loss)]


def _none_for_all(found: Answered) -> str:
    if any(service.apart for service in found.fleet.services):
        return "engines that prefill and engines that decode are of two kinds"
    return "no kind of engine serves every class"


def _running(found: Answered) -> dict[tuple[int, int], float]:
    """How many there are of each (service, kind of engine) that runs, over the steps."""
    variants, engines = found.fleet.chosen.variants, found.answer.engines
    assert engines is not None
    counts: dict[tuple[int, int], float] = {}
    for v in np.flatnonzero(engines.any(axis=0)).tolist():
        kind = variants[v].service, variants[v].engine
        counts[kind] = counts.get(kind, 0.0) + float(engines[:, v].sum())
    return counts


def _without_each(found: Answered, deadline: Deadline, others: Sequence[FleetCompared]) -> list[FleetCompared]:
    """The next best fleets: without one of the kinds of engine that run, the best first, but for those that are
    among the ``others``."""
    fleet, rows = found.fleet, []
    used = sorted(_running(found).items(), key=lambda item: -item[1])[:MOST_WITHOUT]
    for (service, engine), _ in used:
        kinds = [v for v, e in enumerate(fleet.chosen.variants) if (e.service, e.engine) != (service, engine)]
        label = fleet.services[service].engines[engine].label
        label += f" for {fleet.services[service].asked.name}" if len(fleet.services) > 1 else ""
        if kinds:
            rows.append(_tried(f"without {label}", found, deadline, kinds))
    known = [row.engines for row in others]
    return sorted((row for row in rows if row.engines and row.engines not in known), key=_loss)


def _constant(found: Answered, deadline: Deadline) -> FleetCompared:
    """The cheapest fleet that never changes."""
    steady = replace(found.question, cyclic=False, before=None, most_changes=0)
    answer = _near(found, steady, seconds=EACH * deadline.left, gap=1e-3)
    name = "constant fleet"
    if answer is None or answer.engines is None or answer.objective is None:
        why = "there is none" if answer is not None and answer.status == "infeasible" else "no time was left"
        return FleetCompared(name=name, usd_per_hour=None, loses_by=None, reason=why)
    ours = _cost(found)
    return _row(name, replace(found, answer=answer), ours)


def _each_alone(found: Answered, deadline: Deadline) -> FleetCompared:
    """Each step alone, as if engines started at once: what no schedule beats."""
    question, total, usd = found.question, 0.0, 0.0
    mine = Deadline(2 * EACH * deadline.left)
    for t, work in enumerate(question.work):
        one = replace(
            question, work=[work], seconds=question.seconds[t : t + 1], cyclic=False, before=None, most_changes=None
        )
        answer = _near(found, one, seconds=mine.left / (question.steps - t), gap=1e-3)
        if answer is None or answer.objective is None:
            return FleetCompared(name="each step alone", usd_per_hour=None, loses_by=None, reason="no time was left")
        share, fleet = float(question.share_of_time[t]), replace(found.fleet, steps=(found.fleet.steps[t],))
        total += answer.objective * share
        usd += (usd_per_hour(replace(found, fleet=fleet, question=one, answer=answer)) or 0.0) * share
    ours = _cost(found)
    return FleetCompared(
        name="each step alone", usd_per_hour=None if usd_per_hour(found) is None else usd,
        loses_by=(total - ours) / ours if ours else None,
        reason="engines start at once and for nothing there",
    )  # fmt: skip


def _by_rate(found: Answered, deadline: Deadline, untold: list[str]) -> list[CostAtRate]:
    """The cost of the same requests at other rates, of the best fleet and of each GPU type alone, as far as time goes;
    the rates that it does not reach are ``untold``."""
    fleet, question, rows = found.fleet, found.question, []
    gpus = [fleet.offers[v.offer].pool.gpu for v in fleet.chosen.variants]
    types = list(dict.fromkeys(gpus))
    if len(fleet.steps) > 1 or len(types) < 2 or fleet.request.objective != "cost":
        return []
    rate = sum(step.rate_rps for step in fleet.steps[0].steps)

    def usd(factor: float, only: str | None) -> float | None:
        work = question.work[0] * factor
        if only is not None:
            work = np.where(np.array([gpu == only for gpu in gpus])[None, :], work, np.inf)
        if not np.isfinite(work).any(axis=1).all():
            return None
        asked = replace(question, work=[work])
        answer = _near(found, asked, seconds=EACH * deadline.left, gap=1e-3)
        if answer is None or answer.status == "time_limit":
            raise LimitReached("no time was left", OF_TIME)
        if answer.engines is None:
            return None
        return usd_per_hour(replace(found, question=asked, answer=answer))

    for factor in RATES:
        try:
            mine = usd_per_hour(found) if factor == 1 else usd(factor, None)
            alone = {gpu: cost for gpu in types if (cost := usd(factor, gpu)) is not None}
        except LimitReached:
            untold += [f"{rate * other:.4g} requests a second" for other in RATES if other >= factor]
            break
        rows.append(CostAtRate(rate_rps=rate * factor, usd_per_hour=mine, alone=alone))
    return rows


def _demands(found: Answered, deadline: Deadline, tail: MixQuestion | None, untold: list[str]) -> list[DemandPriced]:
    """The programme without each of its demands, but for those of which there is no time to tell: ``untold``."""
    fleet, request, rows = found.fleet, found.fleet.request, []
    ours, gpus = _cost(found), found.fleet.request.objective == "gpus"

    def priced(name: str, other: Answered) -> None:
        more = ours - _cost(other)
        more = more if more > CENT else 0.0
        usd = usd_per_hour(other if more or gpus else found)
        rows.append(DemandPriced(demand=name, usd_per_hour=usd, costs_usd_per_hour=None if gpus else more))

    def without(name: str, **changes: object) -> None:
        try:
            left = EACH * deadline.left
            other = solved(fleet, seconds=left, like=found, brief=True, **changes)  # type: ignore[arg-type]
        except LimitReached:
            untold.append(name)
        except Infeasible:
            return
        else:
            priced(name, other)

    def changed(name: str, question: MixQuestion) -> None:
        answer = _near(found, question, seconds=EACH * deadline.left, gap=1e-4)
        if answer is None or answer.status == "time_limit":
            untold.append(name)
        elif answer.objective is not None:
            priced(name, replace(found, question=question, answer=answer))

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
    spot = [block for block in found.question.blocks if _is_spot(fleet, block) and np.isfinite(block.most)]
    if spot and len(spot) < len(found.question.blocks) + 1:
        blocks = [each for each in found.question.blocks if each not in spot]
        changed("a limit on spot GPUs", replace(found.question, blocks=blocks))
    if found.question.shunned is not None:
        changed("the order in which pools are filled", replace(found.question, shunned=None))
    if tail is not None:
        changed("room for the tail: percentiles, not the mean", tail)
    return rows


def _is_spot(fleet: Fleet, block: Block) -> bool:
    return any(offer.supply == "spot" and offer.name == block.name for offer in fleet.offers)


def _supplies(found: Answered, deadline: Deadline, untold: list[str]) -> list[SupplyBound]:
    """Blocks that are used up, and what one GPU more of each saves, but for those of which there is no time to tell:
    ``untold``."""
    question, engines, ours = found.question, found.answer.engines, _cost(found)
    assert engines is not None
    rows, gpus, offers = [], found.fleet.request.objective == "gpus", found.fleet.offers
    for k, block in enumerate(question.blocks):
        used = float((engines[:, block.kinds] @ block.each).max())
        smallest = float(block.each.min())
        if block.counts != "GPUs" or not np.isfinite(block.most) or used <= block.most - smallest:
            continue
        more = float(block.unit if block.unit > 1 else smallest)
        # What is reserved is paid whether used or not, outside of the programme: one more is, too.
        paid = sum(
            offer.usd_per_gpu_hour or 0.0 for offer in offers if (offer.name, offer.supply) == (block.name, "reserved")
        )
        wider = [replace(each, most=each.most + more) if i == k else each for i, each in enumerate(question.blocks)]
        answer = None if gpus else _near(found, replace(question, blocks=wider), EACH * deadline.left, 1e-4)
        less = None if answer is None else answer.objective
        saved = None if less is None else max((ours - less) / more - paid, 0.0)
        if less is None and not gpus:
            untold.append(f"a GPU more of pool {block.name}")
        rows.append(SupplyBound(pool=block.name, used_gpus=used, limit_gpus=block.most, usd_per_hour_of_one_more=saved))
    return rows


def _rows(found: Answered, deadline: Deadline, untold: list[str]) -> list[RowPower]:
    """Budgets of power, what is drawn of each, and what one kW more of those that are used up saves, but for those of
    which there is no time to tell: ``untold``."""
    question, engines, ours = found.question, found.answer.engines, _cost(found)
    assert engines is not None
    rows, gpus = [], found.fleet.request.objective == "gpus"
    for k, block in enumerate(question.blocks):
        if block.counts != "watts":
            continue
        used, saved = float((engines[:, block.kinds] @ block.each).max()), None
        if used > block.most - float(block.each.min()):
            wider = [replace(each, most=each.most + 1e3) if i == k else each for i, each in enumerate(question.blocks)]
            answer = None if gpus else _near(found, replace(question, blocks=wider), EACH * deadline.left, 1e-4)
            less = None if answer is None else answer.objective
            saved = None if less is None else max(ours - less, 0.0)
            if less is None and not gpus:
                untold.append(f"a kW more of {block.name}")
        name = block.name.removeprefix("row ")
        rows.append(RowPower(row=name, watts=used, budget_watts=block.most, usd_per_hour_of_one_kw_more=saved))
    return rows
