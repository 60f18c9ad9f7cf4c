"""One question has one answer: the bytes of ``--json`` are what a worker of the service hands over, kind by kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Runner

from api.work.answers import answer
from planner.contract.kind import Kind
from planner.kinds import questions

ARGUMENT = {"fleet", "power"}
"""Commands whose request is their argument."""

ASKED = [kind for kind in questions() if kind.media_type == "application/json"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ASKED, ids=lambda kind: kind.request_name)
def test_the_command_line_and_the_service_answer_with_the_same_bytes(run: Runner, tmp_path: Path, kind: Kind) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps(kind.request_example()))
    asked = [str(request)] if kind.form in ARGUMENT or kind.name in ARGUMENT else ["--request", str(request)]
    ran = run(*kind.command.split(), *asked, "--json")
    assert ran.code == 0, ran.err
    made, traceback = answer(kind, request.read_bytes(), (), lambda *_: None)
    assert not traceback
    assert made.problem is None
    assert ran.out.encode() == made.content
