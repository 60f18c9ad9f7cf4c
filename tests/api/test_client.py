"""``api.client``: the service from Python, against a real server in this process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from service import ASKED, PLAN, StubPlanner, served

from api.cli.explanations import explained
from api.client import Client, ServiceAway, ServiceProblem
from api.rest.app import create_app
from planner.kinds import KINDS, example
from profiles.errors import Infeasible
from profiles.store import shipped_pack


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    kinds = StubPlanner().kinds()

    def impossible(request: Any) -> Any:
        raise Infeasible("slo: ttft_p90 binds", "relax it", binding="ttft_p90")

    with served(create_app({**kinds, "experts": replace(KINDS["experts"], make=impossible)}, explain=explained)) as at:
        yield at


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as made:
        yield made


def test_a_question_is_answered_with_the_documents_class(client: Client) -> None:
    plan = client.ask("serving", ASKED)
    assert plan == PLAN
    entry = next(client.documents(kind="serving"))
    assert client.document(entry["path"]) == client.document(entry["id"]) == PLAN
    assert client.content(entry["id"]) == PLAN.to_json().encode()
    assert "considered" in client.explanation(entry["id"])


def test_a_job_tells_of_itself(client: Client) -> None:
    job = client.submit("memory", example("memory-request"))
    states = [now["state"] for now in job.events()]
    assert states == [] if not job.id else states[-1] == "done"
    assert job.result().kind == "memory"
    assert client.submit("memory", example("memory-request")).status()["state"] == "done"


def test_a_refusal_says_what_the_service_says(client: Client) -> None:
    with pytest.raises(ServiceProblem) as raised:
        client.ask("experts", example("experts-request"))
    assert (raised.value.status, raised.value.message, raised.value.hint) == (409, "slo: ttft_p90 binds", "relax it")
    assert raised.value.details == {"binding": "ttft_p90"}
    with pytest.raises(ServiceProblem, match="not found"):
        client.document("0" * 32)


def test_an_export_is_an_archive_whichever_way_it_was_asked_for(client: Client) -> None:
    asked = client.ask("export", example("export-request"))
    job = client.submit("export", example("export-request"))
    assert isinstance(asked, bytes)
    assert asked.startswith(b"PK")
    assert job.result() == asked


def test_a_stream_that_is_cut_at_once_is_not_asked_for_in_a_tight_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("api.client.connection.time.sleep", slept.append)
    streams = iter(["", "", 'data: {"state": "running"}\n\n', 'data: {"state": "done"}\n\n'])
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=next(streams)))
    with Client("http://gateway", transport=transport) as client:
        assert [now["state"] for now in client.job("0" * 32).events()] == ["running", "done"]
    assert len(slept) == 3


def test_a_gateway_may_name_the_character_set_of_a_document() -> None:
    def answers(request: httpx.Request) -> httpx.Response:
        media = "application/json; charset=utf-8"
        return httpx.Response(200, content=PLAN.to_json().encode(), headers={"content-type": media})

    with Client("http://gateway", transport=httpx.MockTransport(answers)) as client:
        assert client.document("0" * 32) == PLAN


def test_a_job_is_found_again_by_its_id(client: Client) -> None:
    made = client.ask("memory", {**example("memory-request"), "max_model_len": 4321})
    id_ = next(each["id"] for each in client.jobs("done"))  # the newest
    assert client.job(id_).result(timeout=60) == made
    assert id_ not in [each["id"] for each in client.jobs("failed")]


class Away(httpx.BaseTransport):
    """A service that does not answer the requests of ``gaps``, counted from 0, and else as ``real`` does."""

    def __init__(self, *gaps: int, status: int | None = None) -> None:
        self._gaps, self._status, self._asked = gaps, status, -1
        self._real = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._asked += 1
        if self._asked not in self._gaps:
            return self._real.handle_request(request)
        if self._status is None:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(self._status, json={"detail": "database: away", "hint": "wait", "status": self._status})

    def close(self) -> None:
        self._real.close()


@pytest.mark.parametrize("status", [None, 503])
def test_a_job_is_waited_for_while_the_service_is_away(
    address: str, monkeypatch: pytest.MonkeyPatch, status: int | None
) -> None:
    monkeypatch.setattr("api.client.connection.time.sleep", lambda _: None)
    with Client(address, transport=Away(1, 2, 4, status=status)) as client:
        job = client.submit("memory", {**example("memory-request"), "max_model_len": 5000 + (status or 0)})
        assert job.result(timeout=60).kind == "memory"
        assert not job.id or [now["state"] for now in client.job(job.id).events()][-1] == "done"


def test_a_service_that_stays_away_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.client.connection.time.sleep", lambda _: None)
    monkeypatch.setattr("api.client.connection.AWAY_S", 0.05)
    with Client("http://127.0.0.1:9", transport=Away(*range(10**6))) as client:
        for asked in (lambda: client.job("0" * 32).result(), lambda: list(client.job("0" * 32).events())):
            with pytest.raises(ServiceAway, match=r"http://127.0.0.1:9.*: cannot be reached \(refused\)"):
                asked()
        with pytest.raises(ServiceAway):
            client.ask("memory", example("memory-request"))


def test_uploads_are_chosen_by_name(client: Client) -> None:
    assert client.upload_trace("t", b"arrival_s,isl,osl\n0,1,1\n")["version"] == 1
    assert client.ask("simulation", {"plan": example("serving"), "trace": "t"}).kind == "simulation"
    rows = shipped_pack().query("gemm", framework="vllm").head(2).to_csv(index=False).encode()
    assert client.upload_profile("lab", rows, "gemm")["about"]["rows"] == {"gemm": 2}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_explanation(kind: str) -> None:
    if KINDS[kind].media_type == "application/json":
        import json

        assert explained(KINDS[kind].parse(json.dumps(example(kind))))


def test_it_imports_no_solver_and_no_cost_model() -> None:
    heavy = "sklearn highspy pulp ortools scipy pandas pyarrow fastapi sqlalchemy costmodels.kernels"
    code = f"import sys, api.client; print([m for m in {heavy.split()!r} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
