"""The reference traffic scaled to a row: rate and bursts such that today's servers, uncapped, meet the published facts
over six weeks. Only the stretches that can hold the peak or the largest rise are simulated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from planner.power.policy import Policy
from planner.power.simulator import RowModel, chance_of, simulate
from planner.power.traffic import (
    SLOT_S,
    WARM_S,
    Bursts,
    ReferenceLoad,
    busiest,
    mean_lengths,
    reference_facts,
    stretch,
)

REFERENCE_SEED = 230812908
"""Of the six weeks that the facts are met on; days that policies are judged on have other seeds."""

_STRETCHES = 14  # of each kind, of the six weeks
_ROUNDS = 14
UNCAPPED = Policy("uncapped", brakes=False)


@dataclass(frozen=True)
class Met:
    """What the traffic does on today's row over the six weeks, shares of its budget; ``day`` of the peak."""

    peak: float
    rise: float
    day: int


def reference_load(row: RowModel, today: int) -> tuple[ReferenceLoad, Met]:
    """The load, and what it meets. A row that cannot draw the published peak gets what keeps its engines, full of
    sequences, busy for 85 % of the time at most, and ``Met`` says how far that goes."""
    facts = reference_facts()
    bursts, target = Bursts(**facts["bursts"]), facts["facts"]
    kind = row.main
    isl, osl = mean_lengths()
    scale = 0.85 * kind.engines / float(kind.prompt_seconds(np.array(isl)))
    most = 0.85 * float(np.average([each.capacity_rps(isl, osl) for each in row.kinds], weights=row.mix))
    idle = float(row.servers(today).base_watts.sum() + row.other_watts) / row.budget_watts
    load = ReferenceLoad(scale / 6, replace(bursts, extra=0.2))
    shared = row.under(load).load  # by what each kind of server can take
    assert isinstance(shared, ReferenceLoad)
    load = shared
    best, least = (load, six_weeks(row, load, today)), np.inf
    met = best[1]
    for _ in range(_ROUNDS):
        off = 4 * abs(met.peak / target["peak"] - 1) + abs(met.rise / target["rise"] - 1)
        if off < least:
            best, least = (load, met), off
        if off < 0.015:
            break
        rate = load.rate_rps * ((target["peak"] - idle) / max(met.peak - idle, 1e-3)) ** 1.5
        extra = load.bursts.extra * (target["rise"] / max(met.rise, 1e-3)) ** 1.3
        rate, extra = min(max(rate, scale / 200), most), min(max(extra, 0.002), 1.0)
        load = replace(load, rate_rps=rate, bursts=replace(bursts, extra=extra))
        met = six_weeks(row, load, today)
    return best


def six_weeks(row: RowModel, load: ReferenceLoad, today: int) -> Met:
    """Peak and largest rise of ``today`` uncapped servers over the reference's days."""
    facts = reference_facts()["facts"]
    window, days = int(facts["rise_s"]), range(int(facts["days"]))
    row = row.under(load)
    slots = {
        slot
        for rises in (False, True)
        for slot in busiest(load, REFERENCE_SEED, days, _STRETCHES, "exponential", rises=rises)
    }
    peak, rise, of = 0.0, 0.0, 0
    for day, start in sorted(slots):
        requests = row.requests(stretch(load, today, REFERENCE_SEED, day, start, "exponential"))
        share = simulate(row, UNCAPPED, today, requests, chance_of(0, 0), WARM_S + SLOT_S).watts / row.budget_watts
        share = share[WARM_S - 60 :]
        rise = max(rise, *(float(np.max(share[lag:] - share[:-lag])) for lag in range(4, window + 1, 4)))
        if share.max() > peak:
            peak, of = float(share.max()), day
    return Met(peak, rise, of)
