"""Engines are simulated in every step of a day, and the fleet is one in which they hold in all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from planner.serving.document.plan import Plan
from planner.serving.fleets.confirming import Confirming, Loaded
from planner.serving.fleets.counted import counted_in_steps
from planner.serving.fleets.decision import Answered, fleet_of, mended, question_of, solved
from planner.serving.fleets.every_step import MISSED, NEAR, SLOPE, At, EveryStep, _Simulated
from planner.serving.fleets.planning import plan_fleet
from planner.serving.fleets.request import parse_fleet_request
from planner.serving.fleets.tails import rates_on
from planner.serving.fleets.ways import aggregated_alone
from profiles.errors import LimitReached

TELLS = MISSED.split("{")[1].split("}")[1].strip()


def _plan(lengths: list[tuple[int, int]], rate: float = 2, gpus: int = 4) -> Plan:
    hours = [
        {
            "hour": hour,
            "classes": [{"isl": isl, "osl": osl, "rate_rps": rate} for isl, osl in (lengths[hour], (300, 30))],
        }
        for hour in range(len(lengths))
    ]
    asked = {
        "cluster": {"name": "ours", "pools": [{"gpu": "H100", "gpus": gpus}]},
        "services": [
            {"name": "chat", "model": "Qwen/Qwen3-8B", "slo": "ttft=1s,tpot=50ms", "load": {"steps": hours}},
        ],
        "disaggregation": "never",
    }
    return plan_fleet(parse_fleet_request(asked))


def _notes(plan: Plan) -> list[str]:
    return [note for note in plan.provenance.notes if TELLS in note]


def _gpus(plan: Plan) -> list[int]:
    """Of each step."""
    each = {group.id: group.gpus_per_engine for group in plan.decision.engines}
    return [sum(each[name] * count for name, count in step.engines.items()) for step in plan.decision.schedule]


def _carries(share: Mapping[int, float]) -> object:
    """What engines carry in each step, of the formulas' sum."""

    def simulated(_: EveryStep, found: Answered, at: At, __: object) -> float:
        v, rates = found.fleet.chosen.variants[at[0]], rates_on(found, *at)
        cells = found.fleet.services[v.service].capacity[:, v.engine]
        return float(rates.sum() / (rates / cells).sum()) * share[at[1]]

    return simulated


def test_a_promise_that_is_missed_in_a_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = _plan([(500, 50), (300, 60)])
    assert kept.prediction.services[0].holds
    assert not _notes(kept)
    monkeypatch.setattr(EveryStep, "_simulated", lambda *_: 0.01)
    missed = _plan([(500, 50), (300, 60)])
    (note,) = _notes(missed)
    assert "in 2 of 2 steps" in note
    assert missed.prediction.services[0].holds is False


def test_a_miss_at_the_busiest_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with_checks = Confirming.with_checks

    def missing(confirming: Confirming, engines: Mapping[int, Loaded]) -> dict[int, Loaded]:
        return {v: replace(each, check=None) for v, each in with_checks(confirming, engines).items()}

    monkeypatch.setattr(Confirming, "with_checks", missing)
    plan = _plan([(500, 50), (300, 60)])
    assert _notes(plan)
    assert plan.prediction.services[0].holds is not True


def test_steps_in_which_engines_carry_less_get_more_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [(500, 50), (400, 60), (300, 60)]
    monkeypatch.setattr(EveryStep, "_simulated", _carries({0: 1.0, 1: 1.0, 2: 1.0}))
    even = _plan(lengths, rate=150, gpus=32)
    monkeypatch.setattr(EveryStep, "_simulated", _carries({0: 1.0, 1: 0.4, 2: 1.0}))
    uneven = _plan(lengths, rate=150, gpus=32)
    assert not _notes(even)
    assert not _notes(uneven)
    before, after = _gpus(even), _gpus(uneven)
    assert after[1] > 1.5 * before[1]
    assert after[0] < after[1] > after[2]


def _found() -> Answered:
    tables = [
        {"gpu": gpu, "usd_per_hour": usd, "isl": [100], "osl": [10, 100], "rps": [rps]}
        for gpu, usd, rps in (("big", 3.0, [30, 12]), ("small", 1.0, [8, 3]))
    ]
    steps = [
        {"hour": hour, "classes": [{"isl": 100, "osl": 10, "rate_rps": r}, {"isl": 100, "osl": 100, "rate_rps": q}]}
        for hour, (r, q) in enumerate(((10, 5), (20, 2), (5, 9)))
    ]
    service = {"name": "s", "tables": tables, "load": {"steps": steps}}
    request = parse_fleet_request({"services": [service], "route_by": "isl,osl"})
    return solved(aggregated_alone(fleet_of(request, lambda *_: None)))


def test_kinds_count_for_less_in_one_step_alone() -> None:
    found = _found()
    counted = np.ones((3, len(found.fleet.services[0].engines)))
    counted[1] = 0.5
    fleet = counted_in_steps(found.fleet, {0: counted})
    work = question_of(fleet, "isl,osl", fleet.request.survive)[0].work
    for t, times in enumerate((1, 2, 1)):
        assert work[t] == pytest.approx(times * found.question.work[t])


def test_what_is_mended_carries_and_has_a_bound() -> None:
    found = _found()
    counted = np.ones((3, len(found.fleet.services[0].engines)))
    counted[1] = 0.5
    fleet = counted_in_steps(found.fleet, {0: counted})
    again, anew = mended(fleet, found, 10), solved(fleet)
    assert again.answer.engines is not None
    assert anew.answer.engines is not None
    assert (again.answer.engines[[0, 2]] == found.answer.engines[[0, 2]]).all()  # type: ignore[index]
    assert again.answer.slack.min() >= 1 - 1e-6
    assert again.answer.bound <= anew.answer.objective <= again.answer.objective  # type: ignore[operator]
    with pytest.raises(LimitReached):
        mended(fleet, found, -1.0)


def test_near_mixtures_are_not_simulated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found, simulated = _found(), []

    def most(_: EveryStep, at_found: Answered, at: At, __: object) -> float:
        simulated.append(at)
        return 1e3

    monkeypatch.setattr(EveryStep, "_simulated", most)
    every = EveryStep(None, lambda _: None)  # type: ignore[arg-type]
    assert found.answer.engines is not None
    variant = int(np.flatnonzero(found.answer.engines[0])[0])
    first = every.carried(found, (variant, 0), {})
    assert every.carried(found, (variant, 0), {}) == pytest.approx(first)
    assert simulated == [(variant, 0)]
    share = np.array([0.5, 0.5])
    every._known = {(0, 0): [_Simulated(share, 10.0)]}
    near = every._near((0, 0), np.array([0.5 + NEAR / 4, 0.5 - NEAR / 4]), np.ones(2))
    assert near is not None
    assert near[1] == pytest.approx(NEAR / 2)
    assert near[0] == pytest.approx(10 * (1 - SLOPE * NEAR / 2))
    assert every._near((0, 1), share, np.ones(2)) is None
