"""Plans replayed: the gateway, both stages, the report, and plans that were tampered with."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import DENSE, SLO, WORKLOAD

from costmodels.serving.simulator.arrivals import Requests, open_loop
from planner.contract.quantities import SLOW_END
from planner.imports.shapes import deployment_of_shapes
from planner.replay.document import SimulationReport
from planner.replay.gateway import route
from planner.replay.loads import requested_load
from planner.replay.report import Sending, drawn_load, simulate_plan
from planner.replay.request import SimulationRequest
from planner.replay.running import Running
from planner.serving.configuration import EngineAsked
from planner.serving.document.plan import Plan, parse_plan
from profiles.errors import InputError, UnknownName
from profiles.store import ProfileStore
from tests.costmodels.lengths import constant_lengths

Document = dict[str, Any]
Planned = Callable[..., Plan]


@pytest.fixture(scope="module")
def made(planned: Planned) -> Plan:
    return planned(DENSE, "8xH200", WORKLOAD, SLO, disaggregation="never")


def changed(plan: Plan, change: Callable[[Document], None]) -> Plan:
    """The plan with its document edited."""
    document = json.loads(plan.to_json())
    change(document)
    return parse_plan(json.dumps(document))


def replayed(plan: Plan, bare: ProfileStore, rate: float, requests: int = 1500, **options: Any) -> SimulationReport:
    return simulate_plan(plan, drawn_load(plan, rate, requests), "Poisson", store=bare, **options)


# --- the gateway ------------------------------------------------------------------------------------------


def test_the_gateway_follows_its_weights() -> None:
    counts = np.bincount(route(np.array([0.5, 0.0, 0.3, 0.2]), 100_000, 1), minlength=4) / 100_000
    assert counts == pytest.approx([0.5, 0.0, 0.3, 0.2], abs=0.01)
    assert np.array_equal(route(np.ones(3), 100, 7), route(np.ones(3), 100, 7))
    assert not np.array_equal(route(np.ones(3), 100, 7), route(np.ones(3), 100, 8))


# --- the report -------------------------------------------------------------------------------------------


def test_a_plan_below_its_capacity_keeps_its_promises(made: Plan, bare: ProfileStore) -> None:
    capacity = made.prediction.request_rate_rps.value
    got = replayed(made, bare, capacity / 2)
    assert got.served == got.load.requests == 1500
    assert all(check.holds for check in got.slo)
    assert [check.metric for check in got.slo] == [bound.metric for bound in made.request.slo.bounds]
    assert (got.falls_behind, got.capacity_rps, got.refused, got.preemptions) == (False, None, (), 0)
    assert got.attainment.value > 0.95
    assert got.goodput_rps.value == pytest.approx(got.attainment.value * 1500 / got.timeline[-1].time_s, rel=0.05)
    assert got.ttft_ms is not None
    for percentiles in (got.ttft_ms, got.tpot_ms, got.e2e_ms):
        assert percentiles is not None
        values = [percentiles.p50.value, percentiles.p90.value, percentiles.p95.value, percentiles.p99.value]
        assert values == sorted(values)
        assert percentiles.mean.low <= percentiles.mean.value <= percentiles.mean.high
    assert sum(group.requests for group in got.groups) == 1500
    assert sum(moment.arrivals_rps for moment in got.timeline) * got.timeline[0].time_s == pytest.approx(1500)
    assert SimulationReport.model_validate_json(got.to_json()) == got


def test_a_plan_above_its_capacity_falls_behind(made: Plan, bare: ProfileStore) -> None:
    rate = 3 * made.prediction.request_rate_rps.value
    got = replayed(made, bare, rate, 4000)
    assert got.falls_behind
    assert got.capacity_rps is not None
    # The plan stops where its promises end; the engines go on beyond it.
    assert made.prediction.request_rate_rps.value * 0.8 < got.capacity_rps < rate
    assert not all(check.holds for check in got.slo)
    assert got.groups[0].falls_behind == got.groups[0].replicas
    assert got.timeline[-30].waiting > got.timeline[10].waiting


def test_a_load_that_is_carried_only_as_predicted_says_that_its_upper_ends_grow(made: Plan, bare: ProfileStore) -> None:
    edge = made.prediction.request_rate_rps.value
    easy, near, over = (replayed(made, bare, edge * share, 4000) for share in (0.3, 1.0, 3.0))
    said = [any(note.startswith(SLOW_END) for note in got.warnings) for got in (easy, near, over)]
    assert said == [False, True, False]
    assert not near.falls_behind
    assert over.falls_behind


def test_same_seed_same_bytes(made: Plan, bare: ProfileStore) -> None:
    assert replayed(made, bare, 10.0, 300).to_json() == replayed(made, bare, 10.0, 300).to_json()
    assert (
        replayed(made, bare, 10.0, 300, sending=Sending(seed=1)).to_json() != replayed(made, bare, 10.0, 300).to_json()
    )


def test_too_long_requests_are_refused_and_counted(made: Plan, bare: ProfileStore) -> None:
    isl, osl = constant_lengths(100, 1000, 50)
    isl[::4] = 100_000
    got = simulate_plan(made, open_loop(isl, osl, 5.0), "mixed", store=bare)
    assert got.served == 75
    assert [(each.reason, each.requests) for each in got.refused] == [("longer than max_model_len", 25)]
    assert got.refused[0].example == "request 1: 100000 + 50 tokens"
    assert got.attainment.value <= 0.75
    assert not any(check.holds for check in got.slo)  # a refused request is a promise broken
    assert all(check.confidence == 0.0 for check in got.slo), "whatever the steps take: a quarter was refused"
    isl[:] = [100_000 if i % 20 == 0 else 1000 for i in range(100)]
    few = simulate_plan(made, open_loop(isl, osl, 5.0), "mixed", store=bare)
    assert all(check.holds and (check.confidence or 0) > 0.9 for check in few.slo), "one in twenty may be refused"
    with pytest.raises(InputError, match="every request is refused: longer than max_model_len"):
        simulate_plan(made, open_loop(isl[:1], osl[:1], 5.0), "long", store=bare)


def test_one_output_token_has_no_tpot(made: Plan, bare: ProfileStore) -> None:
    got = simulate_plan(made, open_loop(*constant_lengths(50, 500, 1), 5.0), "short", store=bare)
    assert got.tpot_ms is None
    assert "NaN" not in got.to_json()


def test_longer_requests_and_few_of_them_are_warned_of(made: Plan, bare: ProfileStore) -> None:
    got = simulate_plan(made, open_loop(*constant_lengths(50, 2100, 20), 5.0), "long", store=bare)
    assert any("longer than the plan was made for" in line for line in got.warnings)
    assert any("50 requests say little about p99" in line for line in got.warnings)
    at_once = Requests(*constant_lengths(10, 100, 10), np.zeros(10))
    got = simulate_plan(made, at_once, "burst", store=bare)
    assert any("same moment" in line for line in got.warnings)


def test_other_measurements_are_warned_of(made: Plan, measured: ProfileStore, bare: ProfileStore) -> None:
    load = drawn_load(made, 5.0, 20)
    assert not any("other measurements" in line for line in simulate_plan(made, load, "", store=bare).warnings)
    older = changed(made, lambda d: d["provenance"].update(cost_model_version="0+abc"))
    assert any("cost model 0+abc" in line for line in simulate_plan(older, load, "", store=bare).warnings)
    other = changed(made, lambda d: d["provenance"].update(pack_hash="0" * 64))
    assert any("other measurements" in line for line in simulate_plan(other, load, "", store=bare).warnings)


# --- plans that were tampered with ------------------------------------------------------------------------


def weights(document: Document, value: float) -> None:
    document["decision"]["engines"][0]["replicas"][0]["weight"] = value


def group(**fields: Any) -> Callable[[Document], None]:
    return lambda document: document["decision"]["engines"][0].update(fields)


def part(name: str, **fields: Any) -> Callable[[Document], None]:
    return lambda document: document["decision"]["engines"][0][name].update(fields)


def both(limit: str, flag: str, value: float) -> Callable[[Document], None]:
    """A limit and what the launch command says of it."""

    def change(document: Document) -> None:
        group = document["decision"]["engines"][0]
        group["limits"][limit] = value
        command = group["launch"]["command"]
        command[command.index(flag) + 1] = str(value)

    return change


def first_gpu(**place: int) -> Callable[[Document], None]:
    return lambda document: document["decision"]["engines"][0]["replicas"][0]["ranks"][0].update(place)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: weights(d, 0.9), "weights of its aggregated engines sum to"),
        (lambda d: weights(d, -0.5), "weight -0.5"),
        (lambda d: d["decision"].update(engines=[]), "no engine that takes requests"),
        (group(replicas=[]), "has no replicas"),
        (group(gpu="H100-SXM"), "has H100-SXM, and its pool has H200"),
        (group(pool="elsewhere"), "the pool 'elsewhere'"),
        (group(role="decode"), "decode engines alone"),
        (group(role="prefill"), "prefill engines and no decode engine"),
        (part("layout", tp=0), "tp 0 of"),
        (part("layout", tp=64), "takes 64 GPUs"),
        (part("layout", ep=2), "is not legal"),
        (part("layout", tp=2), "and its layout takes 2"),
        (part("limits", max_sequences=0), "max_sequences 0"),
        (part("limits", max_model_len=-1), "max_model_len -1"),
        (part("limits", memory_fraction=0.01), "and its limits are memory_fraction 0.01"),
        (both("memory_fraction", "--gpu-memory-utilization", 0.01), "does not fit into the memory of H200"),
        (both("memory_fraction", "--gpu-memory-utilization", 2), "memory_fraction 2.0"),
        (part("limits", max_sequences=7), "the launch command of engine-0 has --max-num-seqs .*max_sequences 7"),
        (part("launch", command=["vllm", "serve"]), "has no --max-num-batched-tokens"),
        (first_gpu(gpu=1), "given twice"),
        (first_gpu(node=3), "is on GPU 0 of node 3"),
        (first_gpu(rank=5), "not ranks 0 to"),
        (group(gpus_per_engine=3), "gpus_per_engine 3 of engine-0"),
        (lambda d: d["decision"].update(gpus_used=1), "gpus_used is 1"),
        (lambda d: d["decision"].update(usd_per_hour=1.5), "usd_per_hour is 1.5"),
        (lambda d: d["request"]["cluster"]["pools"][0].update(usd_per_gpu_hour=9.0), "usd_per_hour is"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(
    made: Plan, bare: ProfileStore, change: Callable[[Document], None], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        replayed(changed(made, change), bare, 5.0, 10)


def test_unknown_names_are_refused(made: Plan, bare: ProfileStore) -> None:
    def gpu(document: Document) -> None:
        document["decision"]["engines"][0]["gpu"] = "H900"
        document["request"]["cluster"]["pools"][0]["gpu"] = "H900"

    with pytest.raises(UnknownName, match="H900"):
        replayed(changed(made, gpu), bare, 5.0, 10)
    with pytest.raises(UnknownName, match="nobody/nothing"):
        replayed(changed(made, lambda d: d["request"].update(model="nobody/nothing")), bare, 5.0, 10)
    with pytest.raises(InputError, match="the plan is for"):
        replayed(made, bare, 5.0, 10, model="Qwen/Qwen3-32B")


# --- two stages -------------------------------------------------------------------------------------------


def test_a_disaggregated_plan_keeps_its_promises_below_its_capacity(planned: Planned, bare: ProfileStore) -> None:
    apart = planned(DENSE, "8xH200", WORKLOAD, SLO, disaggregation="always")
    got = replayed(apart, bare, apart.prediction.request_rate_rps.value / 2)
    assert {engine.role for engine in got.groups} == {"prefill", "decode"}
    assert got.served == 1500
    assert all(check.holds for check in got.slo)
    assert not got.falls_behind
    assert got.ttft_ms is not None
    assert got.ttft_ms.mean.value < apart.prediction.ttft_ms.mean.value  # which is at the plan's full load


@pytest.mark.parametrize("disaggregation", ["always", "never"])
def test_ends_of_a_full_plan_are_those_of_its_replay(planned: Planned, bare: ProfileStore, disaggregation: str) -> None:
    """At the slow end queues grow: how long is a matter of the requests, the first ones too; and decode engines get
    what prefill engines hand on."""
    full = planned(
        DENSE, "4xH200", "isl=4000,osl=150", "ttft=3s,tpot=50ms", disaggregation=disaggregation, simulation=True
    )
    got = replayed(full, bare, full.prediction.request_rate_rps.value, 20_000)
    for metric in ("ttft_ms", "tpot_ms"):
        said, seen = getattr(full.prediction, metric), getattr(got, metric)
        for end in ("low", "high"):  # in between, at the edge, one run is told with its standard error
            assert getattr(said.p90, end) == pytest.approx(getattr(seen.p90, end), rel=0.15), (metric, end)


@pytest.mark.parametrize("workload", ["isl=8000,osl=150", "isl=500,osl=300"])
def test_a_disaggregated_plan_says_what_its_replay_shows(planned: Planned, bare: ProfileStore, workload: str) -> None:
    """Each part of the way to the first token once: the front end is not the prefill engine's, too."""
    full = planned(DENSE, "4xH200", workload, "ttft=3s,tpot=50ms", disaggregation="always", simulation=True)
    rate = full.prediction.request_rate_rps.value / 3
    asked = {"disaggregation": "always", "simulation": True}
    apart = planned(DENSE, "4xH200", f"{workload},rate={rate:.4g}", "ttft=3s,tpot=50ms", **asked)
    got = replayed(apart, bare, rate, 3000)
    for metric in ("ttft_ms", "tpot_ms"):
        said, seen = getattr(apart.prediction, metric), getattr(got, metric)
        # Decode engines see requests that the prefill engines have spaced out, not such that come at random.
        assert said.p50.value == pytest.approx(seen.p50.value, rel=0.05 if metric == "ttft_ms" else 0.1)
        assert said.p90.value == pytest.approx(seen.p90.value, rel=0.1)


def split(plan: Plan, transfer_ms: float) -> Plan:
    """The plan with half of its engines prefilling for the other half."""

    def change(document: Document) -> None:
        (engine,) = document["decision"]["engines"]
        replicas = engine["replicas"]
        half = len(replicas) // 2
        both = []
        for role, mine in (("prefill", replicas[:half]), ("decode", replicas[half:])):
            for replica in mine:
                replica["weight"] = 1 / len(mine)
            both.append({**engine, "id": role, "role": role, "replicas": mine})
        document["decision"]["engines"] = both
        time = {"value": transfer_ms, "low": transfer_ms / 2, "high": transfer_ms * 2}
        document["prediction"]["kv_transfer"] = {
            "bytes_per_request": 1e9,
            "link": "ib-400g",
            "time_ms": time,
            "exposed_ms": time,
            "overlap": "none",
            "sender_busy": 0.1,
            "receiver_busy": 0.1,
        }

    return changed(plan, change)


def test_prompts_are_handed_from_prefill_to_decode_engines(made: Plan, bare: ProfileStore) -> None:
    rate = made.prediction.request_rate_rps.value / 10
    near, far = (replayed(split(made, transfer_ms), bare, rate) for transfer_ms in (1.0, 500.0))
    assert [engine.role for engine in near.groups] == ["prefill", "decode"]
    assert [engine.requests for engine in near.groups] == [1500, 1500]
    assert near.served == 1500
    assert near.ttft_ms is not None
    assert far.ttft_ms is not None
    assert far.ttft_ms.mean.value - near.ttft_ms.mean.value == pytest.approx(499, abs=5)
    assert near.tpot_ms is not None
    together = replayed(made, bare, rate)
    assert together.tpot_ms is not None
    # No prompt delays a decode step any more, at the price of half of the engines.
    assert (
        near.tpot_ms.p99.value / near.tpot_ms.p50.value < together.tpot_ms.p99.value / together.tpot_ms.p50.value * 1.1
    )


def test_two_stages_need_each_other_and_the_way_between(made: Plan, bare: ProfileStore) -> None:
    both = split(made, 1.0)
    with pytest.raises(InputError, match=r"kv_transfer is missing"):
        replayed(changed(both, lambda d: d["prediction"].update(kv_transfer=None)), bare, 5.0, 10)

    def beside(document: Document) -> None:
        prefill, decode = document["decision"]["engines"]
        half = [{**prefill["replicas"][0], "weight": 0.5}]
        aggregated = {**prefill, "id": "both", "role": "aggregated", "replicas": half}
        document["decision"]["engines"] = [aggregated, {**prefill, "replicas": half}, decode]

    with pytest.raises(InputError, match="aggregated engines beside"):
        replayed(changed(both, beside), bare, 5.0, 10)


def test_users_at_once_are_shared_out_by_weight_and_never_more(bare: Any) -> None:
    document = deployment_of_shapes("3xTP1", EngineAsked(model="Qwen/Qwen3-8B", gpu="H100"))
    asked = SimulationRequest(plan=document, workload="isl=500,osl=50,spread=0.8-1,concurrency=10")
    load, source = requested_load(asked)
    assert len(load) == 5000
    assert "10 users at once" in source
    seen: list[Any] = []
    running, sending = Running.of(document, asked.workload), Sending(keep=seen.append)
    report = simulate_plan(running, load, source, sending=sending, store=bare)
    assert [group.replicas for group in report.groups] == [3]
    assert not report.falls_behind
    outcome = seen[0]
    moments = np.linspace(0.1, 0.8, 20) * outcome.end_us
    flying = [int(((outcome.arrival_us <= t) & (outcome.finish_us > t)).sum()) for t in moments]
    assert max(flying) <= 10
    assert np.mean(flying) > 9
    # Little's law: what is in flight is the rate times the time of a request.
    assert report.load.rate_rps * report.e2e_ms.mean.value / 1e3 == pytest.approx(10, rel=0.05)
