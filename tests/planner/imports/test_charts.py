"""Values of Helm charts, read as the charts make pods of them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from planner.contract.deployment import DeploymentDocument
from planner.imports.arithmetic import computed
from planner.imports.importing import deployment_of
from planner.imports.request import parse_import_request
from profiles.errors import InputError

H100 = [
    {"matchExpressions": [{"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-H100-80GB-HBM3"]}]}
]


def read(document: Any, **more: Any) -> DeploymentDocument:
    return deployment_of(parse_import_request({"text": yaml.safe_dump(document), **more}))


def stack(**spec: Any) -> dict[str, Any]:
    model = {
        "name": "llama3",
        "repository": "vllm/vllm-openai",
        "tag": "v0.29.0",
        "modelURL": "meta-llama/Llama-3.1-8B-Instruct",
        "replicaCount": 2,
        "requestGPU": 1,
    }
    return {"servingEngineSpec": {"modelSpec": [{**model, **spec}]}, "routerSpec": {"enableRouter": True}}


def modelservice(**values: Any) -> dict[str, Any]:
    return {
        "modelArtifacts": {"name": "Qwen/Qwen3-32B", "uri": "hf://{{ .Values.modelArtifacts.name }}"},
        "routing": {"servicePort": 8000},
        "decode": part(2, tensor=4),
        **values,
    }


def part(replicas: int, args: tuple[str, ...] = (), way: str = "vllmServe", **parallelism: int) -> dict[str, Any]:
    container = {"image": "ghcr.io/llm-d/llm-d-cuda:v0.5.0", "modelCommand": way, "args": list(args)}
    return {"create": True, "replicas": replicas, "parallelism": parallelism, "containers": [container]}


def test_each_model_of_the_production_stack_is_a_deployment() -> None:
    config = {"tensorParallelSize": 1, "maxModelLen": 4096, "extraArgs": ["--gpu-memory-utilization", "0.8"]}
    made = read(stack(vllmConfig=config), gpu="H200")
    (group,) = made.engines
    assert (made.model, made.framework) == ("meta-llama/Llama-3.1-8B-Instruct", "vllm@0.29.0")
    assert (len(group.replicas), group.layout.tp, group.gpu) == (2, 1, "H200")
    assert (group.limits.max_model_len, group.limits.memory_fraction) == (4096, 0.8)
    assert made.read_as == "values of vLLM's production stack"


def test_a_ray_cluster_of_the_stack_is_one_engine_of_its_head_and_workers() -> None:
    config = {"tensorParallelSize": 8, "pipelineParallelSize": 2}
    spec = {"replicaCount": 1, "requestGPU": 8, "raySpec": {"headNode": {"requestGPU": 8}}}
    made = read(stack(vllmConfig=config, nodeSelectorTerms=H100, modelURL="meta-llama/Llama-3.1-70B-Instruct", **spec))
    (group,) = made.engines
    assert (len(group.replicas), group.layout.tp, group.layout.pp, group.gpu) == (1, 8, 2, "H100-SXM")


def test_models_that_are_off_start_nothing() -> None:
    values = stack()
    values["servingEngineSpec"]["modelSpec"].append({"name": "off", "enabled": False})
    assert len(read(values, gpu="H200").engines) == 1
    with pytest.raises(InputError, match="nothing in it starts"):
        read({"servingEngineSpec": {"enableEngine": False, "modelSpec": [{"name": "x"}]}}, gpu="H200")


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"vllmConfig": {"maxNumBatchedTokens": 4096}}, "vllmConfig.maxNumBatchedTokens: the chart has no such key"),
        ({"modelURL": None}, "modelURL is missing"),
        ({"replicaCount": "two"}, "replicaCount"),
        ({"vllmConfig": {"extraArgs": "--max-num-seqs 8"}}, "vllmConfig.extraArgs"),
    ],
)
def test_what_the_stack_would_drop_or_lacks_is_named(spec: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        read(stack(**spec), gpu="H200")


def test_decode_alone_serves_whole_requests_and_with_prefill_has_a_role() -> None:
    alone = read(modelservice(prefill={"create": False}), gpu="H200")
    assert [(group.role, len(group.replicas), group.layout.tp) for group in alone.engines] == [("aggregated", 2, 4)]
    told = ("--kv-transfer-config", '{"kv_connector":"NixlConnector","kv_role":"kv_both"}')
    both = read(modelservice(decode=part(2, told, tensor=4), prefill=part(3, told, tensor=2)), gpu="H200")
    assert [(group.role, len(group.replicas), group.layout.tp) for group in both.engines] == [
        ("prefill", 3, 2),
        ("decode", 2, 4),
    ]


def test_nodes_of_an_engine_are_the_charts_workers() -> None:
    script = (
        "exec vllm serve deepseek-ai/DeepSeek-R1 --enable-expert-parallel --tensor-parallel-size $TP_SIZE "
        "--data-parallel-size $((LWS_GROUP_SIZE * DP_SIZE_LOCAL)) --data-parallel-size-local $DP_SIZE_LOCAL "
        "--data-parallel-start-rank $(( ${LWS_WORKER_INDEX:-0} * DP_SIZE_LOCAL ))"
    )
    decode = part(1, (script,), "custom", data=16, dataLocal=8)
    decode["containers"][0]["command"] = ["/bin/bash", "-c"]
    artifacts = {"name": "deepseek-ai/DeepSeek-R1", "uri": "hf://deepseek-ai/DeepSeek-R1"}
    (group,) = read(modelservice(multinode=True, modelArtifacts=artifacts, decode=decode), gpu="H200").engines
    assert (group.layout.tp, group.layout.dp, group.layout.ep) == (1, 16, 16)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"decode": part(1, ("--port={{ .Values.port }}",))}, "template that only helm fills in"),
        ({"decode": part(1, way="fast")}, "modelCommand .fast. is none"),
        ({"decode": part(1, data=16, dataLocal=8, workers=4)}, "is not dataLocal 8 × workers 4"),
        ({"decode": part(1, data=3, dataLocal=2)}, "data 3 is not a multiple of dataLocal 2"),
        ({"decode": part(1, data=5, workers=2)}, "data 5 is not a multiple of workers 2"),
        ({"modelArtifacts": {"uri": "hf://{{ .Values.other }}"}}, "names no model"),
    ],
)
def test_values_that_only_helm_understands_are_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        read(modelservice(**values), gpu="H200")


@pytest.mark.parametrize(
    ("expression", "value"),
    [("2 * 8", 16), ("N*8+1", 25), ("-7 / 2", -3), ("-7 % 2", -1), ("(1 + 2) * 3", 9), ("010 + 1", 9), ("00 + 1", 1)],
)
def test_arithmetic_of_shells_is_computed(expression: str, value: int) -> None:
    assert computed(expression, {"N": "3"}) == value


@pytest.mark.parametrize(
    "expression", ["M * 2", "1 / 0", "08 + 1", "2 ** 3", "1 // 2", "a[0]", "", "1 +", "x = 3", "1 < 2"]
)
def test_what_is_not_known_of_it_stays_unknown(expression: str) -> None:
    assert computed(expression, {"N": "3"}) is None
