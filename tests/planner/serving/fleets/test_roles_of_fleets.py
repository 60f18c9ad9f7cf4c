"""Fleets whose requests are prefilled by other engines than decode them: pools per role and class, routing, replay."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest

from planner.contract.fleet import LossRouting
from planner.contract.progress import silent
from planner.replay.report import simulate
from planner.replay.request import parse_simulation_request
from planner.replay.scheduled import is_scheduled
from planner.serving.document.plan import Plan, parse_plan
from planner.serving.document.schedules import check_schedule
from planner.serving.fleets import planning
from planner.serving.fleets.planning import _Modelled, plan_fleet
from planner.serving.fleets.pooled import PooledRequests
from planner.serving.fleets.request import parse_fleet_request
from planner.serving.fleets.tails import rates_on
from profiles.errors import InputError, LimitReached

FLEET: dict[str, Any] = {
    "cluster": {"name": "ours", "pools": [{"gpu": "H100", "gpus": 16}, {"gpu": "L40S", "gpus": 16}]},
    "services": [
        {
            "name": "chat",
            "model": "Qwen/Qwen3-8B",
            "slo": "ttft=1s,tpot=20ms",
            "load": {
                "classes": [
                    {"isl_from": 100, "isl_to": 1000, "osl": 150, "rate_rps": 60},
                    {"isl_from": 1000, "isl_to": 4000, "osl_from": 50, "osl_to": 300, "rate_rps": 20},
                    {"isl_from": 8000, "isl_to": 16000, "osl_from": 50, "osl_to": 300, "rate_rps": 2},
                ]
            },
        }
    ],
}


@cache
def planned(disaggregation: str = "always", *, simulation: bool = True, h100: int = 16) -> Plan:
    cluster = {"name": "ours", "pools": [{"gpu": "H100", "gpus": h100}, {"gpu": "L40S", "gpus": 16}]}
    asked = {**FLEET, "cluster": cluster, "disaggregation": disaggregation, "simulation": simulation}
    return plan_fleet(parse_fleet_request(asked))


def test_always_is_never_answered_with_engines_that_do_both() -> None:
    plan = planned()
    assert parse_plan(plan.to_json()) == plan
    check_schedule(plan)
    roles = {group.id: group.role for group in plan.decision.engines}
    assert set(roles.values()) == {"prefill", "decode"}
    (step,) = plan.decision.schedule
    for route in step.routing:
        assert {roles[name] for name in route.weights} == {"prefill"}
        assert {roles[name] for name in route.decode_weights} == {"decode"}
        assert sum(route.weights.values()) == pytest.approx(1)
        assert sum(route.decode_weights.values()) == pytest.approx(1)
    for role in ("prefill", "decode"):
        mine = [replica for group in plan.decision.engines if group.role == role for replica in group.replicas]
        assert sum(replica.weight for replica in mine) == pytest.approx(1)
    assert plan.prediction.kv_transfer is not None
    assert plan.prediction.services[0].holds
    assert plan.request.disaggregation == "always"
    assert all("--kv-transfer-config" in group.launch.command for group in plan.decision.engines)


def test_short_and_long_prompts_may_be_prefilled_on_pools_of_their_own() -> None:
    plan = planned(h100=5)
    gpus = {group.id: group.gpu for group in plan.decision.engines if group.role == "prefill"}
    by_range = [{gpus[name] for name in route.weights} for route in plan.decision.schedule[0].routing]
    assert len(set(gpus.values())) == 2
    assert by_range[-1] == {"H100-SXM"}  # no L40S keeps the promise with the longest prompts
    report = simulate(parse_simulation_request({"plan": plan.model_dump(mode="json"), "requests": 6000, "seed": 5}))
    assert all(check.holds for check in report.slo)


def test_auto_takes_what_costs_less_and_tells_the_other() -> None:
    auto, apart, together = (planned(asked, simulation=False) for asked in ("auto", "always", "never"))
    costs = [each.proof.objective_value for each in (apart, together)]
    assert auto.proof.objective_value == pytest.approx(min(costs))
    assert {group.role for group in together.decision.engines} == {"aggregated"}
    assert auto.proof.fleet is not None
    other = next(row for row in auto.proof.fleet.compared if row.name.startswith("prefill and decode"))
    assert other.usd_per_hour == pytest.approx(max(costs))


def test_the_replay_hands_requests_on_and_keeps_the_promise() -> None:
    plan = planned()
    assert is_scheduled(plan)
    asked = {"plan": plan.model_dump(mode="json"), "requests": 6000, "seed": 3}
    report = simulate(parse_simulation_request(asked))
    assert all(check.holds for check in report.slo)
    loads = {group.engine: group for group in report.groups}
    prefill = sum(loads[group.id].requests for group in plan.decision.engines if group.role == "prefill")
    decode = sum(loads[group.id].requests for group in plan.decision.engines if group.role == "decode")
    assert prefill == decode == report.served == 6000


def test_engines_that_are_lost_have_their_requests_sent_again() -> None:
    plan = planned()
    (step,) = plan.decision.schedule
    groups = {group.id: group for group in plan.decision.engines}
    several = next(name for name, count in step.engines.items() if count > 1 and groups[name].role == "prefill")
    asked = {"plan": plan.model_dump(mode="json"), "requests": 4000}
    assert simulate(parse_simulation_request({**asked, "fail": f"1*{several}@10+5"})).served == 4000
    alone = next(name for name, group in groups.items() if group.role == "decode")
    lost = simulate(parse_simulation_request({**asked, "fail": f"{alone}@10+5"}))
    assert lost.served + sum(each.requests for each in lost.refused) == 4000  # where nothing is left to decode: none
    loads = {load.engine: load.requests for load in lost.groups}
    assert sum(loads[name] for name, group in groups.items() if group.role == "decode") >= lost.served


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda route: {"decode_weights": {}, "weights": route.decode_weights}, "sends prompts to"),
        (lambda route: {"decode_weights": dict.fromkeys(route.decode_weights, 0.4)}, "not to 1"),
        (lambda route: {"decode_weights": route.weights}, "sends what is prefilled to"),
    ],
)  # fmt: skip
def test_a_schedule_that_sends_requests_to_the_wrong_role_is_refused(change: Any, said: str) -> None:
    plan = planned()
    (step,) = plan.decision.schedule
    first, *rest = step.routing
    bad = step.model_copy(update={"routing": (first.model_copy(update=change(first)), *rest)})
    decision = plan.decision.model_copy(update={"schedule": (bad,)})
    with pytest.raises(InputError, match=said):
        check_schedule(plan.model_copy(update={"decision": decision}))


@pytest.mark.parametrize(
    ("lost", "weights", "said"),
    [
        (1, {"engine-99": 1.0}, "after losses: sends requests to 'engine-99', of which none runs"),
        (99, None, "loses 99 of"),
        ("all", None, "after losses: sends requests to .*, of which none runs"),
    ],
)
def test_routing_after_losses_that_contradicts_its_step_is_refused(lost: Any, weights: Any, said: str) -> None:
    plan = planned()
    (step,) = plan.decision.schedule
    name = next(iter(step.routing[0].weights))
    routing = [r if weights is None else r.model_copy(update={"weights": weights}) for r in step.routing]
    count = step.engines[name] if lost == "all" else lost
    bad = step.model_copy(update={"after_losses": (LossRouting(lost={name: count}, routing=tuple(routing)),)})
    decision = plan.decision.model_copy(update={"schedule": (bad,)})
    with pytest.raises(InputError, match=said):
        check_schedule(plan.model_copy(update={"decision": decision}))


def test_one_output_token_leaves_nothing_to_decode() -> None:
    (service,) = FLEET["services"]
    one = [{"isl": 500, "osl": 1, "rate_rps": 5}, {"isl": 900, "osl": 100, "rate_rps": 5}]
    asked = {**FLEET, "services": [{**service, "load": {"classes": one}}]}
    with pytest.raises(InputError, match="nothing is left to decode"):
        plan_fleet(parse_fleet_request({**asked, "disaggregation": "always"}))
    plan = plan_fleet(parse_fleet_request({**asked, "simulation": False}))
    assert {group.role for group in plan.decision.engines} == {"aggregated"}


def test_measured_tables_prefill_and_decode_together() -> None:
    table = {"gpu": "A", "usd_per_hour": 1.0, "isl": [1], "osl": [1], "rps": [[2.0]]}
    load = {"classes": [{"isl": 1, "osl": 1, "rate_rps": 1}]}
    with pytest.raises(InputError, match="measured tables"):
        parse_fleet_request({"services": [{"name": "s", "tables": [table], "load": load}], "disaggregation": "always"})


def test_no_fleet_of_the_two_roles_is_cheaper() -> None:
    """Counts of engines of every kind enumerated, shares of classes by a linear programme that knows no rows."""
    from scipy.optimize import linprog

    plan = planned("always", simulation=False)
    from planner.serving.fleets.decision import fleet_of
    from planner.serving.fleets.ways import apart

    request = parse_fleet_request({**FLEET, "disaggregation": "always", "simulation": False})
    made = apart(fleet_of(request, _Modelled(request, (), lambda _: None)._engines))
    assert made is not None
    (service,) = made.services
    kinds = [(v, service.engines[v.engine]) for v in made.chosen.variants]
    price = made.chosen.usd_per_hour
    rate, best = service.rates[0], plan.proof.objective_value

    def carried(role: str, counts: tuple[int, ...]) -> bool:
        mine = [i for i, (_, kind) in enumerate(kinds) if kind.role == role]
        capacity = np.stack([service.capacity[:, kinds[i][0].engine] for i in mine], axis=1)
        n, m = capacity.shape
        work = np.where(capacity > 0, rate[:, None] / np.maximum(capacity, 1e-300), 0.0)
        rows = np.zeros((m, n * m))
        for k in range(m):
            rows[k, k::m] = work[:, k]
        sums = np.kron(np.eye(n), np.ones(m))
        bounds = [(0, 1 if cell > 0 else 0) for cell in capacity.ravel()]
        return bool(linprog(np.zeros(n * m), rows, counts, sums, np.ones(n), bounds).status == 0)

    def least(role: str) -> list[tuple[float, tuple[int, ...]]]:
        """The cheapest counts of a role's kinds (of 1 and 2 GPUs) that carry everything, by pool."""
        mine = [i for i, (_, kind) in enumerate(kinds) if kind.role == role]
        most = [int(best / price[i]) if kinds[i][1].gpus <= 2 else 0 for i in mine]
        every = sorted(
            (sum(c * price[i] for c, i in zip(counts, mine, strict=True)), counts)
            for counts in product(*(range(min(m, 6) + 1) for m in most))
        )
        return next(([(cost, counts)] for cost, counts in every if cost > 0 and carried(role, counts)), [])

    (first, _), (second, _) = *least("prefill"), *least("decode")
    assert best <= first + second + 1e-6


def test_what_engines_miss_is_not_told_of_their_classes_and_breaks_the_promise_of_all() -> None:
    """Their simulation ends early: what the others carry alone is not what requests see."""
    decided = _Modelled(parse_fleet_request({**FLEET, "disaggregation": "always"}), (), silent).decided()
    found, engines = decided.settled.found, decided.confirming.with_checks(decided.settled.engines)
    (service,) = found.fleet.services
    every, whole = range(len(service.classes)), PooledRequests(found, list(engines.values()))
    assert whole.holds(service, None)
    assert all(whole.latency("ttft", i) is not None for i in every)
    for missed in engines:
        part = PooledRequests(found, [replace(e, check=None) if v == missed else e for v, e in engines.items()])
        gone = rates_on(found, missed, engines[missed].step) > 0
        assert part.holds(service, None) is False
        assert part.rates == pytest.approx(whole.rates)
        for i in every:
            told = None if gone[i] else whole.holds(service, i)
            assert part.holds(service, i) == told
            assert (part.latency("ttft", i) is None) == gone[i]


def test_roles_that_there_was_no_time_for_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = parse_fleet_request({**FLEET, "simulation": False})
    not_apart = planning.ONE_WAY_ALONE.format(way="apart")
    assert not_apart not in plan_fleet(asked).provenance.notes

    def late(*_: object) -> bool:
        raise LimitReached("no time was left", "raise --time-limit")

    monkeypatch.setattr(planning, "_may_be_better", late)
    assert not_apart in plan_fleet(asked).provenance.notes
