"""Plain Kubernetes: a Deployment an engine, or a LeaderWorkerSet where it has several nodes; a router before them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from planner.exports.kube import FILES, Kube, Object, deployment, kustomization
from planner.exports.serving import ServingTarget
from planner.exports.text import yaml_text


class Kubernetes(ServingTarget):
    name: ClassVar[str] = "kubernetes"
    writes: ClassVar[str] = "Deployments or LeaderWorkerSets, Services, ConfigMaps, kustomization.yaml"
    release: ClassVar[str] = "Kubernetes 1.28 and later, LeaderWorkerSet v1"
    rung: ClassVar[int] = 2

    def own_needs(self) -> tuple[str, ...]:
        return ("image", *self.needs_of_pools, *self.fleet.needs_of_worlds())

    def url(self) -> str:
        return f"http://{self.fleet.name}:{self.fleet.first_port}"

    def steps(self, folder: Path) -> tuple[str, ...]:
        return (f"start: kubectl apply -k {folder}", f"measure, in a pod of the cluster: {folder}/bench.sh")

    def platform_files(self) -> dict[str, str]:
        fleet, kube = self.fleet, Kube(self.fleet)
        maps: list[Object] = []
        engines: list[Object] = []
        services: list[Object] = []
        for engine in fleet.engines:
            name, labels = kube.engine_name(engine), kube.labels(engine.id, engine.role)
            maps += kube.config_map(name, kube.started(engine)[0])
            engines.append(kube.workload(engine, name, labels))
            services.append(kube.service(name if fleet.has_front else fleet.name, labels, kube.ports(engine)))
        files = {"engines.yaml": yaml_text(*engines, header=fleet.told), **kube.domain()}
        if fleet.has_front:
            front = fleet.front({engine.id: kube.engine_name(engine) for engine in fleet.engines}, FILES, alone=True)
            name, labels = kube.name("front"), kube.labels("front")
            image = self.values.front_image or self.values.image
            claims = name if front.start.files else ""
            maps += kube.config_map(name, front.start)
            container = kube.container("front", image, front.start, {"http": fleet.first_port}, claims=claims)
            pod = kube.pod(container, claims=claims)
            services.append(kube.service(fleet.name, labels, {"http": fleet.first_port}))
            told = [f"{front.program}: what clients reach", *fleet.told_of(front)]
            if not self.values.front_image and front.image_key:
                told.append(f"no front_image was given: the engines' image must hold {front.program}")
            files["front.yaml"] = yaml_text(deployment(kube.metadata(name, labels), labels, pod), header=told)
        if maps:
            files["configmaps.yaml"] = yaml_text(*maps, header=fleet.told)
        files["services.yaml"] = yaml_text(*services, header=fleet.told)
        whole = kustomization(sorted(files), self.values.namespace)
        return {**files, "kustomization.yaml": yaml_text(whole, header=fleet.told)}
