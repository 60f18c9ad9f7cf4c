"""The fleet after losses that it is to survive: who gets what then; after the worst, simulated as before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from planner.serving.fleets.confirming import Confirming, Loaded, joined
from planner.serving.fleets.decision import Answered
from planner.solving.mix.carrying import ENOUGH, Carrying
from planner.solving.mix.question import Loss, losses, remaining
from planner.solving.solvers import Floats

MOST_LOSSES = 500
"""That the worst is looked for among."""


@dataclass(frozen=True)
class AfterLoss:
    """``words``: what is lost; ``found``: what is left at the busiest step, with its shares; ``engines``: its kinds by
    variant, simulated."""

    words: str
    found: Answered
    engines: Mapping[int, Loaded]


def after_worst_loss(found: Answered, confirming: Confirming) -> AfterLoss | None:
    """The worst loss at the busiest step: that which leaves least. None: nothing is to be survived."""
    question, engines = found.question, found.answer.engines
    assert engines is not None
    if not question.survive.any:
        return None
    t = int(np.argmax([sum(step.rate_rps for step in shared.steps) for shared in found.fleet.steps]))
    programme = Carrying(question.work[t])
    worst: tuple[float, Floats, Floats, Loss] | None = None
    for loss in islice(losses(question, engines[t]), MOST_LOSSES):
        left = remaining(engines[t], loss)
        theta, shares, _ = programme.solve(left)
        if loss and (worst is None or theta < worst[0]):
            worst = (theta, left, shares, loss)
    if worst is None or worst[0] <= 0:
        return None
    _, left, shares, loss = worst
    counts, of_steps = engines.copy(), list(found.answer.shares)
    counts[t], of_steps[t] = left.astype(np.int64), shares
    services = tuple(
        replace(
            each, rates=tuple(rate * (question.survive.share if i == t else 1) for i, rate in enumerate(each.rates))
        )
        for each in found.fleet.services
    )
    after = replace(
        found,
        fleet=replace(found.fleet, services=services),
        answer=replace(found.answer, engines=counts, shares=of_steps),
    )
    loaded = {}
    for variant in np.flatnonzero(counts[t] > 0).tolist():
        work = np.where(np.isfinite(question.work[t][:, variant]), question.work[t][:, variant], 0.0)
        used = float(shares[:, variant] @ work) / float(counts[t][variant])
        each = confirming.loaded(after, variant, t, used) if used > 0 else None
        if each is not None:
            loaded[variant] = each
    return AfterLoss(_words(found, loss, engines[t]), after, confirming.with_checks(joined(after, loaded)))


def rerouted(found: Answered, t: int) -> Iterator[tuple[dict[int, int], Floats]]:
    """(engines lost by variant, shares (groups, n) then) of each loss to be survived in step ``t`` after which what is
    left of each kind, taking its part of the shares that were, would get more than it carries."""
    question, engines = found.question, found.answer.engines
    assert engines is not None
    if not question.survive.any:
        return
    counts, work, shares = engines[t], question.work[t], found.answer.shares[t]
    busy = np.where(np.isfinite(work), work, 0.0) * question.survive.share
    programme = Carrying(work)
    for loss in islice(losses(question, counts), MOST_LOSSES):
        left = remaining(counts, loss)
        taken = shares * (left / np.maximum(counts, 1))[None, :]
        total = taken.sum(axis=1)
        if (total > 0).all():
            kept = taken / total[:, None]
            if ((busy * kept).sum(axis=0) <= left * (1 + ENOUGH)).all():
                continue
        theta, after, _ = programme.solve(left)
        if theta > 0:
            yield {v: min(count, int(counts[v])) for v, count in loss if counts[v]}, after


def _words(found: Answered, loss: Loss, engines: np.ndarray) -> str:
    parts = []
    for v, count in loss:
        gone = min(count, int(engines[v]))
        variant = found.fleet.chosen.variants[v]
        if gone:
            label = found.fleet.services[variant.service].engines[variant.engine].label
            supply = found.fleet.offers[variant.offer].supply
            parts.append(f"{gone} × {label}" + ("" if supply == "on_demand" else f", {supply}"))
    return " and ".join(parts)
