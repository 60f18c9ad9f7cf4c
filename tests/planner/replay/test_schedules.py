"""Schedules replayed: routes, steps, losses, and what each request saw."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from costmodels.serving.simulator.outcome import Outcome
from planner.contract.fleet import LossRouting, Route, ScheduledStep
from planner.replay.document import SimulationReport
from planner.replay.per_request import rows_of
from planner.replay.report import simulate
from planner.replay.request import Trace, parse_simulation_request
from planner.replay.schedule import Routing
from planner.serving.document.plan import Plan
from planner.serving.fleets.planning import plan_fleet
from planner.serving.fleets.request import parse_fleet_request
from profiles.errors import InputError

SERVICE = {
    "name": "chat",
    "model": "Qwen/Qwen3-8B",
    "slo": "ttft=1s,tpot=50ms",
    "load": {
        "steps": [
            {"hour": 0, "classes": [{"isl_from": 100, "isl_to": 1000, "osl": 50, "rate_rps": 6}]},
            {"hour": 1, "classes": [{"isl_from": 100, "isl_to": 1000, "osl": 50, "rate_rps": 90}]},
        ]
    },
}
FLEET = {"cluster": "16xH100", "services": [SERVICE], "simulation": False}


@cache
def fleet() -> Plan:
    return plan_fleet(parse_fleet_request(FLEET))


def replayed(**fields: Any) -> tuple[SimulationReport, Outcome]:
    seen: list[Outcome] = []
    report = simulate(parse_simulation_request({"plan": fleet(), **fields}), keep=seen.append)
    return report, seen[0]


def trace(arrival_s: list[float], isl: list[int], osl: list[int], begins_s: float = 0.0) -> Trace:
    return Trace(name="t", arrival_s=tuple(arrival_s), begins_s=begins_s, isl=tuple(isl), osl=tuple(osl))


def test_engines_serve_in_their_step() -> None:
    counts = [sum(step.engines.values()) for step in fleet().decision.schedule]
    assert counts[0] < counts[1]
    report, _ = replayed(requests=2000)
    assert report.served == 2000
    late, _ = replayed(trace=trace(np.linspace(0, 20, 400).tolist(), [500] * 400, [50] * 400, begins_s=4000))
    busy = [group for group in late.groups if group.requests]
    assert sum(group.requests for group in busy) == 400
    assert late.load.seconds == pytest.approx(20)


def test_arrivals_count_from_the_schedules_start_and_refused_requests_have_no_times() -> None:
    _, seen = replayed(trace=trace([0.0, 1.5, 3.0], [500, 10**6, 300], [20, 5, 1], begins_s=7.25))
    lines = rows_of(seen).splitlines()
    assert lines[0] == "arrival_s,isl,osl,ttft_ms,tpot_ms"
    assert lines[1].startswith("7.250000,500,20,")
    assert lines[2] == "8.750000,1000000,5,,"
    assert lines[3].startswith("10.250000,300,1,")
    assert lines[3].endswith(",")  # one token has no time per token after it


def test_requests_of_a_lost_engine_are_sent_again_to_the_others() -> None:
    times = np.linspace(0, 40, 2000).tolist()
    load = trace(times, [500] * 2000, [50] * 2000, begins_s=3700)
    whole, first = replayed(trace=load)
    (name,) = {group.engine for group in whole.groups if group.requests}
    lost, second = replayed(trace=load, fail=f"1*{name}@3710")
    assert lost.served == whole.served == 2000
    assert np.nanmean(second.ttft_us) > np.nanmean(first.ttft_us)
    gone, third = replayed(trace=load, fail=f"{name}@3720")
    assert {each.reason for each in gone.refused} == {"no engine is there"}
    assert gone.served < 1100
    assert np.isnan(third.first_us[third.arrival_us > 3721e6]).all()
    assert third.span_s == pytest.approx(40, rel=0.01)  # those that nobody served came, too
    assert gone.goodput_rps.value == pytest.approx(gone.attainment.value * 2000 / 40, rel=0.01)


@pytest.mark.parametrize(
    "fail", ["engine-9@10", "engine-0", "spot:H100-SXM@10", "engine-0@x", "99*engine-0@10", "0*engine-0@10"]
)
def test_failures_that_are_none_are_refused(fail: str) -> None:
    with pytest.raises(InputError, match="fail") as caught:
        replayed(requests=10, fail=fail)
    assert caught.value.hint


def test_a_service_that_is_none_is_refused_also_without_a_trace() -> None:
    with pytest.raises(InputError, match="service: 'nosuch'"):
        replayed(requests=10, service="nosuch")


def test_lengths_outside_of_every_range_go_by_the_nearest() -> None:
    routes = tuple(
        Route(service="s", isl_from=low, isl_to=high, osl_from=None, osl_to=None, weights={name: 1.0})
        for low, high, name in ((10, 100, "a"), (100, 1000, "b"))
    )
    step = ScheduledStep(start_s=0, end_s=60, engines={"a": 1, "b": 2}, routing=routes, rate_rps=1, carries=1)
    routing = Routing([step], ["s"], ["a", "b"])
    isl = np.array([1, 10, 99, 100, 999, 1000, 5000])
    found = routing.left("weights", 0, 0, np.zeros(2, np.int64), isl, np.ones(7, np.int64))
    assert found.argmax(axis=1).tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_while_engines_are_lost_requests_go_as_the_plan_says_else_to_what_is_left_of_each() -> None:
    def to(**weights: float) -> tuple[Route, ...]:
        return (Route(service="s", isl_from=1, isl_to=9, osl_from=None, osl_to=None, weights=weights),)

    planned = LossRouting(lost={"a": 1}, routing=to(b=1.0))
    step = ScheduledStep(
        start_s=0, end_s=60, engines={"a": 2, "b": 4}, routing=to(a=0.5, b=0.5), rate_rps=1, carries=1,
        after_losses=(planned,),
    )  # fmt: skip
    routing, one = Routing([step], ["s"], ["a", "b"]), np.ones(1, np.int64)
    left = {
        gone: routing.left("weights", 0, 0, np.array(gone), one, one)[0].tolist() for gone in ((0, 0), (1, 0), (0, 1))
    }
    assert left == {(0, 0): [0.5, 0.5], (1, 0): [0.0, 1.0], (0, 1): [0.5, 0.375]}
    assert "after_losses" not in step.model_copy(update={"after_losses": ()}).model_dump()


def test_a_schedule_that_contradicts_itself_is_refused() -> None:
    plan = fleet()
    first, *others = plan.decision.schedule
    broken = first.model_copy(update={"engines": {"engine-7": 1}})
    decision = plan.decision.model_copy(update={"schedule": (broken, *others)})
    with pytest.raises(InputError, match="engine-7"):
        simulate(parse_simulation_request({"plan": plan.model_copy(update={"decision": decision}), "edited": True}))


def test_a_fleet_of_tables_is_not_simulated(tmp_path: Path) -> None:
    table = {"gpu": "a", "usd_per_hour": 1, "isl": [100], "osl": [10], "rps": [[4]]}
    load = {"classes": [{"isl": 100, "osl": 10, "rate_rps": 3}]}
    plan = plan_fleet(parse_fleet_request({"services": [{"name": "s", "load": load, "tables": [table]}]}))
    with pytest.raises(InputError, match="tables"):
        simulate(parse_simulation_request({"plan": plan}))


def test_a_long_load_has_its_intervals_from_its_busiest_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = replayed(requests=3000, rate=90)
    monkeypatch.setattr("planner.replay.scheduled.LONG", 1000)
    long, _ = replayed(requests=3000, rate=90)
    assert long.ttft_ms is not None
    assert whole.ttft_ms is not None
    assert long.ttft_ms.p90.value == whole.ttft_ms.p90.value
    assert long.ttft_ms.p90.low < long.ttft_ms.p90.value < long.ttft_ms.p90.high
    assert long.ttft_ms.p90.high == pytest.approx(whole.ttft_ms.p90.high, rel=0.3)
    assert long.attainment.high <= 1
    assert any("the busiest 1,000 requests" in said for said in long.warnings)
    assert not any("busiest" in said for said in whole.warnings)


@cache
def of_two() -> Plan:
    services = [{**SERVICE, "name": name, "load": {"classes": [CLASS]}} for name in ("chat", "code")]
    return plan_fleet(parse_fleet_request({"cluster": "16xH100", "services": services, "simulation": False}))


CLASS = {"isl_from": 100, "isl_to": 1000, "osl": 50, "rate_rps": 6}


def test_of_a_service_that_is_named_its_own_requests_are_kept() -> None:
    load = trace(np.linspace(0, 40, 300).tolist(), [500] * 300, [50] * 300)
    seen: list[Outcome] = []
    asked = {"plan": of_two(), "trace": load, "service": "code"}
    report = simulate(parse_simulation_request(asked), keep=seen.append)
    assert report.load.requests > 20_000  # the other's come at random
    assert seen[0].isl.tolist() == [500] * 300
    assert len(rows_of(seen[0]).splitlines()) == 301


def test_a_service_with_hardly_any_requests_among_the_busiest_has_an_interval_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("planner.replay.scheduled.LONG", 500)
    load = trace(np.linspace(0, 200, 30).tolist(), [500] * 30, [50] * 30, begins_s=3000)
    report = simulate(parse_simulation_request({"plan": of_two(), "trace": load, "service": "code"}))
    for each in report.slo:
        assert each.simulated is not None
        assert each.simulated.low < each.simulated.value < each.simulated.high
    assert any("around its own" in said for said in report.warnings)
