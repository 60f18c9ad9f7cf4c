"""A plan or a deployment, whichever a file or a request holds, and its engines one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from planner.contract.deployment import Deployment, DeploymentDocument, parse_deployment
from planner.contract.engine import EngineGroup
from planner.contract.files import read_text
from planner.contract.models import ModelConfig
from planner.contract.workload.workload import Workload
from planner.serving.document.plan import Plan, parse_plan
from profiles.errors import InputError
from profiles.values import shown

LENGTHS_HINT = "say what requests look like: --workload isl=4000,osl=500,rate=18"


def opened(value: Mapping[str, Any] | str, where: str) -> Plan | DeploymentDocument:
    """A plan or a deployment from its JSON, by its kind; one of an older schema opens as it does everywhere.

    Raises:
        InputError: neither, or refused by the schema.
    """
    if isinstance(value, Mapping) and not isinstance(value.get("kind", ""), str):
        raise InputError(
            f"{where}: kind: {shown(value['kind'])} is no text", "write serving or deployment, or leave it out"
        )
    text = value if isinstance(value, str) else json.dumps(value)
    return parse_deployment(text, where) if _is_deployment(text) else parse_plan(text, where)


def _opened(value: Any) -> Any:
    return opened(value, "request: plan") if isinstance(value, Mapping) else value


RunningGiven = Annotated[
    Plan | DeploymentDocument, BeforeValidator(_opened, json_schema_input_type=Plan | DeploymentDocument)
]
"""Of a request: a plan or a deployment, as they are written or of an older schema."""

RunningOrNone = Annotated[
    Plan | DeploymentDocument | None,
    BeforeValidator(_opened, json_schema_input_type=Plan | DeploymentDocument | None),
]


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


def running_of(document: Plan | DeploymentDocument) -> Deployment:
    """What runs by it."""
    return document.decision if isinstance(document, Plan) else document


def model_of(document: Plan | DeploymentDocument) -> str | ModelConfig:
    """Its model, as requests name one."""
    asked = document.request if isinstance(document, Plan) else document
    return asked.model if asked.config is None else ModelConfig(name=asked.model, config=asked.config)


def check_one_load(document: Plan | DeploymentDocument, where: str, hint: str) -> None:
    """Raises:
    InputError: a fleet of several services, whose requests are of several models and promises.
    """
    services = document.request.services if isinstance(document, Plan) else ()
    if len(services) > 1:
        names = ", ".join(service.name for service in services)
        raise InputError(f"{where}: a fleet of several services ({names}) has no one load", hint)


def framework_of(document: Plan | DeploymentDocument) -> str:
    """Its framework at its release."""
    return document.request.framework if isinstance(document, Plan) else document.framework


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


def engine_fields(document: Plan | DeploymentDocument, group: EngineGroup) -> dict[str, Any]:
    """One engine of a group as :class:`planner.serving.configuration.EngineAsked` has it."""
    fields: dict[str, Any] = {
        "model": model_of(document),
        "gpu": group.gpu,
        "framework": framework_of(document),
        **_of_its_service(document, group),
        "precision": group.weights_precision,
        "kv_precision": group.kv_precision,
        **group.layout.model_dump(),
        **({} if group.role == "aggregated" else _as_decided(group)),
        **group.limits.asked,
    }
    if isinstance(document, DeploymentDocument):
        fields["chunked_prefill"] = group.id not in document.whole_prompts
    return fields


def _of_its_service(document: Plan | DeploymentDocument, group: EngineGroup) -> dict[str, Any]:
    """The model and the framework of the service that the group serves, in a fleet of several."""
    services = document.request.services if isinstance(document, Plan) else ()
    for service in services:
        if service.name == group.service and service.model is not None:
            model = service.model if service.config is None else ModelConfig(name=service.model, config=service.config)
            return {"model": model, "framework": service.framework or framework_of(document)}
    return {}


def _as_decided(group: EngineGroup) -> dict[str, Any]:
    """The role, and what is said of its experts where that is nothing: left out it would be what the role usually
    takes."""
    layout = group.layout
    said = {"exchange": layout.exchange, "overlap": layout.overlap, "eplb": layout.eplb} if layout.ep > 1 else {}
    return {"role": group.role, **said}


def drafts(document: Plan | DeploymentDocument) -> bool:
    """Whether its engines load a draft module."""
    if isinstance(document, DeploymentDocument):
        return document.draft_tokens > 0
    return document.request.workload.speculation is not None
