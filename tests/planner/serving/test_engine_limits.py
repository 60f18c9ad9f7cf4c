"""What a plan says of its engines' limits: the longest request, the most at once, and other token budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cases import DENSE, SLO, WORKLOAD

from planner.contract.workload.files import workload_at
from planner.contract.workload.workload import parse_workload
from profiles.errors import Infeasible, InputError, Unsupported


def test_the_longest_request_is_what_the_model_or_the_cache_allows(planned: Any) -> None:
    plan = planned(DENSE, "1xH100", WORKLOAD, SLO, disaggregation="never")
    (group,) = plan.prediction.engines
    assert group.largest is not None
    assert group.largest.context_tokens == 40_960  # the model's
    assert group.largest.concurrency >= plan.decision.engines[0].limits.max_sequences
    tight = planned("Qwen/Qwen3-32B", "1xH100", "isl=1000,osl=100", "", disaggregation="never", precision="bf16")
    longest = tight.prediction.engines[0].largest.context_tokens
    assert 1100 <= longest < 40_960
    planned("Qwen/Qwen3-32B", "1xH100", f"isl={int(longest * 0.9)},osl=10", "", disaggregation="never")
    with pytest.raises((Infeasible, InputError)):
        planned("Qwen/Qwen3-32B", "1xH100", f"isl={int(longest * 1.1)},osl=10", "", disaggregation="never")


def test_every_token_budget_is_told_and_the_chosen_one_carries_most(planned: Any) -> None:
    plan = planned(DENSE, "1xH100", WORKLOAD, SLO, disaggregation="never")
    (group,) = plan.decision.engines
    budgets = plan.alternatives.token_budgets
    (chosen,) = [each for each in budgets if each.chosen]
    assert chosen.max_tokens_per_step == group.limits.max_tokens_per_step
    assert chosen.missed is None
    assert len(budgets) > 1
    rates = [each.engine_rate_rps for each in budgets if each.engine_rate_rps is not None]
    assert chosen.engine_rate_rps == max(rates)


def test_token_budgets_of_prefill_engines_are_told_beside_the_plans_decode_engines(planned: Any) -> None:
    plan = planned(DENSE, "2xH100", WORKLOAD, SLO, disaggregation="always")
    (prefill,) = [group for group in plan.decision.engines if group.role == "prefill"]
    budgets = [each for each in plan.alternatives.token_budgets if each.engine == prefill.id]
    assert {each.engine for each in plan.alternatives.token_budgets} == {prefill.id}
    assert len(budgets) > 1
    (chosen,) = [each for each in budgets if each.chosen]
    assert chosen.max_tokens_per_step == prefill.limits.max_tokens_per_step
    rates = [each.engine_rate_rps for each in budgets if each.engine_rate_rps is not None]
    assert chosen.engine_rate_rps is not None
    assert chosen.engine_rate_rps >= 0.98 * max(rates)  # ties go to the simpler one
    (said,) = [each for each in plan.prediction.engines if each.engine == prefill.id]
    assert chosen.engine_rate_rps >= 0.99 * said.rate_rps.value
    limit = next(bound.limit_ms for bound in plan.request.slo.bounds if bound.metric == "ttft")
    assert all(each.ttft_p90_ms <= limit for each in budgets if each.missed is None)


def test_a_longest_request_makes_the_launch_command_and_the_memory(planned: Any) -> None:
    short = planned(DENSE, "1xH100", WORKLOAD, SLO, disaggregation="never")
    long = planned(DENSE, "1xH100", f"{WORKLOAD},max_len=16k", SLO, disaggregation="never")
    (group,) = long.decision.engines
    assert group.limits.max_model_len == 16_000
    command = group.launch.command
    assert command[command.index("--max-model-len") + 1] == "16000"
    assert short.decision.engines[0].limits.max_model_len == 2304
    assert any("16,000 tokens" in note for note in long.provenance.notes)
    with pytest.raises(InputError, match="max_len, 50000 tokens, is longer than the context"):
        planned(DENSE, "1xH100", f"{WORKLOAD},max_len=50k", SLO)


def test_a_plan_says_what_it_refuses(planned: Any) -> None:
    plan = planned(DENSE, "1xH100", "isl=2000,osl=200,spread=0.5-1,max_len=1800", SLO)
    share = plan.request.workload.refused_share
    assert 0.1 < share < 0.6
    assert any(f"{share:.2%} of the requests are longer than max_len" in note for note in plan.provenance.notes)


def test_bursts_of_a_trace_are_said(planned: Any, tmp_path: Path) -> None:
    times = [float(i) for i in range(60)]
    for name, seconds in (("even.csv", times), ("bursts.csv", [40.0 * (i // 30) for i in range(60)])):
        (tmp_path / name).write_text("arrival_s,isl,osl\n" + "".join(f"{at},500,20\n" for at in (*seconds, 61.0)))
        work = workload_at(name, tmp_path)
        assert work is not None
        plan = planned(DENSE, "1xH100", work.model_dump(mode="json"), SLO)
        assert any("comes in bursts, 30 requests" in note for note in plan.provenance.notes) == (name == "bursts.csv")
        assert any("lengths are those of 61 requests" in note for note in plan.provenance.notes)


def test_adapters_are_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="lora='8x16': what adapters take is not modelled"):
        parse_workload("isl=1,osl=2,lora=8x16")
