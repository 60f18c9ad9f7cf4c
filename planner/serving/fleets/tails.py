"""How surely an engine must keep a promise that a fleet makes.

What an engine carries at one draw of arrivals it may miss at the next. How much less it is planned with is told by its
own run: by how much its percentiles differ from part to part of it, and by how many engines keep the promise together,
whose luck evens out.
"""

from __future__ import annotations

import numpy as np

from costmodels.estimates import Floats
from planner.contract.workload.slo import Slo
from planner.serving.fleets.decision import Answered

REQUESTS = 1000
"""Of another draw of arrivals, at each engine."""

FORGETS = 2.5
"""Times that an engine forgets its state within the requests of :data:`~planner.serving.confirmation.trial.MOST`, at
least: nearer to all that it can do, what one sees is a matter of when one looks. A quarter of what one engine is asked
for by `plan`: of those of a fleet not all are in a bad state at once."""


OTHER_MIXTURES = {50.0: 0.02, 90.0: 0.06, 95.0: 0.08, 99.0: 0.11, 99.9: 0.15}
"""Share of what an engine carries, alone of its kind, that is left free by percentile where it gets requests that are
not those it is simulated under: in other steps, and after losses (other mixtures, requests that are sent again)."""

SHARED = 0.3
"""Exponent by which that falls with the engines of the kind."""


def used_of(found: Answered, variant: int) -> Floats:
    """The share of its capacity that a kind of engine uses, (steps,)."""
    used = []
    for t, work in enumerate(found.question.work):
        count = int(found.answer.engines[t][variant]) if found.answer.engines is not None else 0
        cells = np.where(np.isfinite(work[:, variant]), work[:, variant], 0.0)
        used.append(float(found.answer.shares[t][:, variant] @ cells) / count if count else 0.0)
    return np.array(used)


def busiest(found: Answered, variant: int) -> tuple[int, float]:
    """(the step in which a kind of engine is loaded most, the share of its capacity that is used then)."""
    used = used_of(found, variant)
    t = int(np.argmax(used))
    return t, float(used[t])


def rates_on(found: Answered, variant: int, t: int) -> Floats:
    """Requests per second of each of a service's classes that a kind of engine gets in a step, all engines of it."""
    service = found.fleet.chosen.variants[variant].service
    rates = np.zeros(len(found.fleet.services[service].classes))
    for g, group in enumerate(found.groups[t]):
        if group.service == service:
            mine = list(group.classes)
            rates[mine] += found.fleet.services[service].rates[t][mine] * found.answer.shares[t][g, variant]
    return rates


def kept_for_mixtures(slo: Slo, engines: int) -> float:
    """The share of what an engine carries that is counted on where it gets other mixtures, too."""
    percentile = max([bound.percentile for bound in slo.bounds], default=90.0)
    free = float(np.interp(percentile, list(OTHER_MIXTURES), list(OTHER_MIXTURES.values())))
    return 1.0 - free / float(max(engines, 1) ** SHARED)


def other_draw(found: Answered, variant: int, t: int) -> float:
    """Requests of another draw that tell of the promise that a kind of engine keeps with others in a step."""
    return REQUESTS * keeping_together(found, variant, t)


def keeping_together(found: Answered, variant: int, t: int) -> float:
    """How many engines keep a promise together with those of a kind in a step: as many as would, if each had the same
    share of a service's requests, be told as well by their mean. Those of its kind, where every class is promised."""
    engines, chosen = found.answer.engines, found.fleet.chosen.variants
    assert engines is not None
    mine = chosen[variant]
    service = found.fleet.services[mine.service]
    if service.asked.promise == "class":
        return float(engines[t][variant])
    role = service.engines[mine.engine].role
    alike = [
        v for v in np.flatnonzero(engines[t] > 0).tolist()
        if chosen[v].service == mine.service and service.engines[chosen[v].engine].role == role
    ]  # fmt: skip
    rates = np.array([rates_on(found, v, t).sum() for v in alike])
    squares = float((rates**2 / engines[t][alike]).sum())
    return float(rates.sum()) ** 2 / squares if squares > 0 else 1.0
