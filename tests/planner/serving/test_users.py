"""Users at once: the plan has as many requests in flight, and its promises hold for them."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from cases import DENSE, SLO

from costmodels.kernels.cost_model import CostModel
from planner.serving import planning, prediction_table
from planner.serving.request import parse_request
from planner.serving.users import CLOSE, IN_STEP, in_flight
from profiles.errors import Infeasible, InputError
from profiles.store import ProfileStore


@pytest.mark.parametrize("users", [1, 64, 300])
def test_as_many_requests_are_in_flight_as_there_are_users(planned: Any, users: int) -> None:
    plan = planned(DENSE, "16xH100", f"isl=2000,osl=200,concurrency={users}", SLO)
    assert plan.request.concurrency == users
    assert plan.request.workload.concurrency is None
    assert plan.request.objective == "cost"
    assert users <= in_flight(plan) <= users * CLOSE * 1.05 + 1
    assert not plan.was_edited
    assert IN_STEP in plan.provenance.notes


def test_users_whose_requests_differ_are_not_said_to_run_in_step(planned: Any) -> None:
    plan = planned(DENSE, "16xH100", "isl=2000,osl=200,concurrency=64,spread=0.5-1.5", SLO)
    assert IN_STEP not in plan.provenance.notes


def test_the_engines_hold_the_slo_in_a_closed_loop(
    planned: Any, bare: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_table, "CostModel", lambda gpu, framework, **_: CostModel(gpu, framework, bare))
    users = 48
    plan = planned(DENSE, "1xH100", f"isl=2000,osl=200,concurrency={users}", "tpot=25ms")
    (group,) = plan.decision.engines
    each = -(-users // len(group.replicas))
    row = {"model": DENSE, "gpu": group.gpu, "framework": "vllm", "tp": group.layout.tp}
    table = pd.DataFrame([{**row, "isl": 2000, "osl": 200, "concurrency": each}]).astype(str)
    got = prediction_table.predict(table)
    assert float(got["tpot_ms_mean"].iloc[0]) <= 25


def test_more_users_than_the_gpus_hold_are_refused_with_how_many_do(planned: Any) -> None:
    with pytest.raises(Infeasible, match="100000 users at once are more than 1xH100 holds") as caught:
        planned(DENSE, "1xH100", "isl=2000,osl=200,concurrency=100000", SLO)
    most = caught.value.details["highest_concurrency"]
    assert isinstance(most, int)
    assert f"(concurrency={most})" in caught.value.hint
    planned(DENSE, "1xH100", f"isl=2000,osl=200,concurrency={round(0.9 * most)}", SLO)


def test_a_refusal_takes_few_plans_and_says_what_was_checked(
    bare: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []

    def counted(request: Any, *rest: Any) -> Any:
        made.append(request.workload.rate_rps)
        return original(request, *rest)

    original = planning._plan
    monkeypatch.setattr(planning, "_plan", counted)
    asked = {"model": DENSE, "cluster": "2xH100", "slo": SLO, "disaggregation": "never"}
    with pytest.raises(Infeasible) as caught:
        planning.plan({**asked, "workload": "isl=2000,osl=200,concurrency=5000"}, store=bare)
    assert len(made) <= 20
    most = caught.value.details["highest_concurrency"]
    assert f"about {most}" in caught.value.message
    assert f"(concurrency={most})" in caught.value.hint
    plan = planning.plan({**asked, "workload": f"isl=2000,osl=200,concurrency={most}"}, store=bare)
    assert in_flight(plan) >= most
    for beyond in (1.1, 1.3):
        with pytest.raises(Infeasible):
            planning.plan({**asked, "workload": f"isl=2000,osl=200,concurrency={int(most * beyond)}"}, store=bare)


def test_an_slo_that_nothing_meets_is_the_reason(planned: Any) -> None:
    with pytest.raises(Infeasible, match="tpot_p90"):
        planned(DENSE, "1xH100", "isl=2000,osl=200,concurrency=4", "tpot=0.01ms")


def test_open_clusters_and_headroom_go_with_users(planned: Any) -> None:
    plan = planned(DENSE, "H100", "isl=2000,osl=200,concurrency=100", SLO, headroom=0.1)
    assert plan.request.concurrency == 110
    assert plan.decision.gpus_idle == 0


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"objective": "throughput"}, "not for so many users at once"),
        ({"workload": "isl=10,osl=2,requests=100"}, "requests has no effect in a plan"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], named: str) -> None:
    asked = {"model": DENSE, "cluster": "1xH100", "workload": "isl=10,osl=2,concurrency=3"}
    with pytest.raises(InputError, match=named):
        parse_request({**asked, **fields})


def test_no_fewer_gpus_hold_as_many_users(planned: Any) -> None:
    """The brute force: the smallest cluster on which there is a plan at all. An engine at its most holds more users
    than two do at a higher rate."""
    asked = {"objective": "gpus", "disaggregation": "never"}

    def holds(gpus: int, users: int) -> bool:
        try:
            planned(DENSE, f"{gpus}xH100", f"isl=2000,osl=200,concurrency={users}", SLO, **asked)
        except Infeasible:
            return False
        return True

    with pytest.raises(Infeasible) as caught:
        planned(DENSE, "1xH100", "isl=2000,osl=200,concurrency=100000", SLO, **asked)
    one = caught.value.details["highest_concurrency"]
    assert isinstance(one, int)
    fewest = {}
    for users in (one // 2, round(0.9 * one), round(0.97 * one), round(1.2 * one), round(1.8 * one)):
        plan = planned(DENSE, "3xH100", f"isl=2000,osl=200,concurrency={users}", SLO, **asked)
        fewest[users] = plan.decision.gpus_used
        assert fewest[users] == next(gpus for gpus in (1, 2, 3) if holds(gpus, users))
        assert in_flight(plan) >= users
    assert set(fewest.values()) == {1, 2}
