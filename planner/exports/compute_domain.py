"""The NVLink domain of engines over several hosts of a rack, as Kubernetes is told of it (``compute_domain.yaml``)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from planner.exports.fleet import StartedFleet
from profiles.shipped import shipped

Object = dict[str, Any]

FILE = "domain.yaml"


@cache
def _facts() -> dict[str, str]:
    return shipped(Path(__file__).parent / "compute_domain.yaml", lambda document: dict(document))


def compute_domain(fleet: StartedFleet, metadata: Object, channel: str) -> Object:
    """One domain of all engines that need one: its controller makes the template called ``channel`` that their pods
    claim from. ``numNodes`` is what older drivers wait for."""
    hosts = sum(len(engine.shares) for engine in fleet.engines if fleet.in_rack(engine))
    return {
        "apiVersion": _facts()["api_version"],
        "kind": _facts()["kind"],
        "metadata": metadata,
        "spec": {"numNodes": hosts, "channel": {"resourceClaimTemplate": {"name": channel}}},
    }


def told(near: bool) -> tuple[str, ...]:
    """The head of the domain's file; ``near``: whether :func:`join` keeps an engine's pods together."""
    facts = _facts()
    kept = (
        f"an engine's pods are kept where {facts['partition_label']} is the same"
        if near
        else f"nothing here keeps an engine's pods where {facts['partition_label']} is the same: with several racks, "
        "give the component a topologyConstraint"
    )
    return f"needs NVIDIA's DRA driver for GPUs, Kubernetes {facts['kubernetes']} or later with DRA", kept


def join(pod: Object, channel: str, *, near: bool) -> Object:
    """``pod``, the spec of one of an engine's, with a claim from the template called ``channel``; ``near``: kept on
    hosts of one NVLink partition with those of its group, which a LeaderWorkerSet labels."""
    facts = _facts()
    claim = facts["claim"]
    engine, *others = pod["containers"]
    resources = {**engine.get("resources", {}), "claims": [{"name": claim}]}
    joined = {
        **pod,
        "containers": [{**engine, "resources": resources}, *others],
        "resourceClaims": [{"name": claim, "resourceClaimTemplateName": channel}],
    }
    if near:
        term = {
            "labelSelector": {"matchExpressions": [{"key": facts["set_label"], "operator": "Exists"}]},
            "matchLabelKeys": [facts["group_label"]],
            "topologyKey": facts["partition_label"],
        }
        joined["affinity"] = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return joined
