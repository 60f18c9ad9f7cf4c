"""What must hold between fleets: more to choose from, less asked of them, and time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.serving.document.plan import Plan
from planner.serving.fleets.decision import loads_of
from planner.serving.fleets.files import read_fleet
from planner.serving.fleets.groups import shared_steps
from planner.serving.fleets.planning import plan_fleet
from planner.serving.fleets.request import parse_fleet_request

ISL, OSL = (100, 400, 1600), (50, 200)
NEAR = 1e-6


def random_fleet(seed: int, types: int = 3) -> dict[str, Any]:
    """A service of six classes on tables of some types, priced as they are fast, more or less."""
    rng = np.random.default_rng(seed)
    tables = []
    for number in range(types):
        speed = float(rng.uniform(1, 6))
        cells = speed * rng.uniform(0.6, 1.4, (3, 2)) * np.array([[8.0], [4.0], [1.5]])
        if number and rng.random() < 0.3:
            cells[2] = 0
        usd = round(speed * float(rng.uniform(0.7, 1.3)), 2)
        tables.append(
            {"gpu": f"type-{number}", "usd_per_hour": usd, "isl": ISL, "osl": OSL, "rps": np.round(cells, 3).tolist()}
        )
    classes = [
        {"isl": isl, "osl": osl, "rate_rps": round(float(rng.uniform(0.5, 12)), 3)} for isl in ISL for osl in OSL
    ]
    return {"services": [{"name": "s", "load": {"classes": classes}, "tables": tables}]}


def planned(fleet: dict[str, Any], **fields: Any) -> Plan:
    return plan_fleet(parse_fleet_request({**fleet, "time_limit_s": 20, **fields}))


def cost(fleet: dict[str, Any], **fields: Any) -> float:
    usd = planned(fleet, **fields).decision.usd_per_hour
    assert usd is not None
    return usd


def hours(fleet: dict[str, Any], factors: list[float]) -> dict[str, Any]:
    (service,) = fleet["services"]
    steps = [
        {"classes": [{**each, "rate_rps": each["rate_rps"] * factor} for each in service["load"]["classes"]]}
        for factor in factors
    ]
    return {"services": [{**service, "load": {"steps": steps}}]}


@pytest.mark.parametrize("seed", range(4))
def test_more_to_choose_from_never_costs_more_and_more_to_do_never_less(seed: int) -> None:
    fleet = random_fleet(seed)
    (service,) = fleet["services"]
    full = cost(fleet)
    assert cost({"services": [{**service, "tables": service["tables"][:2]}]}) >= full - NEAR
    assert cost(fleet, route_by="isl,osl") <= full + NEAR
    assert cost(fleet, survive={"engines": 1}) >= full - NEAR
    assert cost(fleet, headroom=0.2) >= full - NEAR
    rates = [{**each, "rate_rps": each["rate_rps"] * 1.25} for each in service["load"]["classes"]]
    assert cost({"services": [{**service, "load": {"classes": rates}}]}) >= full - NEAR
    finer = [
        {**each, "osl": osl, "rate_rps": each["rate_rps"] / 2} for each in service["load"]["classes"]
        for osl in (each["osl"], each["osl"] - 0.5)
    ]  # fmt: skip
    split = [{**each, "osl_from": each["osl"], "osl_to": each["osl"] + 0.5} for each in finer]
    assert cost({"services": [{**service, "load": {"classes": split}}]}) == pytest.approx(full)


@pytest.mark.parametrize("seed", [1, 2])
def test_two_services_never_cost_more_together_than_apart(seed: int) -> None:
    one, two = random_fleet(seed), random_fleet(seed + 10)
    tables = one["services"][0]["tables"]
    first = {**one["services"][0], "name": "a"}
    second = {**two["services"][0], "name": "b", "tables": tables}
    together = cost({"services": [first, second]})
    assert together <= cost({"services": [first]}) + cost({"services": [second]}) + NEAR


def test_a_day_of_equal_hours_is_the_hour() -> None:
    fleet = random_fleet(3)
    assert cost(hours(fleet, [1.0] * 24)) == pytest.approx(cost(fleet))


def test_a_fleet_planned_again_is_the_same_and_one_whose_load_wanders_changes_little() -> None:
    fleet = hours(random_fleet(4), [1.0, 1.05, 0.97, 1.03])
    first = planned(fleet)
    again = planned(fleet, current=first.model_dump(mode="json"))
    assert again.decision.usd_per_hour == pytest.approx(first.decision.usd_per_hour)
    few = planned(fleet, max_changes=1)
    counts = [list(step.engines.values()) for step in few.decision.schedule]
    assert all(sum(abs(a - b) for a, b in zip(x, y, strict=True)) <= 1 for x, y in pairwise(counts))
    for step in first.decision.schedule:
        assert step.carries >= 1 - NEAR


def test_what_other_rates_cost_rises_with_them_and_no_type_alone_is_cheaper() -> None:
    proof = planned(random_fleet(5)).proof.fleet
    assert proof is not None
    mix = [row.usd_per_hour or 0.0 for row in proof.cost_by_rate]
    assert len(mix) == 5
    assert mix == sorted(mix)
    for row in proof.cost_by_rate:
        assert all(usd >= (row.usd_per_hour or 0) * (1 - 1e-3) for usd in row.alone.values())


EXAMPLES = Path(__file__).parents[4] / "examples" / "fleets"


@pytest.mark.parametrize("name", ["day.yaml", "melange.json"])
def test_the_examples_are_understood(name: str) -> None:
    request = parse_fleet_request(read_fleet(EXAMPLES / name))
    steps = shared_steps([each.name for each in request.services], loads_of(request))
    assert (steps[0].start_s, steps[-1].end_s) in ((0, 86_400), (0, 3600))
    assert request.cluster is not None or request.tables_of(request.services[0])


@pytest.mark.slow
def test_the_example_of_a_day_has_its_schedule() -> None:
    fields = {**read_fleet(EXAMPLES / "day.yaml"), "simulation": False, "time_limit_s": 30}
    plan = plan_fleet(parse_fleet_request(fields))
    assert len(plan.decision.schedule) == 24
    assert all(step.carries >= 1 - NEAR for step in plan.decision.schedule)
    assert plan.proof.gap is not None
    assert plan.proof.fleet is not None
    assert {"constant fleet", "each step alone"} <= {row.name for row in plan.proof.fleet.compared}


@pytest.mark.parametrize("supply", ["reserved_gpus", "spot_gpus"])
def test_what_one_more_gpu_saves_is_what_a_fleet_with_it_costs_less(supply: str) -> None:
    """A reserved GPU is paid whether used or not, so that one more costs its price too."""
    table = {"gpu": "L40S", "usd_per_hour": 3.0, "isl": [1000], "osl": [1000], "rps": [[2.0]]}
    load = {"classes": [{"isl": 500, "osl": 100, "rate_rps": 11}]}
    fleet = {"services": [{"name": "s", "load": load, "tables": [table]}]}

    def plan(gpus: int) -> Plan:
        some = {supply: gpus, supply.replace("_gpus", "_usd_per_gpu_hour"): 2.0}
        pool = {"gpu": "L40S", "gpus": 40, "usd_per_gpu_hour": 3.0, **some}
        return planned(fleet, cluster={"name": "c", "pools": [pool]})

    two, three = plan(2), plan(3)
    assert two.proof.fleet is not None
    (bound,) = (each for each in two.proof.fleet.supplies if each.limit_gpus == 2)
    saved = (two.decision.usd_per_hour or 0) - (three.decision.usd_per_hour or 0)
    assert bound.usd_per_hour_of_one_more == pytest.approx(saved)
    assert saved == pytest.approx(1.0)
