"""Intervals from residuals of runs held out: the runs of one model on one GPU type share a vote by the root of their
number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import COVERAGE, Floats, Ints
from costmodels.serving.frameworks.calibration import LATENCIES, LOADS, HalfWidths, Spread, Spreads

_PSEUDO = 25.0
"""Runs of all GPU types that an interval of one is drawn to."""

_PSEUDO_CUT = 60.0
"""Runs at a load, or of a kind of model, that the factor of its interval is drawn to 1 by."""

_NARROWEST = 0.03

_FRONT_SHARE = 0.25
_LEAST_FRONT = 0.1


def quantile(errors: Floats, groups: np.ndarray, q: float) -> float:
    """The quantile of ``errors`` [n] with the weight of each of ``groups`` [n] that of the root of its rows."""
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(errors)
    weights = (1 / np.sqrt(counts[index]))[order]
    places = (np.cumsum(weights) - weights / 2) / weights.sum()
    return float(np.interp(q, places, errors[order]))


def spread(errors: Floats, groups: np.ndarray) -> Spread:
    """The interval of the claimed coverage."""
    low, high = (quantile(errors, groups, q) for q in ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2))
    return Spread(low=round(low, 4), high=round(high, 4))


@dataclass(frozen=True)
class Residuals:
    """log(measured ÷ predicted) of runs, [n] by latency (NaN where not measured), and their groups."""

    errors: dict[str, Floats]
    groups: np.ndarray

    def take(self, index: NDArray[np.bool_]) -> Residuals:
        return Residuals({name: values[index] for name, values in self.errors.items()}, self.groups[index])

    def joined(self, other: Residuals) -> Residuals:
        return Residuals(
            {name: np.concatenate([values, other.errors[name]]) for name, values in self.errors.items()},
            np.concatenate([self.groups, other.groups]),
        )

    def count(self, name: str) -> int:
        return int(np.isfinite(self.errors[name]).sum())

    def spread(self, name: str) -> Spread | None:
        known = np.isfinite(self.errors[name])
        return spread(self.errors[name][known], self.groups[known]) if known.sum() >= 2 else None


def pooled(own: Residuals, of_all: Spreads) -> Spreads:
    """The intervals of a GPU type, drawn to those ``of_all`` types the less runs it has."""
    out = {}
    for name in LATENCIES:
        whole, mine = getattr(of_all, name), own.spread(name)
        share = own.count(name) / (own.count(name) + _PSEUDO) if mine is not None else 0.0
        low, high = (
            share * (getattr(mine, end) if mine is not None else 0.0) + (1 - share) * getattr(whole, end)
            for end in ("low", "high")
        )
        out[name] = Spread(low=round(low, 4), high=round(high, 4))
    return Spreads(**out)


def front_spread(errors: Floats, shares: Floats, steps: tuple[Floats, Floats], groups: np.ndarray) -> Spread | None:
    """Of the front end, where steps are at the same end of their interval: so that TTFT as far as that lies between its
    ends for the claimed share of runs. None where too few runs say it.

    Args:
        errors: log(measured ÷ predicted) of TTFT, [n].
        shares: of the predicted TTFT that is the front end's; runs of which it is less than :data:`_FRONT_SHARE` say
            nothing.
        steps: low and high end (log) of the steps' interval, [n] each.
    """
    known = np.isfinite(errors) & (shares > _FRONT_SHARE)
    if known.sum() < 2:
        return None
    measured, share = np.exp(errors[known]), shares[known]
    low, high = (
        quantile((measured - (1 - share) * np.exp(end[known])) / share, groups[known], q)
        for end, q in zip(steps, ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2), strict=True)
    )
    return Spread(
        low=round(float(np.log(np.clip(low, _LEAST_FRONT, 1.0))), 4), high=round(float(np.log(max(high, 1.0))), 4)
    )


def wider(errors: Floats, spreads: list[Spread], groups: np.ndarray, cut: Ints, cuts: int) -> tuple[float, ...]:
    """By which the intervals of ``errors`` [n] are wider or narrower in each of so many ``cuts`` of the rows than over
    all; ``spreads`` and ``cut`` [n] are those of the rows. Drawn to 1 where there are few rows."""
    known = np.isfinite(errors)
    low, high = (np.array([getattr(each, end) for each in spreads]) for end in ("low", "high"))
    reach = np.where(errors > 0, np.maximum(high, _NARROWEST), np.minimum(low, -_NARROWEST))
    sized = np.where(known, np.abs(errors / reach), 0.0)
    out = []
    for at in range(cuts):
        index = known & (cut == at)
        count = int(index.sum())
        own = quantile(sized[index], groups[index], COVERAGE) if count else 1.0
        share = count / (count + _PSEUDO_CUT)
        out.append(round(float(np.exp(share * np.log(max(own, 0.2)))), 3))
    return tuple(out)


def at_load(errors: Floats, spreads: list[Spread], groups: np.ndarray, users: Floats) -> tuple[float, ...]:
    """:func:`wider` at each of :data:`LOADS`."""
    nearest = np.abs(np.log(np.maximum(users, 1))[:, None] - np.log(LOADS)).argmin(axis=1)
    return wider(errors, spreads, groups, nearest, len(LOADS))


def spreads_of(residuals: Residuals, otherwise: Spreads) -> Spreads:
    """Of all; where a latency was never measured, ``otherwise``."""
    return Spreads(**{name: residuals.spread(name) or getattr(otherwise, name) for name in LATENCIES})


def added(held: Residuals, known: Spreads) -> HalfWidths:
    """What the error of runs ``held`` out has beyond that of ``known`` ones, as an independent error."""
    out = {}
    for name in LATENCIES:
        mine, base = held.spread(name), getattr(known, name)
        more = 0.0 if mine is None else ((mine.high - mine.low) / 2) ** 2 - ((base.high - base.low) / 2) ** 2
        out[name] = round(float(np.sqrt(max(more, 0.0))), 4)
    return HalfWidths(**out)
