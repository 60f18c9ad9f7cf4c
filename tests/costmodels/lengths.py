"""Lengths of requests for tests and benchmarks."""

from __future__ import annotations

import numpy as np

from costmodels.estimates import Ints


def constant_lengths(n: int, isl: int, osl: int) -> tuple[Ints, Ints]:
    """``n`` equal requests."""
    return np.full(n, isl, np.int64), np.full(n, osl, np.int64)


def uniform_lengths(
    n: int, isl: int, osl: int, *, below: float, above: float = 0.0, seed: int = 0
) -> tuple[Ints, Ints]:
    """Lengths spread evenly over [(1 − below)·length, (1 + above)·length], each at least one token."""
    rng = np.random.default_rng(seed)

    def drawn(length: int) -> Ints:
        low, high = max(round(length * (1 - below)), 1), max(round(length * (1 + above)), 1)
        return rng.integers(low, high + 1, n)

    return drawn(isl), drawn(osl)
