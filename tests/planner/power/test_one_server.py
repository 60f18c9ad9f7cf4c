"""A row of one server against the engine simulator: the same plan, the same requests, the same watts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from planner.contract.kind import EXAMPLES
from planner.power.request import parse_power_request
from planner.power.row import row_of
from planner.power.series import timeline
from planner.replay.report import simulate
from planner.replay.request import parse_simulation_request


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0, 4.0])
def test_a_row_of_one_server_draws_what_its_engine_draws(rate: float) -> None:
    draw = np.random.default_rng(5)
    plan = json.loads((EXAMPLES / "serving.json").read_text("utf-8"))
    isl, osl = plan["request"]["workload"]["isl"], plan["request"]["workload"]["osl"]
    arrivals = np.cumsum(draw.exponential(1 / rate, round(1800 * rate)))
    trace: dict[str, Any] = {
        "name": "drawn",
        "arrival_s": arrivals.round(3).tolist(),
        "isl": draw.integers(isl * 8 // 10, isl, len(arrivals)).tolist(),
        "osl": draw.integers(osl * 8 // 10, osl, len(arrivals)).tolist(),
    }
    report = simulate(parse_simulation_request({"plan": plan, "trace": trace}))
    request = parse_power_request(
        {
            "supply": {"name": "row", "budget_watts": 2000},
            "servers": [
                {"kind": "one", "gpu": "H200", "gpus": 1, "nameplate_watts": 1000, "other_watts": 0, "today": 1}
                | {"plan": plan}
            ],
            "priorities": [{"name": "all", "share": 1}],
            "trace": trace,
        }
    )
    row, _ = row_of(request)
    watts = timeline((request, row))
    assert report.timeline is not None
    ends = np.array([each.time_s for each in report.timeline])
    engine = np.array([each.power_watts for each in report.timeline])
    width = np.diff(np.concatenate([[0.0], ends]))
    span = round(float(ends[-1]))
    assert float(watts[:span].mean()) == pytest.approx(float(engine @ width / width.sum()), rel=0.03)
