"""Whether an engine keeps up with a load that ends before that can be told.

While more and more requests are in an engine, its steps take longer, and so does whoever waits for one: a queue that
grows then says nothing. Nor does one that grows by as much as queues near capacity do by chance. A longer load of the
same requests at the same rate tells.
"""

from __future__ import annotations

import math

import numpy as np

from costmodels.serving.simulator.arrivals import open_loop
from costmodels.serving.simulator.capacity import SETTLED, TENTH, keeps_up, queue_growth
from costmodels.serving.simulator.engine import Engine
from costmodels.serving.simulator.events import simulate
from costmodels.serving.simulator.outcome import Outcome

LIFETIMES = 3
"""Times that a request is in the engine, after which it has filled."""

MOST = 20_000
"""Requests of the longer load."""

SURE = 2.0
"""Standard deviations by which a queue must have grown to be none that chance made: of arrivals at random, as many as
came meanwhile have their root as theirs."""


def filling(outcome: Outcome) -> bool:
    """Whether the engine was still filling when it was last judged: its requests stay for longer than a third of the
    arrivals by whose queue :func:`~costmodels.serving.simulator.capacity.queue_growth` judges."""
    served = outcome.served
    arrivals = outcome.arrival_us[served]
    if not len(arrivals):
        return False
    stays = float((outcome.finish_us - outcome.first_us)[served].mean())
    return bool((1 - SETTLED) * (arrivals.max() - arrivals.min()) < LIFETIMES * stays)


def by_chance(outcome: Outcome) -> bool:
    """Whether arrivals at random explain by how much the queue grew."""
    arrivals = int(outcome.served.sum()) * (1 - SETTLED - TENTH)
    return queue_growth(outcome) * math.sqrt(arrivals) < SURE


def carries(engine: Engine, outcome: Outcome) -> bool:
    """Whether the ``engine`` keeps up with a load of which ``outcome`` is what it saw; where that ended too early to
    tell, with a longer one."""
    while not keeps_up(outcome):
        served = np.flatnonzero(outcome.served)
        arrivals, n = np.sort(outcome.arrival_us[served]), min(2 * len(served), MOST)
        if not (filling(outcome) or by_chance(outcome)) or n <= len(served) or not arrivals[-1] > arrivals[0]:
            return False
        again = np.resize(served, n)
        rate_rps = (len(served) - 1) / (arrivals[-1] - arrivals[0]) * 1e6
        outcome = simulate(engine, open_loop(outcome.isl[again], outcome.osl[again], rate_rps, seed=0))
    return True
