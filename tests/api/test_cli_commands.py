"""The other commands, the help, and the command as a process."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from importlib.metadata import version
from typing import Any

import jsonschema
import pytest
from command import Ran, Runner, asking, complaint
from example_plan import example_plan

from api.cli import progress, running
from costmodels.models.registry import registered
from planner.contract.clusters import bundled_clusters
from planner.contract.progress import Step
from planner.kinds import schema
from planner.serving.request import PlanRequest
from profiles import hardware


class TestCatalogues:
    def test_models(self, run: Runner) -> None:
        text = run("models").out
        assert all(model.name in text for model in registered())
        assert max(map(len, text.splitlines())) <= 100
        listed = json.loads(run("models", "--json").out)
        assert [model["name"] for model in listed] == [model.name for model in registered()]
        assert all(model["source"] for model in listed)

    def test_gpus(self, run: Runner) -> None:
        text = run("gpus").out
        assert all(name in text for name in hardware.gpus())
        assert max(map(len, text.splitlines())) <= 100
        row = next(line for line in text.splitlines() if line.startswith("H200 "))
        assert row.split() == [
            "H200",
            "989",
            "1,980",
            "–",
            "140.4",
            "4.80",
            "132",
            "700",
            "nvlink",
            "450",
            "3.99",
        ]
        listed = {gpu["name"]: gpu for gpu in json.loads(run("gpus", "--json").out)}
        assert list(listed) == list(hardware.gpus())
        assert listed["H200"]["sources"]
        assert listed["H200"]["on_demand_price"]["usd_per_gpu_hour"] == 3.99

    @pytest.mark.parametrize(
        ("flag", "names"),
        [
            ("--fabrics", hardware.fabrics()),
            ("--nodes", hardware.nodes()),
            ("--clusters", bundled_clusters()),
        ],
    )
    def test_other_lists(self, run: Runner, flag: str, names: dict[str, object]) -> None:
        text = run("gpus", flag).out
        assert all(name in text for name in names)
        assert max(map(len, text.splitlines())) <= 100
        assert len(json.loads(run("gpus", flag, "--json").out)) == len(names)

    def test_one_list_at_a_time(self, run: Runner) -> None:
        complaint(run("gpus", "--fabrics", "--nodes"))

    @pytest.mark.parametrize("what", ["plan", "request"])
    def test_schema(self, run: Runner, what: Any) -> None:
        document = json.loads(run("schema", what).out)
        assert document == schema(what)
        jsonschema.Draft202012Validator.check_schema(document)

    def test_schema_is_the_plans_unless_said_and_plans_satisfy_it(self, run: Runner) -> None:
        jsonschema.validate(json.loads(example_plan().to_json()), json.loads(run("schema").out))

    def test_unknown_schema(self, run: Runner) -> None:
        error, hint = complaint(run("schema", "plans"))
        assert "plans" in error
        assert "plan" in hint

    def test_version(self, run: Runner) -> None:
        assert run("--version").out == f"shardwright {version('shardwright')}\n"

    def test_profile_is_mounted(self, run: Runner) -> None:
        ran = run("profile", "--help")
        assert ran.code == 0
        assert "import" in ran.out


class TestHelp:
    @pytest.mark.parametrize("command", [(), ("models",), ("gpus",), ("schema",), ("serve",)])
    def test_is_on_stdout_with_an_example(self, run: Runner, command: tuple[str, ...]) -> None:
        ran = run(*command, "--help")
        assert (ran.code, ran.err) == (0, "")
        assert "plan " in ran.out.partition("xample")[2]

    def test_names_every_option(self, run: Runner) -> None:
        text = run("--help").out
        for name in PlanRequest.model_fields:
            assert re.search(rf"--{name.removesuffix('_s').replace('_', '-')}\b", text)
        for name in ("--profiles", "--json", "--output", "--explain", "--version"):
            assert name in text


class TestServe:
    @pytest.mark.parametrize("host", ["example.com", "127.0.0.1.evil"])
    def test_refuses_addresses_of_others(self, run: Runner, host: str) -> None:
        error, hint = complaint(run("serve", "--host", host))
        assert f"--host: {host!r} is no address of this machine" in error
        assert "127.0.0.1" in hint

    @pytest.mark.parametrize("port", ["0", "65536", "-1"])
    def test_refuses_ports_that_are_none(self, run: Runner, port: str) -> None:
        error, _ = complaint(run("serve", "--port", port))
        assert port in error

    def test_port_that_is_taken(self, run: Runner) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            error, hint = complaint(run("serve", "--port", str(taken.getsockname()[1])))
        assert "cannot be had" in error
        assert "another --port" in hint


# ------------------------------------------------------------------ as a process


def process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "api.cli.main", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", **options
    )


class TestProcess:
    def test_exit_code_reaches_the_shell(self) -> None:
        child = process("--model", "nobody/knows", *asking(model=None))
        out, err = child.communicate(timeout=60)
        complaint(Ran(child.returncode, out, err))

    def test_broken_pipe_is_silent(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-m", "api.cli.main", "gpus", "--json"]
        child = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
        os.close(writing)
        assert (child.returncode, child.stderr) == (running.BROKEN_PIPE, "")

    def test_a_terminal_that_knows_only_ascii_still_gets_an_answer(self) -> None:
        child = process("gpus", "--clusters", env={**os.environ, "PYTHONIOENCODING": "ascii"})
        out, err = child.communicate(timeout=60)
        assert (child.returncode, err) == (0, "")
        assert "16 ? H200" in out

    @pytest.mark.parametrize(
        ("arguments", "never"),
        [
            (["--help"], ["numpy", "pandas", "sklearn", "pulp", "pyarrow", "scipy", "ortools", "fastapi"]),
            (["gpus"], ["pandas", "sklearn", "pulp", "pyarrow", "scipy", "ortools", "fastapi"]),
            (["models"], ["pandas", "sklearn", "pulp", "pyarrow", "scipy", "ortools", "fastapi"]),
        ],
    )
    def test_light_commands_import_nothing_heavy(self, arguments: list[str], never: list[str]) -> None:
        code = (
            "import sys; from api.cli.main import main; "
            f"main({arguments!r}); print([m for m in {never!r} if m in sys.modules], file=sys.stderr)"
        )
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert child.stderr == "[]\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestProgressOnATerminal:
    def test_appears_by_itself_and_leaves_no_trace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(progress, "PATIENCE_S", 0.05)
        seen = threading.Event()
        with progress.Reporter("planning x") as report:
            seen.wait(0.4)
            report("learning gemm")
            seen.wait(0.2)
        drawn = screen.getvalue()
        assert "planning x" in drawn
        assert "learning gemm" in drawn
        assert "0:00:00" in drawn
        assert drawn.rstrip().endswith("\x1b[2K")  # the line is erased

    def test_says_nothing_of_quick_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        with progress.Reporter("planning x") as report:
            report(Step("searching", 0, passing=True))
        assert screen.getvalue() == ""

    def test_what_passes_in_seconds_is_no_line_elsewhere(self, capsys: pytest.CaptureFixture[str]) -> None:
        with progress.Reporter("planning x") as report:
            report(Step("searching", 0, passing=True))
            report(Step("planning on H200 alone", 1, 2))
        assert capsys.readouterr().err == "planning on H200 alone\n"
