"""What the service does is what its OpenAPI says, for requests that nobody thought of: schemathesis asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.generation.stateful.state_machine import APIStateMachine
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from service import StubPlanner, served

from api.rest.app import create_app

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
)


APP = create_app(StubPlanner().kinds())
api = schemathesis.openapi.from_dict(APP.openapi())


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with served(APP) as address:
        httpx.get(f"{address}/healthz", timeout=300, trust_env=False)  # seconds, once
        yield address


def check(case: Case[Any], server: str) -> None:
    case.call_and_validate(base_url=server, checks=list(CHECKS))


many = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

WHOLE = "^/v1/(simulations|exports|comparisons|checks)$"
"""What a whole plan goes into: minutes to make up and to shrink."""

LARGE = "^/v1/(plans|predictions|power-plans)$"
"""Requests of so many fields that going through every field's boundaries is 6,000 to 8,000 cases each, four fifths of
all the time that this file takes. They are made up at random here, and gone through in the slow tests."""

drawn = schemathesis.openapi.from_dict(
    APP.openapi(), config=schemathesis.Config.from_dict({"phases": {"coverage": {"enabled": False}}})
)


@api.exclude(path_regex=WHOLE, method="POST").exclude(path_regex=LARGE, method="POST").parametrize()
@many
def test_every_answer_is_one_that_openapi_promises(case: Case[Any], server: str) -> None:
    check(case, server)


@pytest.mark.slow
@drawn.include(path_regex=LARGE, method="POST").parametrize()
@many
def test_and_so_where_the_request_is_large(case: Case[Any], server: str) -> None:
    check(case, server)


@pytest.mark.slow
@api.include(path_regex=LARGE, method="POST").parametrize()
@many
def test_and_so_at_every_boundary_of_a_large_request(case: Case[Any], server: str) -> None:
    check(case, server)


@pytest.mark.slow
@api.include(path_regex=WHOLE, method="POST").parametrize()
@many
def test_and_so_where_a_whole_plan_is_asked_about(case: Case[Any], server: str) -> None:
    check(case, server)


def stateful(server: str) -> type[APIStateMachine]:
    """What answers lead to: the links of OpenAPI, followed."""

    class Followed(api.as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: Case[Any]) -> dict[str, Any]:
            return {"base_url": server}

        def validate_response(self, response: Any, case: Case[Any], **_: Any) -> None:
            case.validate_response(response, checks=list(CHECKS))

    return Followed


def test_every_link_leads_somewhere() -> None:
    document = APP.openapi()
    operations = {each["operationId"]: each for path in document["paths"].values() for each in path.values()}
    names = [name for path in document["paths"].values() for name in (each["operationId"] for each in path.values())]
    assert len(operations) == len(names), "each has an id of its own"
    led = set()
    for operation in operations.values():
        for answer in operation["responses"].values():
            for link in answer.get("links", {}).values():
                led.add(link["operationId"])
                asked = {each["name"] for each in operations[link["operationId"]].get("parameters", ())}
                assert set(link["parameters"]) <= asked
    assert {"get_job", "follow_job", "cancel_job", "get_document", "explain_document", "get_profiles"} <= led


@pytest.mark.slow
def test_answers_that_lead_to_others_keep_what_openapi_promises(server: str) -> None:
    stateful(server).run(settings=settings(many, max_examples=30, stateful_step_count=8))
