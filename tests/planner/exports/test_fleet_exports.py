"""Fleets are exported: engines find their nodes, and what files cannot do is refused with a way out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml

from planner.contract.clusters import SuppliedCluster
from planner.contract.engine import Layout, Role
from planner.contract.fleet import LossRouting, Route, ScheduledStep, ServiceUnderstood, SurviveAsked
from planner.contract.workload.classes import LengthClass, LoadStep, SteppedLoad
from planner.exports.exporting import export
from planner.exports.request import ExportRequest
from planner.exports.values import Values
from planner.serving.document.contradictions import check_plan
from planner.serving.document.placing import placed
from planner.serving.document.plan import Plan
from planner.solving.mix.losses import on_nodes
from planner.solving.mix.question import MixQuestion, Places, Survive
from profiles.errors import InputError, Unsupported
from tests.planner.exports.made import VALUES, layout, planned
from tests.planner.solving.mix_twin import kinds_of

SERVICE = ServiceUnderstood(
    name="chat",
    model="Qwen/Qwen3-32B",
    slo={"bounds": ()},
    load=SteppedLoad(
        source="as given",
        steps=(
            LoadStep(
                start_s=0,
                end_s=3600,
                classes=(LengthClass(isl_from=1, isl_to=9, osl_from=1, osl_to=9, isl=4, osl=4, rate_rps=1),),
            ),
        ),
    ),
    framework="vllm",
)


def fleet(
    parts: Sequence[tuple[Layout, int]],
    *,
    gpus: int | None = None,
    spot: int = 0,
    routes: Sequence[Mapping[str, float]] = (),
    steps: Sequence[Mapping[str, int]] = (),
    services: Sequence[ServiceUnderstood] = (SERVICE,),
    **group: Any,
) -> Plan:
    """A fleet of ``parts`` as `plan fleet` writes it: no engine has a place. ``group``: fields of its first engine."""
    role: Role = "aggregated"
    made = planned("vllm", "Qwen/Qwen3-32B", [(role, shape, count) for shape, count in parts])
    groups = [
        each.model_copy(
            update={
                "service": "chat",
                "replicas": tuple(r.model_copy(update={"ranks": ()}) for r in each.replicas),
                **(group if not number else {}),
            }
        )
        for number, each in enumerate(made.decision.engines)
    ]
    counts = {each.id: len(each.replicas) for each in groups}
    shares = routes or [{each.id: counts[each.id] / sum(counts.values()) for each in groups}]
    routing = tuple(
        Route(service="chat", isl_from=i, isl_to=i + 1, osl_from=None, osl_to=None, weights=dict(each))
        for i, each in enumerate(shares)
    )
    schedule = tuple(
        ScheduledStep(
            start_s=3600 * i, end_s=3600 * (i + 1), engines=dict(each), routing=routing, rate_rps=1, carries=2
        )
        for i, each in enumerate(steps or [counts])
    )
    (pool,) = made.request.cluster.pools
    cluster = SuppliedCluster.model_validate(
        {"name": "ours", "pools": [{**pool.model_dump(), "gpus": gpus or pool.gpus, "spot_gpus": spot or None}]}
    )
    request = made.request.model_copy(update={"cluster": cluster, "services": tuple(services)})
    decision = made.decision.model_copy(update={"engines": tuple(groups), "schedule": schedule})
    return made.model_copy(update={"request": request, "decision": decision}).sealed()


def places(plan: Plan) -> dict[str, list[tuple[int, int]]]:
    return {
        replica.id: [(rank.node, rank.gpu) for rank in replica.ranks]
        for group in placed(plan).decision.engines
        for replica in group.replicas
    }


def test_big_engines_come_first_and_small_ones_fill_what_is_left() -> None:
    plan = fleet([(layout(tp=2), 3), (layout(tp=4), 2), (layout(tp=8, pp=2), 1)])
    found = places(plan)
    assert found["engine-2-0"] == [(node, gpu) for node in (0, 1) for gpu in range(8)]
    assert found["engine-1-0"] == [(2, gpu) for gpu in range(4)]
    assert found["engine-1-1"] == [(2, gpu) for gpu in range(4, 8)]
    assert [found[f"engine-0-{i}"] for i in range(3)] == [[(3, 2 * i), (3, 2 * i + 1)] for i in range(3)]
    check_plan(placed(plan))
    assert placed(plan).digest == plan.digest


def test_tensor_groups_stay_inside_a_node() -> None:
    found = places(fleet([(layout(tp=4, pp=3), 1), (layout(tp=4), 1)]))
    assert found["engine-0-0"][-4:] == [(1, gpu) for gpu in range(4)]
    assert found["engine-1-0"] == [(1, gpu) for gpu in range(4, 8)]


@pytest.mark.parametrize("target", ["kubernetes", "shell", "slurm", "llm-d", "ray-serve", "skypilot"])
def test_a_fleet_is_exported(target: str) -> None:
    plan = fleet([(layout(tp=4), 3)])
    given = Values(**{**VALUES, "nodes": ("10.0.0.1", "10.0.0.2")})
    made = export(ExportRequest(plan=plan, to=target, values=given))
    assert made.plan == plan.digest
    assert "EDITED" not in "".join(made.files.values())
    assert plan.digest is not None
    assert any(plan.digest[:16] in text for text in made.files.values())


def test_spot_gpus_count_and_are_told() -> None:
    plan = fleet([(layout(tp=4), 2)], gpus=4, spot=4, supply="spot")
    made = export(ExportRequest(plan=plan, to="slurm", values=Values(**VALUES)))
    assert "engine-0: on spot GPUs of H100-SXM" in made.told


def test_another_routing_after_a_loss_is_told() -> None:
    plan = fleet([(layout(tp=4), 2)])
    (step,) = plan.decision.schedule
    lost = LossRouting(lost={"engine-0": 1}, routing=step.routing)
    kept = plan.decision.model_copy(update={"schedule": (step.model_copy(update={"after_losses": (lost,)}),)})
    request = {"to": "kubernetes", "values": Values(**VALUES)}
    told = export(ExportRequest(plan=plan.model_copy(update={"decision": kept}).sealed(), **request)).told
    assert any("(1 of engine-0)" in line and "after_losses" in line for line in told)
    assert not any("after_losses" in line for line in export(ExportRequest(plan=plan, **request)).told)


@pytest.mark.parametrize(
    ("plan", "message", "hint"),
    [
        (fleet([(layout(tp=4), 3)], gpus=9), "engine-0-2 of 4 GPUs finds no room", "offer 8 GPUs of H100-SXM more"),
        (
            fleet([(layout(tp=4), 1), (layout(tp=2), 1)], routes=[{"engine-0": 1.0}, {"engine-1": 1.0}]),
            "engine-0 and engine-1 get prompts of different lengths",
            "one kind of engine",
        ),
        (fleet([(layout(tp=4), 2)], steps=[{"engine-0": 2}, {"engine-0": 1}]), "its engines change", "of the step"),
        (
            fleet([(layout(tp=4), 1)], services=[SERVICE, SERVICE.model_copy(update={"name": "code"})]),
            "serves 'chat', 'code'",
            "each service alone",
        ),
        (fleet([(layout(tp=4), 1)], table="h100.json"), "measured tables", "a model in place of tables"),
    ],
)
def test_what_files_cannot_do_is_refused(plan: Plan, message: str, hint: str) -> None:
    with pytest.raises(Unsupported) as caught:
        export(ExportRequest(plan=plan, to="kubernetes", values=Values(**VALUES)))
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "ranks" not in caught.value.message


def test_elsewhere_a_fleet_is_called_one() -> None:
    with pytest.raises(InputError, match="is a fleet's"):
        check_plan(fleet([(layout(tp=4), 1)]))


# ------------------------------------------------------------------ nodes that may be lost


def surviving(plan: Plan, *, nodes: int = 1, **pool: Any) -> Plan:
    """``plan``, which is to survive the loss of nodes; ``pool``: fields of its pool."""
    request = plan.request
    pools = tuple(each.model_copy(update=pool) for each in request.cluster.pools)
    cluster = request.cluster.model_copy(update={"pools": pools})
    survive = SurviveAsked(nodes=nodes)
    return plan.model_copy(update={"request": request.model_copy(update={"cluster": cluster, "survive": survive})})


def on_nodes_of(plan: Plan) -> Counter[tuple[tuple[int, int], ...]]:
    """What nodes hold: (group, engines) of each that has some there. An engine of several nodes is counted once."""
    held: dict[int, Counter[int]] = {}
    for number, group in enumerate(placed(plan).decision.engines):
        for replica in group.replicas:
            held.setdefault(replica.ranks[0].node, Counter())[number] += 1
    return Counter(tuple(sorted(each.items())) for each in held.values())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("supply", [{"gpus": 96}, {"as_needed": True}, {"gpus": 96, "instance": "p5.48xlarge"}])
def test_engines_stand_where_the_programme_took_them_to_stand(seed: int, supply: dict[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    gpus = rng.choice([1, 2, 4, 8, 16], 3, p=[0.3, 0.25, 0.25, 0.1, 0.1])
    counts = rng.integers(1, 4, 3)
    parts = [(layout(tp=min(int(g), 8), pp=max(int(g) // 8, 1)), int(n)) for g, n in zip(gpus, counts, strict=True)]
    plan = surviving(fleet(parts), **supply)
    check_plan(placed(plan))
    kinds = replace(kinds_of(np.ones(3)), gpus=gpus, pool=np.zeros(3, np.int64))
    most = np.full(3, np.inf if "as_needed" in supply else 96.0)
    places_ = Places(np.zeros(3, np.int64), most, np.full(3, "instance" in supply))
    asked = MixQuestion(kinds, [np.ones((1, 3))], np.array([3600.0]), survive=Survive(nodes=1), places=places_)
    assert on_nodes_of(plan) == on_nodes(asked, counts)[0]


def test_spot_has_nodes_of_its_own() -> None:
    plan = fleet([(layout(tp=4), 2), (layout(tp=4), 2)], gpus=16, spot=16, supply="spot")
    on = {name: at[0][0] for name, at in places(surviving(plan)).items()}
    assert sorted(on.values()) == [0, 1, 2, 3]
    check_plan(placed(surviving(plan)))


def test_as_many_gpus_as_are_needed_are_there() -> None:
    plan = surviving(fleet([(layout(tp=4), 5)]), nodes=0, as_needed=True, gpus=8)
    assert max(node for at in places(plan).values() for node, _ in at) == 2
    check_plan(placed(plan))


def documents(plan: Plan, to: str, **values: Any) -> list[dict[str, Any]]:
    made = export(ExportRequest(plan=plan.sealed(), to=to, values=Values(**{**VALUES, **values})))
    return [
        document for name, text in made.files.items() if name.endswith(".yaml") for document in yaml.safe_load_all(text)
    ]


def test_pods_share_a_host_as_engines_share_a_node() -> None:
    plan = surviving(fleet([(layout(tp=4), 1), (layout(tp=2), 3)]), gpus=16)
    pods = [each["spec"]["template"] for each in documents(plan, "kubernetes") if each["kind"] == "Deployment"]
    engines = [pod for pod in pods if "shardwright/node" in pod["metadata"]["labels"]]
    assert len(engines) == 4 < len(pods)  # the front may stand anywhere
    nodes = Counter(pod["metadata"]["labels"]["shardwright/node"] for pod in engines)
    assert nodes == {"h100-sxm-0": 2, "h100-sxm-1": 2}
    for pod in engines:
        own = pod["metadata"]["labels"]["shardwright/node"]
        (never,) = pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert never["topologyKey"] == "kubernetes.io/hostname"
        assert never["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        others = {"key": "shardwright/node", "operator": "NotIn", "values": [own]}
        assert others in never["labelSelector"]["matchExpressions"]


@pytest.mark.parametrize(("to", "path"), [
    ("llm-d", ["spec", "template"]),
    ("dynamo", ["spec", "components", 1, "podTemplate"]),
    ("kserve", ["spec"]),
])  # fmt: skip
def test_no_host_has_more_pods_of_a_kind_than_a_node_has_engines(to: str, path: list[str | int]) -> None:
    plan = surviving(fleet([(layout(tp=2), 5)]), gpus=24)
    kinds = ("Deployment", "DynamoGraphDeployment", "LLMInferenceService")
    (found,) = (each for each in documents(plan, to) if each["kind"] in kinds)
    pod: Any = found
    for step in path:
        pod = pod[step]
    spec = pod["template"] if to == "kserve" else pod["spec"]
    labels = pod["labels"] if to == "kserve" else pod["metadata"]["labels"]
    (at_most,) = spec["topologySpreadConstraints"]
    assert (at_most["maxSkew"], at_most["whenUnsatisfiable"]) == (2, "DoNotSchedule")
    assert at_most["minDomains"] > 5_000
    assert at_most["labelSelector"]["matchLabels"].items() <= labels.items()


def test_dynamos_older_resource_says_it_too() -> None:
    plan = surviving(fleet([(layout(tp=2), 5)]), gpus=24)
    (graph,) = (
        each for each in documents(plan, "dynamo", api_version="v1alpha1") if each["kind"] == "DynamoGraphDeployment"
    )
    worker = graph["spec"]["services"]["engine-0"]
    (at_most,) = worker["extraPodSpec"]["topologySpreadConstraints"]
    assert at_most["labelSelector"]["matchLabels"].items() <= worker["extraPodMetadata"]["labels"].items()


@pytest.mark.parametrize("to", ["kubernetes", "slurm", "ray-serve"])
def test_how_many_stand_on_a_node_is_told(to: str) -> None:
    plan = surviving(fleet([(layout(tp=2), 5)]), gpus=24).sealed()
    made = export(ExportRequest(plan=plan, to=to, values=Values(**VALUES)))
    assert "to survive the loss of any node, no node of H100-SXM holds more than 2 engines" in made.told
    assert any("Ray places replicas itself" in step for step in made.next) == (to == "ray-serve")


@pytest.mark.parametrize("to", ["kubernetes", "llm-d", "dynamo"])
def test_pods_find_the_nodes_of_their_pool(to: str) -> None:
    made = fleet([(layout(tp=4), 1), (layout(tp=4), 1)])
    (pool,) = made.request.cluster.pools
    other = pool.model_copy(update={"name": "H200", "gpu": "H200"})
    first, second = made.decision.engines
    engines = (first, second.model_copy(update={"pool": "H200", "gpu": "H200"}))
    cluster = made.request.cluster.model_copy(update={"pools": (pool, other)})
    plan = made.model_copy(
        update={
            "request": made.request.model_copy(update={"cluster": cluster}),
            "decision": made.decision.model_copy(update={"engines": engines}),
        }
    )
    label = "nvidia.com/gpu.product"
    with pytest.raises(InputError, match="node_selectors is missing"):
        documents(plan, to)
    with pytest.raises(InputError, match="says nothing of pool H200"):
        documents(plan, to, node_selectors={"H100-SXM": {label: "H100"}})
    text = yaml.safe_dump(documents(plan, to, node_selectors={"H100-SXM": {label: "H100"}, "H200": {label: "H200"}}))
    assert (text.count(f"{label}: H100"), text.count(f"{label}: H200")) == (1, 1)
