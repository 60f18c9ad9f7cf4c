"""Kinds of engine that may serve a class: measured ones, of which a table says all that is known, and modelled ones."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from planner.contract.clusters import SuppliedCluster, SuppliedPool
from planner.contract.engine import EngineGroup, Role
from planner.contract.workload.classes import LengthClass
from planner.serving.fleets.apart import Partners
from planner.serving.fleets.nearest import Unserved
from planner.serving.fleets.request import FleetRequest, ServiceAsked
from planner.serving.fleets.tables import MeasuredTable, check_tables
from profiles.errors import InputError, UnknownName
from profiles.hardware import SHIPPED
from profiles.values import shown


class EngineKind(Protocol):
    """One kind of engine on one pool."""

    @property
    def pool_index(self) -> int: ...
    @property
    def gpus(self) -> int: ...
    @property
    def usd_per_hour(self) -> float | None:
        """Of one, where something else than the pool's price says so."""

    @property
    def watts(self) -> float | None:
        """Of one at what it carries, mean; None: nobody says."""

    @property
    def label(self) -> str: ...
    @property
    def role(self) -> Role: ...
    @property
    def partners(self) -> Partners | None:
        """Those of an engine that prefills or decodes alone."""

    def is_like(self, group: EngineGroup) -> bool:
        """Whether an engine group of a document is of this kind, pool and supply aside."""

    def reason(self, each: LengthClass) -> Unserved | None:
        """Why a class is not served, where it can tell."""


@dataclass(frozen=True)
class TableEngine:
    """What a measured table is of."""

    pool_index: int
    gpu: str
    usd_per_hour: float | None
    source: str
    gpus: int = 1
    watts: float | None = None
    largest: tuple[float, float] = (math.inf, math.inf)
    role: Role = "aggregated"
    partners: Partners | None = None

    @property
    def label(self) -> str:
        return f"{self.gpu} as measured"

    def is_like(self, group: EngineGroup) -> bool:
        return group.table is not None and group.gpu == self.gpu

    def reason(self, each: LengthClass) -> Unserved | None:
        isl, osl = self.largest
        if each.isl <= isl and each.osl <= osl:
            return Unserved("every table has 0 there", "offer a GPU whose table carries it")
        return Unserved(
            f"it is longer than the largest size of the tables, isl {isl:g} and osl {osl:g}",
            "give tables that were measured with requests as long",
        )


def cluster_of(request: FleetRequest) -> SuppliedCluster:
    """The request's cluster; without one, a pool without limit of each table's GPU."""
    if request.cluster is not None:
        return request.cluster
    tables: dict[str, MeasuredTable] = {}
    for service in request.services:
        for table in request.tables_of(service):
            known = tables.setdefault(table.gpu, table)
            if known.usd_per_hour != table.usd_per_hour:
                raise InputError(
                    f"tables: {shown(table.gpu)} costs {known.usd_per_hour:g} in one and "
                    f"{table.usd_per_hour:g} in another",
                    "give it one cost, or a cluster with its price",
                )
    pools = tuple(
        SuppliedPool(
            name=gpu,
            gpu=gpu,
            gpus=1,
            gpus_per_node=1,
            fabric="none",
            usd_per_gpu_hour=table.usd_per_hour or None,
            price_source=table.source,
            as_needed=True,
            owned=not table.usd_per_hour,
        )
        for gpu, table in tables.items()
    )
    return SuppliedCluster(name=request.name, pools=pools)


def table_engines(
    request: FleetRequest, service: ServiceAsked, cluster: SuppliedCluster
) -> tuple[tuple[TableEngine, ...], list[MeasuredTable]]:
    """One engine for each table, on the pools that have its GPU.

    Raises:
        InputError: tables of other grids, or of GPUs that no pool has.
    """
    tables = list(request.tables_of(service))
    check_tables(tables)
    engines: list[TableEngine] = []
    used: list[MeasuredTable] = []
    for table in tables:
        pools = pools_of(table, cluster)
        for pool in pools:
            largest = (float(table.isl[-1]), float(table.osl[-1]))
            engines.append(TableEngine(pool, table.gpu, table.usd_per_hour, table.source, largest=largest))
            used.append(table)
    if not engines:
        known = ", ".join(pool.name for pool in cluster.pools)
        raise InputError(
            f"tables: none of {', '.join(table.gpu for table in tables)} is a pool of the cluster ({known})",
            "name the pools as the tables name their GPUs, or leave the cluster out",
        )
    return tuple(engines), used


def pools_of(table: MeasuredTable, cluster: SuppliedCluster) -> list[int]:
    """The pools of a table's GPU, which it may call by any of its names."""
    names = {table.gpu}
    with suppress(UnknownName):
        names.add(SHIPPED.find_gpu(table.gpu).name)
    return [i for i, pool in enumerate(cluster.pools) if names & {pool.name, pool.gpu}]


def unmatched(request: FleetRequest, cluster: SuppliedCluster) -> list[str]:
    """What tables and pools are not used for want of each other, in words."""
    tables = [table for service in request.services for table in request.tables_of(service)]
    of = {table.gpu: pools_of(table, cluster) for table in tables}
    covered = {i for pools in of.values() for i in pools}
    alone = [gpu for gpu, pools in of.items() if not pools]
    bare = [pool.name for i, pool in enumerate(cluster.pools) if i not in covered]
    out = [f"no pool of the cluster has the GPU of table {', '.join(alone)}: it is not used"] if alone else []
    return out + ([f"no table is of pool {', '.join(bare)}: nothing of it is used"] if bare else [])
