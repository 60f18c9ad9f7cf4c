"""Asks the requests of the grid, in this process and through the command's entry function."""

from __future__ import annotations

import io
import json
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from itertools import takewhile
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.diff_plans import seams
from tests.benchmarks.diff_plans.inputs import lay_out

GRID = Path(__file__).with_name("requests.yaml")

WRITES = ("plan", "simulate", "experts", "memory", "train")
"""Commands that write their document to a file and still show the view."""

PRINTS = ("predict", "train predict", "train memory")
"""Commands that show the view or print their document."""


@dataclass(frozen=True)
class Request:
    """One command line, without the word ``plan``. ``out_of_time``: the solver finds nothing before its time is up."""

    name: str
    arguments: tuple[str, ...]
    out_of_time: bool = False

    @property
    def command(self) -> str:
        """``plan``, ``predict``, ``train predict``, …"""
        words = list(takewhile(lambda word: not word.startswith("-"), self.arguments))
        named = next((n for n in (2, 1) if " ".join(words[:n]) in seams.commands()), 1)
        return " ".join(words[:named]) if words else "plan"

    def needs(self, others: Iterable[str]) -> set[str]:
        """Those of ``others`` (names) whose documents it reads."""
        return {name for name in others if f"{name}.json" in self.arguments and name != self.name}


@dataclass(frozen=True)
class Answer:
    """``exit_code``: what a shell would see, or the exception where it would see a traceback. ``document``: parsed
    JSON, None without one. ``text``: the view, or the two lines of an error. ``operations``: families that the cost
    model was asked. ``files``: what was written beside the document."""

    request: Request
    exit_code: int | str
    document: Any
    text: str
    operations: frozenset[str]
    files: Mapping[str, str] = field(default_factory=dict)


def read_grid(path: Path = GRID) -> list[Request]:
    """The requests of a grid file, in its order."""
    entries: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    given = {name: {"ask": entry} if isinstance(entry, str) else entry for name, entry in entries.items()}
    return [Request(name, tuple(shlex.split(each.pop("ask"))), **each) for name, each in given.items()]


def chains(requests: Sequence[Request]) -> list[list[Request]]:
    """Requests in order, those that read another's document after it in one list: each list can run by itself."""
    out: list[list[Request]] = []
    for request in requests:
        needed = request.needs(each.name for chain in out for each in chain)
        joined = [chain for chain in out if needed & {each.name for each in chain}]
        out = [chain for chain in out if chain not in joined]
        out.append([*(each for chain in joined for each in chain), request])
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
    """The answer to one request, whose files lie in the current folder.

    Where the view and the document cannot be had together, it is asked twice.
    """
    arguments, own = list(request.arguments), Path(f"{request.name}.json")
    answers_question = "--help" not in arguments and request.command in (*WRITES, *PRINTS)
    if answers_question and request.command in ("plan", "train"):
        arguments.append("--explain")
    together = answers_question and request.command in WRITES and "--output" not in arguments
    before, document = set(Path().iterdir()), None
    with seams.operations_asked() as operations, ExitStack() as stack:
        if request.out_of_time:
            stack.enter_context(seams.solver_out_of_time())
        exit_code, out, err = _run([*arguments, "--output", str(own)] if together else arguments)
        if exit_code == 0 and together:
            document = json.loads(own.read_text(encoding="utf-8"))
        elif exit_code == 0 and answers_question:
            again, printed, _ = _run([*arguments, "--json"])
            document, exit_code = (json.loads(printed), 0) if again == 0 else (None, f"{again} with --json")
        elif exit_code == 0 and "--help" not in arguments:  # catalogues and schemas
            document = json.loads(out)
    written = set(Path().iterdir()) - before - {own}
    files = {path.name: path.read_text(encoding="utf-8") for path in sorted(written)}
    return Answer(request, exit_code, document, out + err, frozenset(operations), files)


def _run(arguments: Sequence[str]) -> tuple[int | str, str, str]:
    """(exit code, standard output, standard error without progress)."""
    code: int | str
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = seams.run(arguments)
        except Exception as error:  # a defect, to be shown beside what else moved
            code = f"{type(error).__name__}: {error}"
    said = [line for line in err.getvalue().splitlines(keepends=True) if not line.startswith("learning ")]
    return code, out.getvalue(), "".join(said)
