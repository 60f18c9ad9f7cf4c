"""What is replayed: engines with the requests that they are for, whether a plan or a deployment says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planner.contract.clusters import Cluster
from planner.contract.deployment import Deployment, DeploymentDocument, parse_deployment
from planner.contract.engine import EngineGroup
from planner.contract.files import read_text
from planner.contract.models import ModelConfig
from planner.contract.provenance import Provenance
from planner.contract.workload.slo import Slo
from planner.contract.workload.workload import Workload
from planner.serving.document.contradictions import check_deployment, check_plan
from planner.serving.document.plan import Plan, parse_plan
from planner.serving.document.prediction import Prediction
from profiles.errors import InputError

LENGTHS_HINT = "say what requests look like: --workload isl=4000,osl=500,rate=18, or --trace requests.csv"


@dataclass(frozen=True)
class Running:
    """Engines and what is asked of them.

    Attributes:
        what: the document, as messages call it.
        prediction: what the document says of itself; None of a deployment.
        tp_across_nodes: whether a tensor-parallel group may span nodes.
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

    def rate_of(self, group: EngineGroup) -> float | None:
        """Requests per second that the workload sends to an engine of the group, on average; None where it says no
        rate."""
        rate, weights = self.workload.rate_rps, [replica.weight for replica in group.replicas]
        return None if rate is None else rate * sum(weights) / len(weights)

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
            )
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
        )


def check_drafting(document: DeploymentDocument, workload: Workload) -> None:
    """Raises InputError where a deployment drafts otherwise than the workload says."""
    said = 0 if workload.speculation is None else workload.speculation.draft_tokens
    if said == document.draft_tokens:
        return
    if not said:
        raise InputError(
            f"workload: the deployment drafts {document.draft_tokens} tokens a step, and how many are accepted is not "
            "said",
            f"add draft={document.draft_tokens},acceptance=0.7 with the share that you see in its log",
        )
    raise InputError(
        f"workload: draft={said}, and the deployment drafts {document.draft_tokens or 'no'} tokens a step",
        f"write draft={document.draft_tokens}" if document.draft_tokens else "leave draft and acceptance out",
    )


def opened(value: Mapping[str, Any] | str, where: str) -> Plan | DeploymentDocument:
    """A plan or a deployment from its JSON, by its kind; one of an older schema opens as it does everywhere.

    Raises:
        InputError: neither, or refused by the schema.
    """
    text = value if isinstance(value, str) else json.dumps(value)
    return parse_deployment(text, where) if _is_deployment(text) else parse_plan(text, where)


def _is_deployment(text: str) -> bool:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False  # the plan's reader says what is wrong
    return isinstance(found, dict) and found.get("kind") == "deployment"


def read_running(path: Path) -> Plan | DeploymentDocument:
    """The plan or the deployment in a file.

    Raises:
        InputError: what :func:`opened` raises, and where the file cannot be read.
    """
    text = read_text(path, "plan")
    return opened(text, f"{'deployment' if _is_deployment(text) else 'plan'} {path}")
