"""Of a promise that no engine keeps with some requests: the bound that binds, the best that any layout reaches, and
limits that do, planned before they are told; of a budget that is too small, or a loss that is too much, what does,
planned likewise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from planner.contract.workload.slo import Slo
from planner.serving.fleets.request import FleetRequest
from planner.serving.fleets.supplies import QUOTA, ROW
from planner.serving.fleets.ways_out import OTHERS, Way, carried_then, to_have
from planner.serving.operating_points import LayoutSearch, percentile_ms
from planner.serving.ways_out import GENTLER, relaxed_to, rounded_up
from planner.solving.mix.clock import Deadline
from profiles.errors import Infeasible, ShardwrightError

Relaxed = Mapping[str, float]
"""Limits in ms by the labels of bounds."""

Fails = Callable[[FleetRequest], ShardwrightError | None]
"""Why a request has no fleet; None: it has one."""

UNTRIED = ", which no time was left to simulate"


@dataclass(frozen=True)
class Unserved:
    """Why nothing serves a class, what would, and the limits with which the nearest layout does."""

    why: str
    remedy: str
    relax_ms: Relaxed = field(default_factory=dict)


MEMORY = Unserved(
    "memory: no layout holds such a request",
    "offer GPUs with more memory, more of them in an engine, or a smaller precision",
)


NOT_LOOKED_AT = Unserved(
    "beside it are lengths that no layout carries, and of so many classes not each is worked out",
    "give fewer classes (coarsen_to of the load)",
)


def unserved(searches: Sequence[LayoutSearch], slo: Slo, confidence: float) -> Unserved:
    """Why no layout serves one pair of lengths: ``searches`` found none within ``slo``."""
    found = [one.coarse for one in searches if one.coarse is not None and one.coarse.steady.stable.any()]
    if not found or not slo.bounds:
        return MEMORY
    limits = np.array([[bound.limit_ms] for bound in slo.bounds])
    # Of every bound at every operating point of all pools, [bounds, n].
    ms = np.concatenate(
        [
            np.where(each.steady.stable, [percentile_ms(each.steady, b, confidence) for b in slo.bounds], np.inf)
            for each in found
        ],
        axis=1,
    )
    nearest = int(np.argmin((ms / limits).max(axis=0)))
    exceeded = {b.label: float(ms[k, nearest]) for k, b in enumerate(slo.bounds) if ms[k, nearest] > b.limit_ms}
    if not exceeded:
        return NOT_LOOKED_AT
    reachable = ms.min(axis=1)  # by each bound alone
    worst = int(np.argmax(reachable / limits[:, 0]))
    bound = slo.bounds[worst]
    remedy = f"relax {relaxed_to(exceeded)} or more, or offer faster GPUs"
    if reachable[worst] <= bound.limit_ms:
        both = " and ".join(each.label for each in slo.bounds)
        return Unserved(f"slo: no layout keeps {both} together", remedy, exceeded)
    point, at = _which(found, int(np.argmin(ms[worst])))
    best = f"{found[point].layout(at).label} on {found[point].job.pool.gpu}"
    why = f"slo: {bound.label} ≤ {bound.limit_ms:g} ms binds; the best is {reachable[worst]:.4g} ms ({best})"
    return Unserved(why, remedy, exceeded)


def _which(parts: Sequence[object], at: int) -> tuple[int, int]:
    """(part, index in it) of the element ``at`` of all parts one after the other."""
    for number, part in enumerate(parts):
        if at < len(part):  # type: ignore[arg-type]
            return number, at
        at -= len(part)  # type: ignore[arg-type]
    raise IndexError(at)


def most_of(reasons: Sequence[Unserved]) -> Relaxed:
    """Limits that do for all of them."""
    out: dict[str, float] = {}
    for each in reasons:
        for label, ms in each.relax_ms.items():
            out[label] = max(out.get(label, 0.0), ms)
    return out


def with_tried_limits(request: FleetRequest, error: Infeasible, fails: Fails, deadline: Deadline) -> Infeasible:
    """``error`` with limits in its hint with which a fleet was found by the ``deadline``, where its ``relax_ms`` says
    what to try: by service, by bound."""
    relax = error.details.get("relax_ms")
    if not isinstance(relax, Mapping) or not any(relax.values()):
        return error
    wanted = {name: dict(limits) for name, limits in relax.items()}
    first = None
    for factor in GENTLER:
        asked = {
            name: {label: float(rounded_up(ms * factor)) for label, ms in limits.items()}
            for name, limits in wanted.items()
        }
        why = fails(_with_limits(request, asked))
        told = _in_words(request, asked)
        if why is None:
            return Infeasible(error.message, f"relax {told} or more, or offer faster GPUs", **error.details)
        if deadline.left <= 0:
            break
        also = why.details.get("relax_ms")
        for name, limits in also.items() if isinstance(also, Mapping) else ():
            mine = wanted.setdefault(name, {})
            for label, ms in limits.items():
                mine[label] = max(mine.get(label, 0.0), ms / factor)
        if first is None and not (isinstance(also, Mapping) and any(also.values())):
            first = f"relax {told} or more, and {why.hint} ({why.message})"  # it is not the bounds alone
    return Infeasible(error.message, first or f"relax the SLO further than {told}", **error.details)


def with_tried_budget(request: FleetRequest, error: Infeasible, costs: Callable[[FleetRequest], float]) -> Infeasible:
    """``error`` with what the fleet costs (``costs``) that is found without a budget: a fleet whose engines hold when
    they are simulated costs more than one of engines that are taken at their word."""
    try:
        least = costs(request.model_copy(update={"budget_usd_per_hour": None}))
    except ShardwrightError as why:
        return Infeasible(error.message, f"{why.hint} ({why.message}), and allow more", **error.details)
    return Infeasible(
        error.message, f"allow {least:g} USD an hour, or serve less", **{**error.details, "usd_per_hour": least}
    )


def with_tried_share(request: FleetRequest, error: Infeasible, fails: Fails, deadline: Deadline) -> Infeasible:
    """``error`` with the part of the load in its hint that a fleet was found to carry after the loss by the
    ``deadline``, where its ``share_survived`` says what to try: engines that hold when they are simulated carry less
    than those that are taken at their word."""
    part, hint = error.details.get("share_survived"), error.hint
    while isinstance(part, float) and part > 0:
        if deadline.left <= 0:
            hint += UNTRIED
            break
        why = fails(request.model_copy(update={"survive": request.survive.model_copy(update={"share": part})}))
        if why is None:
            break
        less = why.details.get("share_survived")
        less = less if isinstance(less, float) and 0 < less < part else 0.0
        hint = hint.replace(carried_then(part), carried_then(less) if less else "").removesuffix(", or ")
        part = less
    return Infeasible(error.message, hint, **{**error.details, "share_survived": part})


def with_tried_supplies(request: FleetRequest, error: Infeasible, fails: Fails, deadline: Deadline) -> Infeasible:
    """``error`` with what supplies have to have in its hint with which a fleet was found by the ``deadline``, where its
    ``have`` says what to try; what was not found to do is left out."""
    ways = _ways(error)
    if not ways:
        return error
    if deadline.left <= 0:
        return _having(error, ways, to_have(ways) + UNTRIED)
    held: list[Way] = []
    untried: list[Way] = []
    for way in ways:
        tried: Way = []
        for factor in GENTLER:
            asked = [each.times(factor) for each in way]
            if asked == tried:
                continue
            if deadline.left <= 0:
                untried.append(asked)
                break
            tried = asked
            if fails(_with_supplies(request, asked)) is None:
                held.append(asked)
                break
    hints = [*([to_have(held)] if held else []), *([to_have(untried) + UNTRIED] if untried else [])]
    return _having(error, [*held, *untried], ", or ".join(hints) or OTHERS)


def _having(error: Infeasible, ways: Sequence[Way], hint: str) -> Infeasible:
    told = error.hint.replace(to_have(_ways(error)), hint)
    return Infeasible(error.message, told, **{**error.details, "have": list(ways)})


def _ways(error: Infeasible) -> list[Way]:
    have = error.details.get("have")
    return list(have) if isinstance(have, Sequence) else []


def _with_supplies(request: FleetRequest, ways: Way) -> FleetRequest:
    """``request`` whose supplies have so many."""
    counts = {each.supply: each.amount for each in ways}
    assert request.cluster is not None
    pools = []
    for pool in request.cluster.pools:
        fields = {
            "gpus": pool.name,
            "spot_gpus": f"{pool.name} (spot)",
            "reserved_gpus": f"{pool.name} (reserved)",
            "quota_gpus": f"{QUOTA}{pool.name}",
        }
        more = {field: counts[name] for field, name in fields.items() if name in counts}
        pools.append(pool.model_copy(update=more))
    rows = [row.model_copy(update={"budget_watts": float(counts.get(f"{ROW}{row.name}", row.budget_watts))})
            for row in request.rows]  # fmt: skip
    cluster = request.cluster.model_copy(update={"pools": tuple(pools)})
    return request.model_copy(update={"cluster": cluster, "rows": tuple(rows)})


def _with_limits(request: FleetRequest, limits: Mapping[str, Relaxed]) -> FleetRequest:
    services = []
    for service in request.services:
        mine = limits.get(service.name, {})
        bounds = tuple(
            bound.model_copy(update={"limit_ms": max(mine.get(bound.label, 0.0), bound.limit_ms)})
            for bound in service.slo.bounds
        )
        services.append(service.model_copy(update={"slo": service.slo.model_copy(update={"bounds": bounds})}))
    return request.model_copy(update={"services": tuple(services)})


def _in_words(request: FleetRequest, limits: Mapping[str, Relaxed]) -> str:
    several = len(request.services) > 1
    return ", and ".join(relaxed_to(mine) + (f" of {name}" if several else "") for name, mine in limits.items() if mine)
