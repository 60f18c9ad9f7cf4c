"""A fleet of several services, read by the other commands: each engine is of its own service's model."""

from __future__ import annotations

import pytest

from planner.compare.check_request import CheckRequest
from planner.compare.checking import check
from planner.contract.models import architecture_of
from planner.serving.document.opening import engine_fields
from planner.serving.document.plan import Plan
from planner.serving.fleets.planning import plan_fleet
from planner.serving.fleets.request import parse_fleet_request
from planner.serving.predictions import engines_asked
from profiles.errors import InputError

MODELS = {"chat": "Qwen/Qwen3-8B", "code": "Qwen/Qwen3-32B"}


@pytest.fixture(scope="module")
def fleet() -> Plan:
    services = [
        {"name": name, "model": model, "slo": "ttft=2s,tpot=60ms", "load": "isl=1000,osl=100,rate=1"}
        for name, model in MODELS.items()
    ]
    return plan_fleet(parse_fleet_request({"cluster": "8xH100", "services": services, "simulation": False}))


def test_each_engine_is_of_its_services_model(fleet: Plan) -> None:
    read = {group.service: engine_fields(fleet, group)["model"] for group in fleet.decision.engines}
    assert {service: architecture_of(model).name for service, model in read.items() if service} == MODELS


def test_what_takes_one_load_refuses_it(fleet: Plan) -> None:
    with pytest.raises(InputError, match=r"several services \(chat, code\)"):
        engines_asked(fleet, None)
    with pytest.raises(InputError, match=r"several services \(chat, code\)"):
        check(CheckRequest(plan=fleet))
