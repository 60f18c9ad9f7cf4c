"""How a placement does on workloads that it was not fitted to: fit on some recorded windows, score on the others.

Fitting to each window jointly (:func:`planner.experts.balance.balance`) balances every mixture of them too, which helps
on a new workload as far as that resembles a mixture; what is new in it no placement can know. How much that is, only a
held-out window tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.experts.balance import balance, checked_counts
from planner.experts.baseline import greedy
from planner.experts.placement import Floats, Ints, Loads, Topology
from profiles.errors import InputError


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Balancedness (mean over layers) on each window by placements fitted to all the others, shape [windows].

    ours: fitted jointly; average: ours, fitted to the average of the others; baseline: greedy, fitted to that average;
    fitted: ours on the windows it was fitted to (their mean), the share that is lost on the held-out one.
    """

    names: tuple[str, ...]
    ours: Floats
    average: Floats
    baseline: Floats
    fitted: Floats


def select(loads: Loads, windows: Ints) -> Loads:
    """These windows alone, their weights scaled to sum to 1."""
    weights = loads.weights[windows]
    return Loads(
        loads.counts[windows], loads.layer_index, tuple(loads.names[w] for w in windows), weights / weights.sum()
    )


TIME_LIMIT_S = 60.0


def hold_out(loads: Loads, topology: Topology) -> HeldOut:
    """Each window in turn held out.

    Raises:
        InputError: as :func:`planner.experts.balance.balance`, and for fewer than two windows.
    """
    if loads.windows < 2:
        raise InputError(
            f"holdout: {loads.windows} recorded window leaves none to fit to", "give two or more windows of loads"
        )
    counts = checked_counts(loads, "refuse")
    time_limit_s = TIME_LIMIT_S / (2 * loads.windows)
    scores = []
    for window in range(loads.windows):
        rest = select(loads, np.delete(np.arange(loads.windows), window))
        rest = Loads(np.delete(counts, window, axis=0), rest.layer_index, rest.names, rest.weights)
        jointly = balance(rest, topology, time_limit_s=time_limit_s)
        mean = rest.averaged()
        on_average = balance(mean, topology, time_limit_s=time_limit_s).placement
        usual = greedy(mean.counts[0], topology, None)
        held = [p.balancedness(counts[window]).mean() for p in (jointly.placement, on_average, usual)]
        scores.append([*held, jointly.certificate.balancedness.mean()])
    ours, on_mean, baseline, fitted = np.array(scores).T
    return HeldOut(loads.names, ours, on_mean, baseline, fitted)
