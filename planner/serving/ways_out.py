"""Ways out of a request that has no plan: each is planned before it is told, and where its figure does not do, gentler
ones are; one that was not found to do is not told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_UP, Decimal

from planner.contract.clusters import MOST_GPUS
from planner.serving.request import PlanRequest
from profiles.errors import Infeasible, ShardwrightError

Fails = Callable[[PlanRequest], ShardwrightError | None]
"""Why a request has no plan; None: it has one."""

Tries = Callable[[PlanRequest], ShardwrightError | Mapping[str, int]]
"""Why a request has no plan, or how many GPUs its plan takes of each pool."""

GENTLER = (1.0, 1.05, 1.2, 1.6, 3.0)
"""By what a figure is moved that does not do, one after the other; ..."""

FEW = GENTLER[::2]
"""... by these alone where a plan takes many: of users at once, and of clusters that are open."""

FEWER_USERS = (1.03, 1.1, 1.4, 3.0)
"""By what users at once are fewer than are in flight where a fleet carries the most, which is known to 1.25 %."""


CLOSER, CLOSE = 3, 1.06
"""So many more are tried between what does not do and what does, until they are this close: a way out is about the
nearest."""


def _factors(request: PlanRequest) -> Sequence[float]:
    return FEW if request.workload.concurrency is not None or request.cluster.is_open else GENTLER


def _nearest(request: PlanRequest, fails: float, does: float, tried: Callable[[float], float | None]) -> float:
    """Of the values between one that ``fails`` and one that ``does``: one about as near to the first as any that does;
    as it is where a plan takes many.

    Args:
        tried: None where a value does, else one that may, 0: nobody knows.
    """
    aimed = 0.0
    for _ in range(CLOSER if _factors(request) is GENTLER else 0):
        if max(does / fails, fails / does) <= CLOSE:
            break
        between = aimed if min(fails, does) < aimed < max(fails, does) else math.sqrt(fails * does)
        aims = tried(between)
        if aims is None:
            does, aimed = between, 0.0
        else:
            fails, aimed = between, aims
    return does


def _aims(why: ShardwrightError | None) -> float | None:
    return None if why is None else 0.0


def with_tried_hint(request: PlanRequest, error: ShardwrightError, tries: Tries) -> ShardwrightError:
    """``error`` with a hint that was tried, where its details say what to try: ``highest_rate_rps``, ``gpus_needed`` by
    pool, ``relax_ms`` by bound, ``highest_concurrency``, ``watts_needed``."""
    if not isinstance(error, Infeasible):
        return error

    def fails(changed: PlanRequest) -> ShardwrightError | None:
        found = tries(changed)
        return found if isinstance(found, ShardwrightError) else None

    details = dict(error.details)
    pools = details.get("gpus_needed")
    needed = {name: gpus for name, gpus in pools.items() if gpus} if isinstance(pools, Mapping) else {}
    if isinstance(relax := details.get("relax_ms"), Mapping) and relax:
        told = _relaxed(request, relax, fails)
        return Infeasible(error.message, error.hint.replace(f"{relaxed_to(relax)} or more", told), **details)
    if isinstance(watts := details.get("watts_needed"), float):
        ways = [_more_watts(request, watts, fails)]
        rate = details.get("highest_rate_rps")
        if isinstance(rate, float) and rate > 0 and request.workload.rate_rps is not None:
            offered, details["highest_rate_rps"] = _lower_rate(request, rate, fails)
            ways.append(offered)
        return Infeasible(error.message, ", or ".join(filter(None, ways)) or "allow more watts", **details)
    if request.workload.concurrency is not None:
        if isinstance(users := details.get("highest_concurrency"), int) and users > 0:
            return _fewer_users(request, error, users, fails)
        return error
    if isinstance(rate := details.get("highest_rate_rps"), float) and rate > 0:
        offered, carried = _lower_rate(request, rate, fails)
        wider = [_wider(request, name, gpus, tries) for name, gpus in needed.items()]
        ways = [each for each in (offered, _have([each for each in wider if each])) if each]
        details["highest_rate_rps"] = carried
        message = error.message if carried == rate else error.message.replace("at most", "by the formulas at most")
        return Infeasible(message, ", or ".join(ways) or OTHERWISE, **details)
    if details.get("binding") == "memory" and needed:
        ways = _room(request, needed, tries)
        if not ways:  # with the room, it is the SLO or the load
            work = request.workload.model_copy(update={"rate_rps": None, "concurrency": None})
            nothing = {"slo": request.slo.model_copy(update={"bounds": ()}), "workload": work, "objective": None}
            found = _room(request.model_copy(update=nothing), needed, tries)
            ways = [f"{way}, for a looser SLO or less load" for way in found]
        return Infeasible(error.message, " or ".join(ways) or SMALLER, **details)
    return error


SMALLER = "choose a smaller precision, a smaller model or larger GPUs"
OTHERWISE = f"relax the SLO, or {SMALLER}"


def _room(request: PlanRequest, needed: Mapping[str, int], tries: Tries) -> list[str]:
    """How many GPUs of which pools have room, each in words."""
    return [
        f"{gpus} would do ({pool.gpus} are offered)"
        for pool in request.cluster.pools
        if pool.name in needed and (gpus := _wider(request, pool.name, needed[pool.name], tries, pool.gpu))
    ]


def _have(wider: list[str]) -> str:
    return f"have {' or '.join(wider)}" if wider else ""


def relaxed_to(limits_ms: Mapping[str, float]) -> str:
    """Limits in words, each rounded up to two digits: what can be asked for."""
    return " and ".join(f"{label} to {rounded_up(ms)} ms" for label, ms in limits_ms.items())


def rounded_up(value: float) -> str:
    """Two significant digits, upwards, without an exponent."""
    exact = Decimal(value)
    step = Decimal(1).scaleb(exact.adjusted() - 1)
    return f"{exact.quantize(step, ROUND_UP):f}"


def rounded_down(rate: float) -> float:
    """Six significant digits, so that it can be carried."""
    digits = 10.0 ** (5 - math.floor(math.log10(rate)))
    return math.floor(rate * digits) / digits


def _relaxed(request: PlanRequest, relax_ms: Mapping[str, float], fails: Fails) -> str:
    """Limits that hold, in words; where the load is too much at any, with one that is carried."""
    limits = dict(relax_ms)

    def relaxed(factor: float) -> tuple[dict[str, float], PlanRequest]:
        asked = {label: float(rounded_up(ms * factor)) for label, ms in limits.items()}
        bounds = tuple(
            bound.model_copy(update={"limit_ms": max(asked[bound.label], bound.limit_ms)})
            if bound.label in asked
            else bound
            for bound in request.slo.bounds
        )
        return asked, request.model_copy(update={"slo": request.slo.model_copy(update={"bounds": bounds})})

    failed = 0.0
    for factor in _factors(request):
        asked, changed = relaxed(factor)
        why = fails(changed)
        if why is None:
            if failed:
                found = _nearest(request, failed, factor, lambda each: _aims(fails(relaxed(each)[1])))
                asked = relaxed(found)[0]
            return f"{relaxed_to(asked)} or more"
        failed = factor
        if why.details.get("binding") == "concurrency":
            break  # it is not the bounds
        also = why.details.get("relax_ms")
        for label, ms in also.items() if isinstance(also, Mapping) else ():
            if ms > limits.get(label, 0.0):
                limits[label], failed = ms, 0.0  # another figure, of which nothing is known
    rate = None if why is None else why.details.get("highest_rate_rps")
    if isinstance(rate, float) and rate > 0 and request.workload.rate_rps is not None:
        offered, _ = _lower_rate(changed, rate, fails)
        if offered:
            return f"{relaxed_to(asked)} and {offered}"
    return f"the SLO further than {relaxed_to(asked)}"


def _lower_rate(request: PlanRequest, highest_rps: float, fails: Fails) -> tuple[str, float]:
    """(the way in words, "" where none was found, the highest rate that is known); rates are planned for with the
    headroom, and offered without."""
    rate, planned_for, failed = highest_rps, 1 + request.headroom, 0.0

    def at(rate_rps: float) -> PlanRequest:
        workload = request.workload.model_copy(update={"rate_rps": rounded_down(rate_rps)})
        return request.model_copy(update={"workload": workload})

    for factor in GENTLER:
        asked = rounded_down(rate / planned_for / factor)
        why = fails(at(asked))
        if why is None:
            if failed > asked:
                asked = rounded_down(_nearest(request, failed, asked, lambda each: _aims(fails(at(each)))))
            beside = f" beside {request.headroom:.0%} of headroom" if request.headroom else ""
            return f"offer at most {asked:g} requests/s{beside}", rate if factor == 1 else asked * planned_for
        failed = asked
        known = why.details.get("highest_rate_rps")
        if isinstance(known, float) and 0 < known < rate:
            rate = known
    return "", rate


def _fewer_users(request: PlanRequest, error: Infeasible, most: int, fails: Fails) -> Infeasible:
    """With the most users of whom a plan was found, as the request says them: without the headroom."""
    told = f"about {most}"
    for factor in FEWER_USERS:
        users = int(most / (1 + request.headroom) / factor)
        if users < 1:
            break
        workload = request.workload.model_copy(update={"concurrency": users})
        why = fails(request.model_copy(update={"workload": workload}))
        if why is None:
            message = error.message.replace(told, f"about {users}")
            hint = f"plan for fewer (concurrency={users}), relax the SLO, or offer more GPUs"
            return Infeasible(message, hint, **{**error.details, "highest_concurrency": users})
        known = why.details.get("highest_concurrency")
        most = min(most, known) if isinstance(known, int) and known > 0 else most
    return Infeasible(error.message, "relax the SLO, or offer more GPUs", **error.details)


def _more_watts(request: PlanRequest, watts: float, fails: Fails) -> str:
    """The way in words; "" where none was found to do."""
    asked = watts
    for factor in _factors(request):
        asked = float(math.ceil(max(asked, watts * factor)))
        why = fails(request.model_copy(update={"budget_watts": asked}))
        if why is None:
            return f"allow {asked:,.0f} W"
        known = why.details.get("watts_needed")
        asked = known if isinstance(known, float) and known > asked else asked
    return ""


def _wider(request: PlanRequest, name: str, gpus: int, tries: Tries, of: str | None = None) -> str:
    """So many GPUs of a pool, in words; "" where none was found to do."""
    what = of or f"GPUs of pool {name}"

    def tried(count: float) -> ShardwrightError | Mapping[str, int]:
        pools = tuple(
            pool.model_copy(update={"gpus": math.ceil(count)}) if pool.name == name else pool
            for pool in request.cluster.pools
        )
        return tries(request.model_copy(update={"cluster": request.cluster.model_copy(update={"pools": pools})}))

    def aims(count: float) -> float | None:
        why = tried(count)
        if not isinstance(why, ShardwrightError):
            return None
        carried, rate = why.details.get("highest_rate_rps"), request.workload.rate_rps
        if isinstance(carried, float) and carried > 0 and rate is not None:
            return math.ceil(count) * rate * (1 + request.headroom) / carried
        return 0.0

    failed = next(pool.gpus for pool in request.cluster.pools if pool.name == name)
    for factor in _factors(request):
        count = math.ceil(gpus * factor - 1e-9)
        if count > MOST_GPUS:
            break
        found = tried(count)
        if not isinstance(found, ShardwrightError):
            fewest = found.get(name, count) if request.goal in ("cost", "gpus") else 0
            if failed < fewest < count and aims(fewest) is None:
                count = fewest
            elif fewest < count:
                count = math.ceil(_nearest(request, max(failed, fewest), count, aims))
            return f"{count} {what}"
        failed = count
    return ""
