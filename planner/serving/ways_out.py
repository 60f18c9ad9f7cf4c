"""Ways out of a request that has no plan: each is planned before it is told, and where its figure does not do, a
gentler one is; one that was not found to do is told as "about"."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from decimal import ROUND_UP, Decimal

from planner.contract.clusters import MOST_GPUS
from planner.serving.request import PlanRequest
from profiles.errors import Infeasible, ShardwrightError

Fails = Callable[[PlanRequest], ShardwrightError | None]
"""Why a request has no plan; None: it has one."""

TRIES = 3
"""Figures tried of each way."""

GENTLER = 1.05
"""A figure that does not do, and of which nothing better is known, is moved by this factor."""


def with_tried_hint(request: PlanRequest, error: ShardwrightError, fails: Fails) -> ShardwrightError:
    """``error`` with a hint that was tried, where its details say what to try: ``highest_rate_rps``, ``gpus_needed`` by
    pool, ``relax_ms`` by bound, ``watts_needed``."""
    if not isinstance(error, Infeasible):
        return error
    details = dict(error.details)
    pools = details.get("gpus_needed")
    needed = {name: gpus for name, gpus in pools.items() if gpus} if isinstance(pools, Mapping) else {}
    if isinstance(relax := details.get("relax_ms"), Mapping) and relax:
        told = _relaxed(request, relax, fails)
        return Infeasible(error.message, error.hint.replace(relaxed_to(relax), told), **details)
    if isinstance(watts := details.get("watts_needed"), float):
        ways = [_more_watts(request, watts, fails)]
        rate = details.get("highest_rate_rps")
        if isinstance(rate, float) and rate > 0 and request.workload.rate_rps is not None:
            offered, details["highest_rate_rps"] = _lower_rate(request, rate, fails)
            ways.append(offered)
        return Infeasible(error.message, ", or ".join(ways), **details)
    if isinstance(rate := details.get("highest_rate_rps"), float) and rate > 0:
        offered, carried = _lower_rate(request, rate, fails)
        wider = [_wider(request, name, gpus, fails) for name, gpus in needed.items()]
        details["highest_rate_rps"] = carried
        message = error.message if carried == rate else error.message.replace("at most", "by the formulas at most")
        return Infeasible(message, offered + (f", or have {' or '.join(wider)}" if wider else ""), **details)
    if details.get("binding") == "memory" and needed:
        ways = [
            f"{_wider(request, pool.name, needed[pool.name], fails, pool.gpu)} would do ({pool.gpus} are offered)"
            for pool in request.cluster.pools
            if pool.name in needed
        ]
        return Infeasible(error.message, " or ".join(ways), **details)
    return error


def relaxed_to(limits_ms: Mapping[str, float], about: str = "") -> str:
    """Limits in words, each rounded up to two digits: what can be asked for."""
    return " and ".join(f"{label} to {about}{rounded_up(ms)} ms" for label, ms in limits_ms.items())


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
    limits = dict(relax_ms)
    for _ in range(TRIES):
        bounds = tuple(
            bound.model_copy(update={"limit_ms": float(rounded_up(limits[bound.label]))})
            if bound.label in limits
            else bound
            for bound in request.slo.bounds
        )
        slo = request.slo.model_copy(update={"bounds": bounds})
        if fails(request.model_copy(update={"slo": slo})) is None:
            return relaxed_to(limits)
        limits = {label: ms * GENTLER for label, ms in limits.items()}
    return relaxed_to(relax_ms, "about ")


def _lower_rate(request: PlanRequest, highest_rps: float, fails: Fails) -> tuple[str, float]:
    """(the way in words, the highest rate that is known)."""
    rate = highest_rps
    for _ in range(TRIES):
        asked = rounded_down(rate)
        workload = request.workload.model_copy(update={"rate_rps": asked})
        why = fails(request.model_copy(update={"workload": workload}))
        if why is None:
            return f"offer at most {asked:g} requests/s", rate
        known = why.details.get("highest_rate_rps")
        rate = known if isinstance(known, float) and 0 < known < asked else asked / GENTLER
    return f"offer about {rounded_down(rate):g} requests/s", rate


def _more_watts(request: PlanRequest, watts: float, fails: Fails) -> str:
    """The way in words."""
    asked = watts
    for _ in range(TRIES):
        why = fails(request.model_copy(update={"budget_watts": asked}))
        if why is None:
            return f"allow {asked:,.0f} W"
        known = why.details.get("watts_needed")
        asked = math.ceil(known if isinstance(known, float) and known > asked else asked * GENTLER)
    return f"allow about {asked:,.0f} W"


def _wider(request: PlanRequest, name: str, gpus: int, fails: Fails, of: str | None = None) -> str:
    """So many GPUs of a pool, in words."""
    what = of or f"GPUs of pool {name}"
    for count in _counts(gpus):
        pools = tuple(
            pool.model_copy(update={"gpus": count}) if pool.name == name else pool for pool in request.cluster.pools
        )
        cluster = request.cluster.model_copy(update={"pools": pools})
        if fails(request.model_copy(update={"cluster": cluster})) is None:
            return f"{count} {what}"
    return f"about {gpus} {what}"


def _counts(gpus: int) -> Iterator[int]:
    count = gpus
    for _ in range(TRIES):
        if count <= MOST_GPUS:
            yield count
        count = max(count + 1, math.ceil(count * GENTLER))
