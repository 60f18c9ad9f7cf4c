"""Plans as a whole: what may never get worse, what must add up, and what every plan keeps of its own promises."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from planner.planning import plan
from planner.plans import Interval, Latency, Plan
from planner.prediction import confidence
from profiles.store import ProfileStore

Planned = Callable[..., Plan]
CLOSE = 1 + 1e-9

DENSE, EXPERTS, WINDOWS, LATENT = (
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-30B-A3B",
    "google/gemma-3-12b-it",
    "deepseek-ai/DeepSeek-V2-Lite",
)
WORKLOAD, SLO = "isl=2000,osl=200", "ttft=1s,tpot=25ms"


def throughput(p: Plan) -> float:
    assert p.proof.objective == "throughput"
    return p.proof.objective_value


# --- what may never get worse ---


@pytest.mark.parametrize("model", [DENSE, EXPERTS, "Qwen/Qwen3-32B"])
@pytest.mark.parametrize("gpus", [1, 3, 5, 8, 12])
def test_twice_the_gpus_are_never_worse_per_gpu_than_two_copies_of_half(
    planned: Planned, model: str, gpus: int
) -> None:
    half = throughput(planned(model, f"{gpus}xH100", WORKLOAD, SLO))
    double = throughput(planned(model, f"{2 * gpus}xH100", WORKLOAD, SLO))
    assert double * CLOSE >= 2 * half


@pytest.mark.parametrize(("nodes", "per_node"), [(1, 6), (3, 4), (5, 2), (1, 7)])
def test_twice_the_nodes_are_never_worse_per_gpu_than_two_copies_of_half(
    planned_from_rows: Planned, nodes: int, per_node: int
) -> None:
    for model in (DENSE, EXPERTS):
        half = throughput(planned_from_rows(model, f"{nodes}x{per_node}xH200", WORKLOAD, SLO))
        double = throughput(planned_from_rows(model, f"{2 * nodes}x{per_node}xH200", WORKLOAD, SLO))
        assert double * CLOSE >= 2 * half


@pytest.mark.parametrize("model", [DENSE, EXPERTS])
def test_more_gpus_never_lower_throughput(planned: Planned, model: str) -> None:
    rates = [throughput(planned(model, f"{gpus}xH100", WORKLOAD, SLO)) for gpus in (1, 2, 3, 5, 6, 8, 10, 12, 16, 24)]
    assert all(more * CLOSE >= less for less, more in zip(rates, rates[1:], strict=False))


@pytest.mark.parametrize("model", [DENSE, EXPERTS])
def test_a_looser_slo_never_lowers_throughput(planned: Planned, model: str) -> None:
    rates = [
        throughput(planned(model, "8xH100", WORKLOAD, f"ttft={0.3 * loose:g}s,tpot={10 * loose:g}ms"))
        for loose in (1, 1.05, 1.2, 1.5, 2, 3, 5, 10)
    ]
    rates.append(throughput(planned(model, "8xH100", WORKLOAD)))
    assert all(looser * CLOSE >= tighter for tighter, looser in zip(rates, rates[1:], strict=False))
    assert rates[-1] > rates[0]


def test_a_looser_slo_never_costs_more(planned: Planned) -> None:
    costs = [
        planned(DENSE, "8xH100", f"{WORKLOAD},rate=15", f"tpot={tpot}ms").proof.objective_value
        for tpot in (7, 8, 10, 15, 25, 60)
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


def test_a_lower_percentile_or_less_confidence_never_lowers_throughput(planned_from_rows: Planned) -> None:
    by_percentile = [
        throughput(planned_from_rows(DENSE, "4xH100", WORKLOAD, f"ttft_p{p}=300ms,tpot_p{p}=12ms"))
        for p in (99, 90, 50)
    ]
    assert by_percentile == sorted(by_percentile)
    by_confidence = [
        throughput(planned_from_rows(DENSE, "4xH100", WORKLOAD, "tpot=12ms", confidence=c)) for c in (0.9, 0.5, 0.2)
    ]
    assert by_confidence == sorted(by_confidence)


@pytest.mark.parametrize("objective", ["cost", "gpus"])
def test_a_higher_rate_never_costs_less(planned: Planned, objective: str) -> None:
    values = [
        planned(DENSE, "8xH100", f"{WORKLOAD},rate={rate}", SLO, objective=objective).proof.objective_value
        for rate in (0.1, 1, 10, 20, 40, 60, 80)
    ]
    assert values == sorted(values)
    assert values[-1] > values[0]


def test_another_pool_never_worsens_the_plan(planned: Planned) -> None:
    alone = throughput(planned(DENSE, "4xH100", WORKLOAD, SLO))
    both = throughput(planned(DENSE, "4xH100 + 3xA100", WORKLOAD, SLO))
    assert both > alone
    for goal, rate in (("cost", 20), ("gpus", 20), ("latency", 5)):
        work = f"{WORKLOAD},rate={rate}"
        alone = planned(DENSE, "4xH100", work, SLO, objective=goal).proof.objective_value
        both = planned(DENSE, "4xH100 + 4xH200 + 2xL4", work, SLO, objective=goal).proof.objective_value
        assert both <= alone * CLOSE


def test_two_pools_reach_what_they_reach_one_by_one(planned: Planned) -> None:
    together = throughput(planned(DENSE, "4xH100 + 3xA100", WORKLOAD, SLO))
    apart = [throughput(planned(DENSE, cluster, WORKLOAD, SLO)) for cluster in ("4xH100", "3xA100")]
    assert together == pytest.approx(sum(apart))


def test_layouts_across_nodes_never_worsen_the_plan_and_can_be_placed(planned: Planned) -> None:
    """A tensor-parallel group over two nodes of 2 GPUs, where memory leaves nothing else."""
    p = planned("Qwen/Qwen3-32B", "2x2xL4", "isl=500,osl=100", tp_across_nodes=True, max_pp=1)
    (group,) = p.decision.engines
    assert group.layout.tp == 4
    assert [(rank.node, rank.gpu) for rank in group.replicas[0].ranks] == [(0, 0), (0, 1), (1, 0), (1, 1)]


# --- the same, again ---


def test_the_same_request_gives_the_same_bytes(planned_from_rows: Planned, measured: ProfileStore) -> None:
    request = {"model": EXPERTS, "cluster": "4xH100 + 2xH200", "workload": f"{WORKLOAD},rate=9", "slo": SLO}
    first = planned_from_rows(**request).to_json()
    assert plan(request, store=measured).to_json() == first
    again = (
        "import sys, json; from pathlib import Path; from planner import plan; from profiles.store import ProfileStore"
    )
    again += "; sys.stdout.write(plan(json.loads(sys.argv[2]), store=ProfileStore(Path(sys.argv[1]))).to_json())"
    import json

    fresh = subprocess.run(
        [sys.executable, "-c", again, str(measured.path), json.dumps(request)],
        capture_output=True,
        env=os.environ | {"PYTHONHASHSEED": "7"},
        check=False,
    )
    assert fresh.stderr == b""
    assert fresh.stdout.decode() == first


def test_the_short_forms_and_the_objects_they_stand_for_give_the_same_plan(
    planned: Planned, bare: ProfileStore
) -> None:
    short = planned(DENSE, "4xH100", WORKLOAD, SLO)
    request = short.request
    long = plan(
        {
            "model": request.model,
            "cluster": {
                "name": "4xH100",
                "pools": [{"gpu": "H100-SXM", "gpus": 4}],
            },
            "workload": {"isl": 2000, "osl": 200},
            "slo": {"bounds": [{"metric": "ttft", "limit_ms": 1000}, {"metric": "tpot", "limit_ms": 25}]},
        },
        store=bare,
    )
    assert long.to_json() == short.to_json()


# --- what every plan keeps ---

EVERY: dict[str, dict[str, Any]] = {
    "dense": {"model": DENSE, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO},
    "several nodes": {"model": "Qwen/Qwen3-32B", "cluster": "2x8xH200", "workload": "isl=4000,osl=500", "slo": SLO},
    "a rest of a node": {"model": DENSE, "cluster": "11xH100", "workload": WORKLOAD, "slo": SLO},
    "experts": {"model": EXPERTS, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO},
    "windows": {"model": WINDOWS, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO},
    "windows and experts": {"model": "openai/gpt-oss-20b", "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO},
    "latent": {"model": LATENT, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO},
    "too large for a node": {"model": "deepseek-ai/DeepSeek-V3", "cluster": "16xH100", "workload": "isl=500,osl=100"},
    "sglang": {"model": EXPERTS, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO, "framework": "sglang"},
    "trtllm": {"model": EXPERTS, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO, "framework": "trtllm"},
    "two pools": {"model": DENSE, "cluster": "4xH100 + 5xA100", "workload": WORKLOAD, "slo": SLO},
    "at least cost": {"model": DENSE, "cluster": "8xH100", "workload": f"{WORKLOAD},rate=33", "slo": SLO},
    "at least cost of two": {
        "model": DENSE,
        "cluster": "2xH100 + 3xL40S",
        "workload": f"{WORKLOAD},rate=25",
        "slo": "tpot=50ms",
    },
    "on fewest GPUs": {
        "model": DENSE,
        "cluster": "8xH100",
        "workload": f"{WORKLOAD},rate=33",
        "slo": SLO,
        "objective": "gpus",
    },
    "fastest": {"model": DENSE, "cluster": "8xH100", "workload": WORKLOAD, "objective": "latency"},
    "fastest at a rate": {
        "model": DENSE,
        "cluster": "8xH100",
        "workload": f"{WORKLOAD},rate=7",
        "slo": SLO,
        "objective": "latency",
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
            if bound.percentile == 90:
                assert getattr(engine, f"{bound.metric}_ms").p90.value <= bound.limit_ms


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
    assert sum(replica.weight for replica in replicas) == pytest.approx(1)
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
    tokens = any_plan.request.workload.isl + any_plan.request.workload.osl
    for group, engine in zip(any_plan.decision.engines, any_plan.prediction.engines, strict=True):
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
            assert isinstance(latency, Latency)
            assert latency.p50.value <= latency.p90.value <= latency.p99.value


def test_the_proof_bounds_the_objective_and_agrees_with_the_decision(any_plan: Plan) -> None:
    proof, decision, prediction = any_plan.proof, any_plan.decision, any_plan.prediction
    assert proof.status == "optimal"
    assert proof.gap == 0
    assert proof.bound == pytest.approx(proof.objective_value)
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
        assert prediction.e2e_ms.mean.value <= proof.objective_value * CLOSE


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


# --- what a plan says ---


def test_an_ignored_rate_is_said_to_be_ignored(planned: Planned) -> None:
    p = planned(DENSE, "2xH100", f"{WORKLOAD},rate=1", SLO, objective="throughput")
    assert p.proof.objective_value == throughput(planned(DENSE, "2xH100", WORKLOAD, SLO))
    assert any("not for the offered 1 requests/s" in note for note in p.provenance.notes)


def test_layouts_that_are_not_modelled_are_said_to_be_left_out(planned: Planned) -> None:
    p = planned(DENSE, "4xH100", "isl=30000,osl=2")
    assert any("keeps busy with prefill" in note for note in p.provenance.notes)
    p = planned(DENSE, "4xH100", WORKLOAD)
    assert not any("keeps busy with prefill" in note for note in p.provenance.notes)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "qwen/qwen3-8b", "qwen3-8B"])
def test_the_launch_command_names_the_model_as_it_is_published(planned: Planned, name: str) -> None:
    (group,) = planned(name, "1xH100", WORKLOAD).decision.engines
    assert "Qwen/Qwen3-8B" in group.launch.command


def test_a_model_given_as_a_file_is_launched_from_it(bare: ProfileStore, tmp_path: Any) -> None:
    import json

    from costmodels.registry import BUNDLED

    folder = tmp_path / "mine"
    folder.mkdir()
    bundled = json.loads((BUNDLED / "Qwen--Qwen3-8B.json").read_text())
    (folder / "config.json").write_text(json.dumps(bundled["config"]))
    for given in (folder, folder / "config.json"):
        p = plan({"model": str(given), "cluster": "1xH100", "workload": WORKLOAD}, store=bare)
        assert p.request.model == "mine"
        assert str(folder) in p.decision.engines[0].launch.command


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


# --- on the measurements that ship ---


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("model", [EXPERTS, "openai/gpt-oss-20b", WINDOWS, LATENT])
def test_every_kind_of_model_plans_from_the_shipped_measurements(model: str, framework: str) -> None:
    p = plan({"model": model, "cluster": "8xH100", "workload": WORKLOAD, "slo": "tpot=50ms", "framework": framework})
    assert p.proof.status == "optimal"
    assert p.provenance.pack != "synthetic"


@pytest.mark.slow
def test_a_looser_slo_never_lowers_throughput_on_the_shipped_measurements() -> None:
    for model, cluster in (("Qwen/Qwen3-32B", "16xH200"), (EXPERTS, "8xH100")):
        rates = [
            throughput(
                plan(
                    {
                        "model": model,
                        "cluster": cluster,
                        "workload": "isl=4000,osl=500",
                        "slo": f"ttft={loose:g}s,tpot={15 * loose:g}ms",
                    }
                )
            )
            for loose in (1, 1.1, 1.3, 1.6, 2, 3)
        ]
        assert all(looser * CLOSE >= tighter for tighter, looser in zip(rates, rates[1:], strict=False))
