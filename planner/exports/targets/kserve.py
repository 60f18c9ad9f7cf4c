"""KServe: an LLMInferenceService, whose containers carry the engine's whole command: no degree is said twice."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from planner.contract.engine import EngineGroup
from planner.exports.fleet import PlacedEngine
from planner.exports.kube import Kube, Object, kustomization
from planner.exports.serving import ServingTarget
from planner.exports.text import yaml_text

PORT, DECODE_PORT = 8000, 8001
"""Where KServe's probes and pool look for an engine, and for a decode engine, whose 8000 its routing sidecar has
(kserve config/llmisvcconfig, templates and decode templates)."""

PLACED = "/mnt/models"
"""Where KServe puts the weights of ``spec.model.uri`` before an engine starts (there)."""


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

    def cannot_span(self, engine: PlacedEngine) -> str | None:
        if _counts(engine) is None:
            return (
                f"it counts the nodes of an engine by its data or its pipeline degree, and neither gives the "
                f"{len(engine.shares)} that this one has"
            )
        return None

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
        plain = "engines answer by HTTP: enableLLMInferenceServiceTLS of KServe's configuration is to be off"
        told = (*fleet.told, *fleet.equal_shares, plain)
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
            container = pod["containers"][0]
            container["name"] = "main"
            self._reads(container, engine.spec.model)
            port = DECODE_PORT if group.role == "decode" else PORT
            _listens(container, self.fleet.ports(engine, alone=True).http, port)
        spec: Object = {"replicas": len(group.replicas), "template": pods[0]}
        if len(pods) > 1:
            spec |= {"parallelism": _counts(engine), "worker": pods[1]}
        return spec

    def _reads(self, container: Object, model: str) -> None:
        """The weights where KServe puts them, under the name that clients use."""
        names = dict.fromkeys((self.plan.request.model, model))
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
