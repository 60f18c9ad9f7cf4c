"""KServe: an LLMInferenceService, whose containers carry the engine's whole command: no degree is said twice."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from planner.contract.engine import EngineGroup
from planner.exports.fleet import PlacedEngine
from planner.exports.kube import ENGINE_TYPE, Kube, Object, bootstrap_of, kustomization
from planner.exports.serving import ServingTarget
from planner.exports.text import yaml_text

PORT, DECODE_PORT = 8000, 8001
"""Where KServe's probes and pool look for an engine, and for a decode engine, whose 8000 its routing sidecar has
(kserve config/llmisvcconfig, templates and decode templates)."""

SIDECAR = ("/app/pd-sidecar", "--port=8000", "--vllm-port=8001", "--kv-connector=sglang", "--secure-proxy=false")
"""The command of KServe's routing sidecar where it pairs SGLang engines; its own pairs vLLM's (decode template)."""

PLACED = "/mnt/models"
"""Where KServe puts the weights of ``spec.model.uri`` before an engine starts (there)."""


class KServe(ServingTarget):
    name: ClassVar[str] = "kserve"
    writes: ClassVar[str] = "service.yaml: an LLMInferenceService (v1alpha2)"
    release: ClassVar[str] = "KServe 0.20, serving.kserve.io/v1alpha2"
    rung: ClassVar[int] = 1

    def own_needs(self) -> tuple[str, ...]:
        return ("image", *self.needs_of_pools)

    def cannot(self) -> str | None:
        groups = self.plan.decision.engines
        for role in ("aggregated", "prefill", "decode"):
            alike = [group for group in groups if group.role == role]
            if len(alike) > 1:
                return f"{alike[1].id}: a service has one kind of {role} engine, and the plan has several"
        if self.fleet.framework.name == "trtllm" and any(group.role != "aggregated" for group in groups):
            # kserve/kserve#5669 and llm-d/llm-d-router: connectors of the sidecar, read 2026-11-26
            return "its routing sidecar pairs vLLM's or SGLang's prefill and decode engines, not TensorRT-LLM's"
        return super().cannot()

    def cannot_span(self, engine: PlacedEngine) -> str | None:
        if self.fleet.is_world(engine):
            # securityContext of config/llmisvcconfig/config-llm-*worker*.yaml: capabilities, drop ALL
            return "its templates take from a pod the capabilities that the ssh daemon of an MPI world needs"
        if _counts(engine) is None:
            return (
                f"it counts the nodes of an engine by its data or its pipeline degree, and neither gives the "
                f"{len(engine.shares)} that this one has"
            )
        return None

    def steps(self, folder: Path) -> tuple[str, ...]:
        return (f"start: kubectl apply -k {folder}",)

    def platform_files(self) -> dict[str, str]:
        fleet, kube = self.fleet, Kube(self.fleet, picked=True)
        framework = fleet.framework.name
        roles = {group.role: group for group in self.plan.decision.engines}
        main = roles.get("aggregated") or roles["decode"]
        spec: Object = {"model": {"uri": self._uri(), "name": self.plan.request.model}}
        spec |= self._workload(kube, main)
        if "prefill" in roles:
            spec["prefill"] = self._workload(kube, roles["prefill"])
        spec["router"] = {"gateway": {}, "route": {}}
        if framework == "trtllm":  # the scheduler reads others' metrics; trtllm-serve names a model as it was given it
            spec["storageInitializer"] = {"enabled": False}
        else:
            spec["router"]["scheduler"] = {}
        service = {
            "apiVersion": "serving.kserve.io/v1alpha2",
            "kind": "LLMInferenceService",
            "metadata": kube.metadata(fleet.name),
            "spec": spec,
        }
        maps = [
            made
            for group in roles.values()
            for made in kube.config_map(kube.name(group.id), kube.started(self._first(group))[0])
        ]
        plain = "engines answer by HTTP: enableLLMInferenceServiceTLS of KServe's configuration is to be off"
        told = (*fleet.told, *fleet.equal_shares, plain)
        files = {"service.yaml": yaml_text(service, header=told), **kube.domain()}
        if maps:
            files["configmaps.yaml"] = yaml_text(*maps, header=fleet.told)
        return {**files, "kustomization.yaml": yaml_text(kustomization(sorted(files), self.values.namespace))}

    def _first(self, group: EngineGroup) -> PlacedEngine:
        return next(each for each in self.fleet.engines if each.group.id == group.id)

    def _uri(self) -> str:
        model = self.fleet.engines[0].spec.model
        if model.startswith("/"):
            claim = self.values.storage_claim
            inside = model.removeprefix("/models").lstrip("/")
            return f"pvc://{claim}/{inside}" if claim and model.startswith("/models") else f"file://{model}"
        return f"hf://{model}"

    def _workload(self, kube: Kube, group: EngineGroup) -> Object:
        engine, framework = self._first(group), self.fleet.framework.name
        pods = kube.engine_pods(engine, kube.name(group.id))
        for pod in pods:
            container = pod["containers"][0]
            container["name"] = "main"
            if framework != "vllm":  # whose image runs as root, unlike the template's (KServe's template of SGLang)
                container["securityContext"] = {"runAsNonRoot": False, "readOnlyRootFilesystem": False}
            if framework != "trtllm":
                self._reads(container, engine.spec.model)
            port = DECODE_PORT if group.role == "decode" else PORT
            _listens(container, self.fleet.ports(engine, alone=True).http, port)
        if framework == "sglang" and group.role == "decode":
            sidecar: Object = {"name": "llm-d-routing-sidecar", "command": list(SIDECAR), **bootstrap_of(self.fleet)}
            pods[0]["initContainers"] = [sidecar]
        kube.keep_spread(pods, group)
        spec: Object = {"replicas": len(group.replicas), "template": pods[0]}
        labels = {
            **(dict.fromkeys(ENGINE_TYPE, framework) if framework == "sglang" else {}),
            **kube.spread_labels(group),
        }
        if labels:
            spec["labels"] = labels
        if len(pods) > 1:
            spec |= {"parallelism": _counts(engine), "worker": pods[1]}
        return spec

    def _reads(self, container: Object, model: str) -> None:
        """The weights where KServe puts them, under the name that clients use: one where the framework takes one."""
        names = dict.fromkeys((self.plan.request.model, model))
        if self.fleet.framework.name != "vllm":
            names = {self.plan.request.model: None}
        args = [PLACED if each == model else each for each in container["args"]]
        container["args"] = [*args, "--served-model-name", *names]


def _counts(engine: PlacedEngine) -> Object | None:
    """The degrees by which KServe counts an engine's nodes (``ParallelismSpec.GetSize`` of v1alpha2: data over
    dataLocal, else pipeline); None: they give another number. The containers carry their own commands, so that nothing
    more is made of them."""
    layout, nodes = engine.group.layout, len(engine.shares)
    if layout.dp > 1 and layout.dp % nodes == 0:
        return {"data": layout.dp, "dataLocal": layout.dp // nodes}
    return {"pipeline": layout.pp} if layout.dp == 1 and layout.pp == nodes else None


def _listens(container: Object, was: int, now: int) -> None:
    args = container["args"]
    if "--port" in args:
        args[args.index("--port") + 1] = str(now)
    for port in container.get("ports", ()):
        if port["containerPort"] == was:
            port["containerPort"] = now
