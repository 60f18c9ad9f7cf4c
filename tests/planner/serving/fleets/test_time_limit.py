"""The time limit of a fleet is one allowance: whatever is searched for takes from what is left of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.serving.fleets import comparisons, decision, planning, ways_out
from planner.serving.fleets.files import read_fleet
from planner.serving.fleets.planning import plan_fleet
from planner.serving.fleets.request import parse_fleet_request
from planner.solving.mix import clock
from planner.solving.mix.question import Block, Kinds, MixQuestion, Survive
from planner.solving.mix.solve import MixAnswer, solve_mix
from profiles.errors import Infeasible, LimitReached

SHORT, LONG = {"isl": 500, "osl": 100}, {"isl": 4000, "osl": 200}
STEPS = [
    {"hour": hour, "classes": [{**SHORT, "rate_rps": 16 * (hour + 1)}, {**LONG, "rate_rps": 4 * (hour + 1)}]}
    for hour in range(3)
]
SERVED = {"model": "Qwen/Qwen3-8B", "slo": "ttft=1s,tpot=50ms"}
FLEET: dict[str, Any] = {
    "cluster": "8xH100+16xL40S",
    "services": [
        {"name": "chat", **SERVED, "load": {"steps": STEPS}},
        {"name": "more", **SERVED, "load": {"classes": [{**SHORT, "rate_rps": 5}]}},
    ],
}


EXAMPLE = Path(__file__).parents[4] / "examples" / "fleets" / "melange.json"


class Clock:
    """A clock that only what solves moves: each time by all the seconds that it may take, ``greed`` of them."""

    def __init__(self, greed: float) -> None:
        self.now, self.greed = 0.0, greed
        self.asked: list[float] = []

    def thread_time(self) -> float:
        return self.now

    perf_counter = thread_time

    def solve_mix(self, question: MixQuestion, *, seconds: float, **others: Any) -> MixAnswer:
        answer = solve_mix(question, seconds=1e6, **others)  # by a clock that stands still
        self.asked.append(seconds)
        self.now += self.greed * seconds
        return answer


def timed(monkeypatch: pytest.MonkeyPatch, greed: float = 1.0) -> Clock:
    found = Clock(greed)
    monkeypatch.setattr(clock, "time", found)
    for each in (decision, comparisons, ways_out):
        monkeypatch.setattr(each, "solve_mix", found.solve_mix)
    return found


@pytest.mark.parametrize(
    ("limit", "survive"),
    [
        (1.0, {"engines": 1}),
        (20.0, {}),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((1.0, {}), (20.0, {"engines": 1}))),
    ],
)
def test_all_that_is_searched_for_takes_from_one_allowance(
    monkeypatch: pytest.MonkeyPatch, limit: float, survive: dict[str, int]
) -> None:
    """Eight rounds took a third each, and a dozen comparisons six seconds each."""
    found = timed(monkeypatch)
    plan_fleet(parse_fleet_request({**FLEET, "survive": survive, "time_limit_s": limit}))
    assert len(found.asked) > 5
    assert sum(found.asked) <= limit
    assert max(found.asked) <= planning.TO_CHOOSE * limit


def test_tables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    found = timed(monkeypatch)
    plan = plan_fleet(parse_fleet_request({**read_fleet(EXAMPLE), "time_limit_s": 3}))
    assert plan.proof.gap == 0
    assert sum(found.asked) <= 3


def test_a_limit_without_any_fleet_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = timed(monkeypatch)
    monkeypatch.setattr(
        decision, "solve_mix",
        lambda question, **others: replace(
            found.solve_mix(question, **others), engines=None, status="time_limit", objective=None
        ),
    )  # fmt: skip
    with pytest.raises(LimitReached, match="that the time limit leaves for it") as caught:
        plan_fleet(parse_fleet_request({**FLEET, "time_limit_s": 5}))
    assert "--time-limit" in (caught.value.hint or "")
    assert sum(found.asked) <= 5


def test_a_limit_that_ends_before_a_fleet_held_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, greed=20.0)  # nothing is left after the first fleet
    asked = {**FLEET, "time_limit_s": 4}
    one = {"steps": [{**STEPS[2], "hour": 0}]}
    hour = [{**service, "load": one} if service["name"] == "chat" else service for service in FLEET["services"]]
    with pytest.raises(LimitReached, match=r"no time to look|hold when they are simulated"):
        plan_fleet(parse_fleet_request({**asked, "services": hour}))
    day = plan_fleet(parse_fleet_request(asked))  # the best so far, and that nobody knows whether it holds
    assert all(each.holds is not True for each in day.prediction.services)
    assert any("before engines were simulated in every step" in note for note in day.provenance.notes)


def test_what_there_was_no_time_to_compare_with_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, greed=10.0)
    plan = plan_fleet(parse_fleet_request({**FLEET, "time_limit_s": 4, "simulation": False}))
    assert plan.proof.fleet is not None
    assert plan.proof.fleet.compared
    assert all(each.usd_per_hour is None and "no time" in (each.reason or "") for each in plan.proof.fleet.compared)
    assert not plan.proof.fleet.demands
    assert not plan.proof.fleet.cost_by_rate
    (told,) = (note for note in plan.provenance.notes if "cost or save" in note)
    assert "routing by prompt length alone" in told


def test_rates_that_time_does_not_reach_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rate too many made all of them vanish."""
    found = timed(monkeypatch, greed=0.0)
    asked = {**read_fleet(EXAMPLE), "time_limit_s": 60}
    whole = plan_fleet(parse_fleet_request(asked))
    assert whole.proof.fleet is not None
    assert len(whole.proof.fleet.cost_by_rate) == len(comparisons.RATES)
    last = len(found.asked) - 2  # the highest rate is not asked about whole
    found.asked.clear()

    def ended(question: MixQuestion, **others: Any) -> MixAnswer:
        answer = found.solve_mix(question, **others)
        return answer if len(found.asked) < last else replace(answer, engines=None, status="time_limit", objective=None)

    monkeypatch.setattr(comparisons, "solve_mix", ended)
    part = plan_fleet(parse_fleet_request(asked))
    assert part.proof.fleet is not None
    assert part.proof.fleet.cost_by_rate == whole.proof.fleet.cost_by_rate[:-1]
    highest = whole.proof.fleet.cost_by_rate[-1].rate_rps
    assert any(f"{highest:.4g} requests a second" in note for note in part.provenance.notes)


@pytest.mark.parametrize("infeasible", ["aggregated_alone", "apart"])
def test_one_way_that_cannot_be_and_one_that_time_ended_is_not_said_to_be_infeasible(
    monkeypatch: pytest.MonkeyPatch, infeasible: str
) -> None:
    """Exit 3 was said, though nobody knows."""

    def never(*_: Any) -> Any:
        raise Infeasible("fleet: GPUs of the pools bind", "offer more", binding="supply")

    def late(*_: Any) -> Any:
        raise LimitReached("fleet: no fleet was found in the 1 s that the time limit leaves for it", ways_out.OF_TIME)

    for way in ("aggregated_alone", "apart"):
        monkeypatch.setattr(planning, way, never if way == infeasible else late)
    with pytest.raises(LimitReached, match=r"prefill and decode together: .*; prefill and decode apart: ") as caught:
        plan_fleet(parse_fleet_request({**FLEET, "time_limit_s": 5}))
    assert "GPUs of the pools bind" in caught.value.message
    assert "--time-limit" in caught.value.hint


def test_what_time_does_not_tell_is_not_made_up() -> None:
    """Without time to try what binds, the pools were blamed."""
    one = np.array([1])
    kinds = Kinds(np.ones(1), one, 8 * one, 0 * one, -one, 0 * one, np.zeros(1), np.zeros(1))
    block = Block("L40S", np.array([0]), np.ones(1), most=2.0)
    question = MixQuestion(kinds, [np.array([[1.5]])], np.array([3600.0]), [block], Survive(engines=1))
    assert ways_out.why_not(question, clock.Deadline(5)).details["binding"] == "survive"
    with pytest.MonkeyPatch.context() as patch:
        late = replace(solve_mix(question), status="time_limit")
        patch.setattr(ways_out, "solve_mix", lambda *_, **__: late)
        assert ways_out.why_not(question, clock.Deadline(0)).details["binding"] == "together"
