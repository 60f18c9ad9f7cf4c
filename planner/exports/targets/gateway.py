"""The plan's shares for a gateway that is there already: an HTTPRoute, nginx's upstreams, and plain JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from planner.exports.kube import Kube
from planner.exports.nginx import nginx_config
from planner.exports.serving import ServingTarget
from planner.exports.text import yaml_text

MOST = 1_000_000
"""The largest weight of an HTTPRoute's backend."""


class Gateway(ServingTarget):
    name: ClassVar[str] = "gateway"
    writes: ClassVar[str] = "httproute.yaml, nginx.conf and weights.json with the plan's shares"
    release: ClassVar[str] = "Gateway API v1, nginx 1.18 and later"
    rung: ClassVar[int] = 3

    def own_needs(self) -> tuple[str, ...]:
        return ("nodes",)

    def steps(self, folder: Path) -> tuple[str, ...]:
        unset = (
            () if self.values.gateway else ("httproute.yaml has no parentRefs: say which Gateway with --set gateway=…",)
        )
        return (*unset, f"nginx: nginx -p {folder} -c nginx.conf")

    def platform_files(self) -> dict[str, str]:
        fleet, kube = self.fleet, Kube(self.fleet)
        leaders = {engine.id: fleet.addresses[engine.shares[0].node] for engine in fleet.engines}
        behind = dict(zip(fleet.engines, fleet.behind(leaders), strict=True))
        roles = [role for role in ("aggregated", "prefill", "decode") if any(e.role == role for e in fleet.engines)]
        by_role = {role: [engine for engine in fleet.engines if engine.role == role] for role in roles}
        routes = [
            http_route(self, role, [(kube.engine_name(e), fleet.ports(e, alone=True).http, e.weight) for e in engines])
            for role, engines in by_role.items()
        ]
        servers = [
            (role, fleet.first_port + place, [behind[engine] for engine in engines])
            for place, (role, engines) in enumerate(by_role.items())
        ]
        plain = {
            "plan": fleet.plan.digest,
            "weights": {
                role: [{"engine": e.id, "url": f"http://{behind[e].host}", "weight": e.weight} for e in engines]
                for role, engines in by_role.items()
            },
        }
        return {
            "httproute.yaml": yaml_text(*routes, header=fleet.told),
            "nginx.conf": nginx_config(servers, fleet.told),
            "weights.json": json.dumps(plain, indent=1, ensure_ascii=False) + "\n",
        }


def http_route(target: ServingTarget, part: str, backends: list[tuple[str, int, float]]) -> dict[str, Any]:
    """An HTTPRoute to Services with shares as whole numbers; (name, port, share) of each."""
    kube, values = Kube(target.fleet), target.values
    largest = max(weight for _, _, weight in backends)
    scale = MOST / max(largest, 1e-12)
    spec: dict[str, Any] = {}
    if values.gateway:
        namespace = {"namespace": values.gateway_namespace} if values.gateway_namespace else {}
        spec["parentRefs"] = [{"name": values.gateway, **namespace}]
    refs = [
        {"name": name, "port": port, "weight": max(round(weight * scale), 1) if weight > 0 else 0}
        for name, port, weight in backends
    ]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": kube.metadata(kube.name(part)),
        "spec": {**spec, "rules": [{"backendRefs": refs}]},
    }
