"""The fleet after losses that it is to survive: who gets what then; after the worst, simulated as before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from planner.contract.engine import Limits
from planner.serving.fleets.confirming import Confirming, Key, Loaded, joined
from planner.serving.fleets.decision import Answered
from planner.serving.fleets.tails import used_of
from planner.solving.mix.carrying import ENOUGH, Carrying
from planner.solving.mix.losses import Loss, losses, nodes_of_supply, on_nodes, remaining
from planner.solving.solvers import Floats

MOST_LOSSES = 500
"""That the worst is looked for among."""

MOST_MIXTURES = 16
"""Losses for whose requests engines are started: those that leave least."""


LEAST_CARRIED, MOST_CARRIED = 0.5, 0.98
"""Of what an engine is counted on for that misses its promise after a loss, what it is counted on for next."""

CHECKED, NEAR_WORST = 3, 1.15
"""Losses after which what is left is simulated: the worst, and those that leave hardly more."""


@dataclass(frozen=True)
class AfterLoss:
    """``words``: what is lost; ``found``: what is left at the busiest step, with its shares; ``engines``: its kinds by
    variant, simulated."""

    words: str
    found: Answered
    engines: Mapping[int, Loaded]


def after_worst_loss(
    found: Answered, confirming: Confirming, started_with: Mapping[int, Limits] | None = None
) -> AfterLoss | None:
    """The worst loss at the busiest step: that which leaves least; engines as they are ``started_with``, by variant.
    None: nothing is to be survived."""
    worst = next(iter(_by_what_they_leave(found)), None)
    if worst is None or worst[0] <= 0:
        return None
    _, loss, shares = worst
    after, loaded = _after(found, confirming, loss, shares)
    engines = found.answer.engines
    assert engines is not None
    loaded = started(after, loaded, started_with or {})
    return AfterLoss(_words(found, loss, engines[_busiest(found)]), after, confirming.with_checks(loaded))


def short_after_loss(found: Answered, confirming: Confirming, limits: Mapping[int, Limits]) -> dict[Key, float]:
    """The kinds of engine that miss their promise after one of the worst losses at the busiest step, and what each then
    carries of what it was counted on for; ``limits``: what they are started with, by variant."""
    worst = [each for each in islice(_by_what_they_leave(found), CHECKED) if each[0] > 0]
    short: dict[Key, float] = {}
    for theta, loss, shares in worst:
        if theta > NEAR_WORST * worst[0][0]:
            break
        after, loaded = _after(found, confirming, loss, shares)
        for variant, each in started(after, loaded, limits).items():
            if each.pairs and each.trial.check() is None:
                kind = found.fleet.chosen.variants[variant]
                key, carries = (kind.service, kind.engine), each.used * each.trial.highest_rps() / each.group.load_rps
                short[key] = min(max(carries, LEAST_CARRIED), MOST_CARRIED, short.get(key, 1.0))
    return short


def limits_of_all(found: Answered, confirming: Confirming, engines: Mapping[int, Loaded]) -> dict[int, Limits]:
    """What the kinds that run, by variant, are started with so that they serve what other steps and losses send them as
    well as what they have at their busiest: the plan says that the promise holds then, of engines that are not started
    anew for it."""
    limits = {variant: each.group.limits for variant, each in engines.items()}
    for variant, other in _in_other_steps(found, confirming, engines):
        limits[variant] = _either(limits[variant], other)
    for theta, loss, shares in islice(_by_what_they_leave(found), MOST_MIXTURES):
        if theta > 0:
            for variant, each in _after(found, confirming, loss, shares)[1].items():
                if variant in limits:
                    limits[variant] = _either(limits[variant], each.group.limits)
    return limits


def _in_other_steps(
    found: Answered, confirming: Confirming, engines: Mapping[int, Loaded]
) -> Iterator[tuple[int, Limits]]:
    for variant, each in engines.items():
        for t in np.flatnonzero(used_of(found, variant) > 0).tolist():
            other = None if t == each.step else confirming.limits(found, variant, t)
            if other is not None:
                yield variant, other


def started(
    found: Answered,
    engines: Mapping[int, Loaded],
    limits: Mapping[int, Limits],
    beside: Mapping[int, Loaded] | None = None,
) -> dict[int, Loaded]:
    """``engines`` with ``limits``, by variant; ``beside``: others that run, as :func:`joined` has them."""
    groups = {v: replace(each.group, started_with=limits.get(v)) for v, each in engines.items()}
    return joined(found, {v: replace(each, group=groups[v]) for v, each in engines.items()}, beside)


def _either(one: Limits, other: Limits) -> Limits:
    sizes = ("max_sequences", "max_tokens_per_step", "max_model_len")
    return one.model_copy(update={name: max(getattr(one, name), getattr(other, name)) for name in sizes})


def _busiest(found: Answered) -> int:
    return int(np.argmax([sum(step.rate_rps for step in shared.steps) for shared in found.fleet.steps]))


def _by_what_they_leave(found: Answered) -> list[tuple[float, Loss, Floats]]:
    """(how many times the load is carried, loss, shares (groups, n) then) of the losses at the busiest step that are
    to be survived, those first that leave least."""
    question, engines = found.question, found.answer.engines
    assert engines is not None
    if not question.survive.any:
        return []
    t = _busiest(found)
    programme, out = Carrying(question.work[t]), []
    for loss in islice(losses(question, engines[t]), MOST_LOSSES):
        if loss:
            theta, shares, _ = programme.solve(remaining(engines[t], loss))
            kept = _kept(found, t, loss)
            out.append((theta, loss, shares if kept is None else kept))
    return sorted(out, key=lambda each: each[0])


def _kept(found: Answered, t: int, loss: Loss) -> Floats | None:
    """The shares of step ``t`` that what a loss leaves of each kind has, taking its part of those that were; None: some
    would get more than it carries."""
    engines, work, shares = found.answer.engines, found.question.work[t], found.answer.shares[t]
    assert engines is not None
    left = remaining(engines[t], loss)
    taken = shares * (left / np.maximum(engines[t], 1))[None, :]
    total = taken.sum(axis=1)
    if not (total > 0).all():
        return None
    kept = taken / total[:, None]
    busy = np.where(np.isfinite(work), work, 0.0) * found.question.survive.share
    return np.asarray(kept) if ((busy * kept).sum(axis=0) <= left * (1 + ENOUGH)).all() else None


def _after(found: Answered, confirming: Confirming, loss: Loss, shares: Floats) -> tuple[Answered, dict[int, Loaded]]:
    """(what a loss at the busiest step leaves, its kinds by variant under what they get then)."""
    question, engines, t = found.question, found.answer.engines, _busiest(found)
    assert engines is not None
    counts, of_steps = engines.copy(), list(found.answer.shares)
    counts[t], of_steps[t] = remaining(engines[t], loss).astype(np.int64), shares
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
        used = question.survive.share * float(shares[:, variant] @ work) / float(counts[t][variant])
        each = confirming.loaded(after, variant, t, used) if used > 0 else None
        if each is not None:
            loaded[variant] = each
    return after, joined(after, loaded)


def rerouted(found: Answered, t: int) -> Iterator[tuple[dict[int, int], Floats]]:
    """(engines lost by variant, shares (groups, n) then) of each loss to be survived in step ``t`` after which what is
    left of each kind, taking its part of the shares that were, would get more than it carries."""
    question, engines = found.question, found.answer.engines
    assert engines is not None
    if not question.survive.any:
        return
    counts, programme = engines[t], Carrying(question.work[t])
    for loss in islice(losses(question, counts), MOST_LOSSES):
        if _kept(found, t, loss) is not None:
            continue
        theta, after, _ = programme.solve(remaining(counts, loss))
        if theta > 0:
            yield {v: min(count, int(counts[v])) for v, count in loss if counts[v]}, after


def where_they_stand(found: Answered) -> tuple[str, ...]:
    """The nodes that engines are taken to stand on at the busiest step, supply by supply, where nodes may be lost."""
    question, engines = found.question, found.answer.engines
    if not question.survive.nodes or engines is None or question.places is None:
        return ()
    said, t = [], _busiest(found)
    for supply, held in on_nodes(question, engines[t]).items():
        v = int(np.flatnonzero(question.places.supply == supply)[0])
        name, node = found.fleet.offers[supply].name, int(question.kinds.node[v])
        most = max(sum(count for _, count in pack) for pack in held)
        nodes = nodes_of_supply(question, v)
        if question.places.bought[v]:
            here = np.where(question.places.supply == supply, engines[t], 0)
            nodes = float(np.ceil(float(question.kinds.gpus @ here) / node))
        if np.isfinite(nodes):
            on = f"are spread over its {nodes:.0f} nodes of {node} GPUs, at most {most} on one"
        else:
            on = "stand each on a node of its own; say `gpus` or `instance` of the pool where they share nodes"
        said.append(f"survive nodes: engines on {name} {on}")
    return tuple(said)


def _words(found: Answered, loss: Loss, engines: np.ndarray) -> str:
    gone = Counter[str]()
    for v, count in loss:
        variant = found.fleet.chosen.variants[v]
        label = found.fleet.services[variant.service].engines[variant.engine].label
        supply = found.fleet.offers[variant.offer].supply
        gone[label + ("" if supply == "on_demand" else f", {supply}")] += min(count, int(engines[v]))
    return " and ".join(f"{count} × {label}" for label, count in gone.items() if count)
