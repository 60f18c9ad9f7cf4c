"""Requests as they come: their lengths, and when they are sent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.arrays import Rowwise
from costmodels.estimates import Floats, Ints
from profiles.errors import InputError


@dataclass(frozen=True)
class Requests(Rowwise):
    """``n`` requests, shape [n] each.

    Attributes:
        isl, osl: prompt and output tokens.
        arrival_us: when the client sends each, ascending (open loop).
        concurrency: instead of arrival times: so many clients, each of which sends its next request when its
            last one is answered (closed loop). ``arrival_us`` then holds the times of the first
            ``concurrency`` requests: zeros for the usual burst.
    """

    isl: Ints
    osl: Ints
    arrival_us: Floats
    concurrency: int | None = None

    def __post_init__(self) -> None:
        n = len(self.isl)
        expected = n if self.concurrency is None else min(n, self.concurrency)
        if n == 0:
            raise InputError("requests: there are none", "give at least one")
        if len(self.osl) != n or len(self.arrival_us) != expected:
            raise InputError(
                f"requests: {n} isl, {len(self.osl)} osl, {len(self.arrival_us)} arrivals", "give as many of each"
            )
        for name, values in (("isl", self.isl), ("osl", self.osl)):
            if not np.issubdtype(values.dtype, np.integer) or values.min() < 1:
                raise InputError(f"requests: {name} must be whole numbers of at least 1", "correct the lengths")
        if not np.isfinite(self.arrival_us).all() or (np.diff(self.arrival_us) < 0).any() or self.arrival_us[0] < 0:
            raise InputError("requests: arrival times must be finite, not negative and ascending", "sort them")

    def __len__(self) -> int:
        return len(self.isl)


def open_loop(isl: Ints, osl: Ints, rate_rps: float, *, cv: float = 1.0, seed: int = 0) -> Requests:
    """Requests that come at random, whatever the engine does.

    Args:
        rate_rps: requests per second, from the start to the last arrival exactly: what a run shows is not a matter of
            how many happened to come.
        cv: coefficient of variation of the gaps, which are gamma distributed: 1 is Poisson, more is bursty.
    """
    if not (np.isfinite(rate_rps) and rate_rps > 0):
        raise InputError(f"rate: {rate_rps} requests/s is not a positive number", "give for example 10")
    if not (np.isfinite(cv) and cv > 0):
        raise InputError(f"arrivals: cv {cv} is not a positive number", "1 is Poisson, 2 is bursty")
    times = np.cumsum(np.random.default_rng(seed).standard_gamma(1 / cv**2, len(isl)))
    return Requests(isl, osl, np.asarray(times * (len(isl) * 1e6 / rate_rps / times[-1]), dtype=np.float64))


def closed_loop(isl: Ints, osl: Ints, concurrency: int, *, ramp_us: float = 0.0) -> Requests:
    """A fixed number of clients that start at once, or evenly spread over ``ramp_us``."""
    if concurrency < 1:
        raise InputError(f"concurrency: {concurrency} is not at least 1", "give the number of clients")
    first = min(concurrency, len(isl))
    return Requests(isl, osl, np.arange(first, dtype=np.float64) * (ramp_us / first), concurrency)
