"""How tests of the command line run it, and what they expect of a failure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from example_plan import example_plan

from planner.serving.request import PlanRequest

ASKED = {"--model": "Qwen/Qwen3-32B", "--cluster": "16xH200", "--workload": "isl=4000,osl=500"}


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Runner = Callable[..., Ran]


def asking(**changes: str | None) -> list[str]:
    """Arguments that plan, with options changed, added or (None) left out: ``asking(slo="ttft=1s")``."""
    options = {**ASKED, **{f"--{name.replace('_', '-')}": value for name, value in changes.items()}}
    return [word for name, value in options.items() if value is not None for word in (name, value)]


class Stub:
    """In place of the planner: remembers what it was asked, answers with the plan made by hand or raises."""

    def __init__(self) -> None:
        self.requests: list[PlanRequest] = []
        self.measured: Any = None
        self.events: list[str] = []
        self.raises: BaseException | None = None

    def __call__(self, request: PlanRequest, *, measured: Any = (), progress: Any = None, **_: Any) -> Any:
        self.requests.append(request)
        self.measured = measured
        for event in self.events:
            progress(event)
        if self.raises is not None:
            raise self.raises
        return example_plan()


def complaint(ran: Ran, code: int = 2) -> tuple[str, str]:
    """(error, hint) of a run that must have failed as every failure does."""
    assert ran.code == code, ran
    assert ran.out == ""
    lines = ran.err.splitlines()
    assert len(lines) == 2, ran.err
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    return lines[0].removeprefix("error: "), lines[1].removeprefix("hint: ")


def calibrated(run: Runner, runs: Path, store: Path, *told: str) -> str:
    """``plan calibrate`` of ``runs`` into ``store``, and that it says ``told``: all that it says."""
    ran = run("calibrate", str(runs), "-o", str(store), "--quiet")
    assert ran.code == 0, ran.err
    for text in told:
        assert text in ran.out
    return ran.out
