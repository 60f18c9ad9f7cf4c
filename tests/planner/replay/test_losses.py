"""Requests whose engines are lost: where they go, and what becomes of those that are lost each time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from costmodels.serving.simulator.arrivals import Requests
from costmodels.serving.simulator.outcome import LOST, Outcome
from planner.contract.fleet import Route, ScheduledStep
from planner.replay.schedule import Failure, ScheduledLoad, ScheduleReplay
from planner.replay.scheduled import failures_of
from profiles.errors import InputError

FIRST_S, WHOLE_S = 1.0, 100.0


class Played(ScheduleReplay):
    """Engines on which every request takes as long, however many there are; ``asked``: how often each was played."""

    def _simulated(self, load: ScheduledLoad, rows: np.ndarray, at_us: np.ndarray, g: int, end: Any) -> Outcome:
        n, whole = len(rows), 10.0 if self._prefills[g] else WHOLE_S
        return Outcome(
            isl=load.requests.isl[rows],
            osl=load.requests.osl[rows],
            arrival_us=at_us,
            first_us=at_us + FIRST_S * 1e6,
            finish_us=at_us + whole * 1e6,
            preemptions=np.zeros(n, np.int64),
            rank=np.zeros(n, np.int64),
            refused=np.zeros(n, np.int8),
            end_us=float(at_us.max() + whole * 1e6),
            busy_us=1.0,
            steps=1,
            timeline=np.zeros((0, 5)),
        )


def replay(roles: dict[str, str], failures: list[Failure], requests: int = 50) -> Any:
    engines = [SimpleNamespace(group=SimpleNamespace(id=name, role=role)) for name, role in roles.items()]
    entry = {name: 1.0 for name, role in roles.items() if role != "decode"}
    behind = {name: 1.0 for name, role in roles.items() if role == "decode"}
    route = Route(
        service="s", isl_from=1, isl_to=1000, osl_from=None, osl_to=None,
        weights={name: 1 / len(entry) for name in entry},
        decode_weights={name: 1 / len(behind) for name in behind},
    )  # fmt: skip
    step = ScheduledStep(
        start_s=0, end_s=3600, engines=dict.fromkeys(roles, 1), routing=(route,), rate_rps=1, carries=1
    )
    played = Played(cast(Any, engines), [step], ["s"], failures)
    load = Requests(np.full(requests, 100), np.full(requests, 10), np.linspace(0, 1e6, requests))
    return played.run(ScheduledLoad(load, np.zeros(requests, np.int64)), 0, "value")


def fails(at_s: float, *groups: str) -> list[Failure]:
    return [Failure(at_s, group, None, 1.0) for group in groups]


@pytest.mark.parametrize(("times", "served"), [(3, True), (4, False)])
def test_a_request_that_is_lost_each_time_it_is_sent_is_not_served(times: int, served: bool) -> None:
    both = [fails(10.0 * (i + 1), "ab"[i % 2]) for i in range(times)]
    roles = {"a": "aggregated", "b": "aggregated"}
    outcome = replay(roles, [each for some in both for each in some]).requests
    first = np.flatnonzero(outcome.refused == LOST)
    assert (len(first) == 0) == served
    assert np.isnan(outcome.finish_us[first]).all()
    assert np.isfinite(outcome.finish_us[outcome.refused == 0]).all()


def test_one_lost_before_it_is_prefilled_was_never_at_an_engine_that_decodes() -> None:
    found = replay({"p": "prefill", "q": "prefill", "d": "decode", "e": "decode"}, fails(5.0, "p"))
    assert (found.requests.refused == 0).all()
    decoded = [row for each in found.replays if each.group.role == "decode" for row in each.rows.tolist()]
    assert sorted(decoded) == list(range(50))
    again = [each for each in found.replays if each.group.id == "q"]
    assert len(again[0].rows) == 50  # what p had, too
    assert found.requests.finish_us.min() >= (10.0 + WHOLE_S) * 1e6


@pytest.mark.parametrize("text", ["1*engine-0@0+0", "engine-0@0+0", "1*engine-0@5+10", "spot:H100-SXM@5+10"])
def test_a_failure_for_no_time_or_before_the_schedule_is_refused(text: str) -> None:
    step = SimpleNamespace(start_s=0.0 if "@0" in text else 100.0, end_s=3600.0, engines={"engine-0": 3})
    group = SimpleNamespace(id="engine-0", pool="H100-SXM", supply="spot")
    plan = SimpleNamespace(decision=SimpleNamespace(engines=[group], schedule=[step]))
    with pytest.raises(InputError, match="none of these engines runs then"):
        failures_of(text, cast(Any, plan))
