"""What the requests of one service see: the simulated requests of its kinds of engine, class by class.

Engines that prefill and engines that decode are simulated each alone. A request of both sees one after the other: each
that was decoded is put behind one that was prefilled, of the same prompt range, by how many such requests each kind
gets and evenly over what they waited, with the transfer of its cache between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.serving.simulator.outcome import Metric, Outcome
from costmodels.serving.simulator.step_table import End
from planner.contract.quantities import Interval, Latency
from planner.contract.workload.classes import LengthClass
from planner.serving.confirmation.simulated_engine import ENDS
from planner.serving.fleets.class_outcomes import class_of, metric_of
from planner.serving.fleets.confirming import Loaded
from planner.serving.fleets.decision import Answered, ServiceLoad
from planner.serving.fleets.tails import rates_on

METRICS: tuple[Metric, ...] = ("ttft", "tpot", "e2e")

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}

FEW = 30
"""Simulated requests below which nothing is said of a class."""

SEED = 0

Seen = Mapping[Metric, Floats]
"""Of each request, µs."""


class PooledRequests:
    """The simulated requests of a service's kinds of engine, each standing for as many as its kind gets.

    Of classes that go to kinds without a simulation (it ends where a promise is missed) nothing is said."""

    def __init__(self, found: Answered, kinds: Sequence[Loaded]) -> None:
        service = found.fleet.chosen.variants[kinds[0].variant].service
        classes = found.fleet.services[service].classes
        self.rates, self._untold = np.zeros(len(classes)), np.zeros(len(classes))
        simulated = [each for each in kinds if each.check is not None]
        prefilled = [each for each in simulated if each.group.role == "prefill"]
        answering = ("aggregated", "decode") if prefilled else ("aggregated",)
        for each in kinds:
            rates = rates_on(found, each.variant, each.step)
            if each.group.role != "prefill":
                self.rates += rates
            if each.check is None:
                self._untold += rates
        seen = [each for each in simulated if each.group.role in answering]
        self._at = {end: _seen_at(end, found, seen, prefilled, classes) for end in ENDS}

    def holds(self, service: ServiceLoad, which: int | None) -> bool | None:
        """Whether the promise holds for a class, or for all (None), which it does not where some kind misses it; None:
        too few of the class were simulated, or a kind that gets some misses its promise."""
        at = self._at["value"]
        mine = np.ones(len(at.where), np.bool_) if which is None else at.where == which
        if which is None and self._untold.any():
            return False
        if int(mine.sum()) < FEW or (which is not None and self._untold[which] > 0):
            return None
        weight = at.weights[mine]
        return all(
            float(weight[~(at.seen[bound.metric][mine] > bound.limit_ms * 1e3)].sum())
            >= bound.percentile / 100 * float(weight.sum())
            for bound in service.asked.slo.bounds
        )

    def latencies(self, which: int) -> dict[str, Latency | None]:
        return {f"{metric}_ms": self.latency(metric, which) for metric in METRICS}

    def latency(self, metric: Metric, which: int) -> Latency | None:
        if self._untold[which] > 0 or not len(self._at["value"].where):
            return None
        found: dict[str, Interval] = {}
        for name, p in (("mean", None), *QUANTILES.items()):
            ends: dict[End, float] = {}
            for end, at in self._at.items():
                kept = (at.where == which) & ~np.isnan(at.seen[metric])
                if kept.any():
                    ends[end] = _weighed(at.seen[metric][kept], at.weights[kept], p) / 1e3
            if "value" not in ends:
                return None
            found[name] = Interval(value=ends["value"], low=min(ends.values()), high=max(ends.values()))
        return Latency(**found)


@dataclass(frozen=True, eq=False)
class _AtEnd:
    """What requests saw, steps at one end of their interval: (n,) each; ``weights``: requests that each stands for,
    ``where``: its class."""

    weights: Floats
    where: Ints
    seen: Seen


def _seen_at(
    end: End, found: Answered, kinds: Sequence[Loaded], prefilled: Sequence[Loaded], classes: Sequence[LengthClass]
) -> _AtEnd:
    """Of the ``kinds`` that answer; those that decode, behind those that ``prefilled``."""
    before = _Prefilled(found, prefilled, classes, end)
    weights, where = [np.zeros(0)], [np.zeros(0, np.int64)]
    seen: dict[Metric, list[Floats]] = {metric: [np.zeros(0)] for metric in METRICS}
    for each in kinds:
        outcome, rates = _outcome(each, end), rates_on(found, each.variant, each.step)
        mine = class_of(outcome, classes, rates)
        weights.append(np.full(len(outcome), float(rates.sum()) / len(outcome)))
        where.append(mine)
        now = before.then(outcome, each, before.drawn(mine)) if each.group.role == "decode" else None
        for metric in METRICS:
            seen[metric].append(metric_of(outcome, metric) if now is None else now[metric])
    return _AtEnd(np.concatenate(weights), np.concatenate(where), {m: np.concatenate(seen[m]) for m in METRICS})


def _outcome(each: Loaded, end: End) -> Outcome:
    assert each.check is not None
    return each.check.outcomes.get(end, each.check.outcomes["value"])


class _Prefilled:
    """The simulated requests of the kinds that prefill, steps at an ``end`` of their interval."""

    def __init__(self, found: Answered, kinds: Sequence[Loaded], classes: Sequence[LengthClass], end: End) -> None:
        self._kinds, self._end, self._range = kinds, end, np.array([each.isl_from for each in classes])
        begins, weights, kind_of, row_of, waited = [], [], [], [], []
        for number, each in enumerate(kinds):
            outcome, rates = _outcome(each, end), rates_on(found, each.variant, each.step)
            mine = class_of(outcome, classes, rates)
            begins.append(np.where(mine >= 0, self._range[mine], -1.0))
            weights.append(np.full(len(outcome), float(rates.sum()) / len(outcome)))
            kind_of.append(np.full(len(outcome), number))
            row_of.append(np.arange(len(outcome)))
            waited.append(metric_of(outcome, "ttft"))
        if kinds:
            self._begins, self._weights = np.concatenate(begins), np.concatenate(weights)
            self._kind, self._row = np.concatenate(kind_of), np.concatenate(row_of)
            self._by_wait = np.argsort(np.concatenate(waited), kind="stable")

    def drawn(self, where: Ints) -> Ints:
        """For requests of classes ``where`` (n,) one each that was prefilled, (n,): the same ones for a class, whatever
        other kinds decode."""
        rng, wanted = np.random.default_rng(SEED), np.where(where >= 0, self._range[where], -1.0)
        out = np.zeros(len(where), np.int64)
        for begins in np.unique(wanted).tolist():
            rows = np.flatnonzero(wanted == begins)
            mine = self._by_wait[self._begins[self._by_wait] == begins]
            mine = mine if len(mine) else self._by_wait
            part = np.cumsum(self._weights[mine])
            places = (rng.permutation(len(rows)) + 0.5) / len(rows)
            out[rows] = mine[np.searchsorted(part, places * part[-1])]
        return out

    def then(self, decoded: Outcome, receiver: Loaded, drawn: Ints) -> Seen:
        """What requests see that were decoded behind those ``drawn``."""
        done, exposed = np.zeros(len(drawn)), np.zeros(len(drawn))
        for number, each in enumerate(self._kinds):
            mine = self._kind[drawn] == number
            done[mine] = metric_of(_outcome(each, self._end), "ttft")[self._row[drawn[mine]]]
            transfer = next(p.transfer for p in each.pairs if p.decode.id == receiver.group.id)
            assert transfer is not None
            exposed[mine] = float(getattr(transfer.joint.exposed_us, self._end)[0])
            exposed[mine] += float(each.pairs[0].served.ttft_parts_us["front end"][0])
        before = done + exposed
        return {
            "ttft": before + metric_of(decoded, "ttft"),
            "tpot": metric_of(decoded, "tpot"),
            "e2e": before + metric_of(decoded, "e2e"),
        }


def _weighed(values: Floats, weights: Floats, p: float | None) -> float:
    if p is None:
        return float(np.average(values, weights=weights))
    order = np.argsort(values)
    part = np.cumsum(weights[order])
    return float(values[order][min(int(np.searchsorted(part, p * part[-1])), len(values) - 1)])
