"""What engines are started with where other steps or losses send them other requests than they get at their busiest."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from planner.replay.report import simulate
from planner.replay.request import parse_simulation_request
from planner.serving.document.plan import Plan
from planner.serving.fleets.decision import Answered
from planner.serving.fleets.losing import _words
from planner.serving.fleets.planning import plan_fleet
from planner.serving.fleets.request import parse_fleet_request
from planner.solving.mix.losses import ALL

CLASSES = [
    {"isl_from": 50, "isl_to": 2000, "osl_from": 100, "osl_to": 300, "rate_rps": 30},
    {"isl_from": 2000, "isl_to": 8000, "osl_from": 100, "osl_to": 300, "rate_rps": 10},
]
SERVICE = {"name": "s", "model": "Qwen/Qwen3-8B", "slo": "ttft_p90=1.5s,tpot_p90=60ms", "load": {"classes": CLASSES}}
SPOT = {"spot_gpus": 8, "spot_usd_per_gpu_hour": 1.25}
POOLS = [{"gpu": "H100", "gpus": 3}, {"gpu": "L40S", "gpus": 9}]


def test_equal_engines_of_several_services_that_are_lost_are_counted_together() -> None:
    """A spot pool of two services was "1 × TP1 on H100, spot and 1 × TP1 on H100, spot"."""
    kinds = [SimpleNamespace(service=v, engine=0, offer=offer) for v, offer in ((0, 0), (1, 0), (1, 1))]
    services = [SimpleNamespace(engines=[SimpleNamespace(label="TP1 on H100")]) for _ in range(2)]
    offers = [SimpleNamespace(supply="spot"), SimpleNamespace(supply="on_demand")]
    fleet = SimpleNamespace(chosen=SimpleNamespace(variants=kinds), services=services, offers=offers)
    found = cast(Answered, SimpleNamespace(fleet=fleet))
    assert (
        _words(found, ((0, ALL), (1, ALL), (2, 1)), np.array([1, 1, 3])) == "2 × TP1 on H100, spot and 1 × TP1 on H100"
    )
    assert _words(found, ((0, ALL), (1, 1)), np.array([0, 3, 3])) == "1 × TP1 on H100, spot"


@cache
def planned(survive: int) -> Plan:
    asked = {"cluster": {"name": "c", "pools": POOLS}, "services": [SERVICE], "disaggregation": "never"}
    return plan_fleet(parse_fleet_request({**asked, **({"survive": {"engines": survive}} if survive else {})}))


def test_engines_admit_what_losses_send_them() -> None:
    """They admitted what they get without a loss alone, and refused the others' requests for ever after it."""
    plan = planned(1)
    (step,) = plan.decision.schedule
    longest = {group.id: group.limits.max_model_len for group in plan.decision.engines}
    sent = {
        name: max(route.isl_to for route in routes if name in route.weights)
        for routes in [[*step.routing, *(route for each in step.after_losses for route in each.routing)]]
        for name in {name for route in routes for name in route.weights}
    }
    usually = {name: max(route.isl_to for route in step.routing if name in route.weights) for name in sent}
    assert usually != sent  # a loss sends some of them longer prompts
    assert all(longest[name] >= isl + 299 - 1 for name, isl in sent.items())
    for name in step.engines:
        report = simulate(parse_simulation_request({"plan": plan, "requests": 2000, "fail": f"1*{name}@20"}))
        assert report.refused == ()


def test_engines_hold_as_many_sequences_as_losses_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state after a loss was judged with engines of other limits than those that run."""
    from planner.serving.fleets import planning
    from planner.serving.fleets.losing import AfterLoss, after_worst_loss

    seen: list[AfterLoss] = []

    def kept(*args: object) -> AfterLoss | None:
        found = after_worst_loss(*args)  # type: ignore[arg-type]
        if found is not None:
            seen.append(found)
        return found

    monkeypatch.setattr(planning, "after_worst_loss", kept)
    planned.cache_clear()
    runs = {(group.gpu, group.layout.label): group.limits for group in planned(1).decision.engines}
    (after,) = seen
    for each in after.engines.values():
        group = each.group
        assert group.limits == runs[group.job.served.gpu.name, group.layout.label]
        own = group.candidate.batch_limits
        assert group.limits.max_sequences >= own[1]


def test_without_losses_engines_admit_what_they_get() -> None:
    (step,) = planned(0).decision.schedule
    groups = {group.id: group.limits.max_model_len for group in planned(0).decision.engines}
    for name, admitted in groups.items():
        isl = max(route.isl_to for route in step.routing if name in route.weights)
        assert isl + 299 - 1 <= admitted < isl + 299 + 256


def test_engines_admit_what_every_step_sends_them() -> None:
    """They admitted what their busiest step sends them alone, and refused every longer prompt of other hours."""
    short, long = {"isl": 800, "osl": 200}, {"isl": 20_000, "osl": 300, "rate_rps": 0.4}
    steps = [
        {"hour": 0, "classes": [{**short, "rate_rps": 40}]},
        {"hour": 1, "classes": [{**short, "rate_rps": 12}, long]},
    ]
    service = {"name": "s", "model": "Qwen/Qwen3-8B", "slo": "ttft=2s,tpot=60ms", "load": {"steps": steps}}
    asked = {"cluster": "4xH100+8xL40S", "services": [service], "disaggregation": "never"}
    plan = plan_fleet(parse_fleet_request(asked))
    longest = {group.id: group.limits.max_model_len for group in plan.decision.engines}
    for step in plan.decision.schedule:
        for route in step.routing:
            assert all(longest[name] >= route.isl_to - 1 + 200 for name in route.weights)
    assert simulate(parse_simulation_request({"plan": plan})).refused == ()


def test_what_misses_its_promise_after_a_loss_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan said of such a state that nobody knows, and stayed."""
    from planner.serving.confirmation.trial import Trial
    from planner.serving.fleets import planning

    now, check, short = planned(1), Trial.check, planning.short_after_loss
    told: list[dict[tuple[int, int], float]] = []

    def missed(*args: object) -> dict[tuple[int, int], float]:
        with monkeypatch.context() as patched:
            patched.setattr(Trial, "check", (lambda _: None) if not told else check)
            told.append(short(*args))  # type: ignore[arg-type]
        return told[-1]

    monkeypatch.setattr(planning, "short_after_loss", missed)
    planned.cache_clear()
    more = planned(1)
    planned.cache_clear()
    first, *later = told
    assert first
    assert all(0.5 <= share < 1 for share in first.values())
    assert later[-1] == {}
    assert now.decision.usd_per_hour is not None
    assert more.decision.usd_per_hour is not None
    assert more.decision.usd_per_hour >= now.decision.usd_per_hour
    assert more.prediction.services[0].holds_after_loss is True


def test_what_misses_its_promise_after_a_loss_is_not_believed_again() -> None:
    """Of this fleet the L40S were counted on for less, believed anew without the loss, and left as they were."""
    classes = [{"isl_from": 20, "isl_to": 500, "osl": 200, "rate_rps": 22}, {**CLASSES[0], "isl_from": 500}]
    classes[1] |= {"isl_to": 4000, "osl_from": 300, "osl_to": 301, "rate_rps": 6}
    pools = [
        {
            "gpu": "H100",
            "gpus": 16,
            "spot_gpus": 8,
            "spot_usd_per_gpu_hour": 1.25,
            "usd_per_gpu_hour": 2.95,
            "zone": "a",
        },
        {"gpu": "L40S", "gpus": 24, "usd_per_gpu_hour": 1.0, "zone": "b"},
    ]
    service = {**SERVICE, "slo": "ttft_p90=1s,tpot_p90=50ms", "load": {"classes": classes}}
    asked = {"cluster": {"name": "c", "pools": pools}, "services": [service], "disaggregation": "never"}
    plan = plan_fleet(parse_fleet_request({**asked, "survive": {"spot_pools": 1, "zones": 1, "nodes": 1}}))
    assert plan.prediction.services[0].holds_after_loss is True
    report = simulate(parse_simulation_request({"plan": plan, "requests": 20_000, "fail": "spot:H100-SXM@0"}))
    assert all(each.holds for each in report.slo)
