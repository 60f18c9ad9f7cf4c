"""Plans with prefill and decode apart: compared on equal terms, sound, and monotone in what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cases import CLOSE, DENSE, ONE_EACH, SLO, WORKLOAD

from planner.serving.document.plan import Compared, Plan
from planner.serving.engines.ties import TIE
from profiles.errors import Infeasible, InputError, Unsupported

Planned = Callable[..., Plan]

APART: dict[str, dict[str, Any]] = {
    **ONE_EACH,
    "sglang": {"model": DENSE, "cluster": "4xH100", "workload": WORKLOAD, "slo": SLO, "framework": "sglang"},
    "trtllm": {"model": DENSE, "cluster": "4xH100", "workload": WORKLOAD, "slo": SLO, "framework": "trtllm"},
    "two pools": {"model": DENSE, "cluster": "4xH100 + 4xL40S", "workload": WORKLOAD, "slo": "ttft=2s,tpot=50ms"},
    "at least cost": {"model": DENSE, "cluster": "8xH100", "workload": f"{WORKLOAD},rate=30", "slo": SLO},
    "e2e": {"model": DENSE, "cluster": "8xH100", "workload": WORKLOAD, "slo": "ttft=1s,e2e=4s"},
    "cached and drafted": {
        "model": DENSE,
        "cluster": "4xH100",
        "workload": f"{WORKLOAD},prefix_hit=0.5,draft=3,acceptance=0.6",
        "slo": SLO,
    },
    "sure": {"model": DENSE, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO, "confidence": 0.9},
}


@pytest.fixture(params=APART, ids=lambda name: name.replace(" ", "-"))
def apart(request: pytest.FixtureRequest, planned: Planned) -> Plan:
    return planned(**APART[request.param], disaggregation="always")


def compared(plan: Plan, serving: str) -> Compared:
    (row,) = [row for row in plan.proof.compared if row.serving == serving]
    return row


def test_both_roles_run_and_keep_the_promise_by_the_plans_own_numbers(apart: Plan) -> None:
    roles = [group.role for group in apart.decision.engines]
    assert set(roles) == {"prefill", "decode"}
    assert roles == sorted(roles, reverse=True), "prefill engines first"
    for check in apart.prediction.slo:
        assert check.predicted.value <= check.limit_ms
        assert check.confidence >= apart.request.confidence - 1e-9


def test_both_roles_carry_the_load_and_share_it_out(apart: Plan) -> None:
    p = apart.prediction
    for role in ("prefill", "decode"):
        mine = [
            (group, said) for group, said in zip(apart.decision.engines, p.engines, strict=True) if group.role == role
        ]
        assert sum(r.weight for group, _ in mine for r in group.replicas) == pytest.approx(1)
        loads = sum(len(group.replicas) * said.load_rps for group, said in mine)
        assert loads == pytest.approx(p.request_rate_rps.value)
        for _, said in mine:
            assert said.load_rps <= said.rate_rps.value * CLOSE
            assert (said.tpot_ms is None) == (role == "prefill")
            assert (said.ttft_ms is None) == (role == "decode")
            assert said.e2e_ms is None


def test_every_gpu_has_one_rank_at_most(apart: Plan) -> None:
    used = [
        (group.pool, rank.node, rank.gpu)
        for group in apart.decision.engines
        for replica in group.replicas
        for rank in replica.ranks
    ]
    assert len(used) == len(set(used)) == apart.decision.gpus_used


def test_the_transfer_is_part_of_the_time_to_the_first_token(apart: Plan) -> None:
    transfer, parts = apart.prediction.kv_transfer, apart.prediction.ttft_ms_by_part
    assert transfer is not None
    assert 0 < transfer.exposed_ms.value <= transfer.time_ms.value
    assert 0 < max(transfer.sender_busy, transfer.receiver_busy) < 1
    assert sum(parts.values()) == pytest.approx(apart.prediction.ttft_ms.mean.value)
    assert parts["KV transfer"] <= transfer.exposed_ms.value * CLOSE
    one_node = len(apart.request.cluster.pools) == 1 and apart.request.cluster.pools[0].nodes == 1
    assert (transfer.link == "nvlink") == one_node


def test_a_decode_engine_holds_what_it_is_told_to(apart: Plan) -> None:
    tokens = {"prefill": apart.request.workload.isl, "decode": apart.request.workload.isl + apart.request.workload.osl}
    for group, said in zip(apart.decision.engines, apart.prediction.engines, strict=True):
        assert group.limits.max_sequences * tokens[group.role] <= said.memory.kv_tokens * CLOSE
        assert said.concurrency <= group.limits.max_sequences


@pytest.mark.parametrize("name", APART, ids=lambda name: name.replace(" ", "-"))
def test_allowing_it_never_makes_a_plan_worse_and_the_better_way_is_taken(planned: Planned, name: str) -> None:
    never, always, auto = (planned(**APART[name], disaggregation=way) for way in ("never", "always", "auto"))
    more = auto.proof.objective == "throughput"
    values = [plan.proof.objective_value for plan in (never, always)]
    best = max(values) if more else min(values)
    if auto.proof.simplest_within is None:
        assert auto.proof.objective_value == pytest.approx(best, rel=1e-9)
    else:  # a tie goes to aggregated engines, or to one layout a role
        assert more
        assert auto.proof.objective_value >= best * (1 - TIE) ** 2 * (1 - 1e-6)
        layouts = {(group.role, group.layout.label) for group in auto.decision.engines}
        assert len(layouts) == len({group.role for group in auto.decision.engines})
        assert auto.proof.objective_value == pytest.approx(best, rel=auto.proof.simplest_within)
    for plan, serving in ((never, "aggregated"), (always, "disaggregated")):
        assert compared(plan, serving).chosen
        assert compared(auto, serving).objective_value == pytest.approx(plan.proof.objective_value)
    losses = [row.loses_by for row in auto.proof.compared if row.loses_by is not None]
    assert losses[0] == 0
    assert losses[1:] == sorted(losses[1:])
    within = auto.proof.simplest_within or 0.0  # of the best, which is the more ahead of what was taken
    assert min(losses) >= 1 - 1 / (1 - within)
    assert [row.serving for row in never.proof.compared] == ["aggregated"]
    assert {group.role for group in never.decision.engines} == {"aggregated"}


def objective(plan: Plan) -> float:
    return plan.proof.objective_value


@pytest.mark.parametrize("way", ["always", "auto"])
def test_more_gpus_and_a_looser_slo_never_cost_throughput(planned: Planned, way: str) -> None:
    asked = {"model": DENSE, "workload": WORKLOAD, "disaggregation": way}
    by_gpus = [objective(planned(cluster=f"{gpus}xH100", slo=SLO, **asked)) for gpus in (2, 3, 4, 6, 8)]
    assert by_gpus == sorted(by_gpus)
    slos = ["ttft=300ms,tpot=12ms", "ttft=300ms,tpot=25ms", "ttft=1s,tpot=25ms", "ttft=3s,tpot=60ms", ""]
    by_slo = [objective(planned(cluster="4xH100", slo=slo, **asked)) for slo in slos]
    # of those within TIE of the best the simplest is taken
    assert all(b >= a * (1 - TIE) / CLOSE for a, b in zip(by_slo, by_slo[1:], strict=False))  # noqa: RUF007


def test_a_slower_link_never_makes_it_better(planned: Planned) -> None:
    def cluster(fabric: str) -> dict[str, Any]:
        return {"name": "c", "pools": [{"gpu": "H100", "nodes": 2, "fabric": fabric}]}

    asked = {"model": DENSE, "workload": WORKLOAD, "slo": SLO, "max_engine_gpus": 8, "disaggregation": "always"}
    rates = [objective(planned(cluster=cluster(f), **asked)) for f in ("ethernet-25g", "ib-100g", "ib-400g", "ib-800g")]
    assert all(b >= a / CLOSE for a, b in zip(rates, rates[1:], strict=False))  # noqa: RUF007


def test_it_is_refused_where_it_cannot_be(planned: Planned) -> None:
    with pytest.raises((Infeasible, Unsupported)) as one_gpu:
        planned(model=DENSE, cluster="1xH100", workload=WORKLOAD, disaggregation="always")
    assert one_gpu.value.hint
    plan = planned(model=DENSE, cluster="1xH100", workload=WORKLOAD)
    row = compared(plan, "disaggregated")
    assert row.objective_value is None
    assert row.reason


def test_what_no_pair_reaches_names_the_best_there_is(planned: Planned) -> None:
    asked = {"model": DENSE, "cluster": "8xH100", "workload": WORKLOAD, "disaggregation": "always"}
    with pytest.raises(Infeasible) as refused:
        planned(**asked, slo="tpot=100us")
    best = refused.value.details["best_reachable_ms"]
    assert isinstance(best, float)
    reached = planned(**asked, slo=f"tpot={best * 1.01:.6f}ms")
    assert reached.prediction.slo[0].predicted.value == pytest.approx(best, rel=0.02)


# --- facts of the workload ---


@pytest.mark.parametrize("way", ["never", "always"])
def test_hits_and_drafts_are_worth_what_the_plan_says(planned: Planned, way: str) -> None:
    asked = {"model": DENSE, "cluster": "4xH100", "slo": SLO, "disaggregation": way}
    plain, cached, drafted = (
        planned(workload=f"{WORKLOAD}{fact}", **asked) for fact in ("", ",prefix_hit=0.5", ",draft=3,acceptance=0.7")
    )
    assert objective(cached) > objective(plain)
    assert [effect.fact for effect in cached.prediction.effects] == ["prefix_hit"]
    (effect,) = drafted.prediction.effects
    assert effect.fact == "speculation"
    assert effect.tpot_ms_without is not None
    assert drafted.prediction.tpot_ms is not None
    assert effect.tpot_ms_without > drafted.prediction.tpot_ms.mean.value
    assert plain.prediction.effects == ()


def test_a_hit_rate_of_zero_changes_nothing(planned: Planned) -> None:
    asked = {"model": DENSE, "cluster": "4xH100", "slo": SLO}
    none, zero = (planned(workload=f"{WORKLOAD}{fact}", **asked) for fact in ("", ",prefix_hit=0"))
    assert none.to_json() == zero.to_json()


# --- precision as a choice ---


def test_precisions_compete_and_the_plan_says_which_won(planned: Planned) -> None:
    asked = {"model": DENSE, "cluster": "4xH100", "workload": WORKLOAD, "slo": SLO, "disaggregation": "never"}
    alone = {name: objective(planned(precision=name, **asked)) for name in ("bf16", "fp8")}
    plan = planned(precision="bf16,fp8", **asked)
    assert objective(plan) == pytest.approx(max(alone.values()))
    rows = {row.weights_precision: row for row in plan.proof.compared}
    assert {name: row.objective_value for name, row in rows.items()} == pytest.approx(alone)
    assert rows["fp8"].weights_bytes < rows["bf16"].weights_bytes
    assert rows["bf16"].accuracy == "as published"
    assert "no published figure" in rows["fp8"].accuracy
    assert plan.request.weights_precisions == ("bf16", "fp8")
    assert {group.weights_precision for group in plan.decision.engines} == {plan.request.weights_precision}


def test_any_takes_what_the_gpu_runs_and_says_what_it_does_not(planned: Planned) -> None:
    plan = planned(
        model=DENSE,
        cluster="2xH100",
        workload=WORKLOAD,
        framework="sglang@0.5.9",  # has no kernels for nvfp4 weights without tensor cores for them
        precision="any",
        kv_precision="any",
        disaggregation="never",
    )
    rows = {(row.weights_precision, row.kv_precision): row for row in plan.proof.compared}
    assert ("fp8", "fp8") in rows
    assert rows["nvfp4", "bf16"].objective_value is None
    assert "fp4" in (rows["nvfp4", "bf16"].reason or "")
    assert rows["bf16", "fp8"].kv_bytes_per_token == rows["bf16", "bf16"].kv_bytes_per_token / 2


def test_a_precision_that_cannot_be_made_is_left_out_of_any_and_refused_by_name(planned: Planned) -> None:
    asked = {"model": "openai/gpt-oss-20b", "cluster": "2xH100", "workload": WORKLOAD, "disaggregation": "never"}
    plan = planned(precision="any", **asked)
    assert "fp8" not in plan.request.weights_precisions
    with pytest.raises(InputError, match="requantizing"):
        planned(precision="fp8", **asked)


# --- one kind of engine, one batch limit ---


def test_latency_takes_no_twins_that_differ_in_their_limits_alone(planned: Planned) -> None:
    for rate in (3, 11, 23):
        plan = planned(model=DENSE, cluster="8xH100", workload=f"{WORKLOAD},rate={rate}", slo=SLO, objective="latency")
        kinds = [(group.role, group.pool, group.layout) for group in plan.decision.engines]
        assert len(kinds) == len(set(kinds))


def test_requests_of_one_token_have_no_time_per_output_token(planned: Planned) -> None:
    plan = planned(model=DENSE, cluster="2xH100", workload="isl=500,osl=1", slo="ttft=1s")
    assert plan.prediction.tpot_ms is None
    assert plan.prediction.output_tokens_per_s_per_user is None
    assert all(group.tpot_ms is None for group in plan.prediction.engines)
    assert [row.serving for row in plan.proof.compared] == ["aggregated"]
