"""What requests see of a plan's engines: as simulated, or else by the formulas.

A request of aggregated engines sees one engine. One of disaggregated engines sees what the formulas say of the pair,
moved by what the simulation of each engine alone differs from its part of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from costmodels.estimates import Floats
from costmodels.serving.simulator.outcome import Metric, Outcome
from planner.serving.engines.groups import Group, Pair
from planner.serving.operating_points import Served


@dataclass(frozen=True)
class Check:
    """One engine of a group, simulated alone at its load.

    Attributes:
        outcome: the requests that count.
        requests: all of them, those that fill the engine at first included.
        formula_rps: what the formulas say that the engine carries, where the simulation carries less.
    """

    outcome: Outcome
    requests: int
    formula_rps: float | None = None

    def us(self, metric: Metric, p: float | None) -> float:
        """What a share ``p`` of requests stays below; the mean with None."""
        return self.outcome.mean_us(metric) if p is None else self.outcome.percentile_us(metric, p)


Checks = Mapping[str, Check]
"""By the group's id; empty where nothing was simulated."""


def group_us(group: Group, checks: Checks, metric: Metric, p: float | None) -> float | None:
    """Of the group's engine alone (:meth:`planner.serving.engines.protocol.LoadedEngine.own_us`)."""
    own = group.engine.own_us(metric, p)
    return checks[group.id].us(metric, p) if own is not None and group.id in checks else own


def pair_us(pair: Pair, checks: Checks, metric: Metric, p: float | None) -> float:
    """Of requests that the pair serves: what a share ``p`` stays below, the mean with None."""
    if pair.prefill.id in checks and pair.transfer is None:
        return checks[pair.prefill.id].us(metric, p)
    whole = formula_us(pair.served, metric, p)
    if pair.prefill.id in checks:
        for group in (pair.prefill, pair.decode):
            own = group.engine.own_us(metric, p)
            if own is not None:
                whole += checks[group.id].us(metric, p) - own
    return whole


def formula_us(served: Served, metric: Metric, p: float | None) -> float:
    """The same by the formulas."""
    found: Floats = (
        getattr(served, f"{metric}_us").value if p is None else getattr(served, f"{metric}_percentile_us")(p)
    )
    return float(found[0])
