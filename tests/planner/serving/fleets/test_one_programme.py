"""One class and one step may be asked of ``plan``'s own programme, which knows of places on nodes, and of the fleets'
one, which knows of classes, steps and losses: both find the same least cost. (Of an engine whose cache holds three
sequences and a third on average, ``plan`` tries three, and fleets the third too: the loads here are not between.)"""

from __future__ import annotations

from typing import Any

import pytest

from planner.serving.fleets import planning
from planner.serving.fleets.request import parse_fleet_request
from profiles.errors import Infeasible, InputError

QWEN, LLAMA = "Qwen/Qwen3-8B", "meta-llama/Llama-3.1-70B-Instruct"


def asked(model: str, cluster: str, isl: int, osl: int, rate: float, **more: Any) -> dict[str, Any]:
    load = {"classes": [{"isl": isl, "osl": osl, "rate_rps": rate}]}
    service = {"name": "s", "model": model, "slo": "ttft=2s,tpot=40ms", "load": load}
    return {"cluster": cluster, "services": [service], "simulation": False, **more}


def both(monkeypatch: pytest.MonkeyPatch, request: dict[str, Any]) -> list[float | None]:
    found: list[float | None] = []
    for change in (False, True):
        if change:
            monkeypatch.setattr(planning, "one_load", lambda _: None)
        try:
            plan = planning.plan_fleet(parse_fleet_request(request))
        except Infeasible:
            found.append(None)
        else:
            found.append(plan.proof.objective_value)
    return found


@pytest.mark.parametrize(
    "request_of",
    [
        asked(QWEN, "16xH100+16xL40S", 200, 800, 40),
        asked(LLAMA, "16xH100", 1000, 50, 2.5),
        asked(QWEN, "16xH100+16xL40S", 4000, 50, 40, disaggregation="always"),
        asked(LLAMA, "8xH100", 4000, 800, 10),
        asked(QWEN, "16xL40S", 1000, 200, 5, objective="gpus"),
    ],
    ids=["two pools", "engines of several GPUs", "apart, on two pools", "too much", "fewest GPUs"],
)
def test_both_programmes_find_the_same_cost(monkeypatch: pytest.MonkeyPatch, request_of: dict[str, Any]) -> None:
    first, second = both(monkeypatch, request_of)
    assert first == pytest.approx(second)


def test_one_load_does_not_stay_up_longer_than_its_hour_either() -> None:
    cluster = {"name": "c", "pools": [{"gpu": "L40S", "gpus": 8, "min_up_s": 7200}]}
    with pytest.raises(InputError, match=r"min_up_s 7200 is longer than the 3600 s"):
        planning.plan_fleet(parse_fleet_request({**asked(QWEN, "8xL40S", 200, 50, 1), "cluster": cluster}))


@pytest.mark.slow
def test_so_they_do_when_engines_are_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = both(
        monkeypatch, asked(QWEN, "16xH100+16xL40S", 4000, 50, 40, simulation=True, headroom=0)
    )  # without room for the tail, which `plan` does not leave
    assert first == pytest.approx(second)
