"""A small row, its request, and a plan with levels."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planner.kinds import example
from planner.power.document import CapLevel, ClassClock, PowerPlan, parse_power_plan
from planner.power.request import parse_power_request
from planner.power.row import row_without_load
from planner.power.simulator import RowModel
from planner.power.traffic import Bursts, ReferenceLoad


@pytest.fixture
def fields() -> dict[str, Any]:
    return {
        "supply": {"name": "row", "budget_watts": 40_000},
        "servers": [
            {"kind": "dgx", "gpu": "A100", "gpus": 8, "nameplate_watts": 5000, "other_watts": 1700, "today": 8}
        ],
        "priorities": [{"name": "hp", "share": 0.5}, {"name": "lp", "share": 0.5}],
        "telemetry": {"period_s": 2, "error": 0.01},
        "control": {"in_band_s": 1, "out_of_band_s": 40, "failure_rate": 0.05, "brake_s": 5},
        "slo_impact": "hp_p50=1%,lp_p99=50%",
    }


@pytest.fixture
def row(fields: dict[str, Any]) -> RowModel:
    found = row_without_load(parse_power_request(fields))
    return found.under(ReferenceLoad(0.05, Bursts(24, 0.3, 120, 20)))


@pytest.fixture
def plan() -> PowerPlan:
    made = parse_power_plan(json.dumps(example("power")))
    levels = tuple(
        CapLevel(
            level=i + 1,
            above=0.9 + 0.02 * i,
            step_above=None,
            below=0.85,
            back_to=i,
            clocks=(
                ClassClock(priority="hp", clock_mhz=1305 if i else None, gpu_watts=380.0 if i else None),
                ClassClock(priority="lp", clock_mhz=1110 - 300 * i, gpu_watts=320.0 - 60 * i),
            ),
            time_share=0.1,
        )
        for i in range(2)
    )
    return made.model_copy(update={"decision": made.decision.model_copy(update={"levels": levels})})
