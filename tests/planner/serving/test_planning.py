"""Plans as a whole: what may never get worse, what stays the same, and what a plan says."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from cases import CLOSE, DENSE, EXPERTS, LATENT, SLO, WINDOWS, WORKLOAD

from costmodels.models.registry import BUNDLED
from costmodels.serving.frameworks.framework import find_framework
from planner.contract.models import read_model
from planner.replay.report import drawn_load, simulate_plan
from planner.serving.document.plan import Plan
from planner.serving.planning import plan
from profiles.errors import Unsupported
from profiles.store import ProfileStore

Planned = Callable[..., Plan]


def throughput(p: Plan) -> float:
    """Of the best plan, proved: the one that was made may be the simplest within 2 % of it."""
    assert p.proof.objective == "throughput"
    assert p.proof.bound is not None
    assert p.proof.objective_value >= 0.98 * p.proof.bound
    return p.proof.bound


# --- what may never get worse ---


@pytest.mark.parametrize("model", [DENSE, EXPERTS, "Qwen/Qwen3-32B"])
@pytest.mark.parametrize("gpus", [1, 3, 5, *(pytest.param(each, marks=pytest.mark.slow) for each in (8, 12))])
def test_twice_the_gpus_are_never_worse_per_gpu_than_two_copies_of_half(
    planned: Planned, model: str, gpus: int
) -> None:
    half = throughput(planned(model, f"{gpus}xH100", WORKLOAD, SLO))
    double = throughput(planned(model, f"{2 * gpus}xH100", WORKLOAD, SLO))
    assert double * CLOSE >= 2 * half


@pytest.mark.parametrize(
    ("nodes", "per_node"), [(1, 6), (3, 4), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((5, 2), (1, 7)))]
)
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
    assert all(more * CLOSE >= less for less, more in itertools.pairwise(rates))


@pytest.mark.parametrize("model", [DENSE, pytest.param(EXPERTS, marks=pytest.mark.slow)])
def test_a_looser_slo_never_lowers_throughput(planned: Planned, model: str) -> None:
    rates = [
        throughput(planned(model, "8xH100", WORKLOAD, f"ttft={0.3 * loose:g}s,tpot={10 * loose:g}ms"))
        for loose in (1, 1.05, 1.2, 1.5, 2, 3, 5, 10)
    ]
    rates.append(throughput(planned(model, "8xH100", WORKLOAD)))
    assert all(looser * CLOSE >= tighter for tighter, looser in itertools.pairwise(rates))
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


def test_another_solver_finds_the_same_optimum_and_is_named(planned: Planned) -> None:
    work = f"{WORKLOAD},rate=20"
    for goal in ("cost", "gpus"):
        ours, other = (
            planned(DENSE, "4xH100 + 3xA100", work, SLO, objective=goal, disaggregation="never", solver=solver)
            for solver in ("highs", "cp-sat")
        )
        assert ours.proof.objective_value == pytest.approx(other.proof.objective_value)
        assert "CP-SAT" in other.proof.engine
        assert "CP-SAT" not in ours.proof.engine


def test_a_solver_of_whole_numbers_refuses_shares(planned: Planned) -> None:
    with pytest.raises(Unsupported, match="cp-sat takes whole-number variables only"):
        planned(DENSE, "4xH100", WORKLOAD, SLO, disaggregation="always", solver="cp-sat")


def test_two_pools_reach_what_they_reach_one_by_one(planned: Planned) -> None:
    def alone(cluster: str) -> float:
        return throughput(planned(DENSE, cluster, WORKLOAD, SLO, disaggregation="never"))

    together = alone("4xH100 + 3xA100")
    assert together == pytest.approx(
        alone("4xH100") + alone("3xA100"), rel=0.02
    )  # a simpler plan may be taken within 2 %
    # One pool that prefills for the other does more than either by itself.
    assert throughput(planned(DENSE, "4xH100 + 3xA100", WORKLOAD, SLO)) >= together


def test_what_a_router_without_weights_carries_is_said(planned: Planned) -> None:
    asked = ("isl=2000,osl=300", "ttft=2s,tpot=50ms")
    two = planned("Qwen/Qwen3-8B", "2xH100+4xL40S", *asked, disaggregation="never")
    assert len(two.decision.engines) > 1
    (note,) = (note for note in two.provenance.notes if "takes no weights" in note)
    told = re.search(r"carries (\S+) of these (\S+) requests/s", note)
    assert told is not None
    rates = [each.rate_rps.value for each in two.prediction.engines]
    engines = sum(len(group.replicas) for group in two.decision.engines)
    assert float(told[1]) == pytest.approx(min(rates) * engines, rel=0.01)
    assert float(told[2]) == pytest.approx(two.prediction.request_rate_rps.value, rel=0.01)
    one = planned("Qwen/Qwen3-8B", "2xH100", *asked, disaggregation="never")
    assert not any("takes no weights" in note for note in one.provenance.notes)


def test_layouts_across_nodes_never_worsen_the_plan_and_can_be_placed(planned: Planned) -> None:
    """A tensor-parallel group over two nodes of 2 GPUs, where memory leaves nothing else."""
    p = planned("Qwen/Qwen3-32B", "2x2xL4", "isl=500,osl=100", tp_across_nodes=True, max_pp=1)
    (group,) = p.decision.engines
    assert group.layout.tp == 4
    assert [(rank.node, rank.gpu) for rank in group.replicas[0].ranks] == [(0, 0), (0, 1), (1, 0), (1, 1)]


# --- the same, again ---


def test_the_same_request_gives_the_same_bytes(planned_from_rows: Planned, measured: ProfileStore) -> None:
    request = {"model": EXPERTS, "cluster": "4xH100 + 2xH200", "workload": f"{WORKLOAD},rate=9", "slo": SLO}
    request |= {"simulation": True}
    first = planned_from_rows(**request).to_json()
    assert plan(request, store=measured).to_json() == first
    again = (
        "import sys, json; from pathlib import Path; from planner import plan; from profiles.store import ProfileStore"
    )
    again += "; sys.stdout.write(plan(json.loads(sys.argv[2]), store=ProfileStore(Path(sys.argv[1]))).to_json())"
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
            "simulation": False,
        },
        store=bare,
    )
    assert long.to_json() == short.to_json()


# --- what a plan says ---


def test_an_ignored_rate_is_said_to_be_ignored(planned: Planned) -> None:
    p = planned(DENSE, "2xH100", f"{WORKLOAD},rate=1", SLO, objective="throughput")
    assert throughput(p) == throughput(planned(DENSE, "2xH100", WORKLOAD, SLO))
    assert any("not for the offered 1 requests/s" in note for note in p.provenance.notes)


def test_a_plan_names_the_release_of_the_framework_and_what_is_as_of_others(planned: Planned) -> None:
    p = planned(DENSE, "2xH100", WORKLOAD, framework="vLLM@0.19")
    assert p.request.framework == "vllm@0.19.1"
    assert p.decision.engines[0].launch.framework == "vllm"
    assert "engines are taken to be vLLM 0.19.1 of 2026-04-18" in p.provenance.notes
    newest = planned(DENSE, "2xH100", WORKLOAD)
    assert newest.request.framework == find_framework("vllm").spec
    assert any("the newest release known here" in note for note in newest.provenance.notes)
    assert any("overheads as of 0.19.0" in note for note in newest.provenance.notes)


def test_a_framework_that_runs_on_no_pool_is_refused_and_one_that_runs_on_some_plans_there(planned: Planned) -> None:
    with pytest.raises(Unsupported, match="framework: TensorRT-LLM does not run on MI300X"):
        planned(DENSE, "2xMI300X", WORKLOAD, framework="trtllm")
    p = planned(DENSE, "2xMI300X+2xH100", WORKLOAD, framework="trtllm")
    assert {group.gpu for group in p.decision.engines} == {"H100-SXM"}


def test_a_workload_that_is_nearly_all_prefill_is_planned(planned: Planned) -> None:
    p = planned(DENSE, "4xH100", "isl=30000,osl=2", disaggregation="never")
    assert all(group.concurrency < 4 for group in p.prediction.engines)
    assert all(0.5 < group.prefill_busy <= 1 for group in p.prediction.engines)
    assert not any("left out" in note for note in p.provenance.notes)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "qwen/qwen3-8b", "qwen3-8B"])
def test_the_launch_command_names_the_model_as_it_is_published(planned: Planned, name: str) -> None:
    (group,) = planned(name, "1xH100", WORKLOAD).decision.engines
    assert "Qwen/Qwen3-8B" in group.launch.command


def test_a_model_given_as_a_file_is_launched_from_it(bare: ProfileStore, tmp_path: Any) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    bundled = json.loads((BUNDLED / "Qwen--Qwen3-8B.json").read_text())
    (folder / "config.json").write_text(json.dumps(bundled["config"]))
    for given in (folder, folder / "config.json"):
        p = plan({"model": read_model(str(given)), "cluster": "1xH100", "workload": WORKLOAD}, store=bare)
        assert p.request.model == "mine"
        assert p.request.config == bundled["config"]
        assert str(folder) in p.decision.engines[0].launch.command


def test_a_model_given_as_an_object_needs_no_file_ever_again(bare: ProfileStore) -> None:
    config = json.loads((BUNDLED / "Qwen--Qwen3-8B.json").read_text())["config"]
    p = plan({"model": {"name": "mine", "config": config}, "cluster": "1xH100", "workload": WORKLOAD}, store=bare)
    assert "mine" in p.decision.engines[0].launch.command
    assert any("stands for its checkpoint" in note for note in p.decision.engines[0].launch.notes)
    load = drawn_load(p, 1.0, 50)
    assert simulate_plan(p, load, "drawn", store=bare).served == 50


# --- on the measurements that ship ---


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("model", [EXPERTS, "openai/gpt-oss-20b", WINDOWS, LATENT])
def test_every_kind_of_model_plans_from_the_shipped_measurements(model: str, framework: str) -> None:
    p = plan({"model": model, "cluster": "8xH100", "workload": WORKLOAD, "slo": "tpot=50ms", "framework": framework})
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
        assert all(looser * CLOSE >= tighter for tighter, looser in itertools.pairwise(rates))
