"""What fleets cost. ``usd_per_hour`` is what their GPUs cost everywhere (engines, whole instances, what is reserved);
electricity, where it is priced, is counted by the programme and told beside."""

from __future__ import annotations

import numpy as np

from costmodels.estimates import Ints
from planner.serving.fleets.decision import Answered
from planner.serving.fleets.supplies import reserved_usd_per_hour
from planner.solving.mix.solve import mean_cost


def usd_of(found: Answered, variant: int) -> float | None:
    """What one engine of a kind costs for an hour, as it is paid; None: nobody says."""
    fleet = found.fleet
    v = fleet.chosen.variants[variant]
    offer = fleet.offers[v.offer]
    own = fleet.services[v.service].engines[v.engine].usd_per_hour
    if own is not None and (fleet.request.cluster is None or offer.usd_per_gpu_hour is None):
        return own
    return None if offer.usd_per_gpu_hour is None else offer.usd_per_gpu_hour * v.gpus


def step_usd(found: Answered, t: int) -> float | None:
    """What serves in step ``t``, by the hour; None: a price is not known."""
    engines = _engines(found)[t]
    fleet, total = found.fleet, 0.0
    whole = {k for block in found.question.blocks if block.unit > 1 for k in block.kinds.tolist()}
    for v, variant in enumerate(fleet.chosen.variants):
        offer = fleet.offers[variant.offer]
        if offer.supply in ("reserved", "owned") or v in whole or not engines[v]:
            continue
        price = usd_of(found, v)
        if price is None:
            return None
        total += price * float(engines[v])
    for block in found.question.blocks:
        if block.unit > 1:
            offer = next(each for each in fleet.offers if each.name == block.name)
            bought = units(block.each, engines[block.kinds], block.unit) * block.unit
            total += bought * (offer.usd_per_gpu_hour or 0.0)
    return total + reserved_usd_per_hour(fleet.offers)


def units(each: np.ndarray, engines: np.ndarray, unit: int) -> int:
    """Whole instances of ``unit`` GPUs that hold ``engines`` (n,) of ``each`` GPUs."""
    return int(np.ceil(float(each @ engines) / unit - 1e-9))


def usd_per_hour(found: Answered) -> float | None:
    """The mean over the schedule, with what starts before it serves; None: a price is not known."""
    steps = [step_usd(found, t) for t in range(len(found.fleet.steps))]
    if any(usd is None for usd in steps):
        return None
    if found.fleet.request.objective == "cost" and found.answer.objective is not None:
        return found.answer.objective - electricity(found)
    return float(np.average([usd or 0.0 for usd in steps], weights=found.question.seconds))


def electricity(found: Answered) -> float:
    """USD an hour in the mean, engines at what they carry at most; 0: it is not priced."""
    return mean_cost(found.question, found.fleet.chosen.electricity, _engines(found))


def _engines(found: Answered) -> Ints:
    assert found.answer.engines is not None
    return found.answer.engines
