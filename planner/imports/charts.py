"""Values of Helm charts that start engines → the pods that the charts make of them: vLLM's production stack and llm-d's
modelservice, each known by what stands in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from planner.contract.engine import Role
from planner.imports.containers import PlacedStart, PodAround, count_of, in_pod, items, mapping, plain
from profiles.errors import InputError
from profiles.hardware import Catalogue
from profiles.values import shown

_NAME = re.compile(r"\{\{-?\s*\.Values\.modelArtifacts\.name\s*-?\}\}")
_PD_ROLES: dict[str, Role] = {"kv_producer": "prefill", "kv_consumer": "decode"}
_LWS = {"LWS_WORKER_INDEX": "0", "LWS_LEADER_ADDRESS": "leader"}

# ------------------------------------------------------------------ vLLM's production stack

_CONFIG = {
    "maxModelLen": "--max-model-len",
    "dtype": "--dtype",
    "tensorParallelSize": "--tensor-parallel-size",
    "pipelineParallelSize": "--pipeline-parallel-size",
    "maxNumSeqs": "--max-num-seqs",
    "gpuMemoryUtilization": "--gpu-memory-utilization",
}
"""Keys of ``vllmConfig`` and what the chart writes of them (vllm-project/production-stack
helm/templates/deployment-vllm-multi.yaml at 010004ee; pipelineParallelSize in ray-cluster.yaml at 06bd6fba)."""

_DROPPED = {
    "maxNumBatchedTokens": "--max-num-batched-tokens",
    "dataParallelSize": "--data-parallel-size",
    "kvCacheDtype": "--kv-cache-dtype",
    "quantization": "--quantization",
    "enableExpertParallel": "--enable-expert-parallel",
    "blockSize": "--block-size",
    "enforceEager": "--enforce-eager",
}
"""Keys that the chart does not know, and so leaves out of the command without a word."""


def is_stack(document: Mapping[str, Any]) -> bool:
    return isinstance(mapping(document.get("servingEngineSpec")).get("modelSpec"), list)


def stack(document: Mapping[str, Any], catalogue: Catalogue) -> Iterator[PlacedStart]:
    """``servingEngineSpec.modelSpec`` of vLLM's production stack: a Deployment each, or a Ray cluster."""
    serving = mapping(document.get("servingEngineSpec"))
    if serving.get("enableEngine") is False:
        return
    for spec in items(serving.get("modelSpec")):
        if spec.get("enabled") is False:
            continue
        name = str(spec.get("name") or "model")
        ray = mapping(spec.get("raySpec"))
        over_ray = bool(ray) and ray.get("enabled", True) is not False
        replicas = count_of(spec.get("replicaCount"), f"{name}: replicaCount")
        gpus = count_of(spec.get("requestGPU"), f"{name}: requestGPU", 0)
        container = {
            "image": f"{spec.get('repository') or ''}:{spec.get('tag') or ''}",
            "command": ["vllm", "serve"],
            "args": _stack_arguments(spec, name, over_ray=over_ray),
            "env": spec.get("env"),
            "resources": {"limits": {str(spec.get("requestGPUType") or "nvidia.com/gpu"): gpus} if gpus else {}},
        }
        cache = mapping(spec.get("lmcacheConfig"))
        role = _PD_ROLES.get(str(cache.get("kvRole"))) if cache.get("enablePD") else None
        terms = {"nodeSelectorTerms": spec.get("nodeSelectorTerms")}
        affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
        # A Ray cluster is one engine: its head and the workers that replicaCount counts.
        around = PodAround(name, 1, replicas + 1, role=role) if over_ray else PodAround(name, replicas, role=role)
        yield from in_pod({"containers": [container], "affinity": affinity}, around, catalogue)


def _stack_arguments(spec: Mapping[str, Any], name: str, *, over_ray: bool) -> list[str]:
    if not spec.get("modelURL"):
        raise InputError(f"{name}: modelURL is missing", "name the model as the chart wants it")
    config = mapping(spec.get("vllmConfig"))
    for key in config:
        if key in _DROPPED:
            raise InputError(
                f"{name}: vllmConfig.{key}: the chart has no such key, and starts the engine without it",
                f"write it as extraArgs: [{_DROPPED[key]}, …]",
            )
    words = [str(spec["modelURL"])]
    for key, flag in _CONFIG.items():
        if key in config:
            words += [flag, plain(config[key])]
    if "enableChunkedPrefill" in config:
        words.append("--enable-chunked-prefill" if config["enableChunkedPrefill"] else "--no-enable-chunked-prefill")
    words.append("--enable-prefix-caching" if config.get("enablePrefixCaching") else "--no-enable-prefix-caching")
    words += [plain(each) for each in _listed(config.get("extraArgs"), f"{name}: vllmConfig.extraArgs")]
    cache = mapping(spec.get("lmcacheConfig"))
    if cache.get("enabled"):
        said = {"kv_connector": "LMCacheConnectorV1", "kv_role": cache.get("kvRole") or "kv_both"}
        words += ["--kv-transfer-config", json.dumps(said)]
    return [*words, "--distributed-executor-backend", "ray"] if over_ray else words


def _listed(value: Any, where: str) -> list[Any]:
    """A list of words. Raises InputError where it is none."""
    if value is not None and not isinstance(value, list):
        raise InputError(f"{where}: {shown(str(value))} is no list", 'write ["--flag", "value"]')
    return value or []


# ------------------------------------------------------------------ llm-d's modelservice


def is_modelservice(document: Mapping[str, Any]) -> bool:
    parts = (document.get("decode"), document.get("prefill"))
    return isinstance(document.get("modelArtifacts"), dict) and any(isinstance(part, dict) for part in parts)


def modelservice(document: Mapping[str, Any], catalogue: Catalogue) -> Iterator[PlacedStart]:
    """``decode`` and ``prefill`` of llm-d's chart: Deployments, or LeaderWorkerSets where it says ``multinode``
    (llm-d-incubation/llm-d-modelservice charts/llm-d-modelservice/templates/_helpers.tpl at 024c0f2d)."""
    parts = {name: mapping(document.get(name)) for name in ("prefill", "decode")}
    counts = {
        name: 0
        if not part or part.get("create") is False
        else count_of(part.get("replicas"), f"{name}: replicas", 1 if name == "decode" else 0)
        for name, part in parts.items()
    }
    several = document.get("multinode") is True
    apart: dict[str, Role] = {"prefill": "prefill", "decode": "decode"}
    for name, part in parts.items():
        if not counts[name]:
            continue
        role: Role | None = apart[name] if counts["prefill"] else None
        local, workers, degrees = _degrees(mapping(part.get("parallelism")), name)
        gpus = local * degrees.get("--tensor-parallel-size", 1)
        for container in items(part.get("containers")):
            made, program = _container(document, container, degrees, name, gpus)
            around = PodAround(
                name,
                counts[name],
                workers if several else 1,
                role=role,
                program=program,
                environment={
                    **_LWS,
                    "DP_SIZE": str(degrees.get("--data-parallel-size", 1)),
                    "DP_SIZE_LOCAL": str(local),
                    "TP_SIZE": str(degrees.get("--tensor-parallel-size", 1)),
                    "LWS_GROUP_SIZE": str(workers),
                },
            )
            yield from in_pod({**_selected(part), "containers": [made]}, around, catalogue)


def _degrees(said: Mapping[str, Any], name: str) -> tuple[int, int, dict[str, int]]:
    """(attention replicas of a pod, pods of an engine, flags with the degrees above 1)."""
    tensor, data, local, workers = (
        count_of(said.get(key), f"{name}: parallelism.{key}", 0) for key in ("tensor", "data", "dataLocal", "workers")
    )
    whole = data or (local or 1) * (workers if local and workers else 1)
    for key, parts in (("dataLocal", local), ("workers", workers)):
        if data and parts and data % parts:
            raise InputError(
                f"{name}: parallelism.data {data} is not a multiple of {key} {parts}", "correct one of the two"
            )
    each = local or whole // max(workers, 1)
    pods = workers or -(-whole // max(each, 1))
    if each * pods != whole and local and workers and data:
        raise InputError(
            f"{name}: parallelism.data {data} is not dataLocal {local} × workers {workers}", "give two of the three"
        )
    flags = {"--tensor-parallel-size": tensor, "--data-parallel-size": whole, "--data-parallel-size-local": each}
    return max(each, 1), max(pods, 1), {flag: degree for flag, degree in flags.items() if degree > 1}


def _container(
    document: Mapping[str, Any], container: Mapping[str, Any], degrees: Mapping[str, int], name: str, gpus: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the container that the chart makes, what its image runs where it is given no command)."""
    way = str(container.get("modelCommand") or "custom")
    made = dict(container)
    limits = dict(mapping(mapping(container.get("resources")).get("limits")))
    if not any("gpu" in str(key) for key in limits):
        limits["nvidia.com/gpu"] = gpus
    made["resources"] = {"limits": limits}
    if way not in ("vllmServe", "imageDefault", "custom"):
        raise InputError(
            f"{name}: modelCommand {shown(way)} is none of the chart's", "give vllmServe, imageDefault or custom"
        )
    if way == "custom":
        return {**made, **{key: _filled(document, container.get(key), name) for key in ("command", "args")}}, ()
    model = _model(document, name)
    words = [model] if way == "vllmServe" else ["--model", model]
    words += [word for flag, degree in degrees.items() for word in (flag, str(degree))]
    made["args"] = [*words, *_filled(document, _listed(container.get("args"), f"{name}: args"), name)]
    if way == "vllmServe":
        return {**made, "command": ["vllm", "serve"]}, ()
    made.pop("command", None)
    return made, ("vllm", "serve")


def _model(document: Mapping[str, Any], name: str) -> str:
    """What the engine is told to load."""
    artifacts = mapping(document.get("modelArtifacts"))
    own = str(artifacts.get("name") or "")
    uri = _NAME.sub(own, str(artifacts.get("uri") or f"hf://{own}")).replace('"', "")
    kind, _, path = uri.partition("://")
    if "{{" in path or not path:
        raise InputError(f"{name}: modelArtifacts.uri {shown(uri)} names no model", "write the model's name there")
    if kind == "hf":
        return path
    _, _, inside = path.partition("/")
    if kind == "pvc+hf":
        return "/".join(path.split("/")[-2:])
    return f"{artifacts.get('mountPath') or '/model-cache'}/{inside}"


def _filled(document: Mapping[str, Any], value: Any, name: str) -> Any:
    """A list of words with the model's name in its template.

    Raises:
        InputError: another template, which only helm fills in.
    """
    if not isinstance(value, list):
        return value
    own = str(mapping(document.get("modelArtifacts")).get("name") or "")
    filled = [_NAME.sub(own, each) if isinstance(each, str) else each for each in value]
    for each in filled:
        if isinstance(each, str) and "{{" in each:
            raise InputError(
                f"{name}: {shown(each)} holds a template that only helm fills in",
                "give what `helm template CHART -f FILE` prints",
            )
    return filled


def _selected(part: Mapping[str, Any]) -> dict[str, Any]:
    """How a pod's node is selected."""
    found = {key: part[key] for key in ("nodeSelector", "affinity") if isinstance(part.get(key), dict)}
    more = mapping(part.get("extraConfig"))
    found |= {key: more[key] for key in ("nodeSelector", "affinity") if isinstance(more.get(key), dict)}
    types = mapping(part.get("acceleratorTypes"))
    values = types.get("labelValues")
    if types.get("labelKey") and isinstance(values, list) and len(values) == 1:
        found["nodeSelector"] = {**mapping(found.get("nodeSelector")), str(types["labelKey"]): values[0]}
    return found
