"""Fleets of modelled engines: a small one, end to end."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from typing import cast

import numpy as np
import pytest

from costmodels.models.precision import Precision
from planner.serving.document.plan import Plan, parse_plan
from planner.serving.fleets.capacities import ModelEngine
from planner.serving.fleets.planning import plan_fleet
from planner.serving.fleets.request import parse_fleet_request
from planner.serving.fleets.worth import worth_keeping
from profiles.errors import Infeasible, InputError

FLEET = {
    "cluster": {"name": "ours", "pools": [{"gpu": "H100", "gpus": 8}, {"gpu": "L40S", "gpus": 8}]},
    "services": [
        {
            "name": "chat",
            "model": "Qwen/Qwen3-8B",
            "slo": "ttft=1s,tpot=50ms",
            "load": {
                "classes": [
                    {"isl_from": 100, "isl_to": 1000, "osl": 150, "rate_rps": 10},
                    {"isl_from": 1000, "isl_to": 4000, "osl_from": 50, "osl_to": 300, "rate_rps": 2},
                ]
            },
        }
    ],
}

CLASSES = FLEET["services"][0]["load"]["classes"]  # type: ignore[index]


@cache
def planned() -> Plan:
    return plan_fleet(parse_fleet_request(FLEET))


def test_the_document_says_engines_schedule_and_what_classes_see() -> None:
    plan = planned()
    assert parse_plan(plan.to_json()) == plan
    (step,) = plan.decision.schedule
    groups = {group.id: group for group in plan.decision.engines}
    assert set(step.engines) == set(groups)
    assert all(group.launch.command and group.service == "chat" for group in groups.values())
    assert plan.decision.usd_per_hour == pytest.approx(
        sum(step.engines[name] * (group.usd_per_hour or 0) for name, group in groups.items())
    )
    (service,) = plan.prediction.services
    assert service.holds
    assert [each.isl for each in service.classes] == pytest.approx([549.5, 2499.5])
    assert plan.prediction.ttft_ms is not None
    assert [bound.margin > 0 for bound in plan.prediction.slo] == [True, True]
    assert plan.proof.gap == 0


def test_the_same_request_is_the_same_fleet() -> None:
    assert plan_fleet(parse_fleet_request(FLEET)).to_json() == planned().to_json()


def test_a_budget_that_is_told_is_that_of_a_fleet_that_holds() -> None:
    with pytest.raises(Infeasible, match="budget_usd_per_hour: 1 is less") as error:
        plan_fleet(parse_fleet_request({**FLEET, "budget_usd_per_hour": 1}))
    needed = planned().decision.usd_per_hour
    assert needed is not None
    assert error.value.details["usd_per_hour"] == pytest.approx(needed, abs=0.01)
    assert f"allow {error.value.details['usd_per_hour']:g} USD" in error.value.hint


def test_a_class_beyond_the_context_is_refused() -> None:
    (service,) = FLEET["services"]  # type: ignore[misc]
    load = {"classes": [{"isl": 500_000, "osl": 10, "rate_rps": 1}]}
    with pytest.raises(InputError, match="context"):
        plan_fleet(parse_fleet_request({**FLEET, "services": [{**service, "load": load}]}))  # type: ignore[dict-item]


def test_one_class_and_one_step_are_what_plan_decides() -> None:
    from planner.serving.planning import plan

    asked = {"model": "Qwen/Qwen3-8B", "cluster": "4xH100", "slo": "ttft=1s,tpot=50ms"}
    alone = plan({**asked, "workload": "isl=1000,osl=100,rate=10", "time_limit_s": 60})
    service = {"name": "s", "model": asked["model"], "slo": asked["slo"], "load": "isl=1000,osl=100,rate=10"}
    fleet = plan_fleet(parse_fleet_request({"cluster": asked["cluster"], "services": [service]}))
    (step,) = fleet.decision.schedule
    assert step.engines == {group.id: len(group.replicas) for group in alone.decision.engines}
    assert fleet.prediction == alone.prediction
    assert fleet.proof == alone.proof
    for ours, theirs in zip(fleet.decision.engines, alone.decision.engines, strict=True):
        assert (ours.layout, ours.limits, ours.replicas, ours.launch) == (
            theirs.layout, theirs.limits, theirs.replicas, theirs.launch,
        )  # fmt: skip


def test_what_runs_now_need_not_start_and_changes_are_limited() -> None:
    hours = [
        {"hour": hour, "classes": [{"isl": 500, "osl": 50, "rate_rps": rate}]} for hour, rate in enumerate((20, 60, 20))
    ]
    (service,) = FLEET["services"]  # type: ignore[misc]
    asked = {**FLEET, "simulation": False, "time_limit_s": 6, "services": [{**service, "load": {"steps": hours}}]}  # type: ignore[dict-item]
    first = plan_fleet(parse_fleet_request(asked))
    again = plan_fleet(parse_fleet_request({**asked, "current": first.model_dump(mode="json"), "max_changes": 2}))
    counts = [list(step.engines.values()) for step in again.decision.schedule]
    assert all(sum(abs(a - b) for a, b in zip(x, y, strict=True)) <= 2 for x, y in pairwise(counts))
    with pytest.raises(InputError, match="none of the cluster"):
        plan_fleet(parse_fleet_request({**asked, "cluster": "8xH200", "current": first.model_dump(mode="json")}))


@pytest.mark.parametrize("carried", [(23.60, 23.70), (23.70, 23.60), (23.6, 23.6)])
def test_of_engines_that_are_as_good_as_each_other_one_stays(carried: tuple[float, float]) -> None:
    precision = cast(Precision, "bf16")
    keys = [ModelEngine(0, 1, (1, 1), budget, precision, "TP1") for budget in (2048, 8192)]
    keys += [ModelEngine(0, 2, (2, 1), 8192, precision, "TP2")]
    kept = worth_keeping(keys, np.array([[*carried, 36.0], [*carried, 36.0]]))
    assert sorted(keys[i].gpus for i in kept) == [1, 2]
    # What long prompts do where none of a size keeps their promise depends on the budget: both stay, if they may.
    long = worth_keeping(keys, np.array([[*carried, 36.0], [0.0, 0.0, 4.0]]))
    assert sorted((keys[i].gpus, keys[i].budget) for i in long) == [(1, 2048), (1, 8192), (2, 8192)]
    assert len(worth_keeping(keys, np.array([[carried[0], 18.0, 36.0], [0.0, 0.0, 4.0]]))) == 2


ROWS = {
    **FLEET,
    "usd_per_kwh": 0.2,
    "rows": [{"name": "r1", "pools": ["H100-SXM"], "budget_watts": "1kW", "other_watts_per_gpu": 100}],
}


def test_rows_keep_their_budgets_and_electricity_is_paid() -> None:
    free, limited = planned(), plan_fleet(parse_fleet_request(ROWS))
    assert limited.proof.fleet is not None
    (row,) = limited.proof.fleet.rows
    assert row.watts <= row.budget_watts == 1000
    assert parse_plan(limited.to_json()) == limited
    assert free.proof.fleet is not None
    assert not free.proof.fleet.rows
    gpus = sum(len(group.replicas) * (group.usd_per_hour or 0) for group in limited.decision.engines)
    assert limited.decision.usd_per_hour == pytest.approx(gpus)  # as `plan` says it: electricity is beside
    assert limited.decision.schedule[0].usd_per_hour == pytest.approx(gpus)
    assert limited.prediction.electricity_usd_per_hour is not None
    counted = limited.proof.objective_value - gpus
    assert limited.prediction.electricity_usd_per_hour.value == pytest.approx(counted)  # one meaning
    assert 0 < counted < 0.2 * 8 * 0.7 * 2


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"name": "r", "pools": ["X"], "budget_watts": 1}], "is not a pool of the cluster"),
        ([{"name": n, "pools": ["H100-SXM"], "budget_watts": 1} for n in "ab"], "is in a and in b"),
        ([{"name": "r", "pools": [p], "budget_watts": 1} for p in ("H100-SXM", "L40S")], "2 are called"),
        ([{"name": "r", "pools": ["H100-SXM"], "budget_watts": "warm"}], "not understood"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(rows: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_fleet_request({**FLEET, "rows": rows})


def test_a_row_without_room_names_its_watts() -> None:
    rows = [{"name": "all", "pools": ["H100-SXM", "L40S"], "budget_watts": 300}]
    with pytest.raises(Infeasible, match=r"watts of .*row all carry") as error:
        plan_fleet(parse_fleet_request({**FLEET, "rows": rows}))
    assert "watts of row all" in error.value.hint


def test_a_class_that_is_wrong_is_told_what_a_class_may_be() -> None:
    load = {"classes": [{"isl": 100, "osl": 100, "rate_rps": -1}]}
    wrong = {**FLEET, "services": [{**FLEET["services"][0], "load": load}]}  # type: ignore[dict-item]
    with pytest.raises(InputError, match="rate_rps: -1") as caught:
        parse_fleet_request(wrong)
    assert caught.value.hint == "give the requests per second that come, 0 or more"
    with pytest.raises(InputError) as caught:
        parse_fleet_request({**FLEET, "survive": {"engine": 1}})
    assert "plan schema fleet-request" in (caught.value.hint or "")


def test_a_row_names_a_pool_by_any_name_of_its_gpu() -> None:
    row = {"name": "r1", "pools": ["H100", "L40S"], "budget_watts": "4kW"}
    (found,) = parse_fleet_request({**FLEET, "rows": [row]}).rows
    assert found.pools == ("H100-SXM", "L40S")
    with pytest.raises(InputError, match="rows: r1: 'A100' is not a pool"):
        parse_fleet_request({**FLEET, "rows": [{**row, "pools": ["A100"]}]})


def test_a_promise_that_nothing_keeps_is_told_with_one_that_a_fleet_keeps() -> None:
    def asked(slo: str) -> dict[str, object]:
        load = {"classes": [{"isl": 500, "osl": 50, "rate_rps": 0.5}, {"isl": 2000, "osl": 100, "rate_rps": 0.1}]}
        return {**FLEET, "services": [{"name": "chat", "model": "Qwen/Qwen3-8B", "slo": slo, "load": load}]}

    with pytest.raises(Infeasible, match="tpot_p90 ≤ 1 ms binds; the best is") as error:
        plan_fleet(parse_fleet_request(asked("ttft_p90=1s,tpot_p90=1ms")))
    said = re.search(r"relax tpot_p90 to ([\d.]+) ms or more", error.value.hint)
    assert said is not None
    assert plan_fleet(parse_fleet_request(asked(f"ttft_p90=1s,tpot_p90={said[1]}ms"))).prediction.services[0].holds


def test_headroom_is_left_free_of_what_the_simulation_says() -> None:
    """What the simulation corrected took it back: a fleet with headroom had no more room than one without."""
    service = {**FLEET["services"][0], "load": {"classes": [{"isl": 90, "osl": 150, "rate_rps": 150}, *CLASSES]}}
    asked = {"cluster": "32xL40S", "services": [service], "disaggregation": "never"}
    none, half = (plan_fleet(parse_fleet_request({**asked, "headroom": h})).decision.usd_per_hour for h in (0.0, 0.5))
    assert none is not None
    assert half is not None
    assert half > 1.3 * none
