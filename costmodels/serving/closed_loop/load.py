"""What clients with a fixed number of requests in flight send, and how the engine was started for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.arrays import Rowwise
from costmodels.estimates import Floats, Ints
from costmodels.serving.closed_loop.protocol import GENERATIONS, Clients, Gate

ALIKE = 0.98
"""Shortest ÷ longest of lengths that are said to be all alike: prompts are tokenised again, steps and clients differ, so
that ends of requests scatter by as much as by such lengths. A loop of exact ones keeps its waves for ever, as engines
do not: TTFT is 12.4 % off with them and 11.4 with these on a vLLM that this project ran
(``tests/benchmarks/engine.py``), 69 and 38 on AccelMark's runs."""


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
        )

    def clients(self, front_us: Floats) -> Clients:
        """Who sends it, where requests wait ``front_us`` [n] before the engine sees them.

        Only where lengths are all alike (:data:`ALIKE`) does that way decide who is let in together; elsewhere ends
        scatter by more, and the constants of the frameworks were fitted to such runs without it.
        """
        alike = self.shortest == 1
        scattered = alike & (self.concurrency > 1)
        longest = np.where(scattered, np.rint(self.osl * 2 / (1 + ALIKE)), self.osl).astype(np.int64)
        shortest = np.where(scattered, ALIKE, self.shortest)
        return Clients.of(self.concurrency, longest, shortest, self.generations, np.where(alike, front_us, 0.0))

    def of_opening(self, wait: Floats | float) -> Floats:
        """What requests wait on average, [n], where those of the opening burst wait so long, if others follow them."""
        return np.where(self.generations > 1, wait / np.maximum(self.generations, 1), 0.0)

    @property
    def mean_isl(self) -> Floats:
        """Tokens of a prompt on average."""
        return np.asarray(self.isl * (1 + self.shortest) / 2)

    @property
    def mean_osl(self) -> Floats:
        """Tokens of an output on average."""
        return np.asarray(self.osl * (1 + self.shortest) / 2)
