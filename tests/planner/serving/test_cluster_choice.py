"""Clusters that a request leaves open: as many GPUs as are needed, pools to choose from, and room for more load."""

from __future__ import annotations

from typing import Any

import pytest
from cases import DENSE, SLO

from planner.contract.clusters import parse_cluster
from planner.serving.document.plan import parse_plan
from planner.serving.request import parse_request
from profiles.errors import Infeasible, InputError, UnknownName

LOAD = "isl=2000,osl=200,rate=30"
ASKED: dict[str, Any] = {"model": DENSE, "cluster": "H100", "workload": LOAD, "slo": SLO}


def test_a_name_alone_is_as_many_as_are_needed_and_commas_are_a_choice() -> None:
    (pool,) = parse_cluster("H100").pools
    assert (pool.gpu, pool.gpus, pool.as_needed) == ("H100-SXM", 8, True)
    assert not parse_cluster("H100").choose
    several = parse_cluster("H100, 16xH200")
    assert several.choose
    assert [(pool.gpus, pool.as_needed) for pool in several.pools] == [(8, True), (16, False)]
    assert [pool.as_needed for pool in parse_cluster("8xH100+H200").pools] == [False, True]
    assert parse_cluster("p5.48xlarge").pools[0].as_needed


@pytest.mark.parametrize("text", ["H101", "H100,H101", "8xH100,H101", "H100,,H200", ","])
def test_names_that_nobody_knows_are_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_cluster(text)
    assert "cluster" in caught.value.message


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"workload": "isl=2000,osl=200"}, "as many H100-SXM as are needed says nothing without a rate"),
        ({"objective": "latency"}, "latency has no end where there are as many H100-SXM as are needed"),
        ({"headroom": "much"}, "'much' is not a share"),
        ({"headroom": -0.1}, "headroom: -0.1 should be greater than or equal to 0"),
        ({"headroom": "20%", "workload": "isl=2000,osl=200", "cluster": "8xH100"}, "there is no rate to plan for more"),
        ({"cluster": {"name": "c", "pools": [{"gpu": "H100", "gpus": 8, "as_needed": True}]}}, "has a number of GPUs"),
    ],
)
def test_what_says_too_little_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises((InputError, UnknownName), match=named) as caught:
        parse_request({**ASKED, **fields})
    assert caught.value.hint


@pytest.mark.parametrize("share", [-0.1, 11])
def test_a_headroom_out_of_range_is_told_the_range(share: float) -> None:
    with pytest.raises(InputError, match="headroom") as caught:
        parse_request({**ASKED, "headroom": share})
    assert caught.value.hint == "give a share from 0 to 10, e.g. 0.2 or 20%"


def test_headroom_is_a_share_of_the_rate(planned: Any) -> None:
    assert parse_request({**ASKED, "headroom": "20%"}).headroom == pytest.approx(0.2)
    more = planned(DENSE, "4xH100", "isl=2000,osl=200,rate=10", SLO, headroom="20%")
    same = planned(DENSE, "4xH100", "isl=2000,osl=200,rate=12", SLO)
    assert more.request.workload.rate_rps == pytest.approx(12)
    assert more.request.headroom == pytest.approx(0.2)
    assert more.decision == same.decision


@pytest.mark.parametrize("rate", [3, 30, 300])
def test_the_fewest_gpus_that_do_are_taken(planned: Any, rate: float) -> None:
    load = f"isl=2000,osl=200,rate={rate}"
    plan = planned(DENSE, "H100", load, SLO)
    (pool,) = plan.request.cluster.pools
    assert pool.as_needed
    assert pool.gpus == plan.decision.gpus_used
    assert plan.decision.gpus_idle == 0
    again = planned(DENSE, f"{pool.gpus}xH100", load, SLO)
    assert again.decision == plan.decision
    if pool.gpus > 1:
        with pytest.raises(Infeasible):
            planned(DENSE, f"{pool.gpus - 1}xH100", load, SLO)
    assert parse_plan(plan.to_json()) == plan


def test_a_model_larger_than_a_node_gets_more_nodes(planned: Any) -> None:
    plan = planned("meta-llama/Llama-3.1-405B", "A100-SXM-80GB", "isl=1000,osl=100,rate=0.1")
    assert plan.request.cluster.pools[0].gpus > 8


def test_where_more_gpus_do_not_help_the_reason_is_said(planned: Any) -> None:
    with pytest.raises(Infeasible, match="tpot_p90"):
        planned(DENSE, "H100", LOAD, "tpot=0.1ms")


def test_of_pools_to_choose_from_the_best_is_taken_and_each_is_told(planned: Any) -> None:
    plan = planned(DENSE, "H100,H200,L40S", LOAD, SLO)
    alone = {name: planned(DENSE, name, LOAD, SLO) for name in ("H100", "H200", "L40S")}
    rows = {row.name: row for row in plan.alternatives.clusters}
    for each in alone.values():
        row = rows[each.request.cluster.pools[0].name]
        assert (row.gpus, row.objective_value) == (each.decision.gpus_used, each.proof.objective_value)
        assert plan.proof.objective_value <= each.proof.objective_value * (1 + 1e-9)
    (chosen,) = [row for row in rows.values() if row.chosen]
    assert chosen.objective_value == plan.proof.objective_value
    assert chosen.loses_by == 0
    if len(plan.request.cluster.pools) > 1:
        assert plan.proof.objective_value < 0.98 * min(each.proof.objective_value for each in alone.values())


def test_without_a_rate_one_of_the_pools_is_chosen(planned: Any) -> None:
    plan = planned(DENSE, "2xH100,2xH200", "isl=2000,osl=200", SLO)
    one, other = (planned(DENSE, name, "isl=2000,osl=200", SLO).proof.objective_value for name in ("2xH100", "2xH200"))
    assert plan.proof.objective_value == max(one, other)
    assert len(plan.request.cluster.pools) == 1


def test_a_pool_that_cannot_serve_is_told_with_its_reason(planned: Any) -> None:
    plan = planned("meta-llama/Llama-3.1-70B", "1xL4,4xH200", "isl=2000,osl=200")
    (row,) = [row for row in plan.alternatives.clusters if row.name == "L4"]
    assert row.gpus is None
    assert row.reason
    with pytest.raises(Infeasible, match=r"none of the pools serves it: L4: .*; T4: "):
        planned("meta-llama/Llama-3.1-70B", "1xL4,1xT4", "isl=2000,osl=200", precision="bf16")
