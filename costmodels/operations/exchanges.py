"""The words in which a layout says how tokens reach their experts, and how experts are balanced; their codes in
:class:`~costmodels.operations.layouts.Layouts`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from costmodels.estimates import Floats, Ints
from profiles.shipped import shipped

OVERLAPS = ("none", "two_batch", "single_batch")
"""What hides an exchange: nothing; the other half of the batch; the last product of the experts."""

BALANCES = ("off", "static", "dynamic", "perfect")
"""Hot experts: left alone; copied as past loads say; copied anew as loads change; no rank has more than another."""

NONE, HIGH_THROUGHPUT, LOW_LATENCY, ONE_SIDED, TWO_SIDED = range(5)
"""The kinds that are priced; all others are like one of them."""


@dataclass(frozen=True)
class ExchangeKind:
    """An entry of ``exchanges.yaml``; ``more_us``: of each way beside the time of the kind ``like``."""

    name: str
    meaning: str
    like: str = ""
    more_us: float = 0.0
    spread: float = 0.0
    source: str = ""


@cache
def exchange_kinds() -> tuple[ExchangeKind, ...]:
    """All there are, in the order of their codes."""
    return shipped(
        Path(__file__).parent / "exchanges.yaml",
        lambda document: tuple(ExchangeKind(name, **fields) for name, fields in document.items()),
    )


def kind_of(exchange: str) -> ExchangeKind:
    return exchange_kinds()[exchange_names().index(exchange)]


@cache
def exchange_names() -> tuple[str, ...]:
    return tuple(kind.name for kind in exchange_kinds())


@cache
def _likes() -> tuple[Ints, Floats]:
    names = exchange_names()
    likes = [names.index(kind.like or kind.name) for kind in exchange_kinds()]
    return np.array(likes, np.int64), np.array([kind.spread for kind in exchange_kinds()])


def priced_as(exchange: Ints) -> Ints:
    """The code of the kind whose times stand for each, [n]."""
    return np.asarray(_likes()[0][exchange])


def more_us_of(exchange: Ints) -> Floats:
    """What each way takes beside the time of the kind that stands for it, µs, [n]."""
    return np.array([kind.more_us for kind in exchange_kinds()])[exchange]


def spread_of(exchange: Ints) -> Floats:
    """Half-width (log) that standing for another adds, [n]."""
    return np.asarray(_likes()[1][exchange])
