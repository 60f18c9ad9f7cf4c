"""What the service does is what its OpenAPI says, for requests that nobody thought of: schemathesis asks."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from service import StubPlanner

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

api = schemathesis.openapi.from_asgi("/openapi.json", create_app(StubPlanner().kinds()))


def check(case: Case[Any]) -> None:
    case.call_and_validate(checks=list(CHECKS))


many = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@api.exclude(path="/v1/simulations").parametrize()
@many
def test_every_answer_is_one_that_openapi_promises(case: Case[Any]) -> None:
    check(case)


@pytest.mark.slow
@api.include(path="/v1/simulations").parametrize()
@many
def test_and_so_where_a_whole_plan_is_asked_about(case: Case[Any]) -> None:
    check(case)
