"""The operating point of an engine under a load: the least concurrency that carries it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from planner.serving.operating_points import CONCURRENCIES, OperatingPoints, predict

CLOSE = 0.01
"""Share of a mean concurrency below one to which it is found."""


def at_load(points: OperatingPoints, i: int, load_rps: float) -> tuple[OperatingPoints, OperatingPoints | None]:
    """The single operating point of engine ``i`` of ``points`` when it is offered ``load_rps``: the least concurrency
    within the SLO that carries it. And the next lower one."""

    def tried(concurrency: Floats) -> tuple[OperatingPoints, NDArray[np.bool_]]:
        index = np.full(len(concurrency), i)
        every = predict(points.job, points.layouts.take(index), points.budget[index], concurrency, points.most[index])
        return every, every.within & (every.steady.rate_rps.value >= load_rps * (1 - 1e-9))

    return least_concurrency(float(points.concurrency[i]), tried)


P = TypeVar("P", bound="Taken")


class Taken(Protocol):
    """Arrays of points, of which some can be taken."""

    def take(self: P, index: Ints) -> P: ...


def least_concurrency(most: float, tried: Callable[[Floats], tuple[P, NDArray[np.bool_]]]) -> tuple[P, P | None]:
    """The single point of least concurrency, ``most`` at most, that is good enough, or that of ``most``; and the next
    lower one (None: it is the lowest).

    Args:
        tried: the points of several concurrencies, and which of them are good enough; whatever has more is, too.
    """
    asked = np.append(CONCURRENCIES[most > CONCURRENCIES], most)
    while True:
        points, good = tried(asked)
        best = int(np.argmax(good)) if good.any() else len(asked) - 1
        below, here = asked[max(best - 1, 0)], asked[best]
        between = np.linspace(below, here, 18)
        if here > 1:  # sequences are whole, but for engines in which most of the time there is none
            between = np.unique(np.floor(between))
        between = between[(between > below) & (between < here)]
        if not good.any() or not len(between) or here - below <= CLOSE * here:
            return points.take(np.array([best])), points.take(np.array([best - 1])) if best else None
        asked = np.concatenate([[below], between, [here]])


def share_of_less(load_rps: float, fewer_rps: float, rps: float) -> float:
    """Share of time at the lower of two concurrencies, with which an engine carries a load between their rates."""
    return min(max((rps - load_rps) / (rps - fewer_rps), 0.0), 1.0) if rps > fewer_rps else 0.0
