"""Fixtures of the command line's tests."""

from __future__ import annotations

import pytest
from command import Ran, Runner, Stub

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
