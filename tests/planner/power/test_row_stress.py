"""What is said to break when the world is otherwise than assumed."""

from __future__ import annotations

from typing import Any

import pytest

from planner.power import stress
from planner.power.judge import Days
from planner.power.policy import none
from planner.power.request import parse_power_request
from planner.power.simulator import RowModel


def test_brakes_are_named_before_what_they_slow(
    row: RowModel, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that brakes every day was said to break hp_p50 first."""
    monkeypatch.setattr(stress, "_DAYS", Days(screened=3, whole=1, first=2_000_000))
    request = parse_power_request(fields)
    found = list(stress.stressed(row, request, none(), 11))
    braking = [each for each in found if each.verdict.brakes.value > request.max_brakes_per_year]
    assert any(each.verdict.impact["hp"][50.0] > 0.01 for each in braking)
    assert all(each.breaks == "brakes" for each in braking)
    assert all(each.breaks != "brakes" for each in found if each not in braking)
