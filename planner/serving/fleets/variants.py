"""Kinds of engine to choose from, and what each carries of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Floats
from planner.serving.fleets.supplies import Offer, usd_per_engine
from planner.solving.mix.question import Kinds


@dataclass(frozen=True)
class Variant:
    """One kind of engine of one service on one supply. ``key``: what makes it the same engine on another supply (index
    into the service's engines)."""

    service: int
    engine: int
    offer: int
    gpus: int


@dataclass(frozen=True, eq=False)
class Chosen:
    """All that there is to choose from.

    Attributes:
        offers: that the variants are on.
        variants: in the order of the kinds.
        usd_per_hour: of one for an hour, (n,), what it counts in the objective; with cost as that, its ``electricity``
            at full load included. ``watts``: of one at full load (zeros: nobody asked).
    """

    offers: Sequence[Offer]
    variants: Sequence[Variant]
    usd_per_hour: Floats
    watts: Floats
    electricity: Floats

    def kinds(self) -> Kinds:
        offers = [self.offers[v.offer] for v in self.variants]
        zones = sorted({offer.pool.zone for offer in offers if offer.pool.zone is not None})
        return Kinds(
            cost=self.usd_per_hour,
            gpus=np.array([v.gpus for v in self.variants], np.int64),
            node=np.array([offer.pool.gpus_per_node for offer in offers], np.int64),
            pool=np.array([offer.pool_index for offer in offers], np.int64),
            zone=np.array([-1 if o.pool.zone is None else zones.index(o.pool.zone) for o in offers], np.int64),
            spot=np.array([offer.supply == "spot" for offer in offers], np.int64),
            startup_s=np.array([offer.pool.startup_s for offer in offers]),
            min_up_s=np.array([offer.pool.min_up_s for offer in offers]),
        )


SPILLED = 10.0
"""GPUs of the pools before it that one of a later pool counts for, where pools have an order."""


def shunned(offers: Sequence[Offer], variants: Sequence[Variant], usd_per_hour: Floats) -> Floats | None:
    """(n,) what an engine of each kind counts beside its cost for the order in which pools are to be filled; None: they
    have none. A GPU of the second pool counts for ten of the first, one of the third for a hundred."""
    order = [variant.offer for variant in variants]
    given = [offers[o].pool.preference for o in order]
    asked = sorted({each for each in given if each is not None})
    if not asked or len({*given}) == 1:
        return None
    place = np.array([len(asked) if each is None else asked.index(each) for each in given])
    gpus = np.array([variant.gpus for variant in variants], dtype=np.float64)
    dearest = max(float((usd_per_hour / gpus).max()), *(offers[o].usd_per_gpu_hour or 0.0 for o in order), 1.0)
    counted: Floats = gpus * dearest * np.where(place > 0, SPILLED**place, 0.0)
    return counted


def priced(
    offers: Sequence[Offer],
    variants: Sequence[Variant],
    objective: str,
    usd: Sequence[float | None],
    watts: Floats,
    usd_per_kwh: float | None,
) -> Chosen:
    """``usd``: of one engine for an hour where a table says it, None where the supply's price does; ``watts``: of
    one."""
    costs = [
        usd_per_engine(offers[v.offer], v.gpus, objective) if given is None or objective == "gpus" else given
        for v, given in zip(variants, usd, strict=True)
    ]
    electricity = watts / 1e3 * (usd_per_kwh or 0.0)
    counted = np.array(costs, dtype=np.float64) + (electricity if objective == "cost" else 0.0)
    return Chosen(offers, variants, counted, watts, electricity)
