"""What else there was: ranked by the plan's own objective, and the frontier of speed against throughput."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from cases import DENSE, EXPERTS, SLO, WORKLOAD

from planner.contract.clusters import Pool
from planner.serving.document.plan import Plan
from planner.serving.report.alternatives import PARETO, RANKED, engines_that_fit
from planner.solving.packing import pieces

Planned = Callable[..., Plan]


def pool(gpus: int, per_node: int) -> Pool:
    return Pool(name="made up", gpu="H100-SXM", gpus=gpus, gpus_per_node=per_node, fabric="ib-400g")


def packed(gpus: int, per_node: int, size: int) -> int:
    """Engines of ``size`` GPUs that pack into the pool, by filling the fullest node that still holds the piece."""
    cut = pieces(size, 1, per_node)
    assert cut is not None
    room = [per_node] * (gpus // per_node) + ([gpus % per_node] if gpus % per_node else [])
    for count in itertools.count(1):
        free = list(room)
        for piece in sorted(cut * count, reverse=True):
            hosts = [node for node in free if node >= piece]
            if not hosts:
                return count - 1
            free.remove(min(hosts))
            free.append(min(hosts) - piece)
    raise AssertionError


@pytest.mark.parametrize("per_node", [1, 2, 4, 8])
def test_engines_that_fit_are_those_that_pack(per_node: int) -> None:
    for gpus, size in itertools.product(range(1, 27), range(1, 27)):
        assert engines_that_fit(pool(gpus, per_node), size) == packed(gpus, per_node, size), (gpus, size)


PLANS = {
    "throughput": {"model": DENSE, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO},
    "experts": {"model": EXPERTS, "cluster": "12xH100", "workload": WORKLOAD, "slo": SLO},
    "cost": {"model": DENSE, "cluster": "8xH100", "workload": f"{WORKLOAD},rate=33", "slo": SLO, "objective": "cost"},
    "gpus": {"model": EXPERTS, "cluster": "8xH200", "workload": f"{WORKLOAD},rate=33", "slo": SLO, "objective": "gpus"},
    "latency": {"model": DENSE, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO, "objective": "latency"},
    "latency at a rate": {
        "model": DENSE,
        "cluster": "8xH100",
        "workload": f"{WORKLOAD},rate=9",
        "slo": SLO,
        "objective": "latency",
    },
    "two pools": {"model": DENSE, "cluster": "4xH100 + 4xA100", "workload": WORKLOAD, "slo": SLO},
}


@pytest.fixture(params=PLANS, ids=lambda name: name.replace(" ", "-"))
def any_plan(request: pytest.FixtureRequest, planned: Planned) -> Plan:
    return planned(**PLANS[request.param])


def test_alternatives_are_ranked_and_none_is_better_than_the_plan(any_plan: Plan) -> None:
    losses = [a.loses_by for a in any_plan.alternatives.ranked]
    assert 0 < len(losses) <= RANKED
    assert losses == sorted(losses)
    assert losses[0] >= -1e-9


def test_losses_are_those_of_the_score_against_the_objective(any_plan: Plan) -> None:
    objective, more = any_plan.proof.objective_value, any_plan.proof.objective == "throughput"
    for a in any_plan.alternatives.ranked:
        loss = objective - a.score if more else a.score - objective
        assert a.loses_by == pytest.approx(loss / objective)


def test_every_layout_is_named_once_and_the_chosen_ones_not_at_all(any_plan: Plan) -> None:
    # Alternatives are aggregated engines, whatever is chosen.
    chosen = [(group.pool, group.layout) for group in any_plan.decision.engines if group.role == "aggregated"]
    named = [(a.pool, a.layout) for a in any_plan.alternatives.ranked]
    assert len(set(named + chosen)) == len(named) + len(set(chosen))


def test_alternatives_meet_the_slo_and_could_be_run(any_plan: Plan) -> None:
    pools = {p.name: p for p in any_plan.request.cluster.pools}
    limits = {bound.metric: bound.limit_ms for bound in any_plan.request.slo.bounds}
    for a in any_plan.alternatives.ranked:
        assert a.meets_slo
        assert a.ttft_ms <= limits["ttft"]
        assert a.tpot_ms <= limits["tpot"]
        assert a.gpus_per_engine == a.layout.gpus
        assert 1 <= a.engines <= engines_that_fit(pools[a.pool], a.gpus_per_engine)
        assert a.gpus == a.engines * a.gpus_per_engine
        price = pools[a.pool].usd_per_gpu_hour
        assert price is not None
        assert a.usd_per_hour == pytest.approx(a.gpus * price)
        rate = any_plan.request.workload.rate_rps
        if rate is not None:
            assert a.engines * a.engine_rate_rps >= rate * (1 - 1e-9)


def test_scores_are_in_the_unit_of_the_objective(any_plan: Plan) -> None:
    for a in any_plan.alternatives.ranked:
        expected = {
            "throughput": a.engines * a.engine_rate_rps,
            "cost": a.usd_per_hour,
            "gpus": a.gpus,
        }.get(any_plan.proof.objective)
        if expected is not None:
            assert a.score == pytest.approx(expected)


def test_no_point_of_the_frontier_beats_another(any_plan: Plan) -> None:
    points = any_plan.alternatives.pareto
    assert 1 < len(points) <= PARETO
    speed = [p.output_tokens_per_s_per_user for p in points]
    throughput = [p.output_tokens_per_s_per_gpu for p in points]
    assert speed == sorted(speed, reverse=True)
    assert throughput == sorted(throughput)
    assert len(set(speed)) == len(set(throughput)) == len(points)


def test_the_frontier_shows_what_lies_outside_the_slo_too(planned: Planned) -> None:
    p = planned(DENSE, "8xH100", WORKLOAD, "tpot=6ms")
    free = planned(DENSE, "8xH100", WORKLOAD)
    assert {point.meets_slo for point in p.alternatives.pareto} == {True, False}
    assert all(point.meets_slo for point in free.alternatives.pareto)
    alike = [point.model_dump(exclude={"meets_slo"}) for point in p.alternatives.pareto]
    assert alike == [point.model_dump(exclude={"meets_slo"}) for point in free.alternatives.pareto]


def test_nothing_within_the_slo_has_more_throughput_per_gpu_than_the_frontier(planned: Planned) -> None:
    p = planned(DENSE, "8xH100", WORKLOAD)
    best = max(a.output_tokens_per_s_per_gpu for a in p.alternatives.ranked)
    # The frontier is of the grid; the finer search between its points may find a little more.
    assert p.alternatives.pareto[-1].output_tokens_per_s_per_gpu >= 0.95 * best


def test_a_pool_without_a_price_has_alternatives_without_a_cost(planned: Planned) -> None:
    unpriced = {"name": "ours", "pools": [{"gpu": "H100-SXM", "gpus": 4, "usd_per_gpu_hour": None}]}
    p = planned(DENSE, unpriced, WORKLOAD, SLO)
    assert p.decision.usd_per_hour is None
    assert p.prediction.usd_per_million_output_tokens is None
    assert p.alternatives.ranked
    assert all(a.usd_per_hour is None for a in p.alternatives.ranked)


def test_where_there_is_only_one_layout_there_is_no_alternative(planned: Planned) -> None:
    assert planned(DENSE, "1xH100", WORKLOAD).alternatives.ranked == ()
