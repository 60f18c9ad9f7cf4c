"""Clocks, power limits and energy in plans."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from planner.serving.document.plan import Plan, parse_plan
from planner.serving.planning import plan
from profiles.errors import Infeasible, InputError, Unsupported
from profiles.store import ProfileStore

ASKED = {
    "model": "Qwen/Qwen3-8B",
    "cluster": "2xH200",
    "slo": "ttft=2s,tpot=50ms",
    "workload": "isl=1000,osl=200",
    "disaggregation": "never",
}
BUSY = {**ASKED, "workload": "isl=1000,osl=200,rate=3"}


@pytest.fixture(scope="module")
def planned(bare: ProfileStore) -> Any:
    made: dict[str, Plan] = {}

    def find(asked: dict[str, Any]) -> Plan:
        key = json.dumps(asked)
        if key not in made:
            made[key] = plan(asked, store=bare)
        return made[key]

    return find


def joules(of: Plan) -> float:
    assert of.prediction.joules_per_output_token is not None
    return of.prediction.joules_per_output_token.value


def test_a_locked_clock_slows_every_step_and_cools_it(planned: Any) -> None:
    free, locked = planned(BUSY), planned({**BUSY, "clock": "1200MHz"})
    (group,) = locked.decision.engines
    assert group.clock_mhz == 1200
    assert group.power_cap_watts is None
    assert locked.prediction.tpot_ms.mean.value > free.prediction.tpot_ms.mean.value
    assert locked.prediction.power_watts.value < free.prediction.power_watts.value
    assert any("-lgc 345,1200" in note for note in group.launch.notes)


def test_a_limit_that_is_never_reached_changes_nothing_but_what_is_said(planned: Any) -> None:
    free, limited = planned(BUSY), planned({**BUSY, "power_cap": "700W"})
    assert limited.decision.engines[0].power_cap_watts == 700
    assert limited.prediction.tpot_ms == free.prediction.tpot_ms


def test_what_nobody_asked_about_is_left_out(planned: Any) -> None:
    said = json.loads(planned(BUSY).to_json())
    assert not {"clock", "power_cap"} & set(said["request"])
    assert not {"clock_mhz", "power_cap_watts"} & set(said["decision"]["engines"][0])
    assert "energy" not in said["alternatives"]


def test_at_the_same_cost_the_cooler_clock_is_taken(planned: Any) -> None:
    free, chosen = planned(BUSY), planned({**BUSY, "clock": "any"})
    assert chosen.decision.gpus_used == free.decision.gpus_used
    assert chosen.decision.engines[0].clock_mhz is not None
    assert joules(chosen) < joules(free)
    assert all(check.margin >= 0 for check in chosen.prediction.slo)


@pytest.mark.parametrize("asked", [ASKED, BUSY])
def test_more_clocks_to_choose_from_never_take_more_energy(planned: Any, asked: dict[str, Any]) -> None:
    wanted = {**asked, "objective": "energy"}
    free, any_clock = planned(wanted), planned({**wanted, "clock": "any"})
    assert any_clock.proof.objective_value <= free.proof.objective_value * (1 + 1e-6)
    assert any_clock.proof.objective_unit == "J/output token"
    assert any_clock.proof.bound <= any_clock.proof.objective_value * (1 + 1e-6)
    # What the objective says is what is predicted, but for its straight lines between batch sizes and what simulation
    # changes.
    assert joules(any_clock) == pytest.approx(any_clock.proof.objective_value, rel=0.03 if asked is BUSY else 0.15)
    cost = planned({**asked, "objective": None}) if asked is BUSY else free
    assert joules(any_clock) <= joules(cost) * 1.02


def test_the_frontier_falls_in_energy_as_users_wait_longer(planned: Any) -> None:
    points = planned({**ASKED, "objective": "energy", "clock": "any"}).alternatives.energy
    speeds = [each.output_tokens_per_s_per_user for each in points]
    energy = [each.joules_per_output_token for each in points]
    assert len(points) > 3
    assert speeds == sorted(speeds, reverse=True)
    assert energy == sorted(energy, reverse=True)
    assert len({each.clock_mhz for each in points}) > 1


def test_a_plan_with_clocks_opens_again(planned: Any) -> None:
    made = planned({**BUSY, "clock": "any", "power_cap": "any"})
    assert parse_plan(made.to_json()) == made


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("clock", "1201MHz", "clock: 1201 MHz is between two steps of H200"),
        ("clock", "3GHz", "clock: 3000 MHz is outside what H200 can be set to"),
        ("clock", "fast", "clock: 'fast' is not understood"),
        ("power_cap", "100W", "power_cap: 100 W is outside what H200 can be set to"),
        ("power_cap", "-5W", "power_cap: '-5W' is not understood"),
    ],
)
def test_what_cannot_be_set_is_named(bare: ProfileStore, field: str, value: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        plan({**BUSY, field: value}, store=bare)
    assert said in refused.value.message
    assert refused.value.hint


def test_a_gpu_of_which_nobody_said_what_it_takes_is_refused(bare: ProfileStore) -> None:
    with pytest.raises(Unsupported) as refused:
        plan({**BUSY, "cluster": "2xL40S", "clock": "any"}, store=bare)
    assert "L40S has no known range of clocks" in refused.value.message


def test_where_the_response_was_not_measured_confidence_costs_more(planned: Any) -> None:
    """B200's response to clocks is nobody's measurement: its interval is wider, so a sure promise carries less."""
    asked = {**ASKED, "cluster": "1xB200", "clock": "1200MHz"}
    known = {**ASKED, "cluster": "1xH200", "clock": "1200MHz"}

    def lost(asked: dict[str, Any]) -> float:
        even, sure = planned(asked), planned({**asked, "confidence": 0.8})
        return float(1 - sure.proof.objective_value / even.proof.objective_value)

    assert lost(asked) > 0
    assert lost(known) > 0
    width = [planned(each).prediction.engines[0].tpot_ms.mean for each in (asked, known)]
    assert width[0].high / width[0].value > width[1].high / width[1].value * 0.9


def test_no_alternative_takes_fewer_joules_than_the_plan_that_is_proven_to_take_the_fewest(planned: Any) -> None:
    made = planned({**BUSY, "objective": "energy", "clock": "any"})
    assert made.alternatives.ranked
    assert all(other.loses_by > -1e-6 for other in made.alternatives.ranked)


def test_a_budget_of_watts_is_kept_as_it_is_predicted(planned: Any) -> None:
    free, limited = planned(ASKED), planned({**ASKED, "budget_watts": "0.6kW", "usd_per_kwh": 0.1})
    assert free.prediction.power_watts.value > 600
    assert limited.prediction.power_watts.value <= 600
    assert limited.request.budget_watts == 600
    assert "power budget" in limited.proof.binding_constraint
    paid = limited.prediction.electricity_usd_per_hour
    assert paid.value == pytest.approx(limited.prediction.power_watts.value / 1e4)
    assert limited.prediction.request_rate_rps.value < free.prediction.request_rate_rps.value
    assert parse_plan(limited.to_json()) == limited


def test_a_budget_that_does_not_do_is_told_with_one_that_does(bare: ProfileStore) -> None:
    asked = {**ASKED, "workload": "isl=1000,osl=200,rate=20"}
    with pytest.raises(Infeasible, match="budget_watts: 300 W is less than any fleet") as error:
        plan({**asked, "budget_watts": 300}, store=bare)
    allowed = re.match(r"allow ([0-9,]+) W", error.value.hint)
    assert allowed is not None, error.value.hint
    assert plan({**asked, "budget_watts": float(allowed[1].replace(",", ""))}, store=bare).decision.engines


@pytest.mark.parametrize("value", ["0", "much", -5])
def test_a_budget_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="budget_watts"):
        plan({**ASKED, "budget_watts": value})
