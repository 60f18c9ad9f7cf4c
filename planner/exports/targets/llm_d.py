"""llm-d: engines behind an InferencePool; prefill and decode as the roles of a DisaggregatedSet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from planner.contract.engine import EngineGroup
from planner.exports.fleet import PlacedEngine
from planner.exports.kube import ENGINE_TYPE, Kube, Object, bootstrap_of, deployment, kustomization
from planner.exports.serving import ServingTarget
from planner.exports.text import yaml_text
from planner.launchers.checks import check_start
from planner.launchers.front import NodeStart
from planner.launchers.releases import release

ROLE = "llm-d.ai/role"
GROUP = "inference.networking.k8s.io"
PICKER_PORT = 9002
"""Of the endpoint picker, as the Gateway API inference extension's chart has it."""

CONNECTORS = {"vllm": "--connector=nixlv2", "sglang": "--kv-connector=sglang"}
"""Of the sidecar, by whose engines it pairs (llm-d/llm-d guides/pd-disaggregation/modelserver/gpu at 02be547b)."""

SIDECAR_BEHIND = 8200
"""Where a decode engine listens behind llm-d's routing sidecar, which has the port that the pool knows."""


BOOTSTRAP = "sglang.ai/bootstrap-port"
"""Annotation in which SGLang's router finds a prefill engine's port (sglang_router 0.3.2, router_args.py)."""

_ROUTERS = {
    "vllm": (("vllm-router",), "vllm-router", ("--vllm-pd-disaggregation", "--kv-connector", "nixl")),
    "sglang": (("python", "-m", "sglang_router.launch_router"), "sglang-router", ("--pd-disaggregation",)),
}
"""By framework: program, its options' data, and what tells it that there are roles."""


class LlmD(ServingTarget):
    name: ClassVar[str] = "llm-d"
    writes: ClassVar[str] = "Deployments, LeaderWorkerSets or a DisaggregatedSet, an InferencePool, an HTTPRoute"
    release: ClassVar[str] = "llm-d 0.5, DisaggregatedSet v1, InferencePool v1, Gateway API v1"
    rung: ClassVar[int] = 1
    refuses: ClassVar[Mapping[str, str]] = {
        # llm-d/llm-d-router, core-metrics-extractor: metrics of vLLM and SGLang; connectors of its sidecar: none of it
        "trtllm": "its endpoint picker and its routing sidecar know vLLM and SGLang engines, not TensorRT-LLM's"
    }

    def own_needs(self) -> tuple[str, ...]:
        return ("image", *self.needs_of_pools)

    def cannot(self) -> str | None:
        roles = [group.role for group in self.plan.decision.engines]
        if self._disaggregated:
            for role in ("prefill", "decode"):
                if roles.count(role) > 1:
                    return f"a DisaggregatedSet has one kind of {role} engine, and the plan has {roles.count(role)}"
        return super().cannot()

    @property
    def _disaggregated(self) -> bool:
        return any(group.role != "aggregated" for group in self.plan.decision.engines)

    def steps(self, folder: Path) -> tuple[str, ...]:
        picker = f"the endpoint picker is to run as Service {self._picker} (llm-d's chart; another: --set picker=…)"
        return (
            *(() if self._by_router else (picker,)),
            *(() if self.values.gateway else ("httproute.yaml has no parentRefs: --set gateway=…",)),
            f"start: kubectl apply -k {folder}",
        )

    @property
    def _picker(self) -> str:
        return self.values.picker or f"{self.fleet.name}-epp"

    @property
    def _by_router(self) -> bool:
        """Whether vllm-router pairs prefill with decode engines: where no image of llm-d's sidecar is given."""
        return self._disaggregated and self.values.sidecar_image is None

    def platform_files(self) -> dict[str, str]:
        fleet, kube = self.fleet, Kube(self.fleet, picked=True)
        pool_labels = {"app.kubernetes.io/name": fleet.name, "shardwright/serves": "true"}
        if fleet.framework.name != "vllm":
            pool_labels |= dict.fromkeys(ENGINE_TYPE, fleet.framework.name)
        workloads: list[Object] = []
        if self._disaggregated:
            workloads.append(self._disaggregated_set(kube, pool_labels))
        else:
            for group in self.plan.decision.engines:
                labels = {**pool_labels, "app.kubernetes.io/component": group.id}
                workloads.append(kube.workload_of(self._first(group), kube.name(group.id), labels))
        told = (*fleet.told, "requests are shared out by load and prefixes, not by the plan's shares")
        backend: Object = {"group": GROUP, "kind": "InferencePool", "name": fleet.name}
        files = {"engines.yaml": yaml_text(*workloads, header=told), **kube.domain()}
        if not self._disaggregated and (maps := self._maps(kube)):
            files["configmaps.yaml"] = yaml_text(*maps, header=fleet.told)
        if self._by_router:
            files["front.yaml"] = yaml_text(*self._router(kube), header=told)
            backend = {"name": fleet.name, "port": fleet.first_port}
        else:
            files["pool.yaml"] = yaml_text(self._pool(kube, pool_labels), header=told)
        files["httproute.yaml"] = yaml_text(self._route(kube, backend), header=told)
        return {**files, "kustomization.yaml": yaml_text(kustomization(sorted(files), self.values.namespace))}

    def _maps(self, kube: Kube) -> list[Object]:
        """The files that commands name, of each group."""
        groups = self.plan.decision.engines
        return [
            made
            for group in groups
            for made in kube.config_map(kube.name(group.id), kube.started(self._first(group))[0])
        ]

    def _pool(self, kube: Kube, labels: dict[str, str]) -> Object:
        port = self.fleet.ports(self.fleet.engines[0], alone=True).http
        return {
            "apiVersion": f"{GROUP}/v1",
            "kind": "InferencePool",
            "metadata": kube.metadata(self.fleet.name),
            "spec": {
                "selector": {"matchLabels": labels},
                "targetPorts": [{"number": port}],
                "endpointPickerRef": {"name": self._picker, "port": {"number": PICKER_PORT}},
            },
        }

    def _route(self, kube: Kube, backend: Object) -> Object:
        spec: dict[str, Any] = {}
        if self.values.gateway:
            namespace = {"namespace": self.values.gateway_namespace} if self.values.gateway_namespace else {}
            spec["parentRefs"] = [{"name": self.values.gateway, **namespace}]
        return {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": kube.metadata(self.fleet.name),
            "spec": {**spec, "rules": [{"backendRefs": [backend]}]},
        }

    def _router(self, kube: Kube) -> list[Object]:
        """The framework's router, which finds the engines of each role by their labels, and what lets it look."""
        fleet, values, name = self.fleet, self.values, kube.name("front")
        program, options, own = _ROUTERS[fleet.framework.name]
        namespace = values.namespace or "default"
        where = f"app.kubernetes.io/name={fleet.name}"
        port = fleet.ports(fleet.engines[0], alone=True).http
        words = (
            *(*program, "--host", "0.0.0.0", "--port", str(fleet.first_port), "--policy", "round_robin"),
            *(*own, "--service-discovery"),
            *("--service-discovery-namespace", namespace, "--service-discovery-port", str(port)),
            *("--prefill-selector", where, f"{ROLE}=prefill", "--decode-selector", where, f"{ROLE}=decode"),
        )
        start = NodeStart(words, ready="/health")
        check_start(release(options), replace(start, command=words[len(program) - 1 :]), 1)
        labels = kube.labels("front")
        container = kube.container(
            "front", values.front_image or values.image, start, {"http": fleet.first_port}, program=len(program)
        )
        account = values.service_account or "default"
        rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
        rbac = "rbac.authorization.k8s.io"
        return [
            deployment(kube.metadata(name, labels), labels, kube.pod(container)),
            kube.service(fleet.name, labels, {"http": fleet.first_port}),
            {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": kube.metadata(name), "rules": rules},
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "RoleBinding",
                "metadata": kube.metadata(name),
                "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
            },
        ]

    def _first(self, group: EngineGroup) -> PlacedEngine:
        return next(engine for engine in self.fleet.engines if engine.group.id == group.id)

    def _disaggregated_set(self, kube: Kube, pool_labels: dict[str, str]) -> Object:
        roles = []
        for group in self.plan.decision.engines:
            engine = self._first(group)
            labels = {**pool_labels, ROLE: group.role, **kube.spread_labels(group)}
            pods = kube.engine_pods(engine, kube.name(group.id))
            kube.keep_spread(pods, group)
            if group.role == "decode" and not self._by_router:
                self._with_sidecar(pods[0], self.fleet.ports(engine, alone=True).http)
            spec = kube.leader_worker(engine, pods, labels, len(group.replicas))
            if group.role == "prefill" and self.fleet.framework.name == "sglang":
                template = spec["leaderWorkerTemplate"]
                leader = template.get("leaderTemplate") or template["workerTemplate"]
                bootstrap = str(self.fleet.ports(engine, alone=True).bootstrap)
                leader["metadata"]["annotations"] = {BOOTSTRAP: bootstrap}
            roles.append({"name": group.role, "spec": spec})
        return {
            "apiVersion": "disaggregatedset.x-k8s.io/v1",
            "kind": "DisaggregatedSet",
            "metadata": kube.metadata(self.fleet.name),
            "spec": {"roles": roles},
        }

    def _with_sidecar(self, pod: Object, port: int) -> None:
        """Puts llm-d's routing sidecar before a decode engine: it has the prompt prefilled elsewhere first."""
        engine = pod["containers"][0]
        engine["args"][engine["args"].index("--port") + 1] = str(SIDECAR_BEHIND)
        engine["ports"] = [{"name": "http", "containerPort": SIDECAR_BEHIND}]
        sidecar: Object = {
            "name": "routing-proxy",
            "image": self.values.sidecar_image,
            "args": [f"--port={port}", f"--vllm-port={SIDECAR_BEHIND}", CONNECTORS[self.fleet.framework.name]],
            "ports": [{"name": "proxy", "containerPort": port}],
            **bootstrap_of(self.fleet),
            "restartPolicy": "Always",
        }
        pod["initContainers"] = [sidecar]
