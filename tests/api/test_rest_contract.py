"""What the service does is what its OpenAPI says, for requests that nobody thought of: schemathesis asks."""

from __future__ import annotations

from typing import Any

import pytest
from asked_of_rest import APP, CHECKS, LARGE, WHOLE, api, check, drawn, many
from hypothesis import settings
from schemathesis import Case
from schemathesis.generation.stateful.state_machine import APIStateMachine


@drawn.exclude(path_regex=WHOLE, method="POST").exclude(path_regex=LARGE, method="POST").parametrize()
@many
def test_every_answer_is_one_that_openapi_promises(case: Case[Any], asked_server: str) -> None:
    check(case, asked_server)


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
def test_answers_that_lead_to_others_keep_what_openapi_promises(asked_server: str) -> None:
    stateful(asked_server).run(settings=settings(many, max_examples=30, stateful_step_count=8))
