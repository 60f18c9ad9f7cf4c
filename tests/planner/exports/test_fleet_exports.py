"""Fleets are exported: engines find their nodes, and what files cannot do is refused with a way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from planner.contract.clusters import SuppliedCluster
from planner.contract.engine import Layout, Role
from planner.contract.fleet import LossRouting, Route, ScheduledStep, ServiceUnderstood
from planner.contract.workload.classes import LengthClass, LoadStep, SteppedLoad
from planner.exports.exporting import export
from planner.exports.request import ExportRequest
from planner.exports.values import Values
from planner.serving.document.contradictions import check_plan
from planner.serving.document.placing import placed
from planner.serving.document.plan import Plan
from profiles.errors import InputError, Unsupported
from tests.planner.exports.made import VALUES, layout, planned

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
