"""What every plan keeps, whatever was asked: its own promises, sums that add up, a proof that agrees with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from cases import CLOSE, DENSE, EXPERTS, ONE_EACH, SLO, WORKLOAD

from planner.contract.quantities import Interval, Latency
from planner.serving.document.plan import Plan
from planner.serving.report.prediction import confidence

Planned = Callable[..., Plan]


EVERY: dict[str, dict[str, Any]] = {
    **ONE_EACH,
    "a rest of a node": {"model": DENSE, "cluster": "11xH100", "workload": WORKLOAD, "slo": SLO},
    "windows and experts": {"model": "openai/gpt-oss-20b", "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO},
    "too large for a node": {"model": "deepseek-ai/DeepSeek-V3", "cluster": "16xH100", "workload": "isl=500,osl=100"},
    "sglang": {"model": EXPERTS, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO, "framework": "sglang"},
    "trtllm": {"model": EXPERTS, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO, "framework": "trtllm"},
    "two pools": {"model": DENSE, "cluster": "4xH100 + 5xA100", "workload": WORKLOAD, "slo": SLO},
    "at least cost": {"model": DENSE, "cluster": "8xH100", "workload": f"{WORKLOAD},rate=33", "slo": SLO},
    "at least cost of two": {
        "model": DENSE,
        "cluster": "2xH100 + 3xL40S",
        "workload": f"{WORKLOAD},rate=20",
        "slo": "tpot=50ms",
    },
    "on fewest GPUs": {
        "model": DENSE,
        "cluster": "8xH100",
        "workload": f"{WORKLOAD},rate=33",
        "slo": SLO,
        "objective": "gpus",
    },
    "without a promise": {"model": DENSE, "cluster": "3xH100", "workload": WORKLOAD},
    "sure": {"model": DENSE, "cluster": "4xH100", "workload": WORKLOAD, "slo": SLO, "confidence": 0.9},
    "one token out": {"model": DENSE, "cluster": "2xH100", "workload": "isl=500,osl=1", "slo": "ttft=1s"},
    "one token in": {"model": DENSE, "cluster": "2xH100", "workload": "isl=1,osl=500", "slo": "tpot=20ms"},
    "prompts of many chunks": {"model": DENSE, "cluster": "4xH100", "workload": "isl=30000,osl=1000"},
}


@pytest.fixture(params=EVERY, ids=lambda name: name.replace(" ", "-"))
def any_plan(request: pytest.FixtureRequest, planned_from_rows: Planned) -> Plan:
    return planned_from_rows(**EVERY[request.param])


def test_predictions_meet_the_slo_by_the_plans_own_numbers(any_plan: Plan) -> None:
    p = any_plan
    assert len(p.prediction.slo) == len(p.request.slo.bounds)
    for check in p.prediction.slo:
        assert check.predicted.value <= check.limit_ms
        assert check.margin >= 0
        assert p.request.confidence - 1e-9 <= check.confidence <= 1
        stated = getattr(p.prediction, f"{check.metric}_ms")
        if check.percentile == 90:
            assert check.predicted == stated.p90
    for engine in p.prediction.engines:
        for bound in p.request.slo.bounds:
            stated = getattr(engine, f"{bound.metric}_ms")
            if bound.percentile == 90 and stated is not None:
                assert stated.p90.value <= bound.limit_ms


def test_no_gpu_is_used_twice_and_all_are_accounted_for(any_plan: Plan) -> None:
    decision, pools = any_plan.decision, {pool.name: pool for pool in any_plan.request.cluster.pools}
    used: list[tuple[str, int, int]] = []
    for group in decision.engines:
        layout = group.layout
        assert group.gpus_per_engine == layout.gpus == layout.tp * layout.pp * layout.dp
        assert layout.ep * layout.moe_tp == layout.tp * layout.dp
        for replica in group.replicas:
            assert [rank.rank for rank in replica.ranks] == list(range(layout.gpus))
            used += [(group.pool, rank.node, rank.gpu) for rank in replica.ranks]
            per_node = pools[group.pool].gpus_per_node
            for first in range(0, layout.gpus, layout.tp):
                nodes = {rank.node for rank in replica.ranks[first : first + layout.tp]}
                assert len(nodes) == max(1, layout.tp // per_node)
    assert len(set(used)) == len(used) == decision.gpus_used
    assert decision.gpus_used + decision.gpus_idle == sum(pool.gpus for pool in pools.values())
    for name, node, gpu in used:
        assert node * pools[name].gpus_per_node + gpu < pools[name].gpus
        assert gpu < pools[name].gpus_per_node


def test_routing_weights_sum_to_one_and_load_no_engine_above_its_rate(any_plan: Plan) -> None:
    p = any_plan
    replicas = [replica for group in p.decision.engines for replica in group.replicas]
    for role in {group.role for group in p.decision.engines}:
        of_role = [r for group in p.decision.engines if group.role == role for r in group.replicas]
        assert sum(replica.weight for replica in of_role) == pytest.approx(1)
    assert all(replica.weight > 0 for replica in replicas)
    assert len({replica.id for replica in replicas}) == len(replicas)
    served = p.prediction.request_rate_rps.value
    for group, engine in zip(p.decision.engines, p.prediction.engines, strict=True):
        assert engine.engine == group.id
        assert engine.load_rps <= engine.rate_rps.value * CLOSE
        assert engine.load_rps == pytest.approx(served * group.replicas[0].weight)
    assert 0 < p.prediction.utilisation <= 1
    asked = p.request.workload.rate_rps
    if asked is not None:
        assert served == asked


def test_memory_adds_up_to_the_gpu_and_holds_what_the_limits_admit(any_plan: Plan) -> None:
    work = any_plan.request.workload
    for group, engine in zip(any_plan.decision.engines, any_plan.prediction.engines, strict=True):
        tokens = work.isl + (0 if group.role == "prefill" else work.osl)
        parts = engine.memory.model_dump()
        total, kv_tokens = parts.pop("total_bytes"), parts.pop("kv_tokens")
        assert sum(parts.values()) == pytest.approx(total)
        assert all(part >= 0 for part in parts.values())
        assert group.limits.max_sequences * tokens <= kv_tokens + tokens  # kv_tokens is rounded down
        assert group.limits.max_sequences > engine.concurrency
        assert group.limits.max_model_len >= tokens


def intervals(value: Any) -> list[Interval]:
    if isinstance(value, Interval):
        return [value]
    if isinstance(value, tuple):
        return [found for item in value for found in intervals(item)]
    if hasattr(value, "model_fields_set"):
        return [found for name in type(value).model_fields for found in intervals(getattr(value, name))]
    return []


def test_intervals_are_in_order_and_percentiles_rise(any_plan: Plan) -> None:
    found = intervals(any_plan.prediction)
    assert len(found) > 20
    for interval in found:
        assert 0 <= interval.low <= interval.value <= interval.high < math.inf
    for engine in (any_plan.prediction, *any_plan.prediction.engines):
        for latency in (engine.ttft_ms, engine.tpot_ms, engine.e2e_ms):
            if latency is None:
                continue
            assert isinstance(latency, Latency)
            assert latency.p95 is not None
            assert latency.p50.value <= latency.p90.value <= latency.p95.value <= latency.p99.value


def test_the_proof_bounds_the_objective_and_agrees_with_the_decision(any_plan: Plan) -> None:
    proof, decision, prediction = any_plan.proof, any_plan.decision, any_plan.prediction
    if proof.simplest_within is None:
        assert proof.status == "optimal"
        assert proof.gap == 0
        assert proof.bound == pytest.approx(proof.objective_value)
    else:
        assert proof.status == "feasible"
        assert 0 < proof.gap < 2 * proof.simplest_within
    assert proof.binding_constraint
    assert proof.operating_points_within_slo <= proof.operating_points
    assert 0 < proof.layouts_legal <= proof.layouts_considered
    value = {
        "throughput": prediction.request_rate_rps.value,
        "cost": decision.usd_per_hour,
        "gpus": decision.gpus_used,
    }.get(proof.objective)
    if value is not None:
        assert proof.objective_value == pytest.approx(value)
    else:
        # Of aggregated engines the objective is a bound: at their capacity. Disaggregated, it is the mean over all
        # engines.
        apart = prediction.kv_transfer is not None
        # The engine is taken at the load that it carries, found to 1e-7.
        assert apart or prediction.e2e_ms.mean.value <= proof.objective_value * (1 + 1e-6)


def test_refused_layouts_and_points_are_all_accounted_for(any_plan: Plan) -> None:
    proof = any_plan.proof
    points = sum(r.count for r in proof.rejected if r.reason.startswith("operating points"))
    layouts = sum(r.count for r in proof.rejected) - points
    assert points == proof.operating_points - proof.operating_points_within_slo
    assert layouts == proof.layouts_considered - proof.layouts_legal
    counts = [r.count for r in proof.rejected]
    assert counts == sorted(counts, reverse=True)
    assert len({r.reason for r in proof.rejected}) == len(counts)


def test_derived_figures_follow_from_the_rate(any_plan: Plan) -> None:
    p, prediction = any_plan, any_plan.prediction
    tokens = prediction.request_rate_rps.value * p.request.workload.osl
    assert prediction.output_tokens_per_s.value == pytest.approx(tokens)
    assert prediction.output_tokens_per_s_per_gpu.value == pytest.approx(tokens / p.decision.gpus_used)
    assert prediction.joules_per_output_token.value == pytest.approx(prediction.power_watts.value / tokens)
    if p.decision.usd_per_hour is None:
        assert prediction.usd_per_million_output_tokens is None
    else:
        usd = p.decision.usd_per_hour / 3600 / tokens * 1e6
        assert prediction.usd_per_million_output_tokens is not None
        assert prediction.usd_per_million_output_tokens.value == pytest.approx(usd)


@pytest.mark.parametrize(
    ("value", "low", "high", "limit", "expected"),
    [
        (10, 8, 12, 10, 0.5),
        (10, 8, 12, 12, 0.9),
        (10, 8, 12, 8, 0.1),
        (10, 10, 10, 11, 1.0),
        (10, 10, 10, 9, 0.0),
        (10, 10, 10, 10, 0.5),
        (10, 0, 12, 9, 0.5),
    ],
)
def test_confidence_is_even_at_the_prediction_and_nine_in_ten_at_its_upper_end(
    value: float, low: float, high: float, limit: float, expected: float
) -> None:
    assert confidence(Interval(value=value, low=low, high=high), limit) == pytest.approx(expected, abs=0.01)
