"""What the service does is what its OpenAPI says, where making the requests up takes minutes."""

from __future__ import annotations

from typing import Any

import pytest
from asked_of_rest import LARGE, WHOLE, api, check, drawn, many
from schemathesis import Case


@pytest.mark.slow
@drawn.include(path_regex=LARGE, method="POST").parametrize()
@many
def test_and_so_where_the_request_is_large(case: Case[Any], asked_server: str) -> None:
    check(case, asked_server)


@pytest.mark.slow
@api.exclude(path_regex=WHOLE, method="POST").parametrize()
@many
def test_and_so_at_every_boundary_of_a_request(case: Case[Any], asked_server: str) -> None:
    check(case, asked_server)


@pytest.mark.slow
@api.include(path_regex=WHOLE, method="POST").parametrize()
@many
def test_and_so_where_a_whole_plan_is_asked_about(case: Case[Any], asked_server: str) -> None:
    check(case, asked_server)
