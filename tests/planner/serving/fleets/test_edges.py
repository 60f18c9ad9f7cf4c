"""Classes at the edge of what a GPU serves: few requests that miss a promise which all together keep."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from planner.contract.workload.classes import LengthClass
from planner.contract.workload.slo import parse_slo
from planner.serving.document.plan import Plan
from planner.serving.fleets.edges import KEPT, at_the_edge
from planner.serving.fleets.planning import plan_fleet
from planner.serving.fleets.request import parse_fleet_request
from profiles.errors import Infeasible


def classes(*isl: float) -> list[LengthClass]:
    made = [{"isl_from": n, "isl_to": n + 1, "osl_from": 9, "osl_to": 10, "isl": n, "osl": 9.0} for n in isl]
    return [LengthClass(**each, rate_rps=1.0) for each in made]


def kinds(*roles: str) -> Any:
    return [SimpleNamespace(role=role) for role in roles]


def counted(rates: list[float], cells: list[list[float]], longer: float, slo: str = "ttft=1s", **other: Any) -> Any:
    lengths = classes(*(100.0 * 2**i for i in range(len(rates))))
    roles = other.get("roles", ["aggregated"] * len(cells[0]))

    def beyond(points: np.ndarray, times: float, mine: Any) -> np.ndarray:
        return np.full((len(points), len(mine)), longer if times == other.get("times", 4.0) else 0.0)

    return at_the_edge(
        lengths, [np.array(rates)], parse_slo(slo), np.array(cells), cast(Any, kinds(*roles)), beyond
    ).tolist()


def test_few_requests_that_miss_the_promise_by_themselves_are_counted() -> None:
    assert counted([96.0, 4.0], [[10.0], [0.0]], 5.0) == [[10.0], [5.0 * KEPT]]
    assert counted([96.0, 4.0], [[10.0], [0.0]], 5.0, times=16.0) == [[10.0], [5.0 * KEPT]]


@pytest.mark.parametrize(("rates", "slo"), [([90.0, 10.0], "ttft=1s"), ([99.0, 1.0], "ttft_p99=1s"), ([99.0, 1.0], "")])
def test_more_of_them_are_not(rates: list[float], slo: str) -> None:
    assert counted(rates, [[10.0], [0.0]], 5.0, slo) == [[10.0], [0.0]]


def test_what_no_longer_promise_makes_fit_is_not_served() -> None:
    assert counted([96.0, 4.0], [[10.0], [0.0]], 0.0) == [[10.0], [0.0]]


def test_what_is_kept_on_a_nearly_idle_engine_alone_counts_as_beside_others() -> None:
    assert counted([96.0, 4.0], [[10.0], [0.01]], 5.0) == [[10.0], [5.0 * KEPT]]
    assert counted([96.0, 4.0], [[10.0], [4.9]], 5.0) == [[10.0], [4.9]]


def test_engines_of_one_role_are_left_alone() -> None:
    assert counted([96.0, 4.0], [[10.0, 10.0], [0.0, 0.0]], 5.0, roles=["prefill", "aggregated"]) == [
        [10.0, 10.0],
        [0.0, 5.0 * KEPT],
    ]


@cache
def planned(promise: str, long_rps: float = 0.05, short_rps: float = 5, cluster: str = "8xH100") -> Plan:
    load = {
        "classes": [
            {"isl_from": 100, "isl_to": 2000, "osl": 100, "rate_rps": short_rps},
            {"isl": 30_000, "osl": 100, "rate_rps": long_rps},
        ]
    }
    service = {"name": "chat", "model": "Qwen/Qwen3-8B", "slo": "ttft=1s,tpot=50ms", "load": load, "promise": promise}
    return plan_fleet(parse_fleet_request({"cluster": cluster, "services": [service]}))


def test_one_request_in_a_hundred_does_not_make_a_fleet_twice_as_dear() -> None:
    whole, each = planned("all"), planned("class")
    assert (whole.decision.gpus_used, each.decision.gpus_used) == (1, 2)
    assert whole.prediction.services[0].holds
    assert any("by themselves" in note for note in whole.provenance.notes)
    assert not any("by themselves" in note for note in each.provenance.notes)


@pytest.mark.slow
def test_a_promise_over_all_requests_is_never_dearer_than_one_for_each_class() -> None:
    whole, each = (planned(promise, 1.6, 40, "12xH100") for promise in ("all", "class"))
    assert whole.decision.usd_per_hour is not None
    assert each.decision.usd_per_hour is not None
    assert whole.decision.usd_per_hour <= each.decision.usd_per_hour * 1.01


def test_where_no_engine_serves_more_of_them_than_that_they_are_refused() -> None:
    load = {"classes": [{"isl": 500, "osl": 100, "rate_rps": 5}, {"isl": 30_000, "osl": 100, "rate_rps": 1}]}
    service = {"name": "chat", "model": "Qwen/Qwen3-8B", "slo": "ttft=200ms", "load": load}
    with pytest.raises(Infeasible, match="isl 30000"):
        plan_fleet(parse_fleet_request({"cluster": "2xL40S", "services": [service], "disaggregation": "never"}))
