"""What engines that prefill and engines that decode carry of one pair of lengths.

A request sees a pair, so what an engine carries depends on its partners. Of every pair of lengths the terms that
engines keep to each other (:class:`~planner.serving.engines.disaggregated.PairingLimits`) are those with which a
request costs least if engines could be had in parts, the loosest of those that are as good: every prefill engine that
keeps them may then hand over to every decode engine that does, and the two roles are chosen apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.models.precision import Precision
from costmodels.operations.layouts import Layouts
from planner.contract.engine import Role
from planner.serving.engines.disaggregated import (
    DisaggregatedEngines,
    EnginesWithinLimits,
    candidates,
    find_disaggregated_engines,
    pairing_limits,
    slowest_decode,
)
from planner.serving.engines.energy import decode_watts, prefill_watts
from planner.serving.engines.pairing import must_have_equal_tp, not_handed_over, partners
from planner.serving.operating_points import LayoutSearch, rate_at_confidence

AS_GOOD = 0.02
"""Relative, by which terms that leave more engines to choose from may make a request dearer."""


MOST_TERMS = 9
"""Terms that are tried of each pair of lengths, from the loosest to the tightest."""


@dataclass(frozen=True)
class Partners:
    """Engines of which any two may serve a request together: of one precision, on pools whose GPUs attend alike, and
    where the connector ties them together of one tensor-parallel degree (0: any)."""

    precision: Precision
    pools: tuple[int, ...]
    tp: int


@dataclass(frozen=True)
class RoleRate:
    """What one engine carries in one role, requests per second."""

    partners: Partners
    role: Role
    pool_index: int
    layout: tuple[int, ...]
    gpus: int
    budget: int
    rate_rps: float
    watts: float


Worth = Callable[[int], float]
"""Of a GPU of a pool, to choose terms by: its price where cost is the objective."""


def rates_apart(searches: Sequence[LayoutSearch], worth: Worth, confidence: float, *, metered: bool) -> list[RoleRate]:
    """Of every set of partners what its engines carry; ``metered``: with what they draw."""
    found: list[RoleRate] = []
    by_precision: dict[Precision, list[DisaggregatedEngines]] = {}
    for one in searches:
        served = one.job.served
        if not_handed_over(served.framework, served.model) is not None:
            continue
        roles = find_disaggregated_engines(one)
        if roles is not None:
            by_precision.setdefault(served.precision, []).append(roles)
    for precision, pools in by_precision.items():
        for together in partners(pools):
            kept = _on_best_terms(together, worth, confidence)
            if kept:
                served = together[0].job.served
                tied = must_have_equal_tp(served.framework.kv_connector, served.model)
                tp = int(together[0].layouts.tp[0]) if tied else 0
                set_of = Partners(precision, tuple(pool.job.pool_index for pool in together), tp)
                found += [rate for each in kept for rate in _rates(set_of, each, confidence, metered=metered)]
    return found


def _on_best_terms(
    pools: list[DisaggregatedEngines], worth: Worth, confidence: float
) -> list[EnginesWithinLimits] | None:
    """The engines that keep the terms with which a request costs least; None: none do."""
    tried: list[tuple[float, list[EnginesWithinLimits]]] = []
    every = list(pairing_limits(pools))
    for at in np.unique(np.linspace(0, len(every) - 1, min(len(every), MOST_TERMS)).astype(int)).tolist():
        on = every[at]
        slowest = slowest_decode(pools, on)
        if slowest is None:
            continue
        kept = [candidates(pool, on, slowest) for pool in pools]
        least = [np.inf, np.inf]
        for each in kept:
            price = worth(each.roles.job.pool_index)
            for role, (layouts, rate) in enumerate(_carried(each, confidence)):
                if len(rate):
                    least[role] = min(least[role], price * float((layouts.gpus / np.maximum(rate, 1e-300)).min()))
        if np.isfinite(sum(least)):
            tried.append((sum(least), kept))
    best = min((cost for cost, _ in tried), default=np.inf)
    return next((kept for cost, kept in tried if cost <= best * (1 + AS_GOOD)), None)


def _carried(kept: EnginesWithinLimits, confidence: float) -> tuple[tuple[Layouts, Floats], tuple[Layouts, Floats]]:
    """(layouts, requests per second) of the prefill and of the decode engines."""
    first, second = kept.prefill, kept.decode
    return (
        (first.steps.layouts, rate_at_confidence(first.rate_rps, confidence)),
        (second.layouts, rate_at_confidence(second.rate_rps, confidence)),
    )


def _rates(partners: Partners, kept: EnginesWithinLimits, confidence: float, *, metered: bool) -> Iterator[RoleRate]:
    """Of every prefill engine, and of every layout that decodes at its best."""
    job = kept.roles.job
    budgets: tuple[Ints, Ints] = (kept.roles.budget[kept.prefill_rows], np.zeros(len(kept.decode_rows), np.int64))
    drawn = (prefill_watts(job, kept.prefill), decode_watts(job, kept.decode)) if metered else (None, None)
    roles: tuple[Role, Role] = ("prefill", "decode")
    for role, (layouts, rate), budget, watts in zip(roles, _carried(kept, confidence), budgets, drawn, strict=True):
        best: dict[tuple[object, ...], int] = {}
        for i in np.argsort(rate, kind="stable").tolist():
            best[(layouts.row(i), int(budget[i]))] = i
        for (row, _), i in best.items():
            gpus = int(layouts.gpus[i])
            each = 0.0 if watts is None else float(watts[i]) * gpus
            yield RoleRate(partners, role, job.pool_index, row, gpus, int(budget[i]), float(rate[i]), each)  # type: ignore[arg-type]
