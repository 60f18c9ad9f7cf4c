"""The simulator's word on what the formulas chose."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from cases import DENSE, EXPERTS, SLO, WORKLOAD

from costmodels.serving.simulator.capacity import saturated_rps
from planner.replay.report import Sending, drawn_load, simulate_plan
from planner.serving import operating_points
from planner.serving.confirmation import confirmation
from planner.serving.confirmation.trial import FEWEST, Trial
from planner.serving.document.plan import Plan
from planner.serving.engines.options import UNTRIED, ServingOption, solved_again
from planner.serving.planning import plan
from profiles.errors import Infeasible
from profiles.store import ProfileStore
from tests.costmodels.lengths import constant_lengths

Planned = Callable[..., Plan]

NOISE = 1.06  # a p90 of TPOT near full load, from one draw of arrivals to another (standard deviation 2–3 %)


@pytest.fixture(scope="module")
def simulated(planned: Planned) -> Planned:
    return partial(planned, simulation=True, disaggregation="never")


def throughput(p: Plan) -> float:
    return p.proof.objective_value


def served(p: Plan) -> float:
    return p.prediction.request_rate_rps.value


@pytest.mark.parametrize(
    ("model", "cluster", "more"),
    [
        (DENSE, "1xH100", {}),
        (DENSE, "2xH100", {"disaggregation": "always"}),
        (EXPERTS, "2xH100", {}),
        (DENSE, "2xH100", {"confidence": 0.8}),
    ],
)
def test_a_plan_keeps_its_promises_when_it_is_simulated_with_other_arrivals(
    simulated: Planned, bare: ProfileStore, model: str, cluster: str, more: dict[str, Any]
) -> None:
    p = simulated(model, cluster, WORKLOAD, SLO, **more)
    report = simulate_plan(p, drawn_load(p, served(p), 3000, seed=7), "drawn", sending=Sending(seed=7), store=bare)
    assert not report.falls_behind
    for bound in report.slo:
        assert bound.simulated is not None
        assert bound.simulated.value <= bound.limit_ms * NOISE
    if more.get("confidence") == 0.8:
        assert all(check.confidence >= 0.8 - 1e-9 for check in p.prediction.slo)
        assert all(check.margin > 0.02 for check in p.prediction.slo)


def test_the_document_tells_simulated_from_computed(planned: Planned, simulated: Planned) -> None:
    computed = planned(DENSE, "1xH100", WORKLOAD, SLO, disaggregation="never")
    checked = simulated(DENSE, "1xH100", WORKLOAD, SLO)
    assert not computed.request.simulation
    assert all(group.simulation is None for group in computed.prediction.engines)
    assert all(check.formula_ms is None for check in computed.prediction.slo)
    assert any("not a simulation" in note for note in computed.provenance.notes)
    assert checked.request.simulation
    (group,) = checked.prediction.engines
    assert group.simulation is not None
    assert group.simulation.requests >= FEWEST
    for check, latency in zip(
        checked.prediction.slo, (checked.prediction.ttft_ms, checked.prediction.tpot_ms), strict=True
    ):
        assert latency is not None
        assert check.predicted.value == pytest.approx(latency.p90.value)
        assert check.formula_ms is not None
        assert check.predicted.value != check.formula_ms
        assert 0 <= check.margin < 1
    less = group.simulation.formula_rps is not None
    assert any("counts on" in note and group.engine in note for note in checked.provenance.notes) is less
    more = any("the last word" in note and group.engine in note for note in checked.provenance.notes)
    assert less or more or throughput(checked) == pytest.approx(throughput(computed))


def test_formulas_do_not_hold_a_fleet_back_that_has_room(bare: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of percentiles put 1.3 times too high: engines that they exclude are tried where every bound of the best leaves
    room, for more requests and for fewer GPUs."""
    request = {"model": DENSE, "slo": "ttft_p90=2s,tpot_p90=15ms", "disaggregation": "never", "max_tp": 1}
    original = operating_points.percentile_ms
    monkeypatch.setattr(operating_points, "percentile_ms", lambda *asked: 1.3 * original(*asked))

    def asked(cluster: str, more: str = "") -> Plan:
        return plan({**request, "cluster": cluster, "workload": f"isl=512,osl=128{more}"}, store=bare)

    free = asked("1xH100")
    with monkeypatch.context() as held:
        held.setattr(confirmation, "STRAINED", 0.0)
        least = asked("1xH100")
        rate = f",rate={throughput(least) + throughput(free)}"  # two engines carry it, and not by the formulas
        more = asked("4xH100", rate)
    assert throughput(free) > 1.1 * throughput(least)
    few = asked("4xH100", rate)
    assert few.decision.gpus_used == 2 < more.decision.gpus_used
    for p in (free, few):
        assert all(check.predicted.value <= check.limit_ms for check in p.prediction.slo)


def test_engines_that_formulas_exclude_promise_nothing_where_they_are_not_taken(
    bare: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that is none of them says of the others what it would have said had they never been tried."""
    request = {"model": DENSE, "cluster": "2xH100", "workload": "isl=3000,osl=300", "slo": "ttft=1s,tpot=20ms"}
    compared = {}
    for tried in (0.0, 9.0):
        monkeypatch.setattr(confirmation, "STRAINED", tried)
        p = plan(request, store=bare)
        assert {engine.role for engine in p.decision.engines} == {"prefill", "decode"}
        compared[tried] = [(each.serving, each.objective_value) for each in p.proof.compared]
    assert compared[0.0] == compared[9.0]


def test_engines_that_formulas_exclude_never_make_a_fleet_worse(
    bare: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fleet that holds stays, where what is tried beside it is found to carry half."""
    request = {"model": DENSE, "cluster": "1xH100", "workload": WORKLOAD, "slo": SLO, "disaggregation": "never"}
    monkeypatch.setattr(confirmation, "STRAINED", 0.0)
    held = plan(request, store=bare)
    original, fleets = confirmation._Simulations.settled, []

    def settled(self: Any, request: Any, options: list[ServingOption]) -> Any:
        if fleets:
            options = [solved_again(request, each, each.candidates.capacity_rps / 2) for each in options]
        fleets.append(original(self, request, options))
        return fleets[-1]

    monkeypatch.setattr(confirmation, "STRAINED", 1.0)
    monkeypatch.setattr(confirmation._Simulations, "settled", settled)
    assert throughput(plan(request, store=bare)) == throughput(held)
    assert [each.best is not None for each in fleets] == [True, True]


def test_what_the_formulas_promise_too_much_is_taken_back(
    simulated: Planned, bare: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulations that carry half: every engine of the plan counts on that, the note says so, and layouts beside it
    that were simulated are ranked by it."""
    honest = simulated(DENSE, "1xH100", WORKLOAD, SLO)
    carries = throughput(honest) / 2

    def check(self: Any) -> Any:
        found = original(self)
        return found if self.group.load_rps <= carries else None

    original = Trial.check
    monkeypatch.setattr(Trial, "check", check)
    monkeypatch.setattr(Trial, "capacity_rps", lambda self: carries)
    request = {"model": DENSE, "cluster": "1xH100", "workload": WORKLOAD, "slo": SLO, "disaggregation": "never"}
    p = plan(request, store=bare)
    assert throughput(p) == pytest.approx(carries)
    (group,) = p.prediction.engines
    assert group.rate_rps.value == pytest.approx(carries)
    assert group.simulation is not None
    assert group.simulation.formula_rps is not None
    assert group.simulation.formula_rps > carries
    assert any(f"carries {carries:.4g}" in note for note in p.provenance.notes)
    assert all(other.loses_by >= -1e-9 for other in p.alternatives.ranked)

    with pytest.raises(Infeasible) as told:
        plan({**request, "workload": f"{WORKLOAD},rate={1.5 * carries}"}, store=bare)
    assert told.value.details["highest_rate_rps"] == pytest.approx(carries)


def test_a_plan_of_two_kinds_of_engine_says_what_all_its_requests_see(simulated: Planned, bare: ProfileStore) -> None:
    p = simulated(DENSE, "2xH100+3xL40S", WORKLOAD, "ttft=2s,tpot=60ms")
    assert len(p.prediction.engines) == 2
    report = simulate_plan(p, drawn_load(p, served(p), 20_000, seed=7), "drawn", sending=Sending(seed=7), store=bare)
    for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
        said, seen = getattr(p.prediction, metric), getattr(report, metric)
        kinds = [getattr(each, metric) for each in p.prediction.engines]
        for share in ("mean", "p50", "p90", "p99"):
            within = sorted(getattr(each, share).value for each in kinds)
            assert within[0] * (1 - 1e-9) <= getattr(said, share).value <= within[1] * (1 + 1e-9)
            if metric != "ttft_ms":  # so near the edge a queue is a matter of arrivals
                assert getattr(said, share).value == pytest.approx(getattr(seen, share).value, rel=0.12), share
    for check in p.prediction.slo:
        assert check.predicted == getattr(p.prediction, f"{check.metric}_ms").p90


def test_after_some_rounds_only_simulated_engines_are_left(bare: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one round, the engine that misses its bounds is the answer, at what it carries, and the plan says so."""
    request = {"model": DENSE, "cluster": "2xH100", "workload": WORKLOAD, "slo": SLO, "disaggregation": "never"}
    loads: list[float] = []

    def check(self: Any) -> Any:
        loads.append(self.group.load_rps)
        return original(self) if len(loads) > 1 else None

    original = Trial.check
    monkeypatch.setattr(Trial, "check", check)
    monkeypatch.setattr(Trial, "capacity_rps", lambda self: self.group.load_rps / 2)
    monkeypatch.setattr(confirmation, "ROUNDS", 1)
    monkeypatch.setattr(confirmation, "STRAINED", 0.0)
    p = plan(request, store=bare)
    assert len(loads) == 2
    assert p.prediction.engines[0].load_rps == pytest.approx(loads[0] / 2)
    assert any("only engines that had been simulated" in note for note in p.provenance.notes)
    loads.clear()
    either = plan({**request, "disaggregation": "auto"}, store=bare)
    reasons = {row.serving: row.reason for row in either.proof.compared}
    assert reasons["disaggregated"] == UNTRIED  # not that none would hold: nobody tried
    loads.clear()
    monkeypatch.setattr(confirmation, "ROUNDS", 6)
    other = plan(request, store=bare)
    assert throughput(other) > throughput(p)
    assert not any("only engines that had been simulated" in note for note in other.provenance.notes)


def test_an_engines_edge_is_that_of_prompts_that_no_longer_come_together(
    bare: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond what a full engine does for hours it falls behind at the first long queue, and stays behind."""
    tried: list[Trial] = []

    def check(self: Trial) -> Any:
        tried.append(self)
        return original(self)

    original = Trial.check
    monkeypatch.setattr(Trial, "check", check)
    asked = {"model": "Qwen/Qwen3-32B", "cluster": "2xH200", "framework": "sglang", "slo": "ttft=1s,tpot=100ms"}
    plan({**asked, "workload": "isl=4000,osl=500", "disaggregation": "never"}, store=bare)
    assert tried
    for trial in tried:
        n = 200 * trial.group.limits.max_sequences
        lengths = constant_lengths(n, 4000, 500)
        settled = saturated_rps(trial.tested.sure, *lengths, 2 * trial.group.load_rps)
        assert trial._edge_rps <= 1.1 * settled


def test_an_slo_that_no_simulated_engine_holds_is_refused_with_the_nearest(
    bare: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trial, "check", lambda self: None)
    monkeypatch.setattr(Trial, "capacity_rps", lambda self: 0.0)
    request = {"model": DENSE, "cluster": "1xH100", "workload": WORKLOAD, "slo": SLO, "disaggregation": "never"}
    with pytest.raises(Infeasible, match="none when it is simulated") as told:
        plan(request, store=bare)
    assert told.value.details["binding"] == "slo"
    assert set(told.value.details["nearest"]) == {"ttft_p90", "tpot_p90"}
    assert "--no-simulation" in (told.value.hint or "")


def test_a_looser_slo_never_lowers_throughput_by_more_than_the_search_for_capacity_allows(simulated: Planned) -> None:
    rates = [
        throughput(simulated(DENSE, "1xH100", WORKLOAD, f"ttft={0.3 * loose:g}s,tpot={10 * loose:g}ms"))
        for loose in (1, 1.5, 3, 10)
    ]
    assert all(looser >= 0.97 * tighter for tighter, looser in itertools.pairwise(rates))
    assert rates[-1] > rates[0]


def test_twice_the_gpus_carry_twice_the_load(simulated: Planned) -> None:
    one, two = (throughput(simulated(DENSE, f"{gpus}xH100", WORKLOAD, SLO)) for gpus in (1, 2))
    assert two >= 2 * one * (1 - 1e-9)


def test_equal_requests_give_equal_bytes(bare: ProfileStore, simulated: Planned) -> None:
    request = {"model": DENSE, "cluster": "1xH100", "workload": WORKLOAD, "slo": SLO, "disaggregation": "never"}
    assert plan(request, store=bare).to_json() == simulated(DENSE, "1xH100", WORKLOAD, SLO).to_json()
    assert json.loads(plan(request, store=bare).to_json())["request"]["simulation"] is True
