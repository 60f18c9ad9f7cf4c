"""Servers whose plan is a fleet's."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from planner.kinds import answer
from planner.power.request import parse_power_request
from planner.power.row import row_without_load
from profiles.errors import InputError


@cache
def _fleet() -> Any:
    """One service on H100s; no L40S is worth its price."""
    asked = {
        "cluster": {"name": "c", "pools": [{"gpu": "H100", "gpus": 8}]},
        "services": [
            {
                "name": "chat",
                "model": "Qwen/Qwen3-8B",
                "slo": "ttft=2s,tpot=60ms",
                "load": {"rate_rps": 60, "classes": [{"isl_from": 1, "isl_to": 2000, "osl": 200, "share": 1}]},
            }
        ],
        "simulation": False,
        "time_limit_s": 5,
    }
    return answer("fleet", asked).model_dump(mode="json")


def _row(gpu: str, plan: Any) -> Any:
    server = {"kind": "hgx", "gpu": gpu, "gpus": 8, "nameplate_watts": 10_200, "other_watts": 2000, "today": 4}
    return parse_power_request(
        {
            "supply": {"name": "row", "budget_watts": 50_000},
            "servers": [{**server, "plan": plan}],
            "priorities": [{"name": "all", "share": 1}],
            "edited": True,
        }
    )


def test_a_server_has_the_fleets_engines_on_all_of_its_gpus() -> None:
    kind = row_without_load(_row("H100", _fleet())).main
    used = sum(len(each["replicas"]) * each["gpus_per_engine"] for each in _fleet()["decision"]["engines"])
    assert kind.engines == pytest.approx(sum(len(e["replicas"]) for e in _fleet()["decision"]["engines"]) * 8 / used)
    group = _fleet()["decision"]["engines"][0]
    each = f"{8 / used * len(group['replicas']):.3g} × TP{group['layout']['tp']}"
    assert kind.source.startswith(f"fleet of Qwen/Qwen3-8B ({each}")
    assert kind.source.endswith("on each server)")
    assert kind.prefill_watts > kind.decode_watts > 0


def test_of_other_gpus_or_several_services_it_is_refused() -> None:
    with pytest.raises(InputError, match="the fleet has no engine on A100-SXM-80GB, it has H100-SXM"):
        row_without_load(_row("A100", _fleet()))
    plan = _fleet()
    group = plan["decision"]["engines"][0]
    two = {**plan, "digest": None} | {
        "decision": {**plan["decision"], "engines": [group, {**group, "id": "engine-9", "service": "search"}]}
    }
    with pytest.raises(InputError, match=r"serve 2 services \(chat, search\)"):
        row_without_load(_row("H100", two))
