"""Whatever is wrong with an argument is said in two lines, whichever command and option it is given to."""

from __future__ import annotations

import random
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from mutations import STRANGE_TEXT
from test_readers import said_well

sys.path.insert(0, str(Path(__file__).parents[1] / "api"))
from example_plan import example_plan

from api.cli import main as cli
from planner.serving import planning, prediction_table

FEW, MANY = 60, 4000  # strange command lines

ASKED = ["--model", "Qwen/Qwen3-32B", "--cluster", "16xH200", "--workload", "isl=4000,osl=500", "--slo", "ttft=1s"]
PREDICTED = ["predict", "--model", "Qwen/Qwen3-32B", "--gpu", "H200"]
PREDICTED += ["--isl", "4000", "--osl", "500", "--concurrency", "8"]
PLACED = [
    "experts",
    "--model",
    "mistralai/Mixtral-8x7B-v0.1",
    "--cluster",
    "8xH200",
    "--synthetic",
    "sigma=0.7,windows=3,drift=0.2",
]

OPTIONS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "plan": (
        ASKED,
        (
            *(
                "--model",
                "--cluster",
                "--workload",
                "--slo",
                "--objective",
                "--framework",
                "--precision",
                "--kv-precision",
            ),
            *("--disaggregation", "--confidence", "--max-tp", "--max-pp", "--max-engine-gpus", "--time-limit"),
            *("--profiles", "--expert-loads", "--output", "--nonsense"),
        ),
    ),
    "predict": (
        PREDICTED,
        (
            *("--model", "--gpu", "--framework", "--precision", "--kv-precision", "--tp", "--pp", "--dp", "--ep"),
            *("--moe-tp", "--num-gpus", "--isl", "--osl", "--concurrency", "--rate", "--profiles", "--output"),
        ),
    ),
    "simulate": (
        ["simulate", "plan.json", "--rate", "1.5", "--requests", "10", "--arrivals", "gamma:2"],
        ("--rate", "--requests", "--arrivals", "--seed", "--trace", "--speed", "--model", "--profiles", "--output"),
    ),
    "experts": (
        PLACED,
        (
            *("--model", "--cluster", "--synthetic", "--loads", "--routes", "--redundant", "--slots-per-gpu"),
            *("--balance-tolerance", "--groups", "--current", "--max-moves", "--max-move-bytes", "--lost-gpus"),
            *("--lost-nodes", "--decode-tokens", "--prefill-tokens", "--seed", "--time-limit", "--format", "--output"),
        ),
    ),
    "schema": (["schema"], ("",)),
    "serve": (["serve"], ("--host", "--port")),
    "show": (["profile", "show", "gemm"], ("--limit", "--gpu", "--profiles", "--framework")),
    "gpus": (["gpus"], ("--nodes", "")),
    "import": (["profile", "import", "vidur"], ("--from", "--option", "--into")),
}


class Stopped(Exception):
    """Raised in place of the slow part: the arguments were understood."""


@contextmanager
def nothing_slow() -> Iterator[None]:
    def stop(*_: Any, **__: Any) -> Any:
        raise Stopped

    patched = pytest.MonkeyPatch()
    patched.setattr(planning, "plan", stop)
    patched.setattr(prediction_table, "_predict_group", stop)
    patched.setattr("planner.replay.report.simulate_plan", stop)
    patched.setattr("planner.experts.placing.place", stop)
    patched.setattr("uvicorn.run", stop)
    try:
        yield
    finally:
        patched.undo()


def command_lines(times: int) -> Iterator[list[str]]:
    """Command lines with one or two options replaced or added."""
    for number in range(times):
        draw = random.Random(zlib.crc32(f"arguments {number}".encode()))
        line, options = OPTIONS[draw.choice(list(OPTIONS))]
        line = list(line)
        for _ in range(draw.choice((1, 1, 2))):
            option, value = draw.choice(options), draw.choice(STRANGE_TEXT)
            if option in line:
                place = line.index(option) + 1
                line[place] = one_number(line[place], draw) if draw.random() < 0.5 else value
            else:
                line += [option, value] if option else [value]
        if draw.random() < 0.05:
            line.insert(draw.randrange(len(line)), draw.choice(STRANGE_TEXT))
        yield line


def one_number(text: str, draw: random.Random) -> str:
    """``text`` with one of its numbers, if it has any, replaced by what is none or a strange one."""
    found = list(re.finditer(r"[0-9.]+", text))
    if not found:
        return draw.choice(STRANGE_TEXT)
    number = draw.choice(found)
    return text[: number.start()] + draw.choice(STRANGE_TEXT) + text[number.end() :]


def run(line: list[str], capture: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(line)
    except Stopped:
        return
    finally:
        said = capture.readouterr()
    assert code in (0, 2, 3, 4), code
    if code:
        assert said.out == ""
        lines = [text for text in said.err.splitlines() if text.startswith(("error: ", "hint: "))]
        assert len(lines) == 2, said.err[:1000]
        assert said.err.splitlines()[-2:] == lines
        said_well(lines[0].removeprefix("error: "), lines[1].removeprefix("hint: "))


def check(times: int, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
    (folder / "plan.json").write_text(example_plan().to_json())
    before = sorted(folder.iterdir())
    with nothing_slow():
        for line in command_lines(times):
            try:
                run(line, capture)
            except BaseException as error:
                raise AssertionError(f"{[word[:200] for word in line]}") from error
            for made in set(folder.iterdir()) - set(before):  # a folder that a command makes before it fails
                assert made.is_dir(), line


@pytest.mark.usefixtures("here")
def test_strange_arguments_are_refused_in_two_lines(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check(FEW, here, capfd)


@pytest.mark.slow
def test_thousands_of_strange_arguments_are_refused_in_two_lines(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check(MANY, here, capfd)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(line: list[str], capture: pytest.CaptureFixture[str]) -> tuple[str, str]:
    capture.readouterr()
    assert cli.main(line) == 2
    error, hint = capture.readouterr().err.splitlines()
    return error, hint


@pytest.mark.parametrize("value", ["x", "1_000", "１０", "1.5", "9" * 30])
def test_a_wrong_number_names_option_value_and_way_out(value: str, capfd: pytest.CaptureFixture[str]) -> None:
    error, hint = refused([*ASKED, "--max-tp", value], capfd)
    assert error.startswith(f"error: --max-tp: '{value}' is ")
    assert "a whole number" in hint


def test_arguments_that_are_not_text_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert "argument 2: 'a\\udcffb' is not text" in refused(["--model", "a\udcffb"], capfd)[0]


def test_requests_are_bounded(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "plan.json").write_text(example_plan().to_json())
    error, _ = refused(["simulate", "plan.json", "--rate", "1", "--requests", str(10**11)], capfd)
    assert "requests: 100000000000 should be less than or equal to 10000000" in error


def numbers(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, Callable[..., Any]]]:
    for parameter in command.params:
        if getattr(parameter, "min", None) is not None:
            yield path, parameter.opts[0], parameter
    for name, below in getattr(command, "commands", {}).items():
        yield from numbers(below, (*path, name))


def test_every_bounded_number_refuses_what_is_below(capfd: pytest.CaptureFixture[str]) -> None:
    found = list(numbers(typer.main.get_command(cli.application())))
    assert found
    for path, option, parameter in found:
        error, _ = refused([*path, option, str(int(parameter.min) - 1)], capfd)  # type: ignore[attr-defined]
        assert option in error, error
