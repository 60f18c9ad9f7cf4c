"""Plans and deployments side by side, and checks of what runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planner.compare.carrying import ReplayedFleet
from planner.compare.check_request import parse_check_request
from planner.compare.checking import check
from planner.compare.comparing import compare
from planner.compare.contenders import memory_of
from planner.compare.document import Comparison, Side
from planner.compare.order import ordered
from planner.compare.request import parse_comparison_request
from planner.contract.deployment import DeploymentDocument
from planner.contract.quantities import Interval
from planner.imports.importing import deployment_of
from planner.imports.request import parse_import_request
from planner.kinds import example
from planner.serving.document.opening import engine_fields
from planner.serving.document.plan import Plan, parse_plan
from planner.serving.fleets.planning import plan_fleet
from planner.serving.fleets.request import parse_fleet_request
from planner.serving.memory import memory
from planner.serving.memory_document import parse_memory_request
from profiles.errors import InputError
from profiles.hardware import SHIPPED

COMMAND = "vllm serve Qwen/Qwen3-8B --tensor-parallel-size 1 --max-model-len 8192 --max-num-seqs 64"
WORK = "isl=1000,osl=100,rate=4"


def imported(text: str, gpu: str = "H200") -> DeploymentDocument:
    return deployment_of(parse_import_request({"text": text, "gpu": gpu}))


@pytest.fixture(scope="module")
def planned() -> Plan:
    return parse_plan(json.dumps(example("serving")))


def compared(*documents: Any, **fields: Any) -> Comparison:
    return compare(parse_comparison_request({"documents": list(documents), **fields}))


def test_what_is_compared_with_itself_is_level(planned: Plan) -> None:
    got = compared(planned, planned, workload=WORK)
    (order,) = got.order
    assert (order.by, order.confidence) == (0.0, 0.5)
    assert got.sides[0].model_dump(exclude={"name"}) == got.sides[1].model_dump(exclude={"name"})


def test_two_engines_carry_twice_what_one_does_and_the_order_is_told() -> None:
    got = compared(
        imported(f"{COMMAND} & {COMMAND} &"),
        imported(COMMAND),
        workload=WORK,
        slo="ttft=1s,tpot=20ms",
        names=["two", "one"],
    )
    two, one = got.sides
    assert two.carries_rps is not None
    assert one.carries_rps is not None
    assert two.carries_rps.value == pytest.approx(2 * one.carries_rps.value, rel=0.01), "a front end of each is as busy"
    assert one.carries_rps.low <= one.carries_rps.value <= one.carries_rps.high
    (order,) = got.order
    assert order.quantity == "requests per second per GPU", "of other numbers of GPUs, each GPU counts"
    assert order.by == 0.0
    assert (two.gpus, one.gpus) == (2, 1)
    assert two.usd_per_hour == pytest.approx(2 * (one.usd_per_hour or 0))


def test_what_carries_more_by_far_is_surely_better() -> None:
    small = imported(COMMAND.replace("64", "2"))
    got = compared(imported(COMMAND), small, workload=WORK, slo="tpot=20ms", names=["wide", "narrow"])
    (order,) = got.order
    assert (order.better, order.worse) == ("wide", "narrow")
    assert order.by is not None
    assert order.by > 1
    assert order.confidence > 0.8


def test_what_does_not_start_carries_nothing_and_says_why() -> None:
    big = imported("vllm serve Qwen/Qwen3-32B --tensor-parallel-size 1", "L40S")
    got = compared(big, imported("vllm serve Qwen/Qwen3-32B -tp 4", "L40S"), workload=WORK)
    assert not got.sides[0].starts
    assert got.sides[0].problem
    assert got.sides[0].carries_rps is None
    assert [each.better for each in got.order] == ["B"]
    assert got.order[0].by is None


def test_one_alone_is_compared_with_a_new_plan_on_the_same_gpus() -> None:
    got = compared(imported(f"{COMMAND} & {COMMAND} &"), workload="isl=1000,osl=100", slo="tpot=20ms", names=["runs"])
    assert [side.name for side in got.sides] == ["runs", "a new plan"]
    assert {side.gpus for side in got.sides} == {2}
    assert "of what the weakest carries" in got.load
    (runs,), (new,) = (side.promises for side in got.sides)
    assert new.holds
    assert runs.seen_ms.value < 1.05 * runs.limit_ms  # so near its edge, a replay of other requests may miss by a hair


@pytest.mark.slow
def test_users_at_once_are_turned_into_a_rate() -> None:
    got = compared(imported(COMMAND), imported(COMMAND), workload="isl=1000,osl=100,concurrency=8")
    side = got.sides[0]
    assert side.rate_rps is not None
    assert side.e2e_ms is not None
    assert side.rate_rps * side.e2e_ms.value / 1e3 == pytest.approx(8, rel=0.1)


def test_prefill_and_decode_engines_are_compared_too() -> None:
    role = '--kv-transfer-config \'{"kv_connector": "NixlConnector", "kv_role": "%s"}\''
    apart = imported(f"{COMMAND} {role % 'kv_producer'} & {COMMAND} {role % 'kv_consumer'} &")
    got = compared(apart, imported(f"{COMMAND} & {COMMAND} &"), workload=WORK, slo="ttft=1s,tpot=20ms")
    split, whole = got.sides
    assert split.carries_rps is not None
    assert split.carries_rps.value > 0
    assert split.joules_per_output_token is not None
    assert whole.joules_per_output_token is not None
    assert split.ttft_ms is not None
    assert whole.ttft_ms is not None
    assert split.ttft_ms.value > whole.ttft_ms.value, "its cache crosses first"


def test_prefill_engines_that_admit_too_few_of_the_load_carry_nothing() -> None:
    role = '--kv-transfer-config \'{"kv_connector": "NixlConnector", "kv_role": "%s"}\''
    short = COMMAND.replace("8192", "2048")
    apart = imported(f"{short} {role % 'kv_producer'} & {short} {role % 'kv_consumer'} &")
    got = compared(apart, imported(COMMAND), workload="isl=3000,osl=100,spread=0.4-1,rate=1", slo="ttft=1s,tpot=20ms")
    assert got.sides[0].carries_rps is not None
    assert got.sides[0].carries_rps.value == 0.0
    assert not got.sides[0].keeps_promises


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "does not say what requests are like"),
        ({"workload": WORK, "names": ["a"]}, "not as many"),
        ({"workload": WORK, "names": ["a", "a"]}, "two are alike"),
    ],
)
def test_what_cannot_be_compared_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        compared(imported(COMMAND), imported(COMMAND), **fields)


def test_models_that_differ_and_edited_documents_are_refused() -> None:
    with pytest.raises(InputError, match="several models"):
        compared(imported(COMMAND), imported("vllm serve Qwen/Qwen3-32B -tp 2"), workload=WORK)
    document = json.loads(imported(COMMAND).to_json())
    document["engines"][0]["limits"]["max_sequences"] = 1
    with pytest.raises(InputError, match="edited since it was made"):
        compared(document, imported(COMMAND), workload=WORK)
    got = compared(document, imported(COMMAND), workload=WORK, edited=True)
    assert "A was edited since it was made" in got.provenance.notes


def test_without_a_rate_the_weakest_keeps_its_promises_in_other_draws(planned: Plan) -> None:
    held = [
        compared(planned, planned, workload="isl=1000,osl=100", slo="ttft=500ms,tpot=20ms", seed=seed).sides[0]
        for seed in range(3)
    ]
    for side in held:
        assert side.keeps_promises
        assert side.carries_rps is not None
        assert side.rate_rps is not None
        assert 0.6 * side.carries_rps.value < side.rate_rps < side.carries_rps.value


def test_the_order_is_surer_the_more_the_two_share() -> None:
    side = compared(imported(COMMAND), imported(COMMAND), workload=WORK).sides[0]

    def at(value: float) -> Side:
        carries = Interval(value=value, low=value / 2, high=value * 2)
        return side.model_copy(update={"carries_rps": carries, "name": f"{value:g}"})

    class Of:
        """Just its document."""

        def __init__(self, document: DeploymentDocument) -> None:
            self.document = document

    alike, other = imported(COMMAND), imported(COMMAND, "H100")
    shown = [at(10.0), at(8.0)]
    (same,) = ordered([Of(alike), Of(alike)], shown)  # type: ignore[list-item]
    (apart,) = ordered([Of(alike), Of(other)], shown)  # type: ignore[list-item]
    assert same.confidence > apart.confidence > 0.5


# --- checks -----------------------------------------------------------------------------------------------


def checked_of(text: str, **fields: Any) -> Any:
    return check(parse_check_request({"text": text, "gpu": "H200", **fields}))


def test_a_check_without_a_load_says_whether_it_starts() -> None:
    got = checked_of(COMMAND)
    assert (got.verdict, got.is_well, got.comparison, got.keeps_promises) == ("starts", True, None, None)
    assert got.memory[0].kv_cache_tokens > 0


@pytest.mark.parametrize(
    "text",
    [
        COMMAND,
        "vllm serve Qwen/Qwen3-32B --tensor-parallel-size 1 --gpu-memory-utilization 0.4",
        "vllm serve MiniMaxAI/MiniMax-M2.5 --tensor-parallel-size 8",
        "python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-R1 --tp 4",
        "vllm serve Qwen/Qwen3-30B-A3B --data-parallel-size 2 --max-model-len auto",
    ],
)
def test_it_starts_exactly_where_plan_memory_says_so(text: str) -> None:
    got = checked_of(text)
    document = got.deployment
    said = [memory(parse_memory_request(engine_fields(document, group))).starts for group in document.engines]
    assert got.starts is all(said)
    assert (got.verdict == "does_not_start") is not got.starts


def test_a_promise_that_breaks_is_named_and_what_is_better_is_shown() -> None:
    got = checked_of(COMMAND.replace("64", "1"), workload="isl=1000,osl=100,rate=3", slo="ttft=500ms,tpot=20ms")
    assert (got.verdict, got.is_well, got.keeps_promises) == ("breaks", False, False)
    assert any("ttft_p90" in reason or "keep up" in reason for reason in got.reasons)
    assert got.better is not None
    assert got.better.keeps_promises
    assert got.better.commands[0][0] == "vllm"


def test_what_falls_behind_says_no_joules_of_tokens_that_it_does_not_serve() -> None:
    asked = {"text": COMMAND, "gpu": "H200", "workload": "isl=1000,osl=100,rate=400", "slo": "ttft=1s,tpot=20ms"}
    got = check(parse_check_request(asked))
    assert got.verdict == "breaks"
    assert got.comparison is not None
    assert not got.comparison.sides[0].keeps_up
    assert got.comparison.sides[0].joules_per_output_token is None
    assert any(" ms, promised 1,000 ms" in reason and "e+" not in reason for reason in got.reasons)


def test_a_plan_is_checked_by_its_own_promises(planned: Plan) -> None:
    got = check(parse_check_request({"plan": json.loads(planned.to_json())}))
    assert got.is_well
    assert got.deployment is None
    assert got.better is None
    assert got.no_better


@pytest.mark.slow
def test_promises_that_nothing_keeps_say_what_binds() -> None:
    got = checked_of(COMMAND, workload="isl=1000,osl=100", slo="tpot=1ms")
    assert got.verdict == "breaks"
    assert got.better is None
    assert "tpot_p90" in got.no_better


def test_wide_engines_of_a_role_are_compared_in_it() -> None:
    server = "python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-R1 --tp 8 --attn-dp-size 8"
    text = "\n".join(
        f"{server} --moe-a2a-backend deepep --deepep-mode {mode} --disaggregation-mode {role} &"
        for mode, role in (("normal", "prefill"), ("low_latency", "decode"))
    )
    running = imported(text)
    assert [each.starts for each in memory_of(running, SHIPPED)] == [True, True]
    assert [each.layout.exchange for each in running.engines] == ["high_throughput", "low_latency"]


@pytest.mark.parametrize("most", [9.5, 6.0, 0.4])
def test_what_a_longer_run_does_not_carry_is_looked_for_below(monkeypatch: pytest.MonkeyPatch, most: float) -> None:
    """However far below it is."""
    fleet = object.__new__(ReplayedFleet)
    monkeypatch.setattr(ReplayedFleet, "_kept", lambda _, rate, *__: rate <= most)
    found = fleet.agreed(Interval(value=11.0, low=10.0, high=12.0), 10.0, False)
    assert 0.9 * most < found.value <= most
    assert found.low == found.value
    assert fleet.agreed(found, 10.0, True).value == 10.0


def fleet_of(engines: int, names: tuple[str, ...] = ("chat", "code"), code_rps: float = 4) -> Plan:
    loads = [
        {"isl_from": 100, "isl_to": 1000, "osl": 50, "rate_rps": 30},
        {"isl": 4000, "osl": 100, "rate_rps": code_rps},
    ]
    services = [
        {"name": name, "model": "Qwen/Qwen3-8B", "slo": slo, "load": {"classes": [load]}}
        for name, load, slo in zip(names, loads, ("ttft=1s,tpot=50ms", "ttft_p99=3s,tpot=60ms"), strict=True)
    ]
    asked = {"cluster": "12xH100", "services": services, "simulation": False, "survive": {"engines": engines}}
    return plan_fleet(parse_fleet_request(asked))


def test_fleets_of_several_services_are_compared_under_the_load_of_the_first() -> None:
    """They were shown as dashes."""
    small, large = fleet_of(0), fleet_of(2)
    made = compared(small, large)
    for side, plan in zip(made.sides, (small, large), strict=True):
        assert side.problem is None
        assert [each.service for each in side.promises] == ["chat", "chat", "code", "code"]
        assert side.rate_rps == pytest.approx(34)
        assert side.carries_rps is not None
        assert 0 < side.carries_rps.value < 34 * plan.decision.schedule[0].carries * 1.4
    assert made.sides[1].keeps_promises
    assert made.sides[0].carries_rps is not None
    assert made.sides[1].carries_rps is not None
    assert made.sides[1].carries_rps.value > made.sides[0].carries_rps.value
    with pytest.raises(InputError, match="has no effect on fleets of several services"):
        compared(small, large, slo="ttft=1s")
    with pytest.raises(InputError, match="has no one load"):
        compared(small)
    other = compared(small, fleet_of(0, ("chat", "docs"))).sides[1]
    assert other.problem == "documents: serves chat, docs, and the load is of chat, code"


def test_promises_to_a_service_none_of_whose_requests_came_are_not_said_to_hold() -> None:
    seldom = fleet_of(0, code_rps=1e-6)
    for side in compared(seldom, seldom).sides:
        assert [each.holds for each in side.promises] == [True, True, None, None]
        assert side.keeps_promises
