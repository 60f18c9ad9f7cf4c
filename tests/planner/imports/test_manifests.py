"""Manifests and folders that start engines."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from planner.contract.deployment import DeploymentDocument
from planner.contract.exported import DEPLOYMENT, MANIFEST, ExportedDeployment
from planner.imports.importing import deployment_of
from planner.imports.request import parse_import_request
from planner.kinds import example
from planner.serving.document.plan import parse_plan
from profiles.errors import InputError, Unsupported

GPUS = {"limits": {"nvidia.com/gpu": "2"}}
ARGS = ["--model", "Qwen/Qwen3-32B", "--tensor-parallel-size", "2", "--max-model-len", "8192"]


def container(**fields: Any) -> dict[str, Any]:
    return {"name": "main", "image": "vllm/vllm-openai:v0.20.0", "args": ARGS, "resources": GPUS, **fields}


def workload(kind: str = "Deployment", **fields: Any) -> dict[str, Any]:
    pod = {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}, "containers": [container()]}
    spec = {"replicas": 3, "template": {"spec": {**pod, **fields}}}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "qwen"}, "spec": spec}


def imported(*documents: Any, **fields: Any) -> DeploymentDocument:
    text = yaml.safe_dump_all(documents)
    return deployment_of(parse_import_request({"text": text, **fields}))


def only(document: DeploymentDocument) -> tuple[str, int, int, str]:
    (group,) = document.engines
    return group.role, group.layout.tp, len(group.replicas), group.gpu


LWS = {
    "leaderWorkerTemplate": {
        "size": 2,
        "leaderTemplate": {
            "spec": {
                "containers": [
                    container(
                        command=["sh", "-c", "ray start; vllm serve Qwen/Qwen3-32B -tp 2 -pp $PP --max-model-len 8192"],
                        args=[],
                        env=[{"name": "PP", "value": "2"}],
                    )
                ]
            }
        },
        "workerTemplate": {"spec": {"containers": [container(command=["sh", "-c", "ray start"], args=[])]}},
    }
}


def dynamo(role: str, replicas: int, **more: Any) -> dict[str, Any]:
    pod = {"spec": {"containers": [container(command=["python3", "-m", "dynamo.vllm"])]}}
    return {"name": role, "type": role, "replicas": replicas, "podTemplate": pod, **more}


@pytest.mark.parametrize(
    ("document", "fields", "want"),
    [
        (workload(), {}, ("aggregated", 2, 3, "H100-SXM")),
        (workload("StatefulSet"), {}, ("aggregated", 2, 3, "H100-SXM")),
        (
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container()]}},
            {"gpu": "H200"},
            ("aggregated", 2, 1, "H200"),
        ),
        (
            {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "spec": {"replicas": 2, **LWS}},
            {"gpu": "H200"},
            ("aggregated", 2, 2, "H200"),
        ),
        (
            {
                "apiVersion": "serving.kserve.io/v1alpha2",
                "kind": "LLMInferenceService",
                "spec": {
                    "model": {"uri": "hf://Qwen/Qwen3-32B"},
                    "replicas": 2,
                    "parallelism": {"tensor": 2},
                    "template": {"containers": [{"name": "main", "resources": GPUS}]},
                },
            },
            {"gpu": "H200"},
            ("aggregated", 2, 2, "H200"),
        ),
        (
            {
                "apiVersion": "serving.kserve.io/v1beta1",
                "kind": "InferenceService",
                "spec": {
                    "predictor": {
                        "model": {
                            "modelFormat": {"name": "huggingface"},
                            "args": ["--model_id=Qwen/Qwen3-32B", "--model_name=q", "--tensor-parallel-size=2"],
                            "resources": GPUS,
                        }
                    }
                },
            },
            {"gpu": "H200"},
            ("aggregated", 2, 1, "H200"),
        ),
        (
            {
                "services": {
                    "llm": {
                        "image": "vllm/vllm-openai:v0.20.0",
                        "command": " ".join(ARGS),
                        "deploy": {"resources": {"reservations": {"devices": [{"count": 2}]}}},
                    },
                    "web": {"image": "nginx"},
                }
            },
            {"gpu": "H200"},
            ("aggregated", 2, 1, "H200"),
        ),
        (
            {
                "resources": {"accelerators": "H100:2"},
                "envs": {"MODEL": "Qwen/Qwen3-32B"},
                "run": "vllm serve $MODEL -tp 2\n",
            },
            {},
            ("aggregated", 2, 1, "H100-SXM"),
        ),
        (
            {
                "applications": [
                    {
                        "args": {
                            "llm_configs": [
                                {
                                    "model_loading_config": {"model_id": "Qwen/Qwen3-32B"},
                                    "accelerator_type": "H100",
                                    "deployment_config": {"num_replicas": 2},
                                    "engine_kwargs": {"tensor_parallel_size": 2, "enable_prefix_caching": True},
                                }
                            ]
                        }
                    }
                ]
            },
            {},
            ("aggregated", 2, 2, "H100-SXM"),
        ),
    ],
    ids=["Deployment", "StatefulSet", "Pod", "LWS", "LLMInferenceService", "InferenceService", "compose", "sky", "ray"],
)
def test_a_manifest_is_known_by_what_it_is(document: Any, fields: Any, want: Any) -> None:
    assert only(imported(document, {"apiVersion": "v1", "kind": "Service", "spec": {}}, **fields)) == want


def test_the_image_says_the_release_and_names_kept_variables() -> None:
    got = imported(workload(containers=[container(env=[{"name": "VLLM_USE_V1", "value": "1"}])]))
    assert got.framework == "vllm@0.20.0"
    assert got.read_as == "Deployment"
    assert [each.flag for each in got.kept] == ["VLLM_USE_V1"]


@pytest.mark.parametrize("version", ["v1alpha1", "v1beta1"])
def test_dynamo_says_roles_by_component(version: str) -> None:
    if version == "v1beta1":
        spec: dict[str, Any] = {"components": [dynamo("frontend", 1), dynamo("prefill", 1), dynamo("decode", 2)]}
        spec["components"][0]["podTemplate"]["spec"]["containers"] = [{"name": "main", "image": "x"}]
    else:
        main = {"image": "x", "command": ["python3", "-m", "dynamo.vllm"], "args": ARGS}
        spec = {
            "services": {
                "Front": {"componentType": "frontend", "extraPodSpec": {"mainContainer": {"image": "x"}}},
                "P": {
                    "subComponentType": "prefill",
                    "resources": {"limits": {"gpu": "2"}},
                    "extraPodSpec": {"mainContainer": {**main, "args": [*ARGS, "--is-prefill-worker"]}},
                },
                "D": {"subComponentType": "decode", "replicas": 2, "extraPodSpec": {"mainContainer": main}},
            }
        }  # fmt: skip
    got = imported({"apiVersion": f"nvidia.com/{version}", "kind": "DynamoGraphDeployment", "spec": spec}, gpu="H200")
    assert [(group.role, len(group.replicas)) for group in got.engines] == [("prefill", 1), ("decode", 2)]
    assert got.pairs == (("engine-0", "engine-1"),)


def test_a_disaggregated_set_says_roles_by_name() -> None:
    roles = [{"name": name, "spec": {"replicas": 1, **LWS}} for name in ("prefill", "decode")]
    got = imported(
        {"apiVersion": "disaggregatedset.x-k8s.io/v1", "kind": "DisaggregatedSet", "spec": {"roles": roles}}, gpu="H200"
    )
    assert [(group.role, group.layout.pp) for group in got.engines] == [("prefill", 2), ("decode", 2)]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"apiVersion": "v1", "kind": "Service", "spec": {}}, "is no manifest that is known"),
        (workload(containers=[{"name": "web", "image": "nginx"}]), "starts an engine"),
        (workload(containers=[container(resources={"limits": {"nvidia.com/gpu": 1}})]), "is given 1, and its degrees"),
        (workload(nodeSelector={}), "does not say which GPUs"),
        (workload(containers=[container(args=[*ARGS, "--max-num-seqs", "$(SEQS)"])]), "'$(SEQS)'"),
        ({**workload(), "spec": {"replicas": "three", "template": {}}}, "is not a whole number"),
    ],
)
def test_what_a_manifest_does_not_say_is_named(document: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        imported(document)
    assert said in f"{caught.value.message} {caught.value.hint}"


def test_a_degree_that_is_said_twice_is_refused() -> None:
    spec = {
        "model": {"uri": "hf://Qwen/Qwen3-32B"},
        "parallelism": {"tensor": 2},
        "template": {"containers": [{"name": "main", "args": ["--tensor-parallel-size", "4"]}]},
    }
    with pytest.raises(InputError, match="is given, and the arguments say"):
        imported({"apiVersion": "serving.kserve.io/v1alpha2", "kind": "LLMInferenceService", "spec": spec}, gpu="H100")


def test_another_gpu_than_the_manifest_selects_is_refused() -> None:
    with pytest.raises(InputError, match="asks for H100"):
        imported(workload(), gpu="H200")
    with pytest.raises(Unsupported, match="several are served"):
        imported(workload(), workload(containers=[container(args=["--model", "Qwen/Qwen3-8B"])]))


# --- folders ----------------------------------------------------------------------------------------------


def test_a_folder_gives_back_what_a_plan_decided() -> None:
    plan = parse_plan(json.dumps(example("serving")))
    (group,) = plan.decision.engines
    replica = group.replicas[0].model_copy(update={"weight": 1.0, "id": "engine-0-0"})
    exported = ExportedDeployment.of(plan.request.model, None, plan.request.cluster, [group])
    command = " ".join(group.launch.command)
    script = (
        '#!/bin/sh\nset -eu\nHERE=$(CDPATH="" cd -- "$(dirname -- "$0")" && pwd)\n'
        f'CUDA_VISIBLE_DEVICES=0 \\\n  {command} \\\n  >"$HERE"/logs/engine-0-0.log 2>&1 &\n'
        'echo $! >"$HERE"/logs/x.pid\n'
    )
    files = {
        MANIFEST: json.dumps({"target": "shell", DEPLOYMENT: exported.model_dump(mode="json")}),
        "node-0/start.sh": script,
        "bench.sh": "vllm bench serve --model x\n",
    }
    got = deployment_of(parse_import_request({"files": files}))
    fields = ("id", "role", "layout", "limits", "weights_precision", "kv_precision", "replicas", "gpu", "pool")
    assert [{name: getattr(each, name) for name in fields} for each in got.engines] == [
        {name: getattr(each, name) for name in fields} for each in plan.decision.engines
    ]
    assert got.engines[0].replicas[0] == replica
    assert got.cluster.pools[0].gpus == plan.request.cluster.pools[0].gpus
    assert got.usd_per_hour == pytest.approx(plan.decision.usd_per_hour)
    edited = {**files, "node-0/start.sh": re.sub(r"--max-num-seqs \d+", "--max-num-seqs 32", script)}
    assert deployment_of(parse_import_request({"files": edited})).engines[0].limits.max_sequences == 32


def test_a_folder_without_engines_is_refused() -> None:
    with pytest.raises(InputError, match="folder: nothing in it starts an engine"):
        deployment_of(parse_import_request({"files": {"a.sh": "echo hello\n"}}))


def test_files_lie_beside_their_own_script() -> None:
    script = '#!/bin/sh\nHERE=$(dirname "$0")\ntrtllm-serve Qwen/Qwen3-8B --config "$HERE"/{}/o.yaml\n'
    files = {
        "a/start.sh": script.format("e"),
        "a/e/o.yaml": "max_batch_size: 8\n",
        "b/start.sh": script.format("e"),
        "b/e/o.yaml": "max_batch_size: 16\n",
    }
    got = deployment_of(parse_import_request({"files": files, "gpu": "H200"}))
    assert sorted(group.limits.max_sequences for group in got.engines) == [8, 16]


def test_what_is_scaled_to_nothing_is_left_out() -> None:
    off = workload()
    off["spec"]["replicas"] = 0
    assert only(imported(off, workload())) == ("aggregated", 2, 3, "H100-SXM")
    with pytest.raises(InputError, match="qwen: 0 of them, and nothing runs"):
        imported(off)


def test_variables_of_manifests_are_told_to_be_given_in_them() -> None:
    unset = workload(containers=[container(args=["--model", "$(MODEL)"])])
    with pytest.raises(InputError, match=r"'\$\(MODEL\)' is not known") as caught:
        imported(unset)
    assert "--set" not in str(caught.value.hint)
    with pytest.raises(InputError, match="have no effect on manifests") as caught:
        imported(unset, variables={"MODEL": "Qwen/Qwen3-32B"})
    assert caught.value.hint == "give MODEL under env in the manifest"
