"""At low load: what an engine does that is idle most of the time, the search finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from costmodels.estimates import Estimates, Floats
from costmodels.kernels.cost_model import CostModel
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.serving.closed_loop.open_client import OpenLoad, open_loop
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.recipe import Recipe
from planner.contract.clusters import parse_cluster
from planner.contract.workload.workload import parse_workload
from planner.serving.operating_points import served_on
from planner.serving.planning import plan
from profiles.hardware import find_gpu
from profiles.store import ProfileStore

DENSE, EXPERTS = "Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B"

SPARE = 1.25
"""Bounds ÷ what ``plan predict`` says: lengths are spread there, and its percentiles are of few requests."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "request_",
    [
        {
            "model": "meta-llama/Llama-3.1-70B",
            "cluster": "4xB200",
            "framework": "sglang",
            "slo": "ttft_p99=0.3s,tpot_p99=30ms",
            "workload": "isl=2000,osl=50,rate=0.01",
            "disaggregation": "never",
        },
        {
            "model": "meta-llama/Llama-3.1-8B",
            "cluster": "1xH100",
            "slo": "tpot=20ms",
            "workload": "isl=64000,osl=500,rate=0.001",
        },
    ],
    ids=["four B200", "a long prompt"],
)
def test_a_promise_that_only_a_nearly_idle_engine_keeps_has_a_plan(request_: dict[str, Any]) -> None:
    p = plan(request_)
    assert all(check.predicted.value <= check.limit_ms for check in p.prediction.slo)
    assert p.prediction.request_rate_rps.value == p.request.workload.rate_rps


def test_the_least_latency_is_that_of_an_idle_engine(bare: ProfileStore) -> None:
    request = {"model": DENSE, "cluster": "1xH100", "workload": "isl=30000,osl=500"}
    fastest = plan({**request, "objective": "latency"}, store=bare)
    idle = plan({**request, "objective": "latency", "workload": "isl=30000,osl=500,rate=1e-6"}, store=bare)
    assert fastest.prediction.e2e_ms.mean.value <= 1.02 * idle.prediction.e2e_ms.mean.value
    # No further down than makes requests faster.
    assert fastest.prediction.request_rate_rps.value > 1e3 * idle.prediction.request_rate_rps.value


def at_low_load(rng: np.random.Generator) -> dict[str, Any]:
    model, tp = ((DENSE, 1), (DENSE, 2), (EXPERTS, 2))[rng.integers(3)]
    return {
        "model": model,
        "tp": tp,
        "gpu": rng.choice(["H100-SXM", "L40S"]),
        "framework": rng.choice(["vllm", "sglang", "trtllm"]),
        "isl": int(np.exp(rng.uniform(np.log(50), np.log(30_000)))),
        "osl": int(np.exp(rng.uniform(np.log(2), np.log(1000)))),
        "rate": float(np.exp(rng.uniform(np.log(1e-4), np.log(0.3)))),
        "percentile": rng.choice(["p50", "p99"]),
    }


def _value(of: Estimates | Floats) -> Floats:
    return of.value if isinstance(of, Estimates) else of


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 9))])
def test_what_predict_says_holds_plan_finds(bare: ProfileStore, seed: int) -> None:
    """Latencies of one layout at a rate, as ``plan predict`` gives them, are a promise that has a plan on its GPUs:
    where the formulas exclude it, the simulation has the last word."""
    rng = np.random.default_rng(seed)
    for case in [at_low_load(rng) for _ in range(20)]:
        p = plan(promised(bare, case), store=bare)
        assert all(check.predicted.value <= check.limit_ms for check in p.prediction.slo), case


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"isl": 8194, "osl": 4, "rate": 0.04, "tp": 1, "framework": "sglang"}, "a p99 of meetings that are rarer"),
        ({"isl": 67, "osl": 3, "rate": 47.4593, "tp": 2}, "a front end that formulas put too slow"),
        ({"isl": 1689, "osl": 63, "rate": 4.97465, "tp": 2}, "a p99 of TTFT"),
    ],
    ids=["rare", "front end", "tail"],
)
def test_what_the_formulas_exclude_is_simulated(bare: ProfileStore, more: dict[str, Any], why: str) -> None:
    case = {"model": DENSE, "gpu": "H100-SXM", "framework": "vllm", "percentile": "p99", **more}
    p = plan(promised(bare, case), store=bare)
    assert all(check.predicted.value <= check.limit_ms for check in p.prediction.slo), why
    assert any("the last word" in note for note in p.provenance.notes)
    assert p.prediction.utilisation <= 1
    (engine,) = p.prediction.engines
    assert engine.rate_rps.value >= p.request.workload.rate_rps


@pytest.mark.parametrize(
    "rate",
    [
        0.042,
        0.0485,
        0.052,
        *(pytest.param(each, marks=pytest.mark.slow) for each in (0.0455, 0.047, 0.05, 0.055, 0.058)),
    ],
)
def test_a_p99_between_two_modes_is_not_refused(bare: ProfileStore, rate: float) -> None:
    """About 1 % of the requests meet another: some seeds say the one p99, some the other, half as long again
    with a whole prompt in a step and ten times as long with parts of it."""
    case = {"model": DENSE, "gpu": "H100-SXM", "framework": "sglang", "percentile": "p99", "tp": 1}
    p = plan(promised(bare, {**case, "isl": 8194, "osl": 4, "rate": rate}), store=bare)
    assert all(check.predicted.value <= check.limit_ms for check in p.prediction.slo)


def promised(bare: ProfileStore, case: dict[str, Any]) -> dict[str, Any]:
    """The request for what :func:`open_loop` says of one layout, bounds :data:`SPARE` above it."""
    isl, osl, tp, percentile = (case[name] for name in ("isl", "osl", "tp", "percentile"))
    cluster = parse_cluster(f"{tp}x{case['gpu']}")
    model = find_architecture(case["model"])
    framework = find_framework(case["framework"])
    cost = CostModel(find_gpu(case["gpu"]), framework.name, bare)
    served = served_on(cluster.pools[0], model, choose_precision(model), framework, cost)
    layout = Layouts.of([(tp, 1, 1, tp if model.is_moe else 1, 1)])
    budget = np.array([max(framework.limits.token_budgets)])
    tokens = int(served.cache_tokens(layout, budget, isl + osl)[0])
    work = parse_workload(f"isl={isl},osl={osl},rate={case['rate']:.6g},routing=balanced")
    load = OpenLoad(work.shape, work.drawn, work.longest_tokens, case["rate"], None)
    started = Recipe(max_num_batched_tokens=int(budget[0])).started(framework, cost.gpu, model)
    said = open_loop(served, layout, load, tokens, started)
    slo = ",".join(
        f"{metric}_{percentile}={SPARE * float(_value(getattr(getattr(said, metric), percentile))[0]) / 1e3:.6f}ms"
        for metric in ("ttft", "tpot")
    )
    return {
        "model": case["model"],
        "cluster": f"{tp}x{case['gpu']}",
        "framework": case["framework"],
        "slo": slo,
        "workload": f"isl={isl},osl={osl},rate={case['rate']:.6g}",
        "disaggregation": "never",
    }
