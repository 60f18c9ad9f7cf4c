"""What clients with a fixed number of requests in flight send, and how the engine was started for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.arrays import Rowwise
from costmodels.estimates import Bools, Floats, Ints
from costmodels.serving.closed_loop.protocol import GENERATIONS, Clients, Gate


@dataclass(frozen=True)
class Load(Rowwise):
    """What the client does, and how the engine was started; shape [n] each.

    Attributes:
        concurrency: requests in flight, of the whole engine.
        isl, osl: longest lengths, tokens.
        token_budget: most tokens of one step of an attention rank.
        most_running: sequences that the whole engine holds at once; the rest wait.
        shortest: lengths are uniform between this share of the longest and all of it.
        cached_share: of each prompt, that the prefix cache holds.
        gate: when the engine lets waiting prompts in.
        drafted: tokens drafted per step (speculative decoding), of which as many are accepted as in the runs that the
            framework's calibration was fitted to; 0: none.
        outputs: mean output length of running requests, E[L²] ÷ E[L] over those that are sent, which decides how long
            their contexts are; NaN: as of ``osl`` and ``shortest``.
        generations: requests of each client, one after the other; 1: a burst alone.
        cold: whether the engine has just been started, and nothing was sent to warm it up.
    """

    concurrency: Ints
    isl: Ints
    osl: Ints
    token_budget: Ints
    most_running: Ints
    shortest: Floats
    cached_share: Floats
    gate: Gate
    drafted: Ints
    outputs: Floats
    generations: Ints
    cold: Bools

    @classmethod
    def of(
        cls,
        concurrency: Ints,
        isl: Ints,
        osl: Ints,
        token_budget: Ints,
        most_running: Ints,
        shortest: Floats | float = 1.0,
        cached_share: Floats | float = 0.0,
    ) -> Load:
        """An engine that is started plainly; all lengths alike where no ``shortest`` is given."""
        n = len(concurrency)
        return cls(
            concurrency,
            isl,
            osl,
            token_budget,
            most_running,
            np.broadcast_to(np.asarray(shortest, np.float64), n),
            np.broadcast_to(np.asarray(cached_share, np.float64), n),
            Gate.none(n),
            np.zeros(n, np.int64),
            np.full(n, np.nan),
            np.full(n, GENERATIONS),
            np.zeros(n, np.bool_),
        )

    def clients(self, front_us: Floats) -> Clients:
        """Who sends it, where requests wait ``front_us`` [n] before the engine sees them.

        Only where lengths are all alike does that way decide who is let in together; elsewhere ends scatter by more,
        and the constants of the frameworks were fitted to such runs without it.
        """
        travel_us = np.where(self.alike, front_us, 0.0)
        return Clients.of(self.concurrency, self.osl, self.shortest, self.generations, travel_us)

    def first_wait(self, plain: Floats | float, full: Floats | float) -> Floats:
        """What the opening burst waits for a cold engine, [n]: ``full``, too, where its prompts fill a step."""
        fills = self.concurrency * self.mean_isl >= self.token_budget
        return np.asarray(plain + np.where(fills, full, 0.0))

    def of_opening(self, wait: Floats | float) -> Floats:
        """What requests wait on average, [n], where those of the opening burst wait so long for a cold engine."""
        return np.where(self.opens_cold, wait / np.maximum(self.generations, 1), 0.0)

    @property
    def opens_cold(self) -> Bools:
        """Whether first requests of clients find a cold engine, and others follow them."""
        return np.asarray(self.cold & (self.generations > 1))

    @property
    def alike(self) -> Bools:
        """Whether all requests are of one length, as far as is known."""
        return np.asarray((self.shortest == 1) & np.isnan(self.outputs))

    @property
    def varied_prompts(self) -> Floats:
        """Variance of the lengths of prompts ÷ their mean squared. Of requests of people (of which ``outputs`` are
        known) that of an exponential distribution, which says no more than the mean."""
        return np.where(np.isnan(self.outputs), ((1 - self.shortest) / (1 + self.shortest)) ** 2 / 3, 1.0)

    @property
    def mean_isl(self) -> Floats:
        """Tokens of a prompt on average."""
        return np.asarray(self.isl * (1 + self.shortest) / 2)

    @property
    def mean_osl(self) -> Floats:
        """Tokens of an output on average."""
        return np.asarray(self.osl * (1 + self.shortest) / 2)
