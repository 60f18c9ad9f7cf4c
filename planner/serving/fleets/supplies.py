"""What can be had: each pool's GPUs on demand, on spot, reserved or owned, with price and limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from costmodels.estimates import Floats, Ints
from planner.contract.clusters import SuppliedCluster, SuppliedPool
from planner.contract.fleet import PowerRow, Supply
from planner.solving.mix.question import Block, Places
from profiles.errors import InputError

QUOTA, ROW = "quota of ", "row "
"""Before the name of a pool or of a row, in the names of their limits."""


@dataclass(frozen=True)
class Offer:
    """GPUs of one pool at one price. ``limit``: GPUs, None: as many as are wanted; ``pool_index``: of the cluster."""

    pool: SuppliedPool
    pool_index: int
    supply: Supply
    usd_per_gpu_hour: float | None
    limit: int | None

    @property
    def most(self) -> float:
        """GPUs that one engine may have of it, its pool's quota kept."""
        limit = np.inf if self.limit is None else float(self.limit)
        quota = self.pool.quota_gpus
        return limit if quota is None or self.supply == "reserved" else min(limit, float(quota))

    @property
    def name(self) -> str:
        return self.pool.name if self.supply in ("on_demand", "owned") else f"{self.pool.name} ({self.supply})"


def offers_of(cluster: SuppliedCluster) -> list[Offer]:
    """All supplies of all pools, in the order of the pools."""
    found = []
    for index, pool in enumerate(cluster.pools):
        limit = None if pool.as_needed else pool.gpus
        if pool.owned:
            found.append(Offer(pool, index, "owned", 0.0, limit))
        elif pool.gpus:
            found.append(Offer(pool, index, "on_demand", pool.usd_per_gpu_hour, limit))
        if pool.reserved_gpus is not None:
            found.append(Offer(pool, index, "reserved", pool.reserved_usd_per_gpu_hour, pool.reserved_gpus))
        if pool.spot_gpus is not None:
            found.append(Offer(pool, index, "spot", pool.spot_usd_per_gpu_hour, pool.spot_gpus))
    return found


def reserved_usd_per_hour(offers: Sequence[Offer]) -> float:
    """Paid whether it is used or not."""
    return sum((each.usd_per_gpu_hour or 0.0) * (each.limit or 0) for each in offers if each.supply == "reserved")


def usd_per_engine(offer: Offer, gpus: int, objective: str) -> float:
    """What an engine of ``gpus`` costs for an hour beside what is paid anyway.

    Raises:
        InputError: cost is the objective, and no price is known.
    """
    if objective == "gpus":
        return float(gpus)
    if offer.supply in ("owned", "reserved") or (offer.pool.instance is not None and offer.supply == "on_demand"):
        return 0.0
    if offer.usd_per_gpu_hour is None:
        raise InputError(
            f"pool {offer.pool.name}: its price is not known, so its cost cannot be minimised",
            "give usd_per_gpu_hour for it in the cluster file, or use the objective gpus",
        )
    return offer.usd_per_gpu_hour * gpus


def rows_of(rows: Sequence[PowerRow], offers: Sequence[Offer], offer: Ints, gpus: Ints, watts: Floats) -> list[Block]:
    """The budgets of power that kinds of engine share: ``offer`` (n,) that each is of, ``gpus`` and ``watts`` (n,) of
    one. Whole watts, so that no solver's tolerance decides."""
    pools = np.array([offers[o].pool.name for o in offer.tolist()], dtype=object)
    blocks = []
    for row in rows:
        mine = np.flatnonzero(np.isin(pools, row.pools))
        if len(mine):
            each = np.ceil(watts[mine] + row.other_watts_per_gpu * gpus[mine])
            blocks.append(Block(f"{ROW}{row.name}", mine, each, float(np.floor(row.budget_watts)), counts="watts"))
    return blocks


def blocks_of(offers: Sequence[Offer], offer: Ints, gpus: Ints, objective: str) -> list[Block]:
    """The limits that kinds of engine share: ``offer`` (n,) that each is of, ``gpus`` (n,) of one."""
    blocks = []
    for number, each in enumerate(offers):
        mine = np.flatnonzero(offer == number)
        if not len(mine):
            continue
        taken, pool = _taken(gpus[mine], each.pool.gpus_per_node), each.pool
        most = np.inf if each.limit is None else float(each.limit)
        if pool.instance is not None and each.supply == "on_demand":
            price = pool.gpus_per_node * (each.usd_per_gpu_hour or 0.0) if objective == "cost" else 0.0
            blocks.append(Block(each.name, mine, taken, most, pool.gpus_per_node, price))
        elif np.isfinite(most):
            blocks.append(Block(each.name, mine, taken, most))
    for index in sorted({each.pool_index for each in offers}):
        pool = next(each.pool for each in offers if each.pool_index == index)
        numbers = [n for n, each in enumerate(offers) if each.pool_index == index and each.supply != "reserved"]
        mine = np.flatnonzero(np.isin(offer, numbers))
        if pool.quota_gpus is not None and len(mine):
            blocks.append(Block(f"{QUOTA}{pool.name}", mine, gpus[mine].astype(np.float64), float(pool.quota_gpus)))
    return blocks


def places_of(offers: Sequence[Offer], offer: Ints) -> Places:
    """The nodes that kinds of engine stand on, ``offer`` (n,) that each is of."""
    most = np.array([np.inf if each.limit is None else float(each.limit) for each in offers])
    whole = [
        each.pool.instance is not None and each.supply == "on_demand" and each.pool.gpus_per_node > 1 for each in offers
    ]
    return Places(offer, most[offer], np.array(whole, np.bool_)[offer])


def _taken(gpus: Ints, per_node: int) -> Floats:
    """GPUs that engines keep others from using. Where the sizes of a pool divide each other and a node, their own; else
    one that does not divide a node is counted with what it leaves idle of it."""
    sizes = sorted(set(gpus.tolist()) | {per_node})
    chain = all(large % small == 0 for small, large in pairwise(sizes))
    if chain:
        return gpus.astype(np.float64)
    out = []
    for size in gpus.tolist():
        if size >= per_node:
            out.append(float(-(-size // per_node) * per_node))
        else:
            out.append(per_node / (per_node // size))
    return np.array(out)
