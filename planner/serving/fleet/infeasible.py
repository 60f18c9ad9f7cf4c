"""What a fleet lacks: the pools that bind, why there is no fleet at all, and what would work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from planner.serving.fleet.programme import Question, programme
from planner.solving.packing import hosted, span, with_gpus
from planner.solving.solvers import TOLERANCE, Ints, Solution
from profiles.errors import Infeasible, LimitReached, ShardwrightError


def gpus_of(ask: Question, which: Sequence[int], engines: Ints | None = None) -> str:
    """The pools in words, with ``engines`` (n,) also how many of their GPUs are idle."""
    c, parts = ask.candidates, []
    for p in sorted(set(which)):
        idle = 0 if engines is None else ask.pools[p].gpus - int((c.gpus * engines)[c.pool == p].sum())
        parts.append(f"pool {ask.pools[p].name}" + (f" ({idle} of {ask.pools[p].gpus} idle)" if idle else ""))
    return f"GPUs of {' and '.join(parts)}"


def infeasible(ask: Question) -> Infeasible:
    """Why there is no fleet, and what would work: more watts, a lower rate, or so many GPUs of one pool alone."""
    c, rate = ask.candidates, ask.rate_rps
    if not len(c.pool):
        return Infeasible(
            "candidates: none was given, so there is nothing to run", "loosen the SLO, or offer more layouts"
        )
    if ask.budget_watts is not None and (short := _short_of_watts(ask)) is not None:
        return short
    offered = sorted(set(c.pool.tolist()))
    needed = {ask.pools[p].name: _gpus_needed(ask, p) for p in offered}
    ways = [f"{gpus} GPUs of pool {name}" for name, gpus in needed.items() if gpus is not None]
    hostable = hosted(ask.pools, c, frozenset(offered))
    binding = gpus_of(ask, c.pool[hostable].tolist() or offered)
    found = _most(replace(ask, budget_watts=None))
    if found is not None and found.status == "infeasible":
        return Infeasible(
            f"no prefill engine fits the {binding} beside a decode engine",
            (f"have {' or '.join(ways)}, or " if ways else "") + "offer smaller engines",
            binding=binding,
            highest_rate_rps=0.0,
            gpus_needed=needed,
        )
    if found is None:
        has = [f"{ask.pools[p].gpus} in nodes of {ask.pools[p].gpus_per_node}" for p in offered]
        return Infeasible(
            f"no candidate fits the {gpus_of(ask, offered)}, which has {' and '.join(has)}: every engine is "
            + ("larger" if ways else "larger than that or has blocks larger than a node"),
            (f"have {' or '.join(ways)}, or " if ways else "") + "offer smaller engines",
            binding=binding,
            highest_rate_rps=0.0,
            gpus_needed=needed,
        )
    highest = found.objective or 0.0
    shown = f"{_rounded_down(highest):g}"
    carried = f"at most {shown}" if found.status == "optimal" else f"{shown} as far as was found in time"
    if ask.budget_watts is not None:
        within = _most(ask)
        highest = 0.0 if within is None or within.objective is None else within.objective
        shown = f"{_rounded_down(highest):g}"
        carried += f" with any watts, {shown if highest else 'nothing'} within {ask.budget_watts:,.0f} W"
    return Infeasible(
        f"rate_rps: {rate:g} requests/s is more than the {binding} carry, {carried}",
        (f"offer at most {shown} requests/s" if highest else "allow more watts at a lower rate")
        + (f", or have {' or '.join(ways)}" if ways else ""),
        binding=binding,
        highest_rate_rps=highest,
        gpus_needed=needed,
    )


def _most(ask: Question) -> Solution | None:
    """The highest rate that fits; None where a role has no candidate that fits."""
    model = programme(replace(ask, objective="throughput", rate_rps=None))
    return ask.solve(model, ties=False) if model else None


def _short_of_watts(ask: Question) -> Infeasible | None:
    """Where a fleet would be, were its watts not limited: how many it takes, and the rate that the budget carries."""
    asked = ask.rate_rps or float(ask.candidates.capacity_rps.min())
    least = replace(ask, objective="watts", rate_rps=asked, budget_watts=None)
    model = programme(least)
    found = least.solve(model, ties=False) if model else None
    if found is None or found.objective is None:
        return None
    needed = math.ceil(found.objective)
    carried = _most(ask)
    highest = 0.0 if carried is None or carried.objective is None else carried.objective
    assert ask.budget_watts is not None
    return _too_few_watts(ask.budget_watts, ask.rate_rps, needed, highest)


def _too_few_watts(budget: float, rate_rps: float | None, needed: int, highest_rps: float) -> Infeasible:
    load = "" if rate_rps is None else f" that carries {rate_rps:g} requests/s"
    offer = f", or offer at most {_rounded_down(highest_rps):g} requests/s" if highest_rps and load else ""
    return Infeasible(
        f"budget_watts: {budget:,.0f} W is less than any fleet{load} draws, {needed:,} W",
        f"allow {needed:,} W{offer}",
        binding="power budget",
        watts_needed=float(needed),
        highest_rate_rps=highest_rps,
    )


def highest_rps(error: ShardwrightError | None) -> float:
    """The highest rate that is known to be carried where the rate asked for is not, requests/s."""
    highest = error.details.get("highest_rate_rps") if error is not None else None
    return float(highest) if isinstance(highest, int | float) else 0.0


def nearest(
    errors: Sequence[Infeasible | LimitReached], budget_watts: float | None, rate_rps: float | None
) -> Infeasible | LimitReached:
    """Of what keeps several ways from serving, what is true of them all: the error of the one that carries most, or
    where watts bind, the fewest that any of them draws."""
    drawn = [watts for error in errors if isinstance(watts := error.details.get("watts_needed"), float)]
    if drawn and budget_watts is not None:
        return _too_few_watts(budget_watts, rate_rps, math.ceil(min(drawn)), max(map(highest_rps, errors)))
    return max(errors, key=highest_rps)


def _rounded_down(rate: float) -> float:
    """Six significant digits, so that it can be carried."""
    digits = 10.0 ** (5 - math.floor(math.log10(rate))) if rate else 1.0
    return math.floor(rate * digits) / digits


def _gpus_needed(ask: Question, p: int) -> int | None:
    """The fewest GPUs with which pool ``p`` alone carries the rate (without one: hosts an engine); None where
    no number does or none was proved in time. More GPUs never carry less, so the number is found by doubling
    and halving."""
    c = ask.candidates
    only = c.take(np.flatnonzero(c.pool == p))
    if only.needed != c.needed:
        return None
    ask = replace(ask, candidates=only, objective="gpus")

    def fewest(gpus: int | None) -> Solution | None:
        pools = list(ask.pools)
        pools[p] = with_gpus(pools[p], gpus or 1)
        wider = replace(ask, pools=tuple(pools), unlimited=frozenset({p} if gpus is None else ()))
        model = programme(wider)
        return wider.solve(model, ties=False) if model else None

    if ask.rate_rps is None and len(only.needed) > 1:
        ask = replace(ask, rate_rps=float(only.capacity_rps.min()))  # what one engine of each role carries
    if ask.rate_rps is None:
        node = ask.pools[p].gpus_per_node
        cuts = [only.cut(ask.pools, v) for v in range(len(only.pool))]
        return min((span(cut, node) for cut in cuts if cut), default=None)
    least = fewest(None)
    if least is None or least.bound is None or least.objective is None:
        return None

    def enough(gpus: int) -> bool:
        solution = fewest(gpus)
        if solution is not None and solution.status == "time_limit":
            raise LimitReached(f"pool {ask.pools[p].name}: no answer for {gpus} GPUs", "raise time_limit_s")
        return solution is not None and solution.found

    low = high = math.ceil(least.bound * (1 - TOLERANCE))
    try:
        while not enough(high):
            low, high = high + 1, 2 * high
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle + 1, high)
    except LimitReached:
        return None
    return high
