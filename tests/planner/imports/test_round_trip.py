"""What is exported is imported again: the plan's engines, from every target."""

from __future__ import annotations

from typing import Any

import pytest

from costmodels.models.registry import find_architecture
from planner.contract.deployment import Deployment
from planner.contract.exported import MANIFEST
from planner.exports.folder import manifest
from planner.exports.registry import exported, names_for
from planner.imports.importing import deployment_of
from planner.imports.request import parse_import_request
from planner.launchers import launchers
from planner.serving.document.plan import Plan
from profiles.errors import Unsupported
from tests.planner.exports.made import asked, matrix

NO_ENGINES = ("gateway",)
"""Targets that start none."""
TARGETS = [name for name in names_for("serving") if name not in NO_ENGINES]
FIELDS = ("id", "role", "pool", "gpu", "layout", "limits", "weights_precision", "kv_precision", "replicas")


def told(deployment: Deployment, plan: Plan) -> list[dict[str, Any]]:
    """The engines; a dense model has no experts to split, whatever the plans of these tests say."""
    out = []
    for group in deployment.engines:
        fields = {name: getattr(group, name) for name in FIELDS}
        if not find_architecture(plan.request.model).is_moe:
            fields["layout"] = group.layout.model_copy(update={"moe_tp": 1})
        out.append(fields)
    return out


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("framework", sorted(launchers()))
@pytest.mark.parametrize("cells", [slice(1, None, 3), pytest.param(slice(None), marks=pytest.mark.slow)])
def test_engines_come_back_as_the_plan_decided_them(framework: str, target: str, cells: slice) -> None:
    for cell, plan in matrix(framework)[cells]:
        request = asked(plan)
        try:
            made, files = exported(target, request)
        except Unsupported:
            continue
        whole: dict[str, Any] = {**files, MANIFEST: manifest(target, request, made.framework, files)}
        got = deployment_of(parse_import_request({"files": whole}))
        assert told(got, plan) == told(plan.decision, plan), cell
        assert got.draft_tokens == (
            plan.request.workload.speculation.draft_tokens if plan.request.workload.speculation else 0
        )
        assert got.usd_per_hour == pytest.approx(plan.decision.usd_per_hour)
