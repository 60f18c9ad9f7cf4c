"""The answer as a whole, of a small row judged on few days."""

from __future__ import annotations

from typing import Any

import pytest

from planner.power import assembly, report
from planner.power.judge import Days
from planner.power.request import parse_power_request


def test_every_policy_says_its_servers_and_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "_TAIL_DAYS", Days(screened=5, whole=1))
    monkeypatch.setattr(report, "TRAINED", Days(screened=40, whole=1, first=1_000_000))
    monkeypatch.setattr(report, "JUDGED_WHOLE", 1)
    monkeypatch.setattr(assembly, "stressed", lambda *_: [])
    server: dict[str, Any] = {"gpus": 8, "nameplate_watts": 5000, "other_watts": 1700}
    row = {
        "supply": {"name": "row", "budget_watts": 50_000},
        "servers": [
            {"kind": "a", "gpu": "A100-SXM-80GB", "today": 6, **server},
            {"kind": "h", "gpu": "H100", "today": 2, **server, "nameplate_watts": 9000},
        ],
        "priorities": [{"name": "hp", "share": 0.5}, {"name": "lp", "share": 0.5}],
        "control": {"in_band_s": 1},
        "caps": [{"priority": "lp", "clock_mhz": 1275}],
        "slo_impact": "hp_p50=1%,lp_p50=20%",
        "max_brakes_per_year": 20,
        "days": 100,
    }
    made = assembly.power_plan(parse_power_request(row))
    by = {each.name: each for each in made.policies}
    (always,) = by["static"].levels
    assert (always.above, always.below, [each.clock_mhz for each in always.clocks]) == (0.0, 0.0, [None, 1275])
    assert [level.clocks[1].clock_mhz for level in by["polca"].levels] == [1275, 1110, 1110]
    assert by["nameplate"].levels == by["none"].levels == ()
    assert {each.gpu for each in made.decision.settable} == {"A100-SXM-80GB", "H100-SXM"}
    assert "levels" not in by["none"].model_dump()
    # Caps of today are as many MHz on both; those that are chosen as large a share of either's highest.
    assert [(each.kind, each.clock_mhz) for each in always.clocks[1].by_kind] == [("a", 1275), ("h", 1275)]
    lp = by["polca"].levels[0].clocks[1].by_kind
    assert [(each.kind, each.clock_mhz) for each in lp] == [("a", 1275), ("h", 1785)]
    assert [each.kinds for each in made.decision.settable] == [("a",), ("h",)]
    assert any("commonest kind" in note for note in made.provenance.notes)
