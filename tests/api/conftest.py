"""Fixtures of the command line's tests."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from command import Ran, Runner, Stub
from databases import Postgres, postgres
from service import served

from api.cli import main as cli
from planner.serving import planning


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Runner:
    """Runs the command in this process."""

    def runner(*arguments: str) -> Ran:
        capfd.readouterr()
        code = cli.main(arguments)
        return Ran(code, *capfd.readouterr())

    return runner


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub = Stub()
    monkeypatch.setattr(planning, "plan", stub)
    return stub


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "memory", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "memory":
        return "sqlite://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'service.db'}"
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.fresh(f"t{secrets.token_hex(6)}")


@pytest.fixture(scope="module")
def asked_server() -> Iterator[str]:
    """Address of a service that answers what the REST contract's tests ask."""
    from asked_of_rest import APP  # schemathesis takes seconds to import, which no other test should pay

    with served(APP) as address:
        httpx.get(f"{address}/healthz", timeout=300, trust_env=False)  # seconds, once
        yield address
