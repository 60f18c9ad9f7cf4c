"""Core Kubernetes objects of exports pass the schemas of a release, strictly."""

from __future__ import annotations

import kubernetes_validate
import pytest
import yaml

from planner.contract.engine import Layout, Role
from planner.exports.registry import exported
from tests.planner.exports.made import MODELS, asked, layout, planned

CORE = ("v1", "apps/v1", "rbac.authorization.k8s.io/v1")
PARTS: dict[str, list[tuple[Role, Layout, int]]] = {
    "aggregated": [("aggregated", layout(tp=4), 2)],
    "disaggregated": [("prefill", layout(tp=4), 1), ("decode", layout(tp=4), 2)],
    "several nodes": [("aggregated", layout(tp=8, pp=2), 1)],
}


@pytest.mark.parametrize("framework", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("parts", PARTS)
def test_core_objects_pass_their_schema(framework: str, parts: str) -> None:
    plan = planned(framework, MODELS["dense"], PARTS[parts])
    given = asked(plan, tolerations=({"key": "gpu", "operator": "Exists"},), node_selector={"pool": "gpu"})
    if framework == "trtllm" and parts == "several nodes":
        pytest.skip("one MPI world: refused by plain Kubernetes")
    checked = 0
    for name, text in exported("kubernetes", given)[1].items():
        for document in yaml.safe_load_all(text) if name.endswith(".yaml") else ():
            if document["apiVersion"] in CORE:
                kubernetes_validate.validate(document, "1.30", strict=True)
                checked += 1
    assert checked >= 2 if parts != "several nodes" else checked >= 1
