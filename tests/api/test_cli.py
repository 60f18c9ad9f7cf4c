"""The command line: answers on stdout, two lines of error on stderr, an exit code that says which kind."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
from example_plan import example_plan

from api.cli import main as cli
from api.cli.output import write_atomically
from costmodels.registry import registered
from planner import planning
from planner.plans import parse_plan, schema
from planner.requests import PlanRequest, bundled_clusters
from profiles import hardware
from profiles.errors import DataError, Infeasible, InputError, LimitReached

ASKED = {"--model": "Qwen/Qwen3-32B", "--cluster": "16xH200", "--workload": "isl=4000,osl=500"}


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Runner = Callable[..., Ran]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Runner:
    """Runs the command in this process."""

    def runner(*arguments: str) -> Ran:
        capfd.readouterr()
        code = cli.main(arguments)
        return Ran(code, *capfd.readouterr())

    return runner


def asking(**changes: str | None) -> list[str]:
    """Arguments that plan, with options changed, added or (None) left out: ``asking(slo="ttft=1s")``."""
    options = {**ASKED, **{f"--{name.replace('_', '-')}": value for name, value in changes.items()}}
    return [word for name, value in options.items() if value is not None for word in (name, value)]


class Stub:
    """In place of the planner: remembers what it was asked, answers with the plan made by hand or raises."""

    def __init__(self) -> None:
        self.requests: list[PlanRequest] = []
        self.store: Any = None
        self.events: list[str] = []
        self.raises: BaseException | None = None

    def __call__(self, request: PlanRequest, *, store: Any = None, progress: Any = None, **_: Any) -> Any:
        self.requests.append(request)
        self.store = store
        for event in self.events:
            progress(event)
        if self.raises is not None:
            raise self.raises
        return example_plan()


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub = Stub()
    monkeypatch.setattr(planning, "plan", stub)
    return stub


def complaint(ran: Ran, code: int = 2) -> tuple[str, str]:
    """(error, hint) of a run that must have failed as every failure does."""
    assert ran.code == code, ran
    assert ran.out == ""
    lines = ran.err.splitlines()
    assert len(lines) == 2, ran.err
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    return lines[0].removeprefix("error: "), lines[1].removeprefix("hint: ")


# ------------------------------------------------------------------ plans


class TestPlan:
    def test_human_view_on_stdout_and_nothing_on_stderr(self, run: Runner, planner: Stub) -> None:
        ran = run(*asking())
        assert (ran.code, ran.err) == (0, "")
        assert "2 engines × TP4" in ran.out
        assert "Placement" not in ran.out

    def test_explain_adds(self, run: Runner, planner: Stub) -> None:
        assert "Placement" in run(*asking(), "--explain").out

    def test_json_is_the_document_byte_for_byte(self, run: Runner, planner: Stub) -> None:
        ran = run(*asking(), "--json")
        assert ran.out == example_plan().to_json()
        assert ran.err == ""

    def test_options_arrive_in_the_request(self, run: Runner, planner: Stub) -> None:
        ran = run(
            *asking(
                slo="ttft=1s,itl_p99=30ms",
                workload="isl=4000,osl=500,rate=20",
                objective="gpus",
                framework="sglang",
                precision="fp8",
                kv_precision="fp8",
                max_tp="4",
                max_pp="2",
                max_engine_gpus="8",
                time_limit="7.5",
            ),
            "--tp-across-nodes",
        )
        assert ran.code == 0
        asked = planner.requests[0]
        assert [bound.label for bound in asked.slo.bounds] == ["ttft_p90", "tpot_p99"]
        assert (asked.workload.rate_rps, asked.objective, asked.framework) == (20.0, "gpus", "sglang")
        assert (asked.precision, asked.kv_precision, asked.tp_across_nodes) == ("fp8", "fp8", True)
        assert (asked.max_tp, asked.max_pp, asked.max_engine_gpus, asked.time_limit_s) == (4, 2, 8, 7.5)

    def test_defaults_are_those_of_the_request(self, run: Runner, planner: Stub) -> None:
        run(*asking())
        plain = {"model": ASKED["--model"], "cluster": "16xH200", "workload": "isl=4000,osl=500"}
        assert planner.requests[0].model_dump() == PlanRequest.model_validate(plain).model_dump()

    def test_cluster_may_be_a_file(self, run: Runner, planner: Stub, tmp_path: Path) -> None:
        file = tmp_path / "mine.yaml"
        file.write_text("pools: [{gpu: H200, nodes: 3}]")
        assert run(*asking(cluster=str(file))).code == 0
        assert planner.requests[0].cluster.pools[0].gpus == 24

    def test_profiles_names_the_store(self, run: Runner, planner: Stub, tmp_path: Path) -> None:
        from profiles.store import ProfileStore

        ProfileStore.create(tmp_path / "store", name="mine", version="1", attribution="us")
        assert run(*asking(profiles=str(tmp_path / "store"))).code == 0
        assert planner.store.manifest.name == "mine"

    def test_progress_is_a_plain_line_an_event_where_stderr_is_no_terminal(
        self, run: Runner, planner: Stub
    ) -> None:
        planner.events = ["learning gemm", "learning [moe]"]
        ran = run(*asking(), "--json")
        assert ran.err == "learning gemm\nlearning [moe]\n"
        assert ran.out == example_plan().to_json()


class TestOutput:
    def test_writes_the_document_and_still_shows_the_view(
        self, run: Runner, planner: Stub, tmp_path: Path
    ) -> None:
        file = tmp_path / "plan.json"
        ran = run(*asking(output=str(file)))
        assert file.read_text(encoding="utf-8") == example_plan().to_json()
        assert parse_plan(file.read_text(encoding="utf-8")) == example_plan()
        assert "2 engines × TP4" in ran.out
        assert list(tmp_path.iterdir()) == [file]

    def test_with_json_both_are_the_document(self, run: Runner, planner: Stub, tmp_path: Path) -> None:
        file = tmp_path / "plan.json"
        assert run(*asking(output=str(file)), "--json").out == file.read_text(encoding="utf-8")

    def test_replaces_a_file_and_keeps_its_permissions(self, tmp_path: Path) -> None:
        file = tmp_path / "plan.json"
        file.write_text("old")
        file.chmod(0o640)
        write_atomically(file, "new")
        assert file.read_text() == "new"
        assert stat.S_IMODE(file.stat().st_mode) == 0o640

    def test_replaces_what_a_link_points_to(self, tmp_path: Path) -> None:
        (tmp_path / "real").write_text("old")
        (tmp_path / "link").symlink_to("real")
        write_atomically(tmp_path / "link", "new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_text() == "new"

    def test_a_failed_write_leaves_the_old_file_and_no_litter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        file = tmp_path / "plan.json"
        file.write_text("old")
        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(InputError, match="No space left"):
            write_atomically(file, "new")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]

    def test_directory_is_refused_before_planning(self, run: Runner, planner: Stub, tmp_path: Path) -> None:
        error, _ = complaint(run(*asking(output=str(tmp_path))))
        assert error == f"--output: {tmp_path} is a directory"
        assert not planner.requests

    def test_missing_parent_is_refused_before_planning(
        self, run: Runner, planner: Stub, tmp_path: Path
    ) -> None:
        error, hint = complaint(run(*asking(output=str(tmp_path / "no" / "plan.json"))))
        assert error.endswith("does not exist")
        assert "mkdir -p" in hint
        assert not planner.requests

    def test_parent_that_is_a_file_is_refused(self, run: Runner, planner: Stub, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        error, _ = complaint(run(*asking(output=str(tmp_path / "file" / "plan.json"))))
        assert "is not a directory" in error

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_parent_without_permission_is_refused(self, run: Runner, planner: Stub, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        error, _ = complaint(run(*asking(output=str(tmp_path / "plan.json"))))
        assert "no permission" in error


# ------------------------------------------------------------------ errors


class TestBadInput:
    """None of these reaches the planner."""

    @pytest.fixture(autouse=True)
    def _untouched(self, planner: Stub) -> Iterator[None]:
        yield
        assert not planner.requests

    @pytest.mark.parametrize("missing", ["model", "cluster", "workload"])
    def test_missing_option_shows_an_example(self, run: Runner, missing: str) -> None:
        error, hint = complaint(run(*asking(**{missing: None})))
        assert error == f"--{missing} is missing"
        assert "plan --model Qwen/Qwen3-32B" in hint

    def test_nothing_at_all(self, run: Runner) -> None:
        complaint(run())

    @pytest.mark.parametrize(
        ("option", "value", "says", "hints"),
        [
            ("model", "Qwen/Qwen3-33B", "model: 'Qwen/Qwen3-33B'", "Qwen/Qwen3-32B"),
            ("model", "", "model", ""),
            ("cluster", "16xH2000", "H2000", "H200"),
            ("cluster", "16H200", "16H200", "16xH200"),
            ("cluster", "0xH200", "gpus", ""),
            ("cluster", "no/such.yaml", "no/such.yaml", ""),
            ("framework", "vlm", "framework: 'vlm'", "vllm"),
            ("objective", "fastest", "objective: 'fastest'", "throughput"),
            ("objective", "cost", "cost needs a rate", "rate="),
            ("precision", "fp9", "precision: 'fp9'", "fp8"),
            ("kv_precision", "int8", "kv_precision: 'int8'", "fp8"),
            ("slo", "ttft=1", "ttft", "ms"),
            ("slo", "ttft=fast", "fast", "ms"),
            ("slo", "latency=1s", "latency", "ttft"),
            ("slo", "ttft=1s,ttft=2s", "twice", ""),
            ("slo", "ttft=0s", "0", ""),
            ("slo", "ttft=-1s", "-1s", ""),
            ("workload", "isl=4000", "osl", ""),
            ("workload", "isl=4k,osl=500", "4k", "isl=4000"),
            ("workload", "isl=0,osl=500", "isl", ""),
            ("workload", "isl=-5,osl=500", "isl", ""),
            ("workload", "isl=4000,osl=500,rate=0", "rate", ""),
            ("workload", "isl=4000,osl=500,burst=3", "burst", "rate"),
            ("max_tp", "0", "max_tp", ""),
            ("max_pp", "-1", "max_pp", ""),
            ("max_engine_gpus", "0", "max_engine_gpus", ""),
            ("time_limit", "0", "time_limit_s", ""),
            ("time_limit", "nan", "time_limit_s", ""),
            ("profiles", "/no/such/store", "/no/such/store", ""),
        ],
    )
    def test_value(self, run: Runner, option: str, value: str, says: str, hints: str) -> None:
        error, hint = complaint(run(*asking(**{option: value})))
        assert says in error
        assert hints in hint

    @pytest.mark.parametrize("option", ["--max-tp", "--max-pp", "--max-engine-gpus", "--time-limit"])
    def test_not_a_number(self, run: Runner, option: str) -> None:
        error, hint = complaint(run(*asking(), option, "many"))
        assert option in error
        assert hint == "see `plan --help`"

    def test_unknown_option(self, run: Runner) -> None:
        error, _ = complaint(run(*asking(), "--modle", "x"))
        assert "--modle" in error

    def test_option_without_its_value(self, run: Runner) -> None:
        error, _ = complaint(run("--model"))
        assert "--model" in error

    def test_unknown_command(self, run: Runner) -> None:
        error, _ = complaint(run("frobnicate"))
        assert "frobnicate" in error

    def test_planning_options_before_a_command_are_not_ignored(self, run: Runner) -> None:
        error, hint = complaint(run("--json", "models"))
        assert error.startswith("--json: has no effect before the command 'models'")
        assert "plan models --help" in hint

    def test_usage_error_of_a_command_points_to_its_help(self, run: Runner) -> None:
        _, hint = complaint(run("gpus", "--bogus"))
        assert hint == "see `plan gpus --help`"


class TestErrorsOfThePlanner:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (InputError("too\nlong", "cut\nit"), 2),
            (DataError("pack is corrupt", "reinstall"), 2),
            (Infeasible("slo: tpot binds", "relax it to 40 ms"), 3),
            (LimitReached("no plan in 1 s", "raise --time-limit"), 4),
        ],
    )
    def test_each_kind_has_its_exit_code(
        self, run: Runner, planner: Stub, error: Exception, code: int, tmp_path: Path
    ) -> None:
        planner.raises = error
        file = tmp_path / "plan.json"
        complaint(run(*asking(output=str(file))), code)
        assert not file.exists()

    @pytest.mark.parametrize("flag", ["--json", "--explain"])
    def test_the_form_of_the_answer_does_not_change_that_of_the_error(
        self, run: Runner, planner: Stub, flag: str
    ) -> None:
        planner.raises = Infeasible("nothing fits", "take 4 GPUs")
        assert complaint(run(*asking(), flag), 3) == ("nothing fits", "take 4 GPUs")

    def test_interrupt_is_130_and_silent(self, run: Runner, planner: Stub) -> None:
        planner.raises = KeyboardInterrupt()
        assert run(*asking()) == Ran(130, "", "")

    def test_a_defect_is_not_dressed_up_as_bad_input(self, planner: Stub) -> None:
        planner.raises = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            cli.main(asking())


# ------------------------------------------------------------------ catalogues, schema, version


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
            assert f"--{name.removesuffix('_s').replace('_', '-')} " in text
        for name in ("--profiles", "--json", "--output", "--explain", "--version"):
            assert name in text


class TestServe:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "", "127.0.0.1.evil"])
    def test_refuses_everybody_else(self, run: Runner, host: str) -> None:
        error, hint = complaint(run("serve", "--host", host))
        assert "loopback" in error
        assert "127.0.0.1" in hint

    @pytest.mark.parametrize("port", ["0", "65536", "-1"])
    def test_refuses_ports_that_are_none(self, run: Runner, port: str) -> None:
        error, _ = complaint(run("serve", "--port", port))
        assert port in error

    def test_port_that_is_taken(self, run: Runner) -> None:
        import socket

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
        assert (child.returncode, child.stderr) == (cli.BROKEN_PIPE, "")

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
            "import sys, time; from api.cli.main import main; "
            f"main({arguments!r}); print([m for m in {never!r} if m in sys.modules], time.process_time(), "
            "file=sys.stderr)"
        )
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        heavy, seconds = child.stderr.rsplit(" ", 1)
        assert heavy == "[]"
        assert float(seconds) < 1.0  # half of it on an idle machine


class TestProgressOnATerminal:
    def test_appears_by_itself_and_leaves_no_trace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import io

        from api.cli import progress

        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

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
        import io

        from api.cli import progress

        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        with progress.Reporter("planning x"):
            pass
        assert screen.getvalue() == ""
