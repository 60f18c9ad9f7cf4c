"""Dynamo: a DynamoGraphDeployment, its frontend before the workers, which find each other through the platform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from planner.exports.fleet import PlacedEngine
from planner.exports.kube import FILES, Kube, Object, kustomization
from planner.exports.serving import ServingTarget
from planner.exports.text import yaml_text
from planner.launchers.front import NodeStart
from planner.launchers.places import Place
from planner.launchers.words import variable

MOST_COMPONENTS = 25
"""Of a graph (deploy/operator/api/v1beta1 of ai-dynamo/dynamo, read 2026-11-26)."""

PORT = 8000
"""The frontend's."""


@dataclass(frozen=True)
class Worker:
    """How Dynamo's worker is told what a framework's own command says.

    Attributes:
        model: the option that names it. ``drops``: options that are Dynamo's matter; ``words``: other words for others.
        options_file: the option that names a file of options, where it has one.
        handing_over: what an engine of one role says besides.
    """

    model: str
    drops: tuple[str, ...]
    words: Mapping[str, str] = field(default_factory=dict)
    options_file: str = ""
    handing_over: tuple[str, ...] = ()


# dynamo/vllm/args.py, sglang/args.py, trtllm/backend_args.py of PyPI's ai-dynamo 1.6.1.
_WORKERS = {
    "vllm": Worker("--model", drops=("--port",)),
    "sglang": Worker(
        "--model-path",
        drops=("--port", "--dist-init-addr"),
        handing_over=("--disaggregation-transfer-backend", "nixl"),
    ),
    "trtllm": Worker(
        "--model",
        drops=("--port", "--host"),
        options_file="--extra-engine-args",
        words={
            "--tp_size": "--tensor-parallel-size",
            "--pp_size": "--pipeline-parallel-size",
            "--ep_size": "--expert-parallel-size",
            "--gpus_per_node": "--gpus-per-node",
            "--max_batch_size": "--max-batch-size",
            "--max_num_tokens": "--max-num-tokens",
            "--max_seq_len": "--max-seq-len",
            "--kv_cache_free_gpu_memory_fraction": "--free-gpu-memory-fraction",
            "--config": "--extra-engine-args",
        },
    ),
}
_ROLES = {"aggregated": "worker", "prefill": "prefill", "decode": "decode"}


class Dynamo(ServingTarget):
    name: ClassVar[str] = "dynamo"
    writes: ClassVar[str] = "graph.yaml: a DynamoGraphDeployment (v1beta1; v1alpha1 with --set api_version=v1alpha1)"
    release: ClassVar[str] = "Dynamo 1.6, nvidia.com/v1beta1"
    rung: ClassVar[int] = 3

    def own_needs(self) -> tuple[str, ...]:
        return ("image", *self.needs_of_pools)

    def cannot(self) -> str | None:
        groups = self.plan.decision.engines
        if len(groups) + 1 > MOST_COMPONENTS:
            return f"a graph has {MOST_COMPONENTS} components at most, and the plan has {len(groups)} kinds of engines"
        return super().cannot()

    def url(self) -> str:
        return f"http://{self.fleet.name}-frontend:{PORT}"

    def steps(self, folder: Path) -> tuple[str, ...]:
        return (f"start: kubectl apply -k {folder}",)

    def platform_files(self) -> dict[str, str]:
        fleet, kube = self.fleet, Kube(self.fleet)
        front = NodeStart(("python3", "-m", "dynamo.frontend"))
        components = [self._frontend(kube, front)]
        maps: list[Object] = []
        for group in self.plan.decision.engines:
            engine = next(each for each in fleet.engines if each.group.id == group.id)
            start = self._worker(engine)
            name = kube.name(group.id)
            maps += kube.config_map(name, start)
            components.append(self._component(kube, engine, start, name, len(group.replicas)))
        told = (*fleet.told, *fleet.equal_shares)
        files = {"graph.yaml": yaml_text(self._graph(kube, components), header=told), **kube.domain(near=False)}
        if maps:
            files["configmaps.yaml"] = yaml_text(*maps, header=fleet.told)
        return {**files, "kustomization.yaml": yaml_text(kustomization(sorted(files), self.values.namespace))}

    def _worker(self, engine: PlacedEngine) -> NodeStart:
        """The command of a worker: the operator adds what several nodes need."""
        fleet, worker = self.fleet, _WORKERS[self.fleet.framework.name]
        whole = Place(
            "0", True, (engine.group.layout.gpus,), variable("POD_IP"), variable("POD_IP"),
            fleet.ports(engine, alone=True), FILES,
        )  # fmt: skip
        made = fleet.start(engine, whole)
        words = list(made.command[len(fleet.framework.command.program) :])
        if fleet.framework.command.flags["model"] is None:
            words.insert(0, worker.model)
        out: list[str] = ["python3", "-m", f"dynamo.{fleet.framework.name}"]
        files = dict(made.files)
        place = 0
        while place < len(words):
            word = words[place]
            place += 1
            if word in worker.drops:
                place += 1
            elif word == "--enable_chunked_prefill":  # a key of the options file there
                files = _chunked(files)
            else:
                out.append(worker.words.get(word, word))
        if files and worker.options_file and worker.options_file not in out:
            out += [worker.options_file, f"{FILES}{next(iter(files))}"]
        if engine.role != "aggregated" and "--disaggregation-mode" not in out:
            out += ["--disaggregation-mode", engine.role]
        if engine.role != "aggregated":
            out += worker.handing_over
        return NodeStart(tuple(out), made.environment, files)

    def _component(self, kube: Kube, engine: PlacedEngine, start: NodeStart, name: str, replicas: int) -> Object:
        claims = name if start.files else ""
        gpus = kube.gpus_of(engine, len(engine.shares[0].gpus))
        container = kube.container("main", self.values.image, start, {}, gpus=gpus, program=3, claims=claims)
        made: Object = {"name": engine.group.id, "type": _ROLES[engine.role], "replicas": replicas}
        if len(engine.shares) > 1:
            made["multinode"] = {"nodeCount": len(engine.shares)}
        pod = kube.joined(engine, kube.pod(container, claims=claims, pool=engine.group.pool), near=False)
        kube.keep_spread([pod], engine.group)
        labels = kube.spread_labels(engine.group)
        return {**made, "podTemplate": {**({"metadata": {"labels": labels}} if labels else {}), "spec": pod}}

    def _frontend(self, kube: Kube, start: NodeStart) -> Object:
        container = kube.container("main", self.values.front_image or self.values.image, start, {}, program=3)
        return {"name": "Frontend", "type": "frontend", "replicas": 1, "podTemplate": {"spec": kube.pod(container)}}

    def _graph(self, kube: Kube, components: list[Object]) -> Object:
        version = self.values.api_version or "v1beta1"
        made: Object = {"apiVersion": f"nvidia.com/{version}", "kind": "DynamoGraphDeployment"}
        made["metadata"] = kube.metadata(self.fleet.name)
        if version == "v1beta1":
            return {
                **made,
                "spec": {"backendFramework": self.fleet.framework.name, "components": components},
            }
        services = {each["name"]: _older(each) for each in components}
        return {**made, "spec": {"backendFramework": self.fleet.framework.name, "services": services}}


def _chunked(files: dict[str, str]) -> dict[str, str]:
    name = next(iter(files), "trtllm-options.yaml")
    return {**files, name: files.get(name, "") + "enable_chunked_prefill: true\n"}


def _older(component: Object) -> Object:
    """A component as v1alpha1 has it: a map of services, the container apart."""
    pod = component["podTemplate"]["spec"]
    container, *_ = pod["containers"]
    kinds = {"frontend": ("frontend", None), "worker": ("worker", None)}
    kind, sub = kinds.get(component["type"], ("worker", component["type"]))
    made: Object = {"componentType": kind, "replicas": component["replicas"]}
    if sub:
        made["subComponentType"] = sub
    if "multinode" in component:
        made["multinode"] = component["multinode"]
    if "resources" in container:
        claims = {key: value for key, value in container["resources"].items() if key == "claims"}
        made["resources"] = {"limits": {"gpu": next(iter(container["resources"]["limits"].values()))}, **claims}
    if "metadata" in component["podTemplate"]:
        made["extraPodMetadata"] = component["podTemplate"]["metadata"]
    rest = {key: value for key, value in container.items() if key not in ("name", "resources")}
    others = {key: value for key, value in pod.items() if key != "containers"}
    return {**made, "extraPodSpec": {**others, "mainContainer": rest}}
