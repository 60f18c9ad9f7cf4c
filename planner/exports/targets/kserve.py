"""KServe: an LLMInferenceService, whose containers carry the engine's whole command: no degree is said twice."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from planner.contract.engine import EngineGroup
from planner.exports.kube import Kube, Object, kustomization
from planner.exports.serving import ServingTarget
from planner.exports.text import yaml_text

DECODE_PORT = 8001
"""Of a decode engine: KServe's routing sidecar before it has 8000 (kserve config/llmisvc, decode template)."""


class KServe(ServingTarget):
    name: ClassVar[str] = "kserve"
    writes: ClassVar[str] = "service.yaml: an LLMInferenceService (v1alpha2)"
    release: ClassVar[str] = "KServe 0.20, serving.kserve.io/v1alpha2"
    rung: ClassVar[int] = 1
    dialects: ClassVar[frozenset[str]] = frozenset({"vllm"})

    def own_needs(self) -> tuple[str, ...]:
        return ("image",)

    def cannot(self) -> str | None:
        groups = self.plan.decision.engines
        for role in ("aggregated", "prefill", "decode"):
            alike = [group for group in groups if group.role == role]
            if len(alike) > 1:
                return f"{alike[1].id}: a service has one kind of {role} engine, and the plan has several"
        return super().cannot()

    def cannot_span(self, nodes: int) -> str | None:
        return f"it counts the {nodes} nodes of an engine by degrees that its containers say already (kserve#6044)"

    def steps(self, folder: Path) -> tuple[str, ...]:
        return (f"start: kubectl apply -k {folder}",)

    def platform_files(self) -> dict[str, str]:
        fleet, kube = self.fleet, Kube(self.fleet)
        roles = {group.role: group for group in self.plan.decision.engines}
        main = roles.get("aggregated") or roles["decode"]
        spec: Object = {"model": {"uri": self._uri(), "name": self.plan.request.model}}
        spec |= self._workload(kube, main)
        if "prefill" in roles:
            spec["prefill"] = self._workload(kube, roles["prefill"])
        spec["router"] = {"gateway": {}, "route": {}, "scheduler": {}}
        service = {
            "apiVersion": "serving.kserve.io/v1alpha2",
            "kind": "LLMInferenceService",
            "metadata": kube.metadata(fleet.name),
            "spec": spec,
        }
        told = (*fleet.told, *fleet.equal_shares)
        files = {"service.yaml": yaml_text(service, header=told)}
        return {**files, "kustomization.yaml": yaml_text(kustomization(sorted(files), self.values.namespace))}

    def _uri(self) -> str:
        model = self.fleet.engines[0].spec.model
        if model.startswith("/"):
            claim = self.values.storage_claim
            inside = model.removeprefix("/models").lstrip("/")
            return f"pvc://{claim}/{inside}" if claim and model.startswith("/models") else f"file://{model}"
        return f"hf://{model}"

    def _workload(self, kube: Kube, group: EngineGroup) -> Object:
        engine = next(each for each in self.fleet.engines if each.group.id == group.id)
        pods = kube.engine_pods(engine, kube.name(group.id))
        for pod in pods:
            pod["containers"][0]["name"] = "main"
            if group.role == "decode":
                _listens(pod["containers"][0], self.fleet.ports(engine, alone=True).http, DECODE_PORT)
        return {"replicas": len(group.replicas), "template": pods[0]}


def _listens(container: Object, was: int, now: int) -> None:
    args = container["args"]
    if "--port" in args:
        args[args.index("--port") + 1] = str(now)
    for port in container.get("ports", ()):
        if port["containerPort"] == was:
            port["containerPort"] = now
