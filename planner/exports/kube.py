"""Kubernetes objects of engines and of what stands before them; what every platform on Kubernetes builds with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from planner.contract.engine import EngineGroup
from planner.exports.compute_domain import FILE as DOMAIN_FILE
from planner.exports.compute_domain import compute_domain, join, told
from planner.exports.fleet import PlacedEngine, StartedFleet
from planner.exports.mpi import KEYS, SSH_PORT, pod_scripts
from planner.exports.text import name_of, yaml_text
from planner.exports.values import Values
from planner.launchers.front import NodeStart
from planner.launchers.vendors import find_vendor
from planner.launchers.words import for_kubernetes, variables
from profiles.errors import InputError

FILES = "/etc/plan/"
MODELS = "/models"
LWS_RANK, LWS_HEAD = "LWS_WORKER_INDEX", "LWS_LEADER_ADDRESS"
"""What LeaderWorkerSet puts into every pod (docs of kubernetes-sigs/lws: environment variables)."""

ENGINE_TYPE = ("llm-d.ai/engine-type", "inference.networking.k8s.io/engine-type")
"""By which the picker knows whose metrics an engine has where they are not vLLM's: its own key and the older one
(llm-d/llm-d-router, docs of core-metrics-extractor, read 2026-11-26)."""

NODE, POOL, KIND = "shardwright/node", "shardwright/pool", "shardwright/engine"
"""Labels of pods by which they are kept on nodes as the plan has them."""

HOST = "kubernetes.io/hostname"

MOST_HOSTS = 10_000
"""More than a cluster has (5,000 nodes: kubernetes.io, considerations for large clusters)."""

Object = dict[str, Any]


def resource_of(values: Values, vendor: str) -> str:
    """What a container asks for to be given GPUs of a ``vendor``."""
    return values.gpu_resource or find_vendor(vendor).kubernetes_resource


class Kube:
    """Builds objects for one fleet. ``picked``: whether an endpoint picker reads the engines' metrics, which SGLang
    shows only when told."""

    def __init__(self, fleet: StartedFleet, *, picked: bool = False) -> None:
        self.fleet, self.values = fleet, fleet.values
        self.metrics = ("--enable-metrics",) if picked and fleet.framework.name == "sglang" else ()

    def name(self, *parts: str) -> str:
        return name_of(self.fleet.name, *parts)

    def engine_name(self, engine: PlacedEngine) -> str:
        return self.name(engine.id)

    def labels(self, part: str, role: str = "") -> dict[str, str]:
        labels = {"app.kubernetes.io/name": self.fleet.name, "app.kubernetes.io/component": name_of(part, length=60)}
        return {**labels, "shardwright/role": role} if role else labels

    def metadata(self, name: str, labels: Mapping[str, str] | None = None) -> Object:
        meta: Object = {"name": name}
        if self.values.namespace:
            meta["namespace"] = self.values.namespace
        if labels:
            meta["labels"] = dict(labels)
        return {**meta, "annotations": {"shardwright/plan": (self.fleet.plan.digest or "edited")[:16]}}

    def gpus_of(self, engine: PlacedEngine, count: int) -> dict[str, str]:
        """What a container asks for to be given so many of an engine's GPUs."""
        return {resource_of(self.values, engine.spec.vendor): str(count)}

    # ------------------------------------------------------------------ pods

    def container(
        self,
        name: str,
        image: str | None,
        start: NodeStart,
        ports: Mapping[str, int],
        *,
        gpus: Mapping[str, str] | None = None,
        program: int = 1,
        claims: str = "",
    ) -> Object:
        """A container that runs ``start``; ``gpus``: as ``gpus_of`` says them; ``program``: words of its
        command; ``claims``: name of its ConfigMap."""
        words = [for_kubernetes(word) for word in start.command]
        needs = {name for word in (*start.command, *start.environment.values()) for name in variables([word])}
        env: list[Object] = []
        if "POD_IP" in needs:
            env.append({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
        env += [{"name": key, "value": for_kubernetes(value)} for key, value in start.environment.items()]
        if self.values.hf_secret:
            key = {"name": self.values.hf_secret, "key": "HF_TOKEN"}
            env.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": key}})
        made: Object = {"name": name, "image": image, "command": words[:program], "args": words[program:]}
        if env:
            made["env"] = env
        if ports:
            made["ports"] = [{"name": key, "containerPort": port} for key, port in ports.items()]
        if gpus:
            made["resources"] = {"limits": dict(gpus)}
        if start.ready and "http" in ports:
            probe = {"httpGet": {"path": start.ready, "port": "http"}}
            made["startupProbe"] = {**probe, "periodSeconds": 10, "failureThreshold": 360}
            made["readinessProbe"] = {**probe, "periodSeconds": 10}
        mounts = [{"name": "shm", "mountPath": "/dev/shm"}] if gpus else []
        if self.values.storage_claim and gpus:
            mounts.append({"name": "models", "mountPath": MODELS})
        if claims:
            mounts.append({"name": "plan-files", "mountPath": FILES.rstrip("/")})
        if mounts:
            made["volumeMounts"] = mounts
        return made

    def pod(self, container: Object, *, claims: str = "", pool: str = "") -> Object:
        """The spec of a pod with a container, and what the values say of all pods and of those on a ``pool``."""
        values: Values = self.values
        mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
        spec: Object = {"containers": [container]}
        volumes: list[Object] = []
        if "shm" in mounted:
            volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
        if "models" in mounted:
            volumes.append({"name": "models", "persistentVolumeClaim": {"claimName": values.storage_claim}})
        if claims:
            volumes.append({"name": "plan-files", "configMap": {"name": claims}})
        if volumes:
            spec["volumes"] = volumes
        if values.service_account:
            spec["serviceAccountName"] = values.service_account
        if values.image_pull_secret:
            spec["imagePullSecrets"] = [{"name": values.image_pull_secret}]
        if selector := {**values.node_selector, **self._selector(pool)}:
            spec["nodeSelector"] = selector
        if values.tolerations:
            spec["tolerations"] = [dict(each) for each in values.tolerations]
        return spec

    def _selector(self, pool: str) -> dict[str, str]:
        """Labels of the nodes of a pool.

        Raises:
            InputError: the plan has several, and the values do not say which nodes are this one's.
        """
        of_pools = self.values.node_selectors
        if pool and pool not in of_pools and len({machine.pool for machine in self.fleet.machines}) > 1:
            raise InputError(
                f"values: node_selectors says nothing of pool {pool}, and the plan is on several pools",
                f"give the labels of its nodes, too: {pool}: {{nvidia.com/gpu.product: …}}",
            )
        return of_pools.get(pool, {})

    # ------------------------------------------------------------------ engines

    def ports(self, engine: PlacedEngine) -> dict[str, int]:
        ports = self.fleet.ports(engine, alone=True)
        return {"http": ports.http} | ({"bootstrap": ports.bootstrap} if engine.role == "prefill" else {})

    def started(self, engine: PlacedEngine) -> list[NodeStart]:
        """What starts the leader of an engine, and its workers where it has more nodes."""
        fleet = self.fleet
        if len(engine.shares) == 1:
            return [self._shown(fleet.start(engine, fleet.in_pods(engine, leads=True, files=FILES)))]
        leader, worker = (
            fleet.start(engine, fleet.in_pods(engine, leads=leads, files=FILES, rank=LWS_RANK, head=LWS_HEAD))
            for leads in (True, False)
        )
        return [self._shown(leader), worker]

    def _shown(self, start: NodeStart) -> NodeStart:
        return replace(start, command=(*start.command, *self.metrics))

    def config_map(self, name: str, start: NodeStart) -> list[Object]:
        """The files that a container's command names."""
        if not start.files:
            return []
        return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": self.metadata(name), "data": dict(start.files)}]

    def engine_pods(self, engine: PlacedEngine, name: str) -> list[Object]:
        """The pod of an engine, or of its leader and of its workers. ``name``: of its ConfigMap."""
        if self.fleet.is_world(engine):
            return self._world_pods(engine, name)
        pods = []
        program = len(self.fleet.framework.command.program)
        for start, share in zip(self.started(engine), engine.shares, strict=False):
            claims = name if start.files else ""
            container = self.container(
                "engine",
                self.values.image,
                start,
                self.ports(engine) if start.ready else {},
                gpus=self.gpus_of(engine, len(share.gpus)),
                program=program,
                claims=claims,
            )
            pods.append(self.joined(engine, self.pod(container, claims=claims, pool=engine.group.pool)))
        return pods

    # ------------------------------------------------------------------ racks

    def joined(self, engine: PlacedEngine, pod: Object, *, near: bool = True) -> Object:
        """``pod``, one of an engine's, in the NVLink domain that the engine's hosts must share, where they must."""
        return join(pod, self.name("domain", "channel"), near=near) if self.fleet.in_rack(engine) else pod

    def domain(self, *, near: bool = True) -> dict[str, str]:
        """The file of that domain; none where no engine needs one."""
        if not any(map(self.fleet.in_rack, self.fleet.engines)):
            return {}
        made = compute_domain(self.fleet, self.metadata(self.name("domain")), self.name("domain", "channel"))
        return {DOMAIN_FILE: yaml_text(made, header=(*self.fleet.told, *told(near)))}

    def _world_pods(self, engine: PlacedEngine, name: str) -> list[Object]:
        """Of an engine that is one MPI world: the leader runs ``mpirun``, the workers an ssh daemon."""
        start, program = self.started(engine)[0], self.fleet.launcher.one_world
        scripts = pod_scripts(program, start, engine, secret=self.values.hf_secret is not None)
        made = []
        for script, leads in zip(scripts, (True, False), strict=True):
            claims = name if start.files and leads else ""
            container = self.container(
                "engine",
                self.values.image,
                NodeStart(("/bin/sh", "-c"), ready=start.ready if leads else ""),
                self.ports(engine) if leads else {"ssh": SSH_PORT},
                gpus=self.gpus_of(engine, engine.gpus_by_node[0]),
                program=2,
                claims=claims,
            )
            container["args"] = [script.replace("$(", "$$(")]  # the shell's own, not Kubernetes'
            container.setdefault("volumeMounts", []).append({"name": "ssh", "mountPath": KEYS, "readOnly": True})
            if leads:
                address = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
                container["env"] = [address, *container.get("env", [])]
            pod = self.pod(container, claims=claims, pool=engine.group.pool)
            pod.setdefault("volumes", []).append({"name": "ssh", "secret": {"secretName": self.values.ssh_secret}})
            made.append(self.joined(engine, pod))
        return made

    def workload(self, engine: PlacedEngine, name: str, labels: Mapping[str, str]) -> Object:
        """Of one engine, kept with those of its node and apart from others."""
        pods = self.engine_pods(engine, name)
        if self.fleet.is_spread:
            node = engine.id if len(engine.shares) > 1 else self._node(engine)
            labels = {**labels, NODE: node}
            for pod in pods:
                pod["affinity"] = self._beside(engine, node)
        return self._workload(engine, name, labels, pods)

    def workload_of(self, engine: PlacedEngine, name: str, labels: Mapping[str, str]) -> Object:
        """Of all engines of a group, of which ``engine`` is one."""
        group = engine.group
        pods = self.engine_pods(engine, name)
        self.keep_spread(pods, group)
        return self._workload(engine, name, {**labels, **self.spread_labels(group)}, pods, len(group.replicas))

    def _workload(
        self, engine: PlacedEngine, name: str, labels: Mapping[str, str], pods: Sequence[Object], replicas: int = 1
    ) -> Object:
        """A Deployment, or a LeaderWorkerSet where the engine has several nodes."""
        if len(pods) == 1:
            return deployment(self.metadata(name, labels), labels, pods[0], replicas)
        return {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": self.metadata(name, labels),
            "spec": self.leader_worker(engine, pods, labels, replicas),
        }

    def leader_worker(
        self, engine: PlacedEngine, pods: Sequence[Object], labels: Mapping[str, str], replicas: int
    ) -> Object:
        """The spec of a LeaderWorkerSet. Only its leaders are labelled as what serves."""
        template: Object = {"size": len(engine.shares), "restartPolicy": "RecreateGroupOnPodRestart"}
        if len(pods) > 1:
            template["leaderTemplate"] = {"metadata": {"labels": dict(labels)}, "spec": pods[0]}
            template["workerTemplate"] = {"spec": pods[1]}
        else:
            template["workerTemplate"] = {"metadata": {"labels": dict(labels)}, "spec": pods[0]}
        return {"replicas": replicas, "leaderWorkerTemplate": template}

    # ------------------------------------------------------------------ nodes that may be lost

    def _node(self, engine: PlacedEngine) -> str:
        machine = self.fleet.machines[engine.shares[0].node]
        return name_of(machine.pool, str(machine.number), length=60)

    def _beside(self, engine: PlacedEngine, node: str) -> Object:
        """The affinity of an engine's pods: never on a host with an engine of another node of the plan, and where there
        is room with those of its own."""

        def term(operator: str) -> Object:
            others = [{"key": NODE, "operator": "Exists"}, {"key": NODE, "operator": operator, "values": [node]}]
            labels = {"app.kubernetes.io/name": self.fleet.name}
            return {"labelSelector": {"matchLabels": labels, "matchExpressions": others}, "topologyKey": HOST}

        made: Object = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term("NotIn")]}}
        if len(engine.shares) == 1:
            beside = [{"weight": 100, "podAffinityTerm": term("In")}]
            made["podAffinity"] = {"preferredDuringSchedulingIgnoredDuringExecution": beside}
        return made

    def spread_labels(self, group: EngineGroup) -> dict[str, str]:
        """Of pods that :meth:`keep_spread` counts."""
        if not self.fleet.is_spread:
            return {}
        return {POOL: self.name(group.pool), KIND: self.name(group.id)}

    def keep_spread(self, pods: Sequence[Object], group: EngineGroup) -> None:
        """Lets no host have more pods of a group, or of its pool's groups, than a node of the plan has. With fewer
        hosts than ``minDomains`` the emptiest counts as empty, so that ``maxSkew`` is the most that a host has."""
        if not self.fleet.is_spread:
            return
        labels = self.spread_labels(group)
        here = [each for each in self.fleet.plan.decision.engines if each.pool == group.pool]
        counted = {KIND: [group], **({POOL: here} if len(here) > 1 else {})}
        for pod in pods:
            pod["topologySpreadConstraints"] = [
                {
                    "maxSkew": self.fleet.most_on_a_node(groups),
                    "minDomains": MOST_HOSTS,
                    "topologyKey": HOST,
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {key: labels[key]}},
                }
                for key, groups in counted.items()
            ]

    def service(self, name: str, labels: Mapping[str, str], ports: Mapping[str, int]) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self.metadata(name, labels),
            "spec": {
                "selector": dict(labels),
                "ports": [{"name": key, "port": port, "targetPort": port} for key, port in ports.items()],
            },
        }


def bootstrap_of(fleet: StartedFleet) -> Object:
    """The environment by which llm-d's sidecar finds SGLang's prefill engines; nothing for others."""
    if fleet.framework.name != "sglang":
        return {}
    port = fleet.ports(next(each for each in fleet.engines if each.role == "prefill"), alone=True).bootstrap
    return {"env": [{"name": "SGLANG_BOOTSTRAP_PORT", "value": str(port)}]}


def deployment(metadata: Object, labels: Mapping[str, str], pod: Object, replicas: int = 1) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "strategy": {"type": "Recreate"},  # a new engine needs the GPUs of the old one
            "selector": {"matchLabels": dict(labels)},
            "template": {"metadata": {"labels": dict(labels)}, "spec": pod},
        },
    }


def kustomization(files: Sequence[str], namespace: str | None) -> Object:
    made: Object = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    if namespace:
        made["namespace"] = namespace
    return {**made, "resources": list(files)}
