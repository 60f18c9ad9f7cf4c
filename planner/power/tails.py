"""How often a year, from a count of rare events."""

from __future__ import annotations

from dataclasses import dataclass

YEAR_DAYS = 365.0


@dataclass(frozen=True)
class Rate:
    """Per year: ``value``, and the ends of a 90 % interval (``high`` is the upper 95 % bound)."""

    value: float
    low: float
    high: float


def counted(count: int, days: float) -> Rate:
    """Of ``count`` events in so many days (Poisson, exact): none in 300 days only says fewer than 3.6 a year."""
    scale = YEAR_DAYS / days
    from scipy import stats  # heavy: documents are read without it

    low = float(stats.chi2.ppf(0.05, 2 * count)) / 2 if count else 0.0
    return Rate(count * scale, low * scale, float(stats.chi2.ppf(0.95, 2 * count + 2)) / 2 * scale)


BEYOND = 10
"""Requests beyond a percentile, of which fewer say nothing of it."""
