"""What is replayed: engines with the requests that they are for, whether a plan or a deployment says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from costmodels.serving.frameworks.framework import Framework, find_framework
from planner.contract.clusters import Cluster
from planner.contract.deployment import Deployment, DeploymentDocument
from planner.contract.engine import EngineGroup
from planner.contract.models import ModelConfig
from planner.contract.provenance import Provenance
from planner.contract.workload.slo import Slo
from planner.contract.workload.workload import Workload
from planner.serving.document.contradictions import check_deployment, check_plan
from planner.serving.document.opening import LENGTHS_HINT, check_drafting
from planner.serving.document.plan import Plan
from planner.serving.document.prediction import Prediction
from profiles.errors import InputError


@dataclass(frozen=True)
class Running:
    """Engines and what is asked of them.

    Attributes:
        what: the document, as messages call it.
        prediction: what the document says of itself; None of a deployment.
        whole_prompts: ids of the groups whose engines do not cut prompts; None: as the framework does.
        mixes: told to cut them, whatever a release does with such a model where nobody says.
        polling: steps between two looks at the queue; None: as the framework does.
        tp_across_nodes: whether a tensor-parallel group may span nodes.
        users: at once, each of whom asks again when it is answered; None: requests come by themselves.
    """

    what: str
    deployment: Deployment
    model: str
    config: dict[str, Any] | None
    framework: str
    cluster: Cluster
    workload: Workload
    slo: Slo
    confidence: float
    tp_across_nodes: bool
    prediction: Prediction | None
    provenance: Provenance
    edited: bool
    whole_prompts: frozenset[str] | None = None
    mixes: bool = False
    polling: int | None = None
    users: int | None = None

    def started(self, group: EngineGroup) -> Framework:
        """The framework as the engines of a group are started."""
        framework = find_framework(self.framework)
        said: dict[str, bool | int] = {} if self.polling is None else {"polling": self.polling}
        if self.whole_prompts is not None:
            said["chunked"] = group.id not in self.whole_prompts
        if self.mixes:
            said["mixes_from"] = 0
        return framework.model_copy(update={"scheduler": framework.scheduler.model_copy(update=said)})

    def with_prompts(self, chunked: bool | None, polling: int | None) -> Running:
        """Prompts of all engines cut or not, and that many steps between two looks; None: as before."""
        every = frozenset(group.id for group in self.deployment.engines)
        whole = self.whole_prompts if chunked is None else frozenset() if chunked else every
        mixes = self.mixes if chunked is None else chunked
        return replace(self, whole_prompts=whole, mixes=mixes, polling=self.polling if polling is None else polling)

    def rate_of(self, group: EngineGroup) -> float | None:
        """Requests per second that the workload sends to an engine of the group, on average; None where it says no
        rate."""
        rate, weights = self.workload.rate_rps, [replica.weight for replica in group.replicas]
        return None if rate is None else rate * sum(weights) / len(weights)

    def users_of(self, group: EngineGroup) -> float | None:
        """Users at once of an engine of the group, on average; None where requests come by themselves."""
        if self.users is None:
            return None
        every = sum(replica.weight for each in self.deployment.engines for replica in each.replicas)
        return self.users * sum(replica.weight for replica in group.replicas) / len(group.replicas) / every

    def with_limits(self, limits: Mapping[str, float]) -> Running:
        """The engines started with other batch limits."""
        engines = tuple(
            group.model_copy(update={"limits": group.limits.model_copy(update=dict(limits))})
            for group in self.deployment.engines
        )
        return replace(self, deployment=self.deployment.model_copy(update={"engines": engines}))

    @property
    def asked_model(self) -> str | ModelConfig:
        return self.model if self.config is None else ModelConfig(name=self.model, config=self.config)

    @classmethod
    def of(
        cls, document: Plan | DeploymentDocument, workload: Workload | None = None, slo: Slo | None = None
    ) -> Running:
        """A document's engines; ``workload``, ``slo``: in place of a plan's own, and what a deployment is asked.

        Raises:
            InputError: the document contradicts itself; a deployment without a workload, or one whose speculative
                decoding is not the deployment's.
        """
        if isinstance(document, Plan):
            check_plan(document)
            asked = document.request
            return cls(
                "plan",
                document.decision,
                asked.model,
                asked.config,
                asked.framework,
                asked.cluster,
                workload or asked.workload,
                asked.slo if slo is None else slo,
                asked.confidence,
                asked.tp_across_nodes,
                document.prediction,
                document.provenance,
                document.was_edited,
            ).with_prompts(asked.chunked_prefill, asked.polling_interval)
        if workload is None:
            raise InputError("workload: a deployment does not say what requests are like", LENGTHS_HINT)
        check_drafting(document, workload)
        check_deployment("deployment", document, document.cluster)
        return cls(
            "deployment",
            document,
            document.model,
            document.config,
            document.framework,
            document.cluster,
            workload,
            slo or Slo(),
            0.5,
            True,
            None,
            document.provenance,
            document.was_edited,
            frozenset(document.whole_prompts),
        )
