"""Engines are simulated in steps that send them other requests than their busiest."""

from __future__ import annotations

import pytest

from planner.serving.document.plan import Plan
from planner.serving.fleets import other_steps
from planner.serving.fleets.planning import plan_fleet
from planner.serving.fleets.request import parse_fleet_request


def _plan(lengths: list[tuple[int, int]]) -> Plan:
    hours = [
        {"hour": hour, "classes": [{"isl": isl, "osl": osl, "rate_rps": 2} for isl, osl in (lengths[hour], (300, 30))]}
        for hour in range(len(lengths))
    ]
    asked = {
        "cluster": {"name": "ours", "pools": [{"gpu": "H100", "gpus": 4}]},
        "services": [
            {"name": "chat", "model": "Qwen/Qwen3-8B", "slo": "ttft=1s,tpot=50ms", "load": {"steps": hours}},
        ],
    }
    return plan_fleet(parse_fleet_request(asked))


def _notes(plan: Plan) -> list[str]:
    return [note for note in plan.provenance.notes if "busiest step" in note]


def test_a_promise_that_is_missed_in_another_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = _plan([(500, 50), (300, 60)])
    assert kept.prediction.services[0].holds
    assert not _notes(kept)
    monkeypatch.setattr(other_steps, "_misses", lambda *_: True)
    missed = _plan([(500, 50), (300, 60)])
    (note,) = _notes(missed)
    assert "misses it in 1 of 1 other steps" in note
    assert missed.prediction.services[0].holds is False


def test_steps_of_the_same_mixture_are_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_steps, "_misses", lambda *_: True)
    assert not _notes(_plan([(500, 50), (500, 50)]))
