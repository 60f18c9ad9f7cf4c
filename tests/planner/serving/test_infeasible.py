"""When there is no plan: what binds, what could be reached, and that the way out that is named works."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from costmodels.operations.layers import Mask
from costmodels.operations.layouts import Layouts
from planner.serving import layouts as layout_rules
from planner.serving.document.plan import Plan
from planner.serving.planning import plan
from profiles.errors import Infeasible, InputError, ShardwrightError, Unsupported
from profiles.store import ProfileStore

DENSE, EXPERTS = "Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B"
WORKLOAD = "isl=2000,osl=200"

Fails = Callable[..., ShardwrightError]


@pytest.fixture
def fails(bare: ProfileStore) -> Fails:
    """The error of a request that has no plan."""

    def failing(kind: type[ShardwrightError], **request: Any) -> ShardwrightError:
        with pytest.raises(kind) as caught:
            plan(request, store=bare)
        assert type(caught.value) is kind
        assert "\n" not in caught.value.message + caught.value.hint
        return caught.value

    return failing


def relaxed(slo: str, hint: str) -> str:
    """``slo`` with the limits that the hint gives."""
    limits = dict(item.split("=") for item in slo.split(","))
    found = re.findall(r"(\w+)_p90 to ([0-9.]+) ms", hint)
    assert found
    return ",".join(f"{name}={limit}" for name, limit in (limits | {k: f"{v}ms" for k, v in found}).items())


# --- the SLO ---


@pytest.mark.parametrize(
    "model", [DENSE, *(pytest.param(each, marks=pytest.mark.slow) for each in (EXPERTS, "openai/gpt-oss-20b"))]
)
@pytest.mark.parametrize("slo", ["tpot=0.1ms", "ttft=1ms", "e2e=20ms", "ttft=1s,tpot=0.01ms"])
def test_a_bound_that_nothing_meets_is_named_with_the_best_there_is(
    bare: ProfileStore, fails: Fails, model: str, slo: str
) -> None:
    request = {"model": model, "cluster": "4xH100", "workload": WORKLOAD}
    error = fails(Infeasible, slo=slo, **request)
    impossible = slo.split(",")[-1].split("=")[0]
    assert error.details["binding"] == f"{impossible}_p90"
    assert error.message.startswith(f"slo: {impossible}_p90 ≤ ")
    assert f"the best is {error.details['best_reachable_ms']:.4g} ms (TP" in error.message
    p = plan({**request, "slo": relaxed(slo, error.hint)}, store=bare)
    assert p.proof.status == "optimal"


def test_the_best_reachable_value_is_the_best(bare: ProfileStore, fails: Fails) -> None:
    request = {"model": DENSE, "cluster": "4xH100", "workload": WORKLOAD}
    best = fails(Infeasible, slo="tpot=0.1ms", **request).details["best_reachable_ms"]
    assert isinstance(best, float)
    assert plan({**request, "slo": f"tpot={best * 1.0001:.9f}ms"}, store=bare)
    assert fails(Infeasible, slo=f"tpot={best * 0.9999:.9f}ms", **request).details["best_reachable_ms"] == best


def test_all_bounds_that_stand_in_the_way_are_in_the_hint(bare: ProfileStore, fails: Fails) -> None:
    request = {"model": DENSE, "cluster": "4xH100", "workload": WORKLOAD}
    slo = "ttft=10ms,tpot=0.1ms,e2e=2s"
    error = fails(Infeasible, slo=slo, **request)
    assert error.details["binding"] == "tpot_p90", "by the largest factor"
    assert "tpot_p90 to" in error.hint
    assert "ttft_p90 to" in error.hint
    assert "e2e" not in error.hint, "it is met already"
    assert plan({**request, "slo": relaxed(slo, error.hint)}, store=bare)


def test_bounds_that_are_met_alone_but_not_together_are_said_to_be(bare: ProfileStore, fails: Fails) -> None:
    """On GPUs without fast links, wide tensor parallelism gives a short TPOT and pipelines a short TTFT."""
    request = {"model": DENSE, "cluster": "4xL40S", "workload": "isl=8000,osl=200"}
    alone = {
        metric: fails(Infeasible, slo=f"{metric}=0.1ms", **request).details["best_reachable_ms"] * 1.001
        for metric in ("ttft", "tpot_p99")
    }
    for metric, limit in alone.items():
        assert plan({**request, "slo": f"{metric}={limit}ms"}, store=bare)
    slo = ",".join(f"{metric}={limit}ms" for metric, limit in alone.items())
    error = fails(Infeasible, slo=slo, **request)
    assert error.details["binding"] == "slo"
    assert "each bound can be met alone" in error.message
    nearest = error.details["nearest"]
    assert isinstance(nearest, dict)
    assert set(nearest) == {"ttft_p90", "tpot_p99"}
    found = re.findall(r"(\w+_p\d+) to ([0-9.]+) ms", error.hint)
    widened = {"ttft_p90": alone["ttft"], "tpot_p99": alone["tpot_p99"]} | {k: float(v) for k, v in found}
    assert plan({**request, "slo": ",".join(f"{k}={v}ms" for k, v in widened.items())}, store=bare)


def test_the_confidence_asked_counts_for_what_can_be_reached(measured: ProfileStore) -> None:
    request = {"model": DENSE, "cluster": "2xH100", "workload": WORKLOAD, "slo": "tpot=0.1ms"}
    best = {}
    for confidence in (0.5, 0.9):
        with pytest.raises(Infeasible) as caught:
            plan({**request, "confidence": confidence}, store=measured)
        best[confidence] = caught.value.details["best_reachable_ms"]
        slo = relaxed("tpot=0.1ms", caught.value.hint)
        assert plan({**request, "confidence": confidence, "slo": slo}, store=measured)
    assert best[0.9] > best[0.5]


# --- the load ---


def test_a_rate_above_capacity_names_what_can_be_carried(bare: ProfileStore, fails: Fails) -> None:
    request = {"model": DENSE, "cluster": "2xH100", "slo": "tpot=20ms"}
    error = fails(Infeasible, workload=f"{WORKLOAD},rate=500", **request)
    assert "500 requests/s is more than" in error.message
    (most,) = re.findall(r"at most ([0-9.]+) requests/s, or have", error.hint)
    p = plan({**request, "workload": f"{WORKLOAD},rate={most}"}, store=bare)
    assert p.decision.gpus_idle == 0

    request["simulation"] = False  # with it, a fleet of other engines may be needed
    error = fails(Infeasible, workload=f"{WORKLOAD},rate=500", **request)
    most, gpus = re.findall(r"at most ([0-9.]+) requests/s, or have (\d+) GPUs", error.hint)[0]
    p = plan({**request, "workload": f"{WORKLOAD},rate={most}"}, store=bare)
    assert p.decision.gpus_idle == 0
    wide = {**request, "cluster": f"{gpus}xH100"}
    assert plan({**wide, "workload": f"{WORKLOAD},rate=500"}, store=bare).decision.gpus_used == int(gpus)
    one_less = {**request, "cluster": f"{int(gpus) - 1}xH100"}
    fails(Infeasible, workload=f"{WORKLOAD},rate=500", **one_less)


def test_the_context_itself_is_allowed_and_one_token_more_is_not(bare: ProfileStore, fails: Fails) -> None:
    context = 40960
    p = plan({"model": DENSE, "cluster": "2xH100", "workload": f"isl={context - 960},osl=960"}, store=bare)
    assert p.decision.engines[0].limits.max_model_len == context
    error = fails(InputError, model=DENSE, cluster="2xH100", workload=f"isl={context - 959},osl=960")
    assert f"40961 tokens is longer than the context of {DENSE}, 40960 tokens" in error.message


def test_disaggregation_without_room_for_two_roles_is_refused(fails: Fails) -> None:
    error = fails(Unsupported, model=DENSE, cluster="1xH100", workload=WORKLOAD, disaggregation="always")
    assert "prefill role" in error.message
    assert "--disaggregation" in error.hint


# --- the hardware ---


@pytest.mark.parametrize(
    ("model", "gpu", "gpus", "precision"),
    [
        ("Qwen/Qwen3-32B", "L4", 1, None),
        pytest.param("Qwen/Qwen3-32B", "L4", 3, None, marks=pytest.mark.slow),
        pytest.param("deepseek-ai/DeepSeek-V3", "A100", 16, "bf16", marks=pytest.mark.slow),
        ("deepseek-ai/DeepSeek-V3", "H100", 8, None),
        pytest.param("Qwen/Qwen3-235B-A22B", "L40S", 2, None, marks=pytest.mark.slow),
    ],
)
def test_a_model_that_fits_nowhere_says_how_many_gpus_would_do(
    bare: ProfileStore, fails: Fails, model: str, gpu: str, gpus: int, precision: str | None
) -> None:
    request = {"model": model, "workload": "isl=1000,osl=100", "precision": precision}
    error = fails(Infeasible, cluster=f"{gpus}x{gpu}", **request)
    assert "weights and buffers do not fit into" in error.message
    assert error.details["binding"] == "memory"
    (needed,) = error.details["gpus_needed"].values()  # type: ignore[attr-defined]
    assert f"{needed} {gpu}" in error.hint
    assert f"would do ({gpus} are offered)" in error.hint
    assert plan({**request, "cluster": f"{needed}x{gpu}"}, store=bare).decision.gpus_used == needed
    fails(Infeasible, cluster=f"{needed - 1}x{gpu}", **request)


def test_sequences_that_do_not_fit_are_named_with_their_length(fails: Fails) -> None:
    error = fails(Infeasible, model=DENSE, cluster="1xL4", workload="isl=30000,osl=2000")
    assert "KV cache left holds no sequence of 32000 tokens" in error.message


def test_each_pool_that_could_be_widened_is_named(fails: Fails) -> None:
    error = fails(Infeasible, model="Qwen/Qwen3-32B", cluster="1xL4 + 1xL40S", workload=WORKLOAD)
    needed = error.details["gpus_needed"]
    assert isinstance(needed, dict)
    assert set(needed) == {"L4", "L40S"}
    assert f"{needed['L4']} L4 would do (1 are offered) or {needed['L40S']} L40S would do" in error.hint


def test_the_users_own_limits_are_named_where_they_stand_in_the_way(fails: Fails) -> None:
    error = fails(Infeasible, model="Qwen/Qwen3-32B", cluster="8xL4", workload=WORKLOAD, max_tp=1, max_pp=1)
    assert "weights and buffers do not fit" in error.message, "not which of the layouts its own limits refuse"
    assert "raise --max-tp" in error.hint
    assert error.details["gpus_needed"] == {"L4": None}


def test_rules_that_leave_no_layout_are_not_taken_for_a_lack_of_memory(
    fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_all(*_: object) -> Iterator[tuple[str, Callable[[Layouts], Mask]]]:
        yield "heads do not divide", lambda layouts: np.ones(len(layouts), np.bool_)

    monkeypatch.setattr(layout_rules, "_rules", refuse_all)
    error = fails(Infeasible, model=DENSE, cluster="2xH100", workload=WORKLOAD)
    assert "heads do not divide" in error.message
    assert error.details["binding"] == "layout rules"
    assert "another --precision" in error.hint
    assert "GPUs" not in error.hint


def test_a_precision_that_the_gpu_lacks_is_refused_with_a_way_out(bare: ProfileStore, fails: Fails) -> None:
    request = {"model": DENSE, "cluster": "2xV100-SXM", "workload": WORKLOAD}
    error = fails(Unsupported, precision="fp8", **request)
    assert "V100-SXM has no fp8 tensor cores for fp8 weights" in error.message
    assert "bf16" in error.hint
    assert plan({**request, "precision": "bf16"}, store=bare)


def test_a_pool_that_cannot_run_the_precision_is_left_out_and_said_to_be(bare: ProfileStore) -> None:
    request = {"model": DENSE, "workload": WORKLOAD, "precision": "fp8"}
    mixed = plan({**request, "cluster": "2xV100-SXM + 2xH100"}, store=bare)
    alone = plan({**request, "cluster": "2xH100"}, store=bare)
    assert mixed.proof.objective_value == alone.proof.objective_value
    assert {group.pool for group in mixed.decision.engines} == {"H100-SXM"}
    assert mixed.decision.gpus_idle == 2
    (refused,) = [r for r in mixed.proof.rejected if "no fp8 tensor cores" in r.reason]
    assert (refused.count, refused.example) == (1, "pool V100-SXM")


def test_a_pool_on_which_nothing_fits_leaves_the_others_to_serve(bare: ProfileStore) -> None:
    p: Plan = plan({"model": "Qwen/Qwen3-32B", "cluster": "1xL4 + 2xH100", "workload": WORKLOAD}, store=bare)
    assert {group.pool for group in p.decision.engines} == {"H100-SXM"}
    assert any("do not fit into 24 GB of L4" in r.reason for r in p.proof.rejected)


# --- the objective ---


def test_cost_cannot_be_minimised_without_a_price(bare: ProfileStore, fails: Fails) -> None:
    unpriced = {"name": "ours", "pools": [{"gpu": "H100-SXM", "gpus": 4, "usd_per_gpu_hour": None}]}
    request = {"model": DENSE, "cluster": unpriced, "workload": f"{WORKLOAD},rate=5"}
    error = fails(InputError, objective="cost", **request)
    assert "price is not known" in error.message
    assert "usd_per_gpu_hour" in error.hint
    assert plan(request, store=bare).proof.objective == "gpus", "the default where no price is known"
