"""What an exported folder says of the deployment that it starts, beside the files that start it: what commands cannot
say. `plan import` reads it back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planner.contract.clusters import Cluster, Pool
from planner.contract.documents import Document
from planner.contract.engine import EngineGroup, Replica, Role

MANIFEST = "plan-export.json"
"""The file of an exported folder that says what it was made from."""

DEPLOYMENT = "deployment"
"""Its key that holds an :class:`ExportedDeployment`."""


class ExportedEngines(Document):
    """A group of engines: what its commands cannot say."""

    id: str
    role: Role
    pool: str
    gpu: str
    weights_precision: str
    kv_precision: str
    replicas: tuple[Replica, ...]

    @classmethod
    def of(cls, group: EngineGroup) -> ExportedEngines:
        return cls(**{name: getattr(group, name) for name in cls.model_fields})


class ExportedDeployment(Document):
    """The model, the GPUs and the engines that an exported folder starts."""

    model: str
    config: dict[str, Any] | None
    cluster: Cluster
    engines: tuple[ExportedEngines, ...]

    @classmethod
    def of(
        cls, model: str, config: dict[str, Any] | None, cluster: Cluster, engines: Sequence[EngineGroup]
    ) -> ExportedDeployment:
        """What is to be said of a plan's decision."""
        pools = tuple(Pool(**{name: getattr(pool, name) for name in Pool.model_fields}) for pool in cluster.pools)
        plain = Cluster(name=cluster.name, pools=pools, choose=cluster.choose)
        return cls(model=model, config=config, cluster=plain, engines=tuple(map(ExportedEngines.of, engines)))
