"""A whole row, asked of the service: refused, answered as a job, listed and exported."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from service import Client, problem

from api.rest.app import create_app
from api.service_settings import ServiceSettings
from planner.kinds import KINDS
from planner.power import assembly, report
from planner.power.document import PowerPlan
from planner.power.judge import Days

ROUTE = "/v1/power-plans"
ROW: dict[str, Any] = {
    "supply": {"name": "row", "budget_watts": "40kW"},
    "servers": [{"kind": "dgx", "gpu": "A100", "gpus": 8, "nameplate_watts": 5000, "other_watts": 1700, "today": 8}],
    "priorities": [{"name": "hp", "share": 0.5}, {"name": "lp", "share": 0.5}],
    "control": {"in_band_s": 1},
    "slo_impact": {"hp_p50": "1%", "lp_p50": "20%"},
    "max_brakes_per_year": 20,
    "days": 100,
}


def test_a_row_is_a_job_and_its_answer_a_document_that_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "_TAIL_DAYS", Days(screened=5, whole=1))
    monkeypatch.setattr(report, "TRAINED", Days(screened=40, whole=1, first=1_000_000))
    monkeypatch.setattr(report, "JUDGED_WHOLE", 1)
    monkeypatch.setattr(assembly, "stressed", lambda *_: [])
    settings = ServiceSettings(database_url="sqlite://", workers=1, quick_workers=0)
    client = Client(create_app(dict(KINDS), settings))
    over = {**ROW, "supply": {"name": "row", "budget_watts": 12_000}}
    assert "servers" in problem(client.request("POST", ROUTE, json=over), 422, "input-error")["detail"]

    asked = client.request("POST", ROUTE, json=ROW, headers={"Prefer": "respond-async"})
    assert asked.status_code == 202
    job = asked.headers["location"]
    while (state := client.get(job).json())["state"] in ("queued", "running"):
        time.sleep(0.1)
    assert state["state"] == "done", state
    text = client.get(state["result"]).text
    made = KINDS["power"].parse(text)
    assert isinstance(made, PowerPlan)
    assert made.decision.servers >= 8
    assert made.policies[0].name == "nameplate"
    assert client.request("POST", ROUTE, json=ROW).text == text, "the same question has its answer"
    assert [each["kind"] for each in client.get("/v1/documents?kind=power").json()["documents"]] == ["power"]
    body = {"plan": json.loads(text), "to": "prometheus"}
    exported = client.request("POST", "/v1/exports", json=body)
    assert exported.status_code == 200, exported.text
    assert b"rules.yaml" in exported.content
    client.app.state.service.planner.close()
