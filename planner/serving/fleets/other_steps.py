"""Whether the engines of a fleet keep their promise in steps that are not their busiest, under what they get there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from costmodels.estimates import Floats
from planner.serving.confirmation.trial import SETTLES
from planner.serving.fleets.confirming import Confirming, Loaded, joined
from planner.serving.fleets.decision import Answered
from planner.serving.fleets.tails import rates_on, used_of
from planner.solving.mix.clock import Deadline

SAME = 1e-3
"""Share of the requests up to which two steps' mixtures are one: the busier of them tells of both."""

OF_TIME = 1 / 4
"""Of the time that is left, for looking at steps."""

MISSED = (
    "{label} keeps the promise in its busiest step, but misses it in {missed} of {looked} other steps that were "
    "simulated, whose requests are other ones (first at {when}): give --headroom, and see with `plan simulate`"
)


def missed_in_other_steps(
    found: Answered, engines: Mapping[int, Loaded], confirming: Confirming, deadline: Deadline
) -> dict[int, str]:
    """A note of each kind of engine (by variant) that misses its promise in a step, as far as time goes; the
    ``engines`` are those that run, in their busiest steps."""
    notes: dict[int, str] = {}
    if found.question.steps == 1:
        return notes
    until = deadline.part(OF_TIME)
    for number, (variant, busiest) in enumerate(engines.items()):
        mine = until.part(1 / (len(engines) - number))
        used, seen, missed = used_of(found, variant), [_mixture(found, variant, busiest.step)], []
        for t in np.argsort(-used, kind="stable").tolist():
            mixture = _mixture(found, variant, t)
            if used[t] <= 0 or mine.left <= 0:
                break
            if min(float(np.abs(mixture - other).sum()) for other in seen) <= SAME:
                continue
            seen.append(mixture)
            if _misses(found, variant, (t, float(used[t])), engines, confirming):
                missed.append(t)
        if missed:
            v, first = found.fleet.chosen.variants[variant], found.fleet.steps[min(missed)].start_s
            label = found.fleet.services[v.service].engines[v.engine].label
            when = f"{int(first // 3600):02d}:{int(first % 3600 // 60):02d}"
            notes[variant] = MISSED.format(label=label, missed=len(missed), looked=len(seen) - 1, when=when)
    return notes


def _misses(
    found: Answered, variant: int, at: tuple[int, float], engines: Mapping[int, Loaded], confirming: Confirming
) -> bool:
    """Of a kind of engine ``at`` (step, share of its capacity that is used)."""
    one = confirming.loaded(found, variant, *at)
    if one is None:
        return True
    each = joined(found, {variant: one}, engines)[variant]
    return bool(each.pairs) and each.tried(settles=SETTLES).check() is None


def _mixture(found: Answered, variant: int, t: int) -> Floats:
    """Of each class in what a kind of engine gets in a step, (classes,)."""
    rates = rates_on(found, variant, t)
    return rates / max(float(rates.sum()), 1e-300)
