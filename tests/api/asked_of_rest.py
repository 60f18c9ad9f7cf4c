"""What the REST contract's tests ask of the service, and the application they ask."""

from __future__ import annotations

from typing import Any

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


APP = create_app(StubPlanner().kinds())
api = schemathesis.openapi.from_dict(APP.openapi())
drawn = schemathesis.openapi.from_dict(
    APP.openapi(), config=schemathesis.Config.from_dict({"phases": {"coverage": {"enabled": False}}})
)
"""Requests at random, without going through the boundaries of every field: what the default run asks."""


def check(case: Case[Any], server: str) -> None:
    case.call_and_validate(base_url=server, checks=list(CHECKS))


many = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

WHOLE = "^/v1/(simulations|exports|comparisons|checks)$"
"""What a whole plan goes into: minutes to make up and to shrink."""

LARGE = "^/v1/(plans|predictions|power-plans)$"
"""Requests of so many fields that their boundaries are 6,000 to 8,000 cases each: a minute to make up, on every worker
that collects them. They are asked in the slow tests."""
