"""Which prefill engines may hand over to which decode engines: a connector's rules, in the plan and its commands."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cases import DENSE, EXPERTS, SLO, WINDOWS, WORKLOAD

from costmodels.models.registry import find_architecture
from costmodels.serving.frameworks.connector import traits
from costmodels.serving.frameworks.framework import find_framework
from planner.serving.document.contradictions import check_plan
from planner.serving.document.plan import Plan
from profiles.errors import InputError, Unsupported
from profiles.hardware import find_gpu

Planned = Callable[..., Plan]
NEXT = "Qwen/Qwen3-Next-80B-A3B-Instruct"


def flag(command: tuple[str, ...], name: str) -> str | None:
    return command[command.index(name) + 1] if name in command else None


def test_a_plan_names_its_pairs_and_an_aggregated_one_has_none(planned: Planned) -> None:
    plan = planned(model=DENSE, cluster="8xH100", workload=WORKLOAD, slo=SLO, disaggregation="always")
    ids = {role: [g.id for g in plan.decision.engines if g.role == role] for role in ("prefill", "decode")}
    assert set(plan.decision.pairs) == {(first, second) for first in ids["prefill"] for second in ids["decode"]}
    assert not planned(model=DENSE, cluster="8xH100", workload=WORKLOAD, slo=SLO, disaggregation="never").decision.pairs


@pytest.mark.parametrize("framework", ["vllm", "sglang"])
def test_engines_that_hand_over_states_have_one_tensor_parallel_degree(planned: Planned, framework: str) -> None:
    plan = planned(
        model=NEXT,
        cluster="16xH200",
        slo="ttft=1s,tpot=12ms",
        workload="isl=4000,osl=500",
        disaggregation="always",
        framework=framework,
    )
    assert len({group.layout.tp for group in plan.decision.engines}) == 1
    assert any("between engines of equal tp alone" in note for note in plan.provenance.notes)


def test_a_framework_that_does_not_hand_over_states_says_so(planned: Planned) -> None:
    asked = {"model": NEXT, "cluster": "8xH200", "slo": SLO, "workload": WORKLOAD, "framework": "trtllm@1.2"}
    with pytest.raises(Unsupported, match=r"the cache transceiver does not hand over layers that keep a state"):
        planned(**asked, disaggregation="always")
    (row,) = [row for row in planned(**asked).proof.compared if row.serving == "disaggregated"]
    assert row.reason is not None
    assert "does not hand over" in row.reason


def test_generations_of_gpus_are_paired_by_naming_a_backend_that_runs_on_both(planned: Planned) -> None:
    plan = planned(
        model="Qwen/Qwen3-32B", cluster="8xB200+8xH100", slo=SLO, workload="isl=4000,osl=500", disaggregation="always"
    )
    used = {group.gpu for group in plan.decision.engines}
    told = {flag(group.launch.command, "--attention-backend") for group in plan.decision.engines}
    assert told == ({"FLASHINFER"} if len(used) > 1 else {None})


CONNECTOR = find_framework("vllm").kv_connector


@pytest.mark.parametrize(
    ("model", "gpus", "backend"),
    [
        ("Qwen/Qwen3-32B", ("H100-SXM", "H200"), ""),
        ("Qwen/Qwen3-32B", ("A100-SXM-80GB", "H100-SXM"), ""),
        ("Qwen/Qwen3-32B", ("B200", "H100-SXM"), "FLASHINFER"),
        ("deepseek-ai/DeepSeek-V3", ("B200", "H100-SXM"), "FLASHMLA"),
        ("deepseek-ai/DeepSeek-V3", ("A100-SXM-80GB", "H100-SXM"), "TRITON_MLA"),
        ("deepseek-ai/DeepSeek-V3.2", ("B200", "B200"), "FLASHMLA_SPARSE"),
        ("deepseek-ai/DeepSeek-V3.2", ("A100-SXM-80GB", "H100-SXM"), None),
        ("Qwen/Qwen3-32B", ("MI300X", "MI300X"), ""),
        ("Qwen/Qwen3-32B", ("MI300X", "H100-SXM"), None),
    ],
)
def test_what_partners_attend_with(model: str, gpus: tuple[str, ...], backend: str | None) -> None:
    assert CONNECTOR.shared_backend(find_architecture(model), [find_gpu(gpu) for gpu in gpus]) == backend


def test_what_of_a_model_matters_to_connectors() -> None:
    assert traits(find_architecture(NEXT)) == {"states"}
    assert traits(find_architecture(WINDOWS)) >= {"windows"}
    assert traits(find_architecture(EXPERTS)) == set()


def test_a_plan_whose_pairs_were_tampered_with_is_not_simulated(planned: Planned) -> None:
    plan = planned(model=DENSE, cluster="8xH100", workload=WORKLOAD, slo=SLO, disaggregation="always")
    check_plan(plan)
    for pairs, told in (((("engine-9", "engine-1"),), "names 'engine-9'"), ((("engine-1", "engine-0"),), "names")):
        broken = plan.model_copy(update={"decision": plan.decision.model_copy(update={"pairs": pairs})})
        with pytest.raises(InputError, match=told):
            check_plan(broken)
    other = replace_last_id(plan)
    with pytest.raises(InputError, match=r"leaves engine-0 with .* out"):
        check_plan(other)


def replace_last_id(plan: Plan) -> Plan:
    """The plan with a second decode group that no pair names."""
    *rest, last = plan.decision.engines
    half = [r.model_copy(update={"weight": r.weight / 2}) for r in last.replicas]
    groups = (
        *rest,
        last.model_copy(update={"replicas": tuple(half)}),
        last.model_copy(update={"id": "other", "replicas": tuple(half)}),
    )
    return plan.model_copy(update={"decision": plan.decision.model_copy(update={"engines": groups})})
