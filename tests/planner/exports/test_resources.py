"""Custom resources: what is exported passes their schemas, and what they do not know is found."""

from __future__ import annotations

import copy
import json
from typing import Any

import kubernetes_validate
import pytest
import yaml

from planner.exports.registry import exported
from planner.exports.resources import check_resource, known, wrong
from planner.exports.target import Asked
from planner.exports.values import Values
from planner.kinds import KINDS, example
from planner.serving.document.plan import Plan
from profiles.errors import Unsupported
from tests.planner.exports.made import MODELS, asked, layout, matrix, planned

TARGETS = ("kubernetes", "llm-d", "dynamo", "kserve", "gateway")


def objects() -> dict[str, Any]:
    """One custom resource of each kind that exports write."""
    found: dict[str, Any] = {}
    for _, plan in matrix("vllm")[::3]:
        for target in TARGETS:
            try:
                files = exported(target, asked(plan, gateway="front"))[1]
            except Unsupported:
                continue
            for name, text in files.items():
                for document in yaml.safe_load_all(text) if name.endswith(".yaml") else ():
                    found.setdefault(document["kind"], document)
    (found["JobSet"],) = jobs()
    rack = planned("vllm", MODELS["latent"], [("aggregated", layout(dp=16, ep=16), 1)], per_node=72)
    rack = Plan.model_validate_json(rack.model_dump_json().replace("H100-SXM", "GB200")).sealed()
    found["ComputeDomain"] = yaml.safe_load(exported("kubernetes", asked(rack))[1]["domain.yaml"])
    return found


def jobs() -> list[Any]:
    """The JobSet of a training plan."""
    plan = KINDS["training"].parse(json.dumps(example("training")))
    text = exported("jobset", Asked(plan, Values(image="i", script="train.py"), None))[1]["training.yaml"]
    return [document for document in yaml.safe_load_all(text) if document["kind"] == "JobSet"]


def test_the_jobs_of_a_set_pass_the_schema_of_jobs() -> None:
    (made,) = jobs()
    (part,) = made["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one"}, "spec": part["template"]["spec"]}
    kubernetes_validate.validate(job, "1.30", strict=True)


def test_every_resource_that_is_known_is_written_and_what_is_wrong_in_it_is_found() -> None:
    """Every file of every target passes :func:`check_resource`, or it is not written."""
    found = objects()
    assert {kind for _, kind in known()} <= set(found)
    for _, kind in known():
        for spoil, said in (
            (lambda spec: spec.update(surprise=1), "spec.surprise is not known"),
            (lambda spec: spec.clear(), "is missing"),
        ):
            document = copy.deepcopy(found[kind])
            spoil(document["spec"])
            if said == "is missing" and not known()[document["apiVersion"], kind].get("required"):
                continue
            assert any(said in line for line in wrong(document)), kind
    assert list(wrong({"apiVersion": "v1", "kind": "Pod", "spec": 1})) == []


def test_depths_types_and_choices_are_held() -> None:
    base: dict[str, Any] = {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "spec": {"replicas": 1, "leaderWorkerTemplate": {"size": 2, "workerTemplate": {"spec": {"containers": []}}}},
    }
    assert list(wrong(base)) == []
    for path, value, said in (
        (("replicas",), "1", "spec.replicas is not of type integer"),
        (("replicas",), True, "spec.replicas is not of type integer"),
        (("leaderWorkerTemplate", "restartPolicy"), "Sometimes", "'Sometimes' is not one of"),
        (("leaderWorkerTemplate", "sizes"), 2, "spec.leaderWorkerTemplate.sizes is not known"),
    ):
        document = copy.deepcopy(base)
        at = document["spec"]
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        assert any(said in line for line in wrong(document)), said
    del base["spec"]["leaderWorkerTemplate"]["workerTemplate"]
    with pytest.raises(Unsupported, match="workerTemplate is missing"):
        check_resource(base)
