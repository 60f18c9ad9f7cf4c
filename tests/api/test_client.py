"""``api.client``: the service from Python, against a real server in this process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from service import ASKED, PLAN, StubPlanner, served

from api.cli.explanations import explained
from api.client import Client, ServiceProblem
from api.rest.app import create_app
from planner.kinds import KINDS, example
from profiles.errors import Infeasible


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


def test_uploads_are_chosen_by_name(client: Client) -> None:
    assert client.upload_trace("t", b"arrival_s,isl,osl\n0,1,1\n")["version"] == 1
    assert client.ask("simulation", {"plan": example("serving"), "trace": "t"}).kind == "simulation"


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
