"""Plans made by hand over real models, for what comes after planning."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from costmodels.models.registry import find_architecture
from costmodels.serving.frameworks.framework import find_framework
from planner.contract.clusters import Cluster, Pool
from planner.contract.deployment import Deployment
from planner.contract.engine import EngineGroup, Layout, Limits, Rank, Replica, Role
from planner.contract.workload.workload import Speculation, Workload
from planner.exports.target import Asked
from planner.exports.values import Values
from planner.launchers import EngineSpec, cannot_express, launch
from planner.serving.document.plan import Plan
from tests.api.example_plan import example_plan, group_prediction

LIMITS = Limits(max_sequences=96, max_tokens_per_step=8192, max_model_len=4608, memory_fraction=0.9)
MODELS = {
    "dense": "Qwen/Qwen3-32B",
    "experts": "Qwen/Qwen3-235B-A22B",
    "latent": "deepseek-ai/DeepSeek-R1",
}
VALUES = {
    "image": "registry.example.com/engine:v1",
    "front_image": "registry.example.com/router:v1",
    "first_port": 8000,
    "namespace": "serving",
    "service_account": "runner",
    "hf_secret": "hf-token",
    "storage_claim": "models",
    "ssh_user": "me",
    "ssh_secret": "mpi-key",
    "draft_model": "org/eagle",
}


def layout(tp: int = 1, pp: int = 1, dp: int = 1, ep: int = 1) -> Layout:
    return Layout(tp=tp, pp=pp, dp=dp, ep=ep, moe_tp=tp * dp // ep)


class Board:
    """Hands GPUs out, node by node."""

    def __init__(self, per_node: int) -> None:
        self.per_node, self.next = per_node, 0

    def take(self, count: int) -> tuple[Rank, ...]:
        room = self.per_node - self.next % self.per_node
        if count > room and room < self.per_node:
            self.next += room  # an engine that does not fit begins a node of its own
        first, self.next = self.next, self.next + count
        return tuple(
            Rank(rank=rank, node=(first + rank) // self.per_node, gpu=(first + rank) % self.per_node)
            for rank in range(count)
        )


def planned(
    framework: str,
    model: str,
    parts: Sequence[tuple[Role, Layout, int]],
    *,
    drafting: bool = False,
    per_node: int = 8,
    weights: Sequence[float] | None = None,
    precision: str = "bf16",
    kv: str = "bf16",
    release: str = "",
    limits: Limits = LIMITS,
    **request: Any,
) -> Plan:
    """A plan of (role, layout, replicas) on H100s."""
    architecture = find_architecture(model)
    board, groups = Board(per_node), []
    published = architecture.weight_precision
    weights_precision = precision if precision != "bf16" else published
    named = f"{framework}@{release}" if release else framework
    shares = iter(weights or [])
    per_role = {role: sum(count for each, _, count in parts if each == role) for role, _, _ in parts}
    for number, (role, shape, count) in enumerate(parts):
        spec = EngineSpec(
            framework=named,
            model=model,
            layout=shape,
            limits=limits,
            weights_precision=weights_precision,
            kv_precision=kv,
            precision_converted=weights_precision != published,
            published_precision=published,
            gpus_per_node=per_node,
            is_moe=architecture.is_moe,
            role=role,
            is_sparse=architecture.is_sparse,
            draft_tokens=3 if drafting else 0,
        )
        replicas = tuple(
            Replica(
                id=f"engine-{number}-{replica}",
                weight=next(shares, 1 / per_role[role]),
                ranks=board.take(shape.gpus),
            )
            for replica in range(count)
        )
        groups.append(
            EngineGroup(
                id=f"engine-{number}",
                role=role,
                pool="H100-SXM",
                gpu="H100-SXM",
                layout=shape,
                gpus_per_engine=shape.gpus,
                weights_precision=weights_precision,
                kv_precision=kv,
                limits=limits,
                replicas=replicas,
                launch=launch(spec),
            )
        )
    base = example_plan()
    nodes = -(-board.next // per_node)
    pool = Pool(name="H100-SXM", gpu="H100-SXM", gpus=nodes * per_node, gpus_per_node=per_node, fabric="ib-400g")
    used = sum(len(group.replicas) * group.layout.gpus for group in groups)
    understood = base.request.model_copy(
        update={
            "model": model,
            "cluster": type(base.request.cluster).model_validate(
                {**base.request.cluster.model_dump(), **Cluster(name="ours", pools=(pool,)).model_dump()}
            ),
            "framework": find_framework(named).spec if release else framework,
            "weights_precision": weights_precision,
            "kv_precision": kv,
            "precision_converted": weights_precision != published,
            "workload": Workload(
                isl=4000, osl=500, speculation=Speculation(draft_tokens=3, acceptance=0.7) if drafting else None
            ),
            **request,
        }
    )
    prediction = base.prediction.model_copy(update={"engines": tuple(group_prediction(group.id) for group in groups)})
    decision = Deployment(engines=tuple(groups), gpus_used=used, gpus_idle=nodes * per_node - used, usd_per_hour=None)
    return base.model_copy(update={"request": understood, "decision": decision, "prediction": prediction}).sealed()


def asked(plan: Plan, **values: Any) -> Asked:
    nodes = len(
        {(group.pool, rank.node) for group in plan.decision.engines for r in group.replicas for rank in r.ranks}
    )
    given = {**VALUES, "nodes": tuple(f"10.0.0.{number + 1}" for number in range(nodes)), **values}
    return Asked(plan, Values(**{key: value for key, value in given.items() if value is not None}))


SHAPES = {
    ("dense", "one"): layout(tp=4),
    ("dense", "several"): layout(tp=8, pp=2),
    ("experts", "one"): layout(tp=2, dp=4, ep=8),
    ("experts", "several"): layout(tp=4, dp=4, ep=16),
    ("latent", "one"): layout(tp=8, ep=8),
    ("latent", "several"): layout(dp=16, ep=16),
}
FALLBACKS = (layout(tp=8, ep=8), layout(tp=8, pp=2, ep=8), layout(dp=8, ep=8))


def matrix(framework: str) -> list[tuple[str, Plan]]:
    """(cell, plan) of every model × nodes × roles × drafting that the framework has a layout for."""
    out = []
    for kind, span, disaggregated, drafting in product(MODELS, ("one", "several"), (False, True), (False, True)):
        moe = kind != "dense"
        shape = SHAPES[kind, span]
        if cannot_express(framework, shape, is_moe=moe) is not None:
            shape = next(
                each
                for each in FALLBACKS
                if (each.gpus > 8) == (span == "several") and cannot_express(framework, each, is_moe=moe) is None
            )
        parts: list[tuple[Role, Layout, int]] = (
            [("prefill", shape, 1), ("decode", shape, 2)] if disaggregated else [("aggregated", shape, 2)]
        )
        roles = "disaggregated" if disaggregated else "aggregated"
        name = f"{kind}, {span} node{'s' * (span == 'several')}, {roles}{', drafting' * drafting}"
        out.append((name, planned(framework, MODELS[kind], parts, drafting=drafting)))
    return out
