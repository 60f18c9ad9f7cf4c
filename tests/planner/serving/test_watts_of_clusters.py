"""What a budget of watts allows, on clusters of different sizes: what is said of any fleet is true of all."""

from __future__ import annotations

import re
from typing import Any

import pytest

from planner.serving.fleet.infeasible import nearest
from planner.serving.planning import plan
from profiles.errors import Infeasible, LimitReached
from profiles.store import ProfileStore

ASKED = {"model": "Qwen/Qwen3-8B", "slo": "ttft=1s,tpot=30ms", "simulation": False}


def watts_needed(store: ProfileStore, cluster: str, **more: Any) -> float:
    """The fewest that any fleet draws, as it is said."""
    asked = {**ASKED, "cluster": cluster, "budget_watts": 300, **more}
    with pytest.raises(Infeasible, match=r"budget_watts: .* is less than any fleet .* draws") as error:
        plan({**asked, "workload": "isl=4000,osl=500,rate=5"}, store=store)
    assert error.value.details["watts_needed"] > 300
    return float(error.value.details["watts_needed"])


def test_the_fewest_watts_are_those_of_every_way_to_serve_and_of_every_size(measured: ProfileStore) -> None:
    apart = [watts_needed(measured, cluster, disaggregation="always") for cluster in ("2xH200", "16xH200")]
    assert apart[0] == pytest.approx(apart[1], rel=0.02), "the link plays no part that is worth a watt"
    together = watts_needed(measured, "2xH200", disaggregation="never")
    assert watts_needed(measured, "H200") == pytest.approx(min(*apart, together), rel=0.02)


def test_too_few_gpus_are_told_apart_from_too_few_watts(measured: ProfileStore) -> None:
    asked = {**ASKED, "cluster": "1xH200", "workload": "isl=4000,osl=500,rate=90"}
    with pytest.raises(Infeasible) as unlimited:
        plan(asked, store=measured)
    with pytest.raises(Infeasible, match=r"carry, at most .* with any watts, .* within 450 W") as limited:
        plan({**asked, "budget_watts": 450}, store=measured)
    anyhow, within = map(float, re.findall(r"([0-9.]+) (?:within|with any)", limited.value.message))
    assert within < anyhow == pytest.approx(unlimited.value.details["highest_rate_rps"], rel=1e-4)
    rate = re.findall(r"offer at most ([0-9.]+) requests/s", limited.value.hint)
    plan({**asked, "budget_watts": 450, "workload": f"isl=4000,osl=500,rate={rate[0]}"}, store=measured)


def test_of_several_ways_the_fewest_watts_and_the_highest_rate_are_told() -> None:
    one = Infeasible("a", "b", watts_needed=1903.0, highest_rate_rps=7.4)
    two = Infeasible("c", "d", watts_needed=1221.0, highest_rate_rps=4.5)
    few = Infeasible("e", "f", highest_rate_rps=9.0)
    found = nearest([one, two, few], 1000.0, 10.0)
    assert "1,221 W" in found.message
    assert found.details["highest_rate_rps"] == 9.0
    assert nearest([few, LimitReached("g", "h")], 1000.0, 10.0) is few
