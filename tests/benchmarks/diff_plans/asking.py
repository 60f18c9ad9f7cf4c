"""Asks the requests of the grid, in this process and through the command's entry function."""

from __future__ import annotations

import io
import json
import os
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.diff_plans import seams
from tests.benchmarks.diff_plans.inputs import lay_out

GRID = Path(__file__).with_name("requests.yaml")

WRITES = ("plan", "simulate", "experts")
"""Commands whose document a file takes while the view is still shown; the others are asked twice."""


@dataclass(frozen=True)
class Request:
    """One command line, without the word ``plan``. ``out_of_time``: the solver finds nothing before its time is up."""

    name: str
    arguments: tuple[str, ...]
    out_of_time: bool = False

    @property
    def command(self) -> str:
        return "plan" if self.arguments[0].startswith("-") else self.arguments[0]

    def needs(self, others: Iterable[str]) -> set[str]:
        """Those of ``others`` (names) whose documents it reads."""
        return {name for name in others if f"{name}.json" in self.arguments and name != self.name}


@dataclass(frozen=True)
class Answer:
    """``exit_code``: what a shell would see, or the error where it would see a traceback. ``document``: parsed JSON,
    None without one. ``text``: the view, or the two lines of an error. ``files``: what it wrote besides."""

    request: Request
    exit_code: str
    document: Any
    text: str
    operations: frozenset[str]
    files: Mapping[str, str] = field(default_factory=dict)


def read_grid(path: Path = GRID) -> list[Request]:
    """The requests of a grid file, in its order."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    requests = []
    for name, entry in entries.items():
        given = {"ask": entry} if isinstance(entry, str) else entry
        requests.append(Request(name, tuple(shlex.split(given["ask"])), given.get("out_of_time", False)))
    return requests


def chains(requests: Sequence[Request]) -> list[list[Request]]:
    """Requests in order, those that read another's document after it in one list: each list can run by itself."""
    out: list[list[Request]] = []
    for request in requests:
        needed = request.needs(each.name for chain in out for each in chain)
        before = [chain for chain in out if needed & {each.name for each in chain}]
        out = [chain for chain in out if chain not in before] + [[*sum(before, []), request]]
    return out


def with_needed(requests: Sequence[Request], names: Iterable[str]) -> list[Request]:
    """Those called ``names``, and before them what they read."""
    wanted, by_name = list(names), {request.name: request for request in requests}
    for name in wanted:  # grows
        wanted.extend(by_name[name].needs(by_name))
    return [request for request in requests if request.name in wanted]


def answers(requests: Sequence[Request], workers: int = 1) -> Iterator[Answer]:
    """What each answers; in the order of the grid with one worker."""
    if workers == 1:
        yield from _answered(requests)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for done in pool.map(_answered_all, chains(requests)):
            yield from done


def _answered_all(requests: Sequence[Request]) -> list[Answer]:
    return list(_answered(requests))


def _answered(requests: Sequence[Request]) -> Iterator[Answer]:
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder))
        for request in requests:
            with chdir(folder):
                answer = ask(request)
            yield answer


def ask(request: Request) -> Answer:
    """The answer to one request, whose files lie in the current folder."""
    arguments, own = list(request.arguments), Path(f"{request.name}.json")
    if request.command == "plan" and "--help" not in arguments:
        arguments.append("--explain")
    writes = request.command in WRITES and "--help" not in arguments and "--output" not in arguments
    before = set(Path().iterdir())
    with seams.operations_asked() as operations, ExitStack() as stack:
        if request.out_of_time:
            stack.enter_context(seams.solver_out_of_time())
        exit_code, out, err = _run([*arguments, "--output", str(own)] if writes else arguments)
        document = json.loads(own.read_text(encoding="utf-8")) if own.exists() else None
        if request.command == "predict" and exit_code == "0" and "--help" not in arguments:
            document = json.loads(_run([*arguments, "--json"])[1])
    if "--json" in arguments or request.command == "schema":
        document = json.loads(out)
    written = set(Path().iterdir()) - before - {own}
    files = {path.name: path.read_text(encoding="utf-8") for path in sorted(written)}
    return Answer(request, exit_code, document, out + err, frozenset(operations), files)


def _run(arguments: Sequence[str]) -> tuple[str, str, str]:
    """(exit code, standard output, standard error without progress)."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = str(seams.run(arguments))
        except Exception as error:  # a defect, to be shown beside what else moved
            code = f"{type(error).__name__}: {error}"
    said = [line for line in err.getvalue().splitlines(keepends=True) if not line.startswith("learning ")]
    return code, out.getvalue(), "".join(said)


